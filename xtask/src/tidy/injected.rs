//! Crates that a simulation runs take no time, no chance and no thread from the machine by
//! themselves: they are given them, so that a seed decides everything that happens. What a crate has
//! to take stands in its shell, a file that is named here.

use super::is_test_file;
use super::source::Source;

/// Where the sources of these crates are.
const SIMULATED: &[&str] = &[
    "wit/src/",
    "runtime/types/src/",
    "runtime/graph/src/",
    "runtime/checkpoint/src/",
    "runtime/rpc/src/",
    "runtime/jobmanager/src/",
];

/// Files of theirs that the simulation goes round.
const SHELLS: &[&str] = &[
    // `SystemClock`, in whose place a simulation has a clock of its own.
    "runtime/types/src/time.rs",
    // The memory of the process, which decides nothing about a job.
    "runtime/types/src/process_memory.rs",
    // A terminal that does not take what it is told.
    "runtime/types/src/say.rs",
    // What jobs say, with the time and the thread that says it.
    "runtime/types/src/log_ring.rs",
    // Threads that work for many jobs.
    "runtime/types/src/workers.rs",
    // Threads of the dispatcher, and how long they wait for one another.
    "runtime/jobmanager/src/shell.rs",
    // Disks and object stores.
    "runtime/checkpoint/src/shell.rs",
    "runtime/jobmanager/src/job_master/runner.rs",
];

/// A name, and what to use in its place.
const BANNED: &[(&str, &str)] = &[
    ("Instant", "the time comes from a `Clock`"),
    ("SystemTime", "the time comes from a `Clock`"),
    ("thread", "the shell has the threads"),
    ("tokio", "the shell has the threads"),
    ("RandomState", "chance comes from a seed"),
    (
        "HashMap",
        "its order is another one in each run; use `BTreeMap`",
    ),
    (
        "HashSet",
        "its order is another one in each run; use `BTreeSet`",
    ),
];

/// The names that a file may not use; each finding is a sentence with its place.
pub fn findings(name: &str, source: &Source) -> Vec<String> {
    let is_simulated = SIMULATED.iter().any(|folder| name.starts_with(folder));
    if !is_simulated || is_test_file(name) || SHELLS.contains(&name) {
        return Vec::new();
    }
    let lines = source.code.iter().enumerate();
    lines
        .filter(|(number, _)| !source.is_test(*number))
        .flat_map(|(number, code)| {
            let used = BANNED.iter().filter(|(banned, _)| names(code, banned));
            used.map(move |(banned, instead)| {
                format!(
                    "{name}:{}: `{banned}` in a crate that is simulated: {instead}",
                    number + 1
                )
            })
        })
        .collect()
}

/// Whether a line of code has a name as a whole word.
fn names(code: &str, name: &str) -> bool {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        !code[..at].ends_with(of_word) && !code[at + name.len()..].starts_with(of_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: &[&str]) {
        assert_eq!(findings(name, &Source::new(text)), expected);
    }

    #[test]
    fn time_chance_and_threads_are_found_in_simulated_crates_alone() {
        let finding = "runtime/jobmanager/src/a.rs:2: `Instant` in a crate that is simulated: the time comes from a `Clock`";
        let now = "//! A.\nlet now = std::time::Instant::now();\n";
        check("runtime/jobmanager/src/a.rs", now, &[finding]);
        check("runtime/taskmanager/src/a.rs", now, &[]);
        check("runtime/types/src/time.rs", now, &[]);
        check("runtime/jobmanager/src/tests.rs", now, &[]);
        let spawned = "runtime/rpc/src/a.rs:1: `thread` in a crate that is simulated: the shell has the threads";
        check("runtime/rpc/src/a.rs", "thread::spawn(run);\n", &[spawned]);
        check(
            "runtime/rpc/src/a.rs",
            "let thread_name = 1; // thread\n",
            &[],
        );
        let order = "runtime/graph/src/a.rs:1: `HashMap` in a crate that is simulated: its order is another one in each run; use `BTreeMap`";
        check(
            "runtime/graph/src/a.rs",
            "use std::collections::HashMap;\n",
            &[order],
        );
        let in_tests = "#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n}\n";
        check("runtime/graph/src/a.rs", in_tests, &[]);
    }

    #[test]
    fn every_shell_belongs_to_a_simulated_crate_and_is_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for shell in SHELLS {
            assert!(SIMULATED.iter().any(|folder| shell.starts_with(folder)));
            assert!(root.join(shell).is_file(), "{shell}");
        }
    }
}
