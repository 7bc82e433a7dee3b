//! State in total: whatever a job keeps, it ends with a sentence when its process has as much
//! memory as it may, before the system kills it.

use super::calls::{APPEND, keyed};
use super::{Attack, JOB, plan};
use serde_json::{Value, json};
use streamrt_tests::binary::{Finished, component};
use streamrt_tests::guests::describing;
use streamrt_tests::measured::Limits;

const OPTION: [&str; 2] = ["-D", "memory.process-size=250MiB"];

/// That, what grows until the next look and in the time in which operators say what they hold, and
/// the code of the program.
const LIMITS: Limits = Limits::new(250 + 150, 60);

#[track_caller]
fn check(finished: Finished, holder: &str) {
    let finished = finished
        .failed_with("S5012")
        .names("may have 250 MiB (`memory.process-size`); state: ");
    let state = finished
        .stderr
        .split("; state: ")
        .nth(1)
        .unwrap_or_default();
    assert!(
        state.starts_with(&format!("`{holder}` ")),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("state.backend=rocksdb"),
        "{}",
        finished.stderr
    );
}

#[test]
fn lists() {
    // 8 MiB for each row, out of memory that is there once.
    let once = "
        (if (i32.lt_u (memory.size) (i32.const 300)) (then (drop (memory.grow (i32.const 256)))))
        (local.set $i (i32.mul (i32.sub (memory.size) (i32.const 256)) (i32.const 65536)))";
    let attack = Attack::new(&keyed(&format!(
        "{once}{APPEND}(local.set $i (i32.const 0))"
    )));
    let job = JOB
        .replace("rows = 1\n", "rows = 1000\n")
        .replace("start = 13", "start = 13, step = 0");
    check(
        LIMITS
            .run(attack.run_job(&job, &[&OPTION[..], &["-D", "batch.rows=1"]].concat()))
            .finished,
        "double",
    );
}

#[test]
fn state_by_key() {
    let attack = Attack::new(&std::fs::read(component("deduplicate")).unwrap());
    let job = JOB
        .replace("rows = 1\n", "")
        .replace(
            "{ n = { kind = \"sequence\", start = 13 } }",
            "{ n = { kind = \"random\", length = 1000 } }",
        )
        .replace("type = \"i64\"", "type = \"string\"")
        .replace("function = \"double\"", "function = \"deduplicate\"");
    check(LIMITS.run(attack.run_job(&job, &OPTION)).finished, "double");
}

/// Counts of texts that do not repeat, in windows that do not end.
fn windows(assigner: Value) -> Finished {
    let fields = json!({"text": {"kind": "random", "length": 1000}, "time": {"kind": "sequence"}});
    let schema = json!([{"name": "text", "type": "string"}, {"name": "time", "type": "i64"}]);
    let source = json!({"kind": "source", "connector": "datagen", "options": {"fields": fields}, "schema": schema});
    let times = json!({"kind": "timestamps", "time": {"kind": "column", "column": "time", "unit": "milliseconds"},
        "generator": {"kind": "bounded", "bound-ms": 0}});
    let columns = json!([{"name": "text", "from": {"kind": "key", "column": "text"}}, {"name": "n", "from": {"kind": "aggregate", "index": 0}}]);
    let contents =
        json!({"kind": "builtin", "aggregates": [{"function": "count"}], "columns": columns});
    let nodes = vec![
        json!({"id": 0, "uid": "texts", "body": source}),
        json!({"id": 1, "uid": "times", "inputs": [{"node": 0}], "body": times}),
        json!({"id": 2, "uid": "counts", "inputs": [{"node": 1, "partitioning": {"kind": "hash", "columns": ["text"]}}],
            "body": {"kind": "window", "assigner": assigner, "contents": contents}}),
        json!({"id": 3, "uid": "out", "inputs": [{"node": 2}], "body": {"kind": "sink", "connector": "blackhole"}}),
    ];
    let attack = Attack::new(&describing(&plan(nodes, Vec::new())));
    LIMITS.run(attack.run(&OPTION, &[])).finished
}

#[test]
fn panes_of_windows() {
    check(
        windows(json!({"kind": "tumbling", "size-ms": 1_000_000_000_000_i64})),
        "counts",
    );
}

#[test]
fn windows_of_keys() {
    check(
        windows(json!({"kind": "session", "gap-ms": 1_000_000_000_000_i64})),
        "counts",
    );
}

#[test]
fn timers() {
    let attack = Attack::new(&std::fs::read(component("scenarios")).unwrap());
    std::fs::create_dir(attack.path("in")).unwrap();
    // Each row has a key of its own, whose timers are 20 ms away for ever.
    let rows: String = (0..1_000_000)
        .map(|n| format!("k{n},2,1.5,1000\n"))
        .collect();
    std::fs::write(attack.path("in/a.csv"), rows).unwrap();
    let args =
        ["--scenario", "timers", "--input", "in", "--output", "out"].map(std::path::Path::new);
    check(LIMITS.run(attack.run(&OPTION, &args)).finished, "timed");
}
