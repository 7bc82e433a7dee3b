//! What a guest asks of the host while it is called: state, output, files, handles. None of it is
//! without a bound.

use super::{Attack, JOB, without_key};
use std::path::Path;
use streamrt_tests::binary::{Running, component, streamrt};
use streamrt_tests::guests::Misbehaving;
use streamrt_tests::measured::Limits;
use streamrt_wit::{
    DataType, Field, FunctionKind, StateDescriptor, StateKind, TtlUpdate, TtlVisibility,
};

/// The limits of these jobs (256 MiB of memory for an instance, 64 MiB for a call) and 100 MB.
const LIMITS: Limits = Limits::new(256 + 64 + 100, 60);

/// A keyed guest with a list of binaries as state.
pub fn keyed(misbehave: &str) -> Vec<u8> {
    let list = StateDescriptor {
        name: "list".into(),
        kind: StateKind::List,
        key: Vec::new(),
        value: vec![Field::new("v", DataType::Binary)],
        ttl_ms: None,
        ttl_update: TtlUpdate::default(),
        ttl_visibility: TtlVisibility::default(),
    };
    let mut guest = Misbehaving {
        states: vec![list],
        ..Misbehaving::new(misbehave)
    };
    let mut plan = guest.plan();
    plan.functions[0].kind = FunctionKind::Process;
    plan.functions[0].key = Some(vec![Field::new("n", DataType::I64)]);
    guest.plan_text = Some(plan.to_json());
    guest.component()
}

/// 16 MiB of memory, at `$i`.
const GROW: &str = "(local.set $i (i32.mul (memory.grow (i32.const 256)) (i32.const 65536)))";

/// Appends the 8 MiB at `$i` to the list of slot 0. Buffers 3 to 6 of the frame are the request.
pub const APPEND: &str = "
    (i32.store (i32.const 16384) (i32.const 0))
    (i32.store8 (i32.const 16388) (i32.const 3))
    (i32.store (i32.const 16392) (i32.const 0))
    (i32.store (i32.const 16396) (i32.const 8388608))
    (call $buffer (i32.const 3) (i32.const 4) (i32.const 0) (i32.const 2) (i32.const 16384) (i32.const 4))
    (call $buffer (i32.const 4) (i32.const 6) (i32.const 0) (i32.const 2) (i32.const 16388) (i32.const 1))
    (call $buffer (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16392) (i32.const 8))
    (call $buffer (i32.const 6) (i32.const 0) (i32.const 0) (i32.const 2) (local.get $i) (i32.const 8388608))
    (call $put-many (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 32816) (i32.const 4) (i32.const 512))
    (if (i32.load8_u (i32.const 512)) (then unreachable))";

#[test]
fn a_state_that_is_written_without_end() {
    let attack = Attack::new(&keyed(&format!("{GROW}(loop $more {APPEND} (br $more))")));
    LIMITS
        .run(attack.run_job(JOB, &[]))
        .finished
        .failed_with("S4008")
        .names("double: the plugin sends more than 64 MiB in one call");
}

#[test]
fn a_large_list_that_is_asked_for_again_and_again_at_once() {
    let asking = "
        ;; 280 times slot 0, out of memory that was never written.
        (call $buffer (i32.const 3) (i32.const 4) (i32.const 0) (i32.const 2) (local.get $i) (i32.const 1120))
        (call $get-many (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 280) (i32.const 32816) (i32.const 1) (i32.const 512))
        (if (i32.load8_u (i32.const 512)) (then (memory.copy (i32.const 0) (i32.const 512) (i32.const 16)) (return (i32.const 0))))
        unreachable";
    let attack = Attack::new(&keyed(&format!("{GROW}{APPEND}{asking}")));
    let measured = LIMITS.run(attack.run_job(JOB, &[]));
    measured
        .finished
        .failed_with("S4008")
        .names("state 0 is asked for more than 64 MiB at once");
}

#[test]
fn two_million_empty_buffers() {
    let emitting = "
        (local.set $i (i32.mul (memory.grow (i32.const 256)) (i32.const 65536)))
        (loop $more
          (call $emit (i32.const 1) (i32.const 0) (i32.const 0) (local.get $i) (i32.const 1000000) (i32.const 512))
          (br $more))";
    let attack = Attack::new(&keyed(emitting));
    LIMITS
        .run(attack.run_job(JOB, &[]))
        .finished
        .failed_with("S4008")
        .names("the plugin sends more than 64 MiB in one call");
}

/// Where there is no output, as in `describe` and in the calls of a sink, nothing is held back.
#[test]
fn output_where_there_is_none() {
    let emitting = "
        (call $emit (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 32768) (i32.const 0) (i32.const 512))
        (if (i32.eqz (i32.load8_u (i32.const 512))) (then unreachable))";
    let guest = Misbehaving {
        describe: emitting.into(),
        ..Misbehaving::default()
    };
    let attack = Attack::new(&guest.component());
    let job = without_key().replace("start = 13", "start = 14");
    LIMITS.run(attack.run_job(&job, &[])).finished.succeeded();
}

/// Logs 8 KiB, often, for each row.
fn logging() -> Vec<u8> {
    let logging = "
        (loop $more
          (call $log (i32.const 3) (i32.const 12288) (i32.const 4096))
          (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50))))
        (local.set $i (i32.const 0))";
    let guest = Misbehaving::new(logging).with_definitions("(data (i32.const 12288) \"hello\")");
    guest.component()
}

/// 13 in each batch, and a thousand batches.
fn many_calls() -> String {
    without_key()
        .replace("rows = 1\n", "rows = 1000\n")
        .replace("start = 13", "start = 13, step = 0")
}

#[test]
fn a_log_that_would_fill_a_disk() {
    let attack = Attack::new(&logging());
    let finished = LIMITS
        .run(attack.run_job(&many_calls(), &["-D", "batch.rows=1"]))
        .finished
        .succeeded();
    // A burst of a mebibyte, escaped; and what becomes free while it runs.
    assert!(
        finished.stderr.len() < 12 << 20,
        "{} bytes",
        finished.stderr.len()
    );
    assert!(
        finished
            .stderr
            .contains("messages of plugins were left out, because they log too much"),
        "{}",
        &finished.stderr[..2000]
    );
}

#[test]
fn a_stderr_that_nobody_reads_holds_no_job_up() {
    use std::process::Stdio;
    let attack = Attack::new(&logging());
    let mut command = attack.run_job(&many_calls(), &["-D", "batch.rows=1"]);
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut status = None;
    streamrt_tests::server::wait_until("the end of the job", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
}

/// The sink of `tests/guests/sinks`, failing in a call.
fn sink(attack: &Attack, call: &str, how: &str, options: &[&str]) -> std::process::Command {
    std::fs::write(attack.path("in"), "one\n").unwrap();
    let grants = ["out", "faults"].map(|name| format!("{name}={}", attack.path(name).display()));
    let mut command = streamrt(["run"]);
    command
        .arg(component("sinks"))
        .args(options)
        .current_dir(attack.folder.path());
    command.args(grants.iter().flat_map(|grant| ["--grant", grant]));
    command.args(["--", "--input", "in", "--fail-in", call, "--how", how]);
    command
}

#[test]
fn files_that_are_synced_for_ever() {
    let attack = Attack::new(b"");
    let finished = LIMITS
        .run(sink(
            &attack,
            "write",
            "sync-loop",
            &["-D", "plugin.files-time=500ms"],
        ))
        .finished;
    finished
        .failed_with("S4020")
        .names("the plugin's calls of files took more than 500 ms together");
}

#[test]
fn files_that_are_written_for_ever() {
    let attack = Attack::new(b"");
    let finished = LIMITS
        .run(sink(
            &attack,
            "write",
            "write-loop",
            &["-D", "plugin.files-bytes=20MiB"],
        ))
        .finished;
    finished
        .failed_with("S4020")
        .names("writes more than 20971520 bytes to files in one call");
    assert!(
        !attack
            .path("out/filling")
            .metadata()
            .is_ok_and(|file| file.len() > 2 << 20)
    );
}

#[test]
fn cancel_is_heard_in_a_commit() {
    let attack = Attack::new(b"");
    let checkpoints = format!("checkpoint.dir={}", attack.path("checkpoints").display());
    let options = [
        "-D",
        &checkpoints,
        "-D",
        "checkpoint.interval=50ms",
        "-D",
        "plugin.deadline=1h",
        "-D",
        "restart.strategy=none",
    ];
    let mut command = sink(&attack, "commit", "loop", &options);
    command.env("XDG_CACHE_HOME", attack.path("cache"));
    let running = Running::start(command);
    // The guest counts its calls before it begins to loop.
    streamrt_tests::server::wait_until("the commit", || attack.path("faults/count").exists());
    let mut cancel = streamrt(["cancel", "sinks"]);
    cancel.env("XDG_CACHE_HOME", attack.path("cache"));
    LIMITS.run(cancel).finished.succeeded();
    let measured = LIMITS.watch(running, |_| {});
    assert!(!measured.finished.status.success());
    // The checkpoint was published, so what it promises was committed at the end, the second time
    // without a loop.
    let shown = std::fs::read_dir(attack.path("out"))
        .unwrap()
        .filter(|file| !is_hidden(&file.as_ref().unwrap().path()))
        .count();
    assert_eq!(shown, 1, "{}", measured.finished.stderr);
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

#[test]
fn handles_that_are_never_dropped() {
    let mut guest = Misbehaving::new("(loop $more (drop (call $get-stderr)) (br $more))");
    guest.import = streamrt_tests::guests::Import {
        component: r#"
          (import "wasi:io/streams@0.2.3" (instance $streams (export "output-stream" (type (sub resource)))))
          (alias export $streams "output-stream" (type $output-stream))
          (import "wasi:cli/stderr@0.2.3" (instance $stderr
            (export "output-stream" (type $out (eq $output-stream)))
            (export "get-stderr" (func (result (own $out))))))
          (alias export $stderr "get-stderr" (func $get-stderr))"#
            .into(),
        lowered: "(core func $get-stderr (canon lower (func $get-stderr)))".into(),
        exports: "(export \"get-stderr\" (func $get-stderr))".into(),
        core: "(import \"host\" \"get-stderr\" (func $get-stderr (result i32)))".into(),
    };
    let attack = Attack::new(&guest.component());
    LIMITS
        .run(attack.run_job(&without_key(), &[]))
        .finished
        .failed_with("S4003")
        .names("the plugin holds more than 10000 handles");
}
