//! What is printed: nothing foreign commands a terminal, and a reader that goes away ends nothing
//! except a sink that prints.

use super::{Attack, SOON, lines, node, nowhere, plan, without_key};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use streamrt_tests::binary::{Finished, component, outputs, streamrt};
use streamrt_tests::guests::{Misbehaving, describing};
use streamrt_tests::measured::Limits;

/// For what is compiled first.
const LIMITS: Limits = Limits::new(700, 60);

/// Nothing that a terminal obeys, but for line ends.
#[track_caller]
fn check_plain(finished: &Finished) {
    for text in [&finished.stdout, &finished.stderr] {
        let command = |c: char| {
            (c.is_control() && c != '\n')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(command), "{}", text.escape_debug());
    }
}

/// Moves the cursor up, erases, and turns text around.
const COMMANDS: &str = "\u{1b}[1A\u{9b}2K\u{7f}\u{202e}";
const ESCAPED: &str = r"\u001b[1A\u009b2K\u007f\u202e";

#[test]
fn messages_of_guests() {
    let text: String = COMMANDS
        .bytes()
        .map(|byte| format!("\\{byte:02x}"))
        .collect();
    let logging = format!(
        "(call $log (i32.const 3) (i32.const 12288) (i32.const {}))",
        COMMANDS.len()
    );
    let guest = Misbehaving::new(&logging)
        .with_definitions(&format!("(data (i32.const 12288) \"{text}\")"));
    let attack = Attack::new(&guest.component());
    let job = without_key().replace("blackhole", "print");
    let finished = SOON.run(attack.run_job(&job, &[])).finished.succeeded();
    check_plain(&finished);
    assert!(
        finished.stderr.contains(&format!("(1/1): {ESCAPED}\n")),
        "{}",
        finished.stderr
    );
}

#[test]
fn names_and_options_of_plans() {
    let function = json!({"number": 0, "kind": "map", "name": COMMANDS});
    let attack = Attack::new(&describing(&plan(
        vec![lines(0, COMMANDS), nowhere(1, 0)],
        vec![function],
    )));
    let inspect = |format: &str| {
        let mut command = streamrt(["inspect"]);
        command
            .arg(attack.path("attack.wasm"))
            .args(["--output", format])
            .env("XDG_CACHE_HOME", attack.path("cache"));
        SOON.run(command).finished.succeeded()
    };
    let text = inspect("text");
    check_plain(&text);
    assert!(text.stdout.contains(ESCAPED), "{}", text.stdout);
    let object = inspect("json");
    check_plain(&object);
    let read: serde_json::Value = serde_json::from_str(&object.stdout).unwrap();
    assert_eq!(read["plan"]["functions"][0]["name"], COMMANDS);
    let refused = SOON.run(attack.run(&[], &[])).finished.failed_with("S1012");
    check_plain(&refused);
}

#[test]
fn records_that_are_skipped_and_records_that_are_printed() {
    let attack = Attack::new(&std::fs::read(component("word-count")).unwrap());
    std::fs::write(attack.path("in"), format!("{COMMANDS}\n")).unwrap();
    let finished = LIMITS
        .run(attack.run(&[], &["--input".as_ref(), "in".as_ref()]))
        .finished
        .succeeded();
    check_plain(&finished);
    let row: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(row["word"], COMMANDS, "in JSON it is the same text");

    let attack = Attack::new(&std::fs::read(component("hot-items")).unwrap());
    std::fs::write(attack.path("in"), format!("1,{COMMANDS},7,pv,1511658000\n")).unwrap();
    let args = [
        "--input".as_ref(),
        "in".as_ref(),
        "--output".as_ref(),
        "out".as_ref(),
    ];
    let finished = LIMITS
        .run(attack.run(&["-D", "poison.policy=skip"], &args))
        .finished
        .succeeded();
    check_plain(&finished);
    assert!(finished.stderr.contains(ESCAPED), "{}", finished.stderr);
    check_plain(
        &LIMITS
            .run(attack.run(&[], &args))
            .finished
            .failed_with("S3003"),
    );
}

/// A job that skips a record, and would say so, under a shell that redirects its outputs.
fn redirected(attack: &Attack, redirection: &str) -> std::process::ExitStatus {
    std::fs::write(attack.path("in"), "bad line\n1,100,7,pv,1511658000\n").unwrap();
    let args = [
        "--input".as_ref(),
        "in".as_ref(),
        "--output".as_ref(),
        "out".as_ref(),
    ];
    let inner = attack.run(&["-D", "poison.policy=skip"], &args);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")])
        .arg(inner.get_program())
        .args(inner.get_args());
    command
        .current_dir(attack.folder.path())
        .env("XDG_CACHE_HOME", attack.path("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().unwrap()
}

#[test]
fn a_closed_or_full_stderr_ends_no_job() {
    for redirection in ["2>&-", "2>/dev/full", ">&- 2>&-"] {
        let attack = Attack::new(&std::fs::read(component("hot-items")).unwrap());
        let status = redirected(&attack, redirection);
        assert!(status.success(), "{redirection}: {status}");
        assert!(
            !outputs(&attack.path("out")).lines("").is_empty(),
            "{redirection}"
        );
    }
}

/// What a shell reports for a program that wrote into a closed pipe.
const CLOSED_PIPE: i32 = 141;

#[test]
fn a_job_whose_output_nobody_reads_ends_quietly_also_with_checkpoints() {
    let rows = json!({"kind": "source", "connector": "datagen", "options": {"fields": {"n": {"kind": "sequence"}}, "rate": 100_000.0},
        "schema": [{"name": "n", "type": "i64"}]});
    let printed = node(
        1,
        "out",
        &[0],
        json!({"kind": "sink", "connector": "print"}),
    );
    let attack = Attack::new(&describing(&plan(
        vec![node(0, "in", &[], rows), printed],
        vec![],
    )));
    let checkpoints = format!("checkpoint.dir={}", attack.path("checkpoints").display());
    for options in [
        &[][..],
        &["-D", &checkpoints, "-D", "checkpoint.interval=50ms"],
    ] {
        let mut command = attack.run(options, &[]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut read = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        read.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"n\":0}\n");
        drop(read);
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(CLOSED_PIPE), "{said}");
        assert!(!said.contains("error") && !said.contains("again"), "{said}");
    }
}
