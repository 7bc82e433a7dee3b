//! Guests that were built for WASI: what they find is there, and empty.

use super::{chain, check_guest, doubled, load, quiet, run, run_within, spec};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use streamrt_plugin::Log;
use streamrt_tests::guests::{Import, Misbehaving, POISON};
use streamrt_types::code;

/// What the runtime of a language imports, as its tools write it: resources are shared between the
/// interfaces.
const RUNTIME: &str = r#"
  (import "wasi:io/poll@0.2.3" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))
    (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/error@0.2.3" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $io-error))
  (import "wasi:io/streams@0.2.3" (instance $streams
    (export "pollable" (type $p (eq $pollable)))
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (export "error" (type $e (eq $io-error)))
    (type $failure-shape (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $failure (eq $failure-shape)))
    (export "[method]input-stream.blocking-read" (func (param "self" (borrow $in)) (param "len" u64) (result (result (list u8) (error $failure)))))
    (export "[method]output-stream.check-write" (func (param "self" (borrow $out)) (result (result u64 (error $failure)))))
    (export "[method]output-stream.subscribe" (func (param "self" (borrow $out)) (result (own $p))))
    (export "[method]output-stream.splice" (func (param "self" (borrow $out)) (param "src" (borrow $in)) (param "len" u64) (result (result u64 (error $failure)))))
    (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $failure)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (alias export $streams "input-stream" (type $input-stream))
  (import "wasi:cli/stderr@0.2.3" (instance $stderr
    (export "output-stream" (type $out (eq $output-stream)))
    (export "get-stderr" (func (result (own $out))))))
  (import "wasi:cli/stdin@0.2.3" (instance
    (export "input-stream" (type $in (eq $input-stream)))
    (export "get-stdin" (func (result (own $in))))))
  (import "wasi:cli/environment@0.2.3" (instance
    (export "get-environment" (func (result (list (tuple string string)))))
    (export "get-arguments" (func (result (list string))))
    (export "initial-cwd" (func (result (option string))))))
  (import "wasi:cli/exit@0.2.3" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:cli/terminal-output@0.2.3" (instance $terminal (export "terminal-output" (type (sub resource)))))
  (alias export $terminal "terminal-output" (type $terminal-output))
  (import "wasi:cli/terminal-stdout@0.2.3" (instance
    (export "terminal-output" (type $t (eq $terminal-output)))
    (export "get-terminal-stdout" (func (result (option (own $t)))))))
  (import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock
    (export "pollable" (type $p (eq $pollable)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:clocks/wall-clock@0.2.3" (instance
    (type $datetime-shape (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $datetime-shape)))
    (export "now" (func (result $datetime)))))
  (import "wasi:filesystem/types@0.2.3" (instance $files
    (export "descriptor" (type $d (sub resource)))
    (export "[method]descriptor.sync" (func (param "self" (borrow $d)) (result (result (error u8)))))))
  (alias export $files "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.3" (instance
    (export "descriptor" (type $d (eq $descriptor)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (import "wasi:random/random@0.2.3" (instance (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (import "wasi:random/insecure-seed@0.2.3" (instance (export "insecure-seed" (func (result (tuple u64 u64))))))
"#;

/// The functions of [`RUNTIME`] that the guests here call.
fn runtime() -> Import {
    Import {
        component: RUNTIME.into(),
        lowered: r#"
  (alias export $stderr "get-stderr" (func $get-stderr))
  (alias export $streams "[method]output-stream.blocking-write-and-flush" (func $write))
  (alias export $clock "subscribe-duration" (func $subscribe))
  (alias export $poll "[method]pollable.block" (func $block))
  (alias export $exit "exit" (func $exit))
  (core func $get-stderr (canon lower (func $get-stderr)))
  (core func $write (canon lower (func $write) (memory $memory)))
  (core func $subscribe (canon lower (func $subscribe)))
  (core func $block (canon lower (func $block)))
  (core func $exit (canon lower (func $exit)))
  (core func $drop (canon resource.drop $pollable))"#
            .into(),
        exports: r#"(export "get-stderr" (func $get-stderr)) (export "write" (func $write)) (export "subscribe" (func $subscribe))
      (export "block" (func $block)) (export "exit" (func $exit)) (export "drop" (func $drop))"#
            .into(),
        core: r#"
    (import "host" "get-stderr" (func $get-stderr (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "host" "block" (func $block (param i32)))
    (import "host" "exit" (func $exit (param i32)))
    (import "host" "drop" (func $drop (param i32)))"#
            .into(),
    }
}

fn guest(misbehave: &str) -> Misbehaving {
    let text = r#"(data (i32.const 12288) "thread panicked:\0acold\0anote: run")"#;
    Misbehaving {
        import: runtime(),
        ..Misbehaving::new(misbehave).with_definitions(text)
    }
}

#[test]
fn stderr_is_the_log_and_explains_a_trap() {
    let write = "(call $write (call $get-stderr) (i32.const 12288) (i32.const 22) (i32.const 512))";
    let plugin = load(&guest(write).component());
    let messages = Arc::new(Mutex::new(Vec::new()));
    let sink = messages.clone();
    let log: Log = Arc::new(move |level, message: &str| {
        sink.lock().unwrap().push((level, message.to_owned()))
    });
    run(&mut plugin.chain(spec(&plugin, log)).unwrap(), &[POISON]).unwrap();
    assert_eq!(
        *messages.lock().unwrap(),
        [(2, "thread panicked:".to_owned()), (2, "cold".to_owned())]
    );
    check_guest(
        guest(&format!("{write} unreachable")),
        code::TRAP,
        "the plugin panicked: thread panicked: cold",
    );
}

#[test]
fn a_sleep_ends_and_never_outlasts_the_deadline() {
    let sleep = |ns: u64| {
        format!(
            "(call $block (local.tee $i (call $subscribe (i64.const {ns})))) (call $drop (local.get $i)) (local.set $i (i32.const 0))"
        )
    };
    let plugin = load(&guest(&sleep(1_000_000)).component());
    let outcome = run_within(
        &mut plugin.chain(spec(&plugin, quiet())).unwrap(),
        &[POISON],
        Duration::from_secs(60),
    )
    .unwrap();
    assert_eq!(doubled(&outcome), [2 * POISON]);
    check_guest(
        guest(&sleep(3_600_000_000_000)),
        code::DEADLINE,
        "did not return within 200 ms",
    );
}

#[test]
fn a_guest_that_ends_itself_has_failed() {
    check_guest(
        guest("(call $exit (i32.const 0))"),
        code::TRAP,
        "the plugin ended itself",
    );
}

#[test]
fn randomness_repeats_and_the_rest_traps_by_name() {
    let import = |interface: &str, functions: &str| {
        format!("(import \"wasi:{interface}@0.2.3\" (instance $wasi {functions}))")
    };
    let random = Import {
        component: import("random/random", r#"(export "get-random-u64" (func (result u64)))"#),
        lowered: r#"(alias export $wasi "get-random-u64" (func $wild)) (core func $wild (canon lower (func $wild)))"#.into(),
        exports: r#"(export "wild" (func $wild))"#.into(),
        core: r#"(import "host" "wild" (func $wild (result i64)))"#.into(),
    };
    let guest = Misbehaving {
        import: random,
        ..Misbehaving::new("(i64.store align=1 (local.get $n) (call $wild))")
    };
    let plugin = load(&guest.component());
    let draw = || doubled(&run(&mut chain(&plugin), &[POISON]).unwrap());
    assert_eq!(draw(), draw(), "a replay gets the same");

    let sockets = Import {
        component: import("sockets/network", r#"(export "connect" (func (result u64)))"#),
        lowered: r#"(alias export $wasi "connect" (func $wild)) (core func $wild (canon lower (func $wild)))"#.into(),
        exports: r#"(export "wild" (func $wild))"#.into(),
        core: r#"(import "host" "wild" (func $wild (result i64)))"#.into(),
    };
    let guest = Misbehaving {
        import: sockets,
        ..Misbehaving::new("(drop (call $wild))")
    };
    check_guest(
        guest,
        code::TRAP,
        "the plugin calls wasi:sockets/network@0.2.3#connect, which a plugin cannot have",
    );
}
