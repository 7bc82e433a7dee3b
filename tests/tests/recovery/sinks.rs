//! Sinks of plugins: two-phase and write-ahead, under kills, failpoints, faults of their own code,
//! and without their folders.

use std::path::Path;

use streamrt_tests::binary::{
    Finished, LIMIT, Running, component, hidden_files, outputs, run, streamrt,
};
use streamrt_tests::server::wait_until;

use crate::jobs::Job;
use crate::{failpoints, kills, savepoints};

const FAILPOINTS: [&str; 6] = [
    "sink.pre-commit",
    "complete.before",
    "commit.before",
    "commit.after",
    "recovery.commit",
    "recovery.abort",
];

const LINES: usize = 2000;
const SECONDS: f64 = 0.4;

fn run_once(job: &Job, further: &[&str]) -> Finished {
    run(job.args(2, SECONDS, "checkpoints", further))
}

#[test]
fn sinks_of_plugins_pass_every_failpoint_that_sinks_meet() {
    for name in FAILPOINTS {
        for action in ["crash", "error"] {
            failpoints::check(&Job::new("audit-log"), name, action);
            failpoints::check(
                &Job::of_sinks(LINES, &["--sink", "write-ahead"]),
                name,
                action,
            );
        }
    }
}

#[test]
fn a_write_ahead_sink_survives_kills() {
    kills::check(
        &Job::of_sinks(LINES, &["--sink", "write-ahead"]),
        &[2, 1, 3],
    );
}

/// The first call of a name fails and ends the run; the same command then goes on, and everything
/// is written once.
#[track_caller]
fn check_fault(sink: &str, call: &str, how: &str, code: &str, sentence: &str) {
    let job = Job::of_sinks(LINES, &["--sink", sink, "--fail-in", call, "--how", how]);
    run_once(&job, &["-D", "plugin.deadline=300ms"])
        .failed_with(code)
        .names(sentence);
    job.assert_part(&format!("{how} in {call}"));
    run_once(&job, &[]).succeeded();
    job.assert_whole(&format!("after {how} in {call}"));
}

#[test]
fn a_trap_in_any_call_ends_the_run_and_loses_nothing() {
    for call in [
        "begin",
        "write",
        "pre-commit",
        "commit",
        "committed",
        "abort",
        "abort-unlisted",
    ] {
        check_fault("two-phase", call, "trap", "S4009", "more than I can bear");
    }
    for call in ["send", "sent"] {
        check_fault("write-ahead", call, "trap", "S4009", "more than I can bear");
    }
}

#[test]
fn a_call_that_hangs_is_ended_by_its_deadline() {
    check_fault(
        "two-phase",
        "commit",
        "loop",
        "S4002",
        "did not return within 300 ms",
    );
    check_fault(
        "two-phase",
        "write",
        "loop",
        "S4002",
        "sink `sink`: write: the plugin did not return",
    );
    check_fault(
        "write-ahead",
        "send",
        "loop",
        "S4002",
        "did not return within 300 ms",
    );
}

#[test]
fn what_a_sink_refuses_skips_no_record() {
    let job = Job::of_sinks(LINES, &["--fail-in", "write", "--how", "refuse"]);
    run_once(&job, &["-D", "poison.policy=skip"])
        .failed_with("S4009")
        .names("sink `sink`: write: I do not like this call");
    run_once(&job, &[]).succeeded();
    job.assert_whole("after a refusal");
}

/// Without a word of the user the job is tried again in the same run. One subtask, so that each
/// failure ends an attempt.
#[track_caller]
fn check_again(sink: &str, call: &str) {
    let job = Job::of_sinks(
        LINES,
        &[
            "--sink",
            sink,
            "--fail-in",
            call,
            "--how",
            "unavailable",
            "--times",
            "2",
        ],
    );
    let finished = run(job.args(1, SECONDS, "checkpoints", &[])).succeeded();
    assert_eq!(
        finished
            .stderr
            .matches("the archive does not answer; trying again")
            .count(),
        2,
        "{}",
        finished.stderr
    );
    job.assert_whole(&format!("after {call} was unavailable"));
}

#[test]
fn a_system_that_does_not_answer_is_asked_again() {
    ["begin", "write", "pre-commit", "commit"]
        .iter()
        .for_each(|call| check_again("two-phase", call));
    ["send", "sent"]
        .iter()
        .for_each(|call| check_again("write-ahead", call));
}

#[test]
fn a_transaction_that_is_lost_ends_the_job_for_good() {
    let job = Job::of_sinks(
        LINES,
        &["--fail-in", "commit", "--how", "lost", "--times", "1000000"],
    );
    for _ in 0..2 {
        let finished = run_once(&job, &[])
            .failed_with("S7008")
            .names("the archive has thrown the transaction away");
        assert!(
            !finished.stderr.contains("trying again"),
            "{}",
            finished.stderr
        );
        assert_eq!(
            outputs(&job.path("out")).lines("").len(),
            0,
            "nothing goes on"
        );
    }
}

/// A commit that does not come back, before the tasks of the next attempt run. Its deadline is
/// longer than the test waits.
#[test]
fn who_ends_a_job_is_heard_while_its_sinks_are_settled() {
    for how in ["stop", "cancel"] {
        let job = Job::of_sinks(LINES, &["--fail-in", "commit", "--how", "loop"]);
        let mut command =
            streamrt(job.args(2, SECONDS, "checkpoints", &["-D", "plugin.deadline=1h"]));
        command
            .env("STREAMRT_FAILPOINTS", "complete.before=error:1")
            .env("XDG_CACHE_HOME", job.path("cache"));
        let running = Running::start(command);
        // The guest counts its calls before it begins to loop.
        wait_until("the commit", || job.path("faults/count").exists());
        match how {
            "stop" => running.interrupt(),
            _ => drop(savepoints::command(&job, &["cancel", "sinks"]).succeeded()),
        }
        let finished = running.finish(LIMIT);
        assert!(
            !finished.status.success() && finished.stderr.contains("is left behind"),
            "{how}: {}",
            finished.stderr
        );
        run_once(&job, &[]).succeeded();
        job.assert_whole(&format!("after a {how}"));
    }
}

#[test]
fn an_open_transaction_is_withdrawn_without_checkpoints_too() {
    let folder = tempfile::TempDir::new().unwrap();
    let input = folder.path().join("input");
    std::fs::write(&input, "a\nb\n").unwrap();
    let start = |further: &[&str]| {
        let grant = |name: &str| format!("{name}={}", folder.path().join(name).display());
        let mut args = vec![
            "run".to_owned(),
            component("sinks").display().to_string(),
            "--grant".into(),
            grant("out"),
            "--grant".into(),
            grant("faults"),
        ];
        args.extend([
            "--".to_owned(),
            "--input".into(),
            input.display().to_string(),
        ]);
        args.extend(further.iter().map(|&further| further.to_owned()));
        run(args)
    };
    start(&["--fail-in", "pre-commit", "--how", "trap"]).failed_with("S4009");
    assert_eq!(
        hidden_files(&folder.path().join("out")),
        Vec::<std::path::PathBuf>::new()
    );
    start(&[]).succeeded();
    assert_eq!(outputs(&folder.path().join("out")).lines(""), ["a", "b"]);
}

#[test]
fn too_many_rows_for_a_write_ahead_sink_are_an_error() {
    let job = Job::of_sinks(LINES, &["--sink", "write-ahead", "--bytes", "100"]);
    run_once(&job, &[])
        .failed_with("S2008")
        .names("have more than 100 bytes");
    job.assert_part("at the limit");
}

#[test]
fn a_folder_that_is_not_granted_is_refused_before_anything_runs() {
    let job = Job::new("audit-log");
    let args = job.args(2, SECONDS, "checkpoints", &[]);
    let without: Vec<&String> = args
        .iter()
        .filter(|arg| *arg != "--grant" && !arg.starts_with("audit="))
        .collect();
    run(without)
        .failed_with("S1012")
        .names("node `audit`: it asks for a folder under the name `audit`, which was not granted");
    assert!(
        !job.path("checkpoints/log").exists(),
        "the job is refused before it is taken over"
    );
    let shown = run([
        "inspect",
        component("audit-log").to_str().unwrap(),
        "--",
        "--input",
        "x",
    ])
    .succeeded()
    .stdout;
    assert!(
        shown.contains("asks for folder audit") && shown.contains("streamrt:plugin/files@0.1.0"),
        "{shown}"
    );
    let other = run([
        "inspect",
        component("word-count").to_str().unwrap(),
        "--",
        "--input",
        "x",
    ])
    .succeeded()
    .stdout;
    assert!(
        !other.contains("files"),
        "a component without sinks imports no files: {other}"
    );
}

#[test]
fn nothing_outside_a_granted_folder_is_reached() {
    for how in ["escape", "absolute", "link"] {
        let job = Job::of_sinks(20, &["--fail-in", "write", "--how", how]);
        std::fs::create_dir(job.path("out")).unwrap();
        std::fs::write(job.path("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(job.path("secret"), job.path("out/link")).unwrap();
        run_once(&job, &[]).failed_with("S1012");
        assert_eq!(
            std::fs::read_to_string(job.path("secret")).unwrap(),
            "secret",
            "{how}"
        );
        assert!(!Path::exists(&job.path("escaped")), "{how}");
    }
}

#[test]
fn a_job_file_wires_a_sink_of_a_component_and_grants_its_folders() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("input"), "a\nb\n").unwrap();
    let text = format!(
        "name = \"lines\"\n[[source]]\nuid = \"lines\"\nconnector = \"file\"\npath = \"{}\"\ncolumns = [{{ name = \"value\", type = \"string\" }}]\n\
         [[sink]]\nuid = \"written\"\ncomponent = \"{}\"\nfunction = \"sink\"\ninput = \"lines\"\nargs = {{ input = \"-\" }}\n\
         [plugin.grant]\nout = \"{}\"\n",
        path("input"),
        component("sinks").display(),
        path("out"),
    );
    std::fs::write(path("job.toml"), text).unwrap();
    run(["run", &path("job.toml")])
        .failed_with("S1012")
        .names("node `written`: it asks for a folder under the name `faults`");
    run([
        "run",
        &path("job.toml"),
        "--grant",
        &format!("faults={}", path("faults")),
    ])
    .succeeded();
    assert_eq!(outputs(&folder.path().join("out")).lines(""), ["a", "b"]);
}
