//! `streamrt completions`: what a shell is to load, so that it completes commands, options, and the
//! names of jobs.
//!
//! clap knows the commands. Names of jobs come from `streamrt job-names` while one types; a shell
//! may take a name for more than a name, so that command prints those alone that are plain.

use crate::args::{ClusterArgs, CommandLine, Shell};
use crate::print;
use crate::targets::jobs;
use clap::CommandFactory;
use streamrt_types::Result;

const PROGRAM: &str = "streamrt";

/// The commands whose first argument is a job.
const OF_JOBS: [&str; 7] = [
    "info",
    "logs",
    "savepoint",
    "stop",
    "cancel",
    "checkpoints",
    "upgrade",
];

/// Prints what a shell is to load.
///
/// # Errors
/// If stdout cannot be written.
pub fn completions(shell: Shell) -> Result<()> {
    print(&script(shell))
}

/// Prints what jobs are called, for completion.
///
/// # Errors
/// If stdout cannot be written.
pub fn job_names() -> Result<()> {
    let all = jobs(&ClusterArgs::default())?;
    let runs = all.runs.into_iter().map(|run| (run.id, run.entry.name));
    let cluster = all.cluster.into_iter().flat_map(|(_, jobs)| jobs);
    let live = cluster.filter(|job| !job.state.is_end());
    let names = runs.chain(live.map(|job| (job.id, job.name)));
    print(
        &names
            .map(|(id, name)| format!("{}\n", plain(id, name)))
            .collect::<String>(),
    )
}

/// The name, or the id of a job whose name a shell could take for something else.
fn plain(id: String, name: String) -> String {
    let is_plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    match is_plain && !name.is_empty() && !name.starts_with('-') {
        true => name,
        false => id,
    }
}

fn script(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(generator, &mut shown(), PROGRAM, &mut bytes);
    let known = String::from_utf8_lossy(&bytes).into_owned();
    match shell {
        Shell::Bash => known + &bash(),
        Shell::Zsh => zsh(&known),
        Shell::Fish => known + &fish(),
    }
}

/// The command line without what is hidden, which would be completed as well.
fn shown() -> clap::Command {
    let all = CommandLine::command();
    let shown = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    clap::Command::new(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(shown.cloned())
}

fn bash() -> String {
    format!(
        r#"
_streamrt_with_jobs() {{
    case "${{COMP_WORDS[1]}}" in
        {})
            local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
            # What stands after an option may be its value.
            if [[ ${{COMP_CWORD}} -eq 2 || "$before" != -* || "$before" == --drain ]] && [[ "$word" != -* ]]; then
                COMPREPLY=( $(compgen -W "$({PROGRAM} job-names 2>/dev/null)" -- "$word") )
                [[ ${{#COMPREPLY[@]}} -gt 0 ]] && return 0
            fi
            ;;
    esac
    _streamrt "$@"
}}
complete -F _streamrt_with_jobs -o bashdefault -o default {PROGRAM}
"#,
        OF_JOBS.join("|")
    )
}

/// clap completes an argument of which it knows nothing like a file.
fn zsh(known: &str) -> String {
    let of_jobs = |line: &str| match line.trim_start_matches(['\'', ':']).starts_with("job -- ") {
        true => line.replace(":_default'", ":_streamrt_jobs'"),
        false => line.to_owned(),
    };
    let lines: Vec<String> = known.lines().map(of_jobs).collect();
    let function = format!(
        "_streamrt_jobs() {{\n    compadd -- ${{(f)\"$({PROGRAM} job-names 2>/dev/null)\"}}\n}}\n"
    );
    // The first line says which command the file is for.
    match lines.split_first() {
        Some((first, rest)) => format!("{first}\n\n{function}{}\n", rest.join("\n")),
        None => function,
    }
}

fn fish() -> String {
    let line = |command: &&str| {
        format!(
            "complete -c {PROGRAM} -n \"__fish_streamrt_using_subcommand {command}\" -f -a \"({PROGRAM} job-names 2>/dev/null)\"\n"
        )
    };
    OF_JOBS.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_completes_commands_and_jobs() {
        for (shell, of_jobs) in [
            (
                Shell::Bash,
                "info|logs|savepoint|stop|cancel|checkpoints|upgrade)",
            ),
            (Shell::Zsh, ":_streamrt_jobs'"),
            (
                Shell::Fish,
                "using_subcommand cancel\" -f -a \"(streamrt job-names",
            ),
        ] {
            let script = script(shell);
            assert!(script.contains(of_jobs), "{script}");
            assert!(script.contains("slot-timeout") && script.contains("deploy"));
            assert!(
                !script.contains("compile-component"),
                "what is hidden stays so"
            );
        }
        let zsh = script(Shell::Zsh);
        assert_eq!(zsh.matches(":_streamrt_jobs'").count(), OF_JOBS.len());
        assert!(zsh.starts_with("#compdef streamrt\n"));
    }

    #[test]
    fn a_shell_is_given_plain_names_alone() {
        let of = |name: &str| plain("1f".into(), name.into());
        assert_eq!(of("hot-items_2.x"), "hot-items_2.x");
        for name in ["", "-x", "$(rm x)", "a b", "`x`", "é"] {
            assert_eq!(of(name), "1f", "{name}");
        }
    }
}
