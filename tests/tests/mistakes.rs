//! Mistakes in a job and in its arguments: each has a code of its own, says where in the user's
//! program it is, and is found before a record is looked at. And what user code prints, which is
//! how its author looks for them.

use std::path::PathBuf;
use streamrt_tests::binary::{Finished, component, run};
use tempfile::TempDir;

/// Lines for the guest, and what is left of a run.
struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Case {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("input.txt"), "one\nbad\nthree\n").unwrap();
        Case { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Finished {
        let (wasm, input, output) = (
            component("faulty"),
            self.path("input.txt"),
            self.path("out"),
        );
        let mut all = vec![
            "run",
            wasm.to_str().unwrap(),
            "-D",
            "poison.policy=skip",
            "--",
        ];
        all.extend([
            "--input",
            input.to_str().unwrap(),
            "--output",
            output.to_str().unwrap(),
        ]);
        all.extend(args);
        run(all)
    }
}

/// The policy would skip bad records, but these are no bad records; nothing is written.
#[track_caller]
fn check(mistake: &str, code: &str, sentence: &str) {
    let case = Case::new();
    let failed = case
        .run(&["--mistake", mistake])
        .failed_with(code)
        .names("tests/guests/faulty/src/lib.rs:")
        .names(sentence);
    assert!(!failed.stderr.contains("poison"), "{}", failed.stderr);
    assert!(
        !case.path("out").exists()
            || std::fs::read_dir(case.path("out"))
                .unwrap()
                .next()
                .is_none(),
        "{mistake}: something was written"
    );
}

#[test]
fn a_job_that_is_put_together_wrongly_says_where() {
    check(
        "doubled-uid",
        "S2004",
        "the uid output is used twice, first at tests/guests/faulty/src/lib.rs:",
    );
    check("no-uid", "S2003", "the uid of an operator is empty");
    check(
        "no-key",
        "S2006",
        "by-number: it declares two states named seen",
    );
    check(
        "wrong-key",
        "S2005",
        "by-number: its type Key is i64, but the key of the stream is string",
    );
    check(
        "aggregate",
        "S2005",
        "counts: the field count has type i32, but what fills it has type i64",
    );
    check("window", "S2006", "node `none` at ");
    check("dead-end", "S2006", "node `unused` at ");
    check("panic", "S2009", "the job is more than I can bear");
}

#[test]
fn what_the_job_function_itself_refuses_is_no_bad_record() {
    let failed = Case::new()
        .run(&["--mistake", "unknown"])
        .failed_with("S2009")
        .names("I know no mistake unknown");
    assert!(!failed.stderr.contains("poison"), "{}", failed.stderr);
}

#[test]
fn timers_without_a_key_are_no_bad_record() {
    let failed = Case::new()
        .run(&["--mistake", "timers"])
        .failed_with("S2006")
        .names("timers need a key in front of the function");
    assert!(!failed.stderr.contains("poison"), "{}", failed.stderr);
}

#[test]
fn arguments_that_the_job_does_not_read_are_refused() {
    let refused =
        |args: &[&str], sentence: &str| Case::new().run(args).failed_with("S1008").names(sentence);
    refused(
        &["--mistkae", "none"],
        "the job has no argument --mistkae; did you mean --mistake?",
    );
    refused(
        &["--verbose"],
        "the job has no argument --verbose; it reads --how, --input, --mistake, --output",
    );
    refused(&["stray"], "the argument `stray` belongs to no --name");
    refused(&["--input", "other"], "the argument --input is given twice");
    refused(&["--how"], "the argument --how has no value");
    let misspelt = run([
        "run",
        component("faulty").to_str().unwrap(),
        "--",
        "--inptu",
        "x",
    ])
    .failed_with("S1008");
    misspelt.names("did you mean --input?");
}

#[test]
fn what_a_guest_prints_reaches_the_log() {
    let printed = Case::new().run(&["--how", "print"]).succeeded();
    for line in [
        "println has bad",
        "in two lines",
        "eprintln has bad",
        "] line.len() = 3",
        "log has 3",
    ] {
        assert!(
            printed.stderr.lines().any(|said| said.ends_with(line)),
            "{line}: {}",
            printed.stderr
        );
    }
    assert_eq!(printed.stdout, "");
}

#[test]
fn the_clock_that_a_guest_has_not_got_is_named() {
    let case = Case::new();
    let letters = format!("poison.dead-letters={}", case.path("letters").display());
    let (wasm, input, output) = (
        component("faulty"),
        case.path("input.txt"),
        case.path("out"),
    );
    let paths = [
        wasm.to_str().unwrap(),
        input.to_str().unwrap(),
        output.to_str().unwrap(),
    ];
    let run = run([
        "run", paths[0], "-D", &letters, "--", "--input", paths[1], "--output", paths[2], "--how",
        "clock",
    ]);
    run.failed_with("S4001")
        .names("`ctx.processing_time()` is the host's");
}
