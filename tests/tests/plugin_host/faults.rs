//! Calls that fail: limits, traps, errors, and inconsistent outputs.

use super::{check_failure, check_guest, check_misbehaviour, load, quiet, run_within, spec};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use streamrt_plugin::ChainSpec;
use streamrt_tests::guests::{Misbehaving, POISON};
use streamrt_types::code;

#[test]
fn endless_loops_end_at_the_deadline() {
    let begin = Instant::now();
    check_misbehaviour(
        "(loop $forever (br $forever))",
        code::DEADLINE,
        "double: the plugin did not return within 200 ms",
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_cancelled_call_ends() {
    let plugin = load(&Misbehaving::new("(loop $forever (br $forever))").component());
    let cancel = Arc::new(AtomicBool::new(false));
    let mut chain = plugin
        .chain(ChainSpec {
            cancel: cancel.clone(),
            ..spec(&plugin, quiet())
        })
        .unwrap();
    let failure = std::thread::scope(|scope| {
        let running =
            scope.spawn(|| run_within(&mut chain, &[POISON], Duration::from_secs(60)).unwrap_err());
        cancel.store(true, Ordering::Relaxed);
        running.join().unwrap()
    });
    check_failure(&failure, code::CANCELLED, "cancelled");
}

#[test]
fn memory_tables_and_stack_are_limited() {
    let bomb = "(loop $more (drop (memory.grow (i32.const 16))) (br $more))";
    check_misbehaviour(
        bomb,
        code::MEMORY_LIMIT,
        "the plugin wants more memory than the 8 MiB that it may have",
    );
    let table = Misbehaving::new(
        "(loop $more (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $more))",
    );
    check_guest(
        table.with_definitions("(table $t 1 funcref)"),
        code::MEMORY_LIMIT,
        "table entries",
    );
    let recursion = Misbehaving::new("(call $deeper (i64.const 1)) drop");
    let deeper = "(func $deeper (param i64) (result i64) (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (local.get 0)))";
    check_guest(
        recursion.with_definitions(deeper),
        code::STACK_LIMIT,
        "the plugin's stack is exhausted",
    );
}

#[test]
fn a_component_that_needs_too_much_memory_from_the_start_is_refused() {
    let guest = Misbehaving::default().with_definitions("(table $t 2000000 funcref)");
    let error = load(&guest.component()).describe(&[]).unwrap_err();
    check_failure(&error.into(), code::MEMORY_LIMIT, "table entries");
}

#[test]
fn limits_on_output() {
    // A hundred buffers that are all the same 128 KiB: the guest needs no memory for them, the host
    // would.
    let overlapping = "
        (local.set $i (i32.const 0))
        (loop $more
          (call $buffer (local.get $i) (i32.const 0) (local.get $i) (i32.const 2) (i32.const 0) (i32.const 131072))
          (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))
        (local.set $i (i32.const 0))
        (local.set $n-buffers (i32.const 100))";
    check_misbehaviour(
        overlapping,
        code::OUTPUT_LIMIT,
        "the plugin sends more than 1 MiB in one call",
    );
    let emitting = "
        (loop $more
          (call $emit (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 32768) (i32.const 3) (i32.const 512))
          (br $more))";
    check_misbehaviour(
        emitting,
        code::OUTPUT_LIMIT,
        "the plugin sends more than 1 MiB in one call",
    );
}

#[test]
fn a_trap_comes_with_the_panic_message_and_the_backtrace() {
    let guest = Misbehaving::new("(call $outer)").with_definitions(
        r#"(data (i32.const 12288) "panicked at src/lib.rs:7: thirteen")
        (func $thermometer::Gauge::read (call $log (i32.const 9) (i32.const 12288) (i32.const 34)) unreachable)
        (func $outer (call $thermometer::Gauge::read))"#,
    );
    let failure = check_guest(
        guest,
        code::TRAP,
        "double: the plugin panicked: panicked at src/lib.rs:7: thirteen",
    );
    let frames: Vec<&str> = failure.backtrace.lines().collect();
    assert_eq!(
        &frames[..2],
        ["thermometer::Gauge::read", "outer"],
        "{frames:?}"
    );
    check_misbehaviour(
        "unreachable",
        code::TRAP,
        "the plugin trapped: wasm `unreachable` instruction executed",
    );
    check_misbehaviour(
        "(drop (i32.load (i32.const -8)))",
        code::TRAP,
        "out of bounds memory access",
    );
}

#[test]
fn an_error_that_the_guest_returns_is_reported_in_its_words() {
    let error = "
        (i32.store8 (i32.const 0) (i32.const 1))
        (i32.store16 (i32.const 4) (i32.const 1))
        (i32.store (i32.const 8) (i32.const 12288))
        (i32.store (i32.const 12) (i32.const 15))
        (return (i32.const 0))";
    let guest =
        Misbehaving::new(error).with_definitions(r#"(data (i32.const 12288) "13 is too cold!")"#);
    check_guest(guest, code::USER_ERROR, "double: 13 is too cold!");
}

/// What a guest sends that does not hold together, as instructions and the sentence that answers
/// them.
const BROKEN: &[(&str, &str)] = &[
    ("(i32.store (i32.const 32780) (i32.const 8))", "column `n` has 1 values, but there are 2 rows"),
    ("(i32.store (i32.const 32780) (i32.const 15))", "column `n` has 1 values, but there are 2 rows"),
    ("(local.set $n-buffers (i32.const 0))", "column `n` is missing"),
    ("(local.set $n-buffers (i32.const 2))", "column `s` is missing"),
    ("(i32.store (i32.const 32796) (i32.const 8))", "column `s` has 2 offsets, but 2 rows need one more than rows"),
    ("(i32.store (local.get $text) (i32.const 4))", "the offsets of column `s` begin at 4, not at 0"),
    ("(i32.store offset=4 (local.get $text) (i32.const 7))", "the offsets of column `s` descend from 7 to 0 at row 1"),
    ("(i32.store offset=4 (local.get $text) (i32.const -1))", "the offsets of column `s` descend from 0 to -1 at row 0"),
    ("(i32.store offset=8 (local.get $text) (i32.const 3))", "the offsets of column `s` end at 3, but there are 0 bytes of data"),
    (
        "(i32.store8 (i32.const 16384) (i32.const 0xff)) (i32.store offset=8 (local.get $text) (i32.const 1))
         (call $buffer (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 16384) (i32.const 1))",
        "column `s` is not UTF-8 in row 1",
    ),
    (
        "(call $buffer (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16384) (i32.const 1)) (local.set $n-buffers (i32.const 4))",
        "column `n` is null in row 0, but the plan says that it never is",
    ),
    (
        "(call $buffer (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16384) (i32.const 0)) (local.set $n-buffers (i32.const 4))",
        "the validity bitmap of column `n` has 0 bits, but there are 2 rows",
    ),
    (
        "(call $buffer (i32.const 3) (i32.const 0) (i32.const 2) (i32.const 2) (i32.const 0) (i32.const 0)) (local.set $n-buffers (i32.const 4))",
        "there is a buffer for column 2 (part 2), which the plan does not have",
    ),
    (
        "(call $buffer (i32.const 3) (i32.const 77) (i32.const 0) (i32.const 2) (i32.const 0) (i32.const 0)) (local.set $n-buffers (i32.const 4))",
        "there is a buffer of role 77, which does not belong there",
    ),
    (
        "(call $buffer (i32.const 3) (i32.const 5) (i32.const 0) (i32.const 2) (i32.const 16384) (i32.const 8)) (local.set $n-buffers (i32.const 4))
         (i32.store (i32.const 16388) (i32.const 2))",
        "output of `double`: row 1 comes from row 2, which is not there",
    ),
    (
        "(call $buffer (i32.const 3) (i32.const 5) (i32.const 0) (i32.const 2) (i32.const 16384) (i32.const 8)) (local.set $n-buffers (i32.const 4))
         (i32.store (i32.const 16384) (i32.const 1))",
        "row 1 comes from row 0, which stands before the origin of the row in front of it",
    ),
    (
        "(call $buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2) (local.get $n) (i32.const 8))
         (i32.store (i32.const 32796) (i32.const 8)) (i32.store (i32.const 8196) (i32.const 1))",
        "output of `double`: 1 rows without origin, but there are 2 input rows",
    ),
    ("(i32.store (i32.const 8196) (i32.const -1))", "column `n` has 2 values, but there are 4294967295 rows"),
    ("(i32.store16 (i32.const 8192) (i32.const 99))", "there is a section of role 99"),
    ("(i32.store16 (i32.const 8192) (i32.const 3))", "there is state 0, which `double` does not declare"),
    ("(i32.store16 (i32.const 8192) (i32.const 4))", "timers: `double` does not declare that it has any"),
    ("(i32.store16 (i32.const 8194) (i32.const 1))", "`double` has no output 1"),
    ("(i32.store16 (i32.const 8194) (i32.const 256))", "there are rows of function 1, but the chain has 1"),
    ("(i32.store (i32.const 8) (i32.const -1))", "cannot be read: list pointer/length out of bounds of memory"),
    ("(i32.store (i32.const 32776) (i32.const -4))", "cannot be read: list pointer/length out of bounds of memory"),
    ("(i32.store (i32.const 4) (i32.const 8193))", "cannot be read: list pointer is not aligned"),
    ("(i32.store8 (i32.const 0) (i32.const 7))", "cannot be read: invalid expected discriminant"),
];

#[test]
fn broken_outputs_are_refused_with_the_place() {
    for (instructions, sentence) in BROKEN {
        check_misbehaviour(instructions, code::BAD_OUTPUT, sentence);
    }
}
