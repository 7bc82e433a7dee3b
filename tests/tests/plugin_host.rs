//! The plugin host against guests that are wrong in every way the interface allows. Each fault is one sentence with a stable code, and the
//! chain answers the next good batch.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use std::any::Any;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use streamrt_operator::{Call, Failure, FunctionChain, Invocation, NoState, Outcome, RowsIn, SlotsIn, StateAccess};
use streamrt_plugin::{ChainSpec, Log, Plugin, PluginChain, PluginHost};
use streamrt_tests::guests::{self, EVEN, Import, Misbehaving, POISON, assemble, even};
use streamrt_types::{Code, Configuration, code};
use streamrt_wit::{Field as PlanField, StateDescriptor, StateKind};

const DEADLINE: Duration = Duration::from_secs(5);

fn small() -> Configuration {
    Configuration { plugin_memory_bytes: 8 << 20, plugin_output_bytes: 1 << 20, ..Configuration::default() }
}

fn host() -> Arc<PluginHost> {
    PluginHost::new(&small(), None).unwrap()
}

fn load(component: &[u8]) -> Arc<Plugin> {
    host().load(component).unwrap()
}

fn spec(plugin: &Plugin, log: Log) -> ChainSpec {
    let plan = Arc::new(plugin.describe(&[]).unwrap());
    ChainSpec { args: Vec::new(), plan, functions: vec![0], subtask: 0, parallelism: 1, cancel: Arc::default(), log }
}

fn quiet() -> Log {
    Arc::new(|_, _| {})
}

fn chain(plugin: &Arc<Plugin>) -> PluginChain {
    plugin.chain(spec(plugin, quiet())).unwrap()
}

fn numbers(values: &[i64]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap()
}

fn rows(columns: &RecordBatch) -> RowsIn<'_> {
    RowsIn { columns, times: None, marks: &[], slots: None }
}

fn run_within(chain: &mut PluginChain, values: &[i64], deadline: Duration) -> Result<Outcome, Failure> {
    let (columns, mut access) = (numbers(values), NoState::boxed());
    let invocation = Invocation {
        call: Call::Process,
        rows: Some(rows(&columns)),
        slots: None,
        states: Vec::new(),
        timers: &[],
        clock: None,
        access: &mut access,
    };
    chain.invoke(invocation, deadline)
}

fn run(chain: &mut PluginChain, values: &[i64]) -> Result<Outcome, Failure> {
    run_within(chain, values, DEADLINE)
}

/// The column `n` of the one output.
fn doubled(outcome: &Outcome) -> Vec<i64> {
    outcome.rows[0].columns.as_ref().unwrap().column(0).as_primitive::<Int64Type>().values().to_vec()
}

fn check_failure(failure: &Failure, code: Code, sentence: &str) {
    let found = (failure.error.code().id, failure.error.message());
    assert!(found.0 == code.id && found.1.contains(sentence), "expected {} `{sentence}`, found {found:?}", code.id);
    assert!(!found.1.contains('\n'), "one sentence: {}", found.1);
}

/// A guest that fails on a poisoned batch, and answers the batches around it.
#[track_caller]
fn check_guest(guest: Misbehaving, code: Code, sentence: &str) -> Failure {
    let mut chain = chain(&load(&guest.component()));
    assert_eq!(doubled(&run(&mut chain, &[1, 2]).unwrap()), [2, 4]);
    let failure = run_within(&mut chain, &[POISON, 2], Duration::from_millis(200)).unwrap_err();
    check_failure(&failure, code, sentence);
    assert_eq!(doubled(&run(&mut chain, &[3, POISON, 5]).unwrap()), [6, 2 * POISON, 10], "the next good batch");
    failure
}

#[track_caller]
fn check_misbehaviour(instructions: &str, code: Code, sentence: &str) -> Failure {
    check_guest(Misbehaving::new(instructions), code, sentence)
}

#[track_caller]
fn check_refused(bytes: &[u8], code: Code, sentence: &str) {
    let error = host().load(bytes).err().expect("it is refused");
    check_failure(&error.into(), code, sentence);
}

#[test]
fn a_component_without_an_sdk_filters() {
    let plugin = load(&even());
    assert_eq!(plugin.describe(&[]).unwrap().functions[0].name, "even");
    let mut chain = chain(&plugin);
    for values in [&[1i64, 2, 3, 4, 6][..], &[7], &[], &[8, 8]] {
        let outcome = run(&mut chain, values).unwrap();
        let expected: Vec<u32> = (0u32..).zip(values).filter(|(_, n)| *n % 2 == 0).map(|(row, _)| row).collect();
        assert_eq!(outcome.rows[0].origin.as_deref(), Some(&expected[..]), "{values:?}");
        assert!(outcome.rows[0].columns.is_none());
    }
    assert_eq!(chain.calls(), (4, 0));
}

#[test]
fn a_large_batch_grows_the_guest() {
    let values: Vec<i64> = (0..100_000).collect();
    let mut chain = chain(&load(&even()));
    for _ in 0..3 {
        assert_eq!(run(&mut chain, &values).unwrap().rows[0].n_rows, 50_000);
    }
}

#[test]
fn files_that_are_no_plugin_are_refused() {
    let component = even();
    check_refused(b"", code::NOT_WASM, "the file is empty");
    check_refused(b"hello, world", code::NOT_WASM, "not WebAssembly");
    check_refused(&assemble("(module)"), code::CORE_MODULE, "a core WebAssembly module");
    check_refused(&component[..6], code::BAD_COMPONENT, "cut off");
    check_refused(b"\0asm\x0e\0\x01\0", code::BAD_COMPONENT, "binary format");
    check_refused(&component[..component.len() - 5], code::BAD_COMPONENT, "damaged");
    check_refused(&component[..component.len() / 2], code::BAD_COMPONENT, "damaged");
    check_refused(&assemble("(component)"), code::NO_OPERATOR, "does not export streamrt:plugin/operator@0.1.0, nor anything else");
}

#[test]
fn a_truncated_component_never_loads() {
    let (component, host) = (even(), host());
    for length in (0..component.len()).step_by(37) {
        let error = host.load(&component[..length]).err().unwrap_or_else(|| panic!("{length} bytes are enough"));
        let codes = [code::NOT_WASM.id, code::BAD_COMPONENT.id, code::NO_OPERATOR.id];
        assert!(codes.contains(&error.code().id), "{length} bytes: {error:?}");
    }
}

#[test]
fn other_versions_and_unknown_imports_are_named() {
    let newer = Misbehaving::default().component_of("streamrt:plugin/operator@0.2.0");
    check_refused(&newer, code::INTERFACE_VERSION, "exports streamrt:plugin/operator@0.2.0, but this host has version 0.1.0");
    let importing = |import: &str| assemble(&EVEN.replacen("(component", &format!("(component (import {import})"), 1));
    let foreign = importing(r#""acme:store/blobs@1.0.0" (instance (export "get" (func)))"#);
    check_refused(&foreign, code::UNKNOWN_IMPORT, "imports acme:store/blobs@1.0.0, which nothing");
    let function = importing(r#""run-wild" (func)"#);
    check_refused(&function, code::UNKNOWN_IMPORT, "imports run-wild");
    let grown = importing(r#""streamrt:plugin/host@0.1.0" (instance (export "shutdown" (func)))"#);
    check_refused(&grown, code::UNKNOWN_IMPORT, "streamrt:plugin/host@0.1.0#shutdown");
    let newer = importing(r#""streamrt:plugin/host@0.3.0" (instance (export "log" (func)))"#);
    check_refused(&newer, code::INTERFACE_VERSION, "imports streamrt:plugin/host@0.3.0, but this host has version 0.1.0");
    let other_type = importing(r#""streamrt:plugin/host@0.1.0" (instance (export "log" (func (param "message" string))))"#);
    check_refused(&other_type, code::UNKNOWN_IMPORT, "another type");
}

#[test]
fn compiled_code_is_refused_and_the_cache_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let loaded = |component: &[u8]| {
        let host = PluginHost::new(&small(), Some(cache.clone())).unwrap();
        assert_eq!(host.cache_fault(), None);
        chain(&host.load(component).unwrap());
    };
    loaded(&even());
    let file = only_file(&cache);
    let (first, written) = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().modified().unwrap());
    loaded(&even());
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written, "the second load is a hit");
    check_refused(&first[32..], code::PRECOMPILED, "compiled code");

    let mut damaged = first.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for bytes in [&damaged[..], &first[..100], b""] {
        std::fs::write(&file, bytes).unwrap();
        loaded(&even());
        assert_eq!(std::fs::read(only_file(&cache)).unwrap().len(), first.len(), "it was compiled and written again");
    }
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn a_cache_folder_that_others_may_use_is_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let host = PluginHost::new(&small(), Some(folder.path().to_owned())).unwrap();
    assert!(host.cache_fault().unwrap().contains("mode 0700"));
    chain(&host.load(&even()).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn plans_are_checked() {
    let describe = |text: &str| {
        let guest = Misbehaving { plan_text: Some(text.into()), ..Misbehaving::default() };
        load(&guest.component()).describe(&[]).unwrap_err()
    };
    check_failure(&describe("{").into(), code::BAD_PLAN, "the plugin's plan cannot be read: EOF");
    check_failure(&describe(r#"{"version":9}"#).into(), code::BAD_PLAN, "version 9");

    let refusing = EVEN.replacen(
        "(i32.store8 (i32.const 0) (i32.const 0))\n      (i32.store (i32.const 4) (i32.const 1024))\n      (i32.store (i32.const 8) (i32.const 149))",
        "(i32.store8 (i32.const 0) (i32.const 1)) (i32.store16 (i32.const 4) (i32.const 2))\n(i32.store (i32.const 8) (i32.const 1026)) (i32.store (i32.const 12) (i32.const 7))",
        1,
    );
    let error = load(&assemble(&refusing)).describe(&[]).unwrap_err();
    check_failure(&error.into(), code::BAD_ARGUMENTS, "version");
}

#[test]
fn an_instance_with_another_plan_is_refused() {
    let plugin = load(&even());
    let mut other = plugin.describe(&[]).unwrap();
    other.functions[0].name = "odd".into();
    let error = plugin.chain(ChainSpec { plan: Arc::new(other), ..spec(&plugin, quiet()) }).err().unwrap();
    check_failure(&error.into(), code::PLAN_CHANGED, "describes another plan");
}

#[test]
fn endless_loops_end_at_the_deadline() {
    let begin = Instant::now();
    check_misbehaviour("(loop $forever (br $forever))", code::DEADLINE, "double: the plugin did not return within 200 ms");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_cancelled_call_ends() {
    let plugin = load(&Misbehaving::new("(loop $forever (br $forever))").component());
    let cancel = Arc::new(AtomicBool::new(false));
    let mut chain = plugin.chain(ChainSpec { cancel: cancel.clone(), ..spec(&plugin, quiet()) }).unwrap();
    let failure = std::thread::scope(|scope| {
        let running = scope.spawn(|| run_within(&mut chain, &[POISON], Duration::from_secs(60)).unwrap_err());
        cancel.store(true, Ordering::Relaxed);
        running.join().unwrap()
    });
    check_failure(&failure, code::CANCELLED, "cancelled");
}

#[test]
fn memory_tables_and_stack_are_limited() {
    let bomb = "(loop $more (drop (memory.grow (i32.const 16))) (br $more))";
    check_misbehaviour(bomb, code::MEMORY_LIMIT, "the plugin wants more memory than the 8 MiB that it may have");
    let table = Misbehaving::new("(loop $more (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $more))");
    check_guest(table.with_definitions("(table $t 1 funcref)"), code::MEMORY_LIMIT, "table entries");
    let recursion = Misbehaving::new("(call $deeper (i64.const 1)) drop");
    let deeper = "(func $deeper (param i64) (result i64) (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (local.get 0)))";
    check_guest(recursion.with_definitions(deeper), code::STACK_LIMIT, "the plugin's stack is exhausted");
}

#[test]
fn a_component_that_needs_too_much_memory_from_the_start_is_refused() {
    let guest = Misbehaving::default().with_definitions("(table $t 2000000 funcref)");
    let error = load(&guest.component()).describe(&[]).unwrap_err();
    check_failure(&error.into(), code::MEMORY_LIMIT, "table entries");
}

#[test]
fn limits_on_output() {
    // A hundred buffers that are all the same 128 KiB: the guest needs no memory for them, the host would.
    let overlapping = "
        (local.set $i (i32.const 0))
        (loop $more
          (call $buffer (local.get $i) (i32.const 0) (local.get $i) (i32.const 2) (i32.const 0) (i32.const 131072))
          (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))
        (local.set $i (i32.const 0))
        (local.set $n-buffers (i32.const 100))";
    check_misbehaviour(overlapping, code::OUTPUT_LIMIT, "the plugin sends more than 1 MiB in one call");
    let emitting = "
        (loop $more
          (call $emit (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 32768) (i32.const 3) (i32.const 512))
          (br $more))";
    check_misbehaviour(emitting, code::OUTPUT_LIMIT, "the plugin sends more than 1 MiB in one call");
}

#[test]
fn a_trap_comes_with_the_panic_message_and_the_backtrace() {
    let guest = Misbehaving::new("(call $outer)").with_definitions(
        r#"(data (i32.const 12288) "panicked at src/lib.rs:7: thirteen")
        (func $thermometer::Gauge::read (call $log (i32.const 9) (i32.const 12288) (i32.const 34)) unreachable)
        (func $outer (call $thermometer::Gauge::read))"#,
    );
    let failure = check_guest(guest, code::TRAP, "double: the plugin panicked: panicked at src/lib.rs:7: thirteen");
    let frames: Vec<&str> = failure.backtrace.lines().collect();
    assert_eq!(&frames[..2], ["thermometer::Gauge::read", "outer"], "{frames:?}");
    check_misbehaviour("unreachable", code::TRAP, "the plugin trapped: wasm `unreachable` instruction executed");
    check_misbehaviour("(drop (i32.load (i32.const -8)))", code::TRAP, "out of bounds memory access");
}

#[test]
fn an_error_that_the_guest_returns_is_reported_in_its_words() {
    let error = "
        (i32.store8 (i32.const 0) (i32.const 1))
        (i32.store16 (i32.const 4) (i32.const 1))
        (i32.store (i32.const 8) (i32.const 12288))
        (i32.store (i32.const 12) (i32.const 15))
        (return (i32.const 0))";
    let guest = Misbehaving::new(error).with_definitions(r#"(data (i32.const 12288) "13 is too cold!")"#);
    check_guest(guest, code::USER_ERROR, "double: 13 is too cold!");
}

/// What a guest sends that does not hold together, as instructions and the sentence that answers them.
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

#[test]
fn emitted_segments_come_first_and_are_dropped_with_a_failed_call() {
    // Emits row 0, and returns row 1; both with their origin.
    let emitting = "
        (call $buffer (i32.const 3) (i32.const 5) (i32.const 0) (i32.const 2) (i32.const 16384) (i32.const 4))
        (i32.store (i32.const 32780) (i32.const 8))
        (i32.store (i32.const 32796) (i32.const 8))
        (i32.store (i32.const 16384) (i32.const 0))
        (call $emit (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32768) (i32.const 4) (i32.const 512))
        (i32.store (i32.const 16384) (i32.const 1))
        (i32.store (i32.const 32776) (i32.add (local.get $n) (i32.const 8)))
        (i32.store (i32.const 8196) (i32.const 1))
        (local.set $n-buffers (i32.const 4))
        (if (i64.eq (i64.load offset=8 align=1 (local.get $n)) (i64.const 14)) (then unreachable))";
    let mut chain = chain(&load(&Misbehaving::new(emitting).component()));
    let outcome = run(&mut chain, &[POISON, 5]).unwrap();
    assert_eq!(doubled(&outcome), [13, 10], "emitted before it was doubled");
    assert_eq!((outcome.rows.len(), outcome.rows[0].origin.as_deref()), (1, Some(&[0, 1][..])));
    check_failure(&run(&mut chain, &[POISON, 14]).unwrap_err(), code::TRAP, "trapped");
    assert_eq!(doubled(&run(&mut chain, &[7]).unwrap()), [14]);
    assert_eq!(chain.calls(), (3, 2));
}

#[test]
fn messages_go_to_the_log_up_to_a_limit() {
    let logging = r#"
        (loop $more
          (call $log (i32.const 3) (i32.const 12288) (i32.const 5))
          (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
        (local.set $i (i32.const 0))"#;
    let plugin = load(&Misbehaving::new(logging).with_definitions(r#"(data (i32.const 12288) "hello")"#).component());
    let messages = Arc::new(Mutex::new(Vec::new()));
    let sink = messages.clone();
    let log: Log = Arc::new(move |level, message: &str| sink.lock().unwrap().push((level, message.to_owned())));
    let mut chain = plugin.chain(spec(&plugin, log)).unwrap();
    run(&mut chain, &[POISON]).unwrap();
    let messages = messages.lock().unwrap();
    assert_eq!((messages.len(), &messages[0]), (257, &(3, "hello".to_owned())));
    assert!(messages[256].1.contains("logs too much"));
}

/// Answers every key with its slot, and counts.
struct Slots {
    n_asked: usize,
}

impl StateAccess for Slots {
    fn list(&mut self, _: u32, _: &[u32]) -> streamrt_types::Result<(RecordBatch, Vec<u32>)> {
        unreachable!("the state is a map")
    }
    fn map(&mut self, number: u32, slots: &[u32], keys: &RecordBatch) -> streamrt_types::Result<(RecordBatch, Vec<u8>)> {
        self.n_asked += slots.len();
        assert_eq!((number, keys.num_rows(), keys.num_columns()), (0, slots.len(), 1));
        Ok((numbers(&slots.iter().map(|&slot| i64::from(slot) + 100).collect::<Vec<_>>()), vec![1; slots.len()]))
    }
    fn put(&mut self, _: u32, _: &[u32], _: &[u8], _: &RecordBatch) -> streamrt_types::Result<()> {
        unreachable!("nothing is written")
    }
    fn scan(&mut self, _: u32, _: u32, _: &[u8], _: usize) -> streamrt_types::Result<(RecordBatch, Option<Vec<u8>>)> {
        unreachable!("nothing is listed")
    }
}

/// Asks for the map's entries at slot 1 and {SLOT}, under the values of the batch as keys, and answers with what it gets.
const ASKING: &str = "
    (i32.store (i32.const 16384) (i32.const 1))
    (i32.store (i32.const 16388) (i32.const {SLOT}))
    (call $buffer (i32.const 3) (i32.const 4) (i32.const 0) (i32.const 2) (i32.const 16384) (i32.const 8))
    (call $buffer (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 2) (local.get $n) (i32.const 16))
    (call $get-many (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 2) (i32.const 32816) (i32.const 2) (i32.const 512))
    ;; An error is passed on: it lies at 516 as it does in the answer at 4.
    (if (i32.load8_u (i32.const 512)) (then
      (memory.copy (i32.const 0) (i32.const 512) (i32.const 16))
      (return (i32.const 0))))
    ;; The section is at 516, its buffers' address at 524; the first buffer is the value's.
    (local.set $n (i32.load offset=8 (i32.load (i32.const 524))))
    (i32.store (i32.const 32776) (local.get $n))";

#[test]
fn map_state_is_reached_through_the_access_of_the_call() {
    let state = StateDescriptor {
        name: "seen".into(),
        kind: StateKind::Map,
        key: vec![PlanField::new("k", streamrt_wit::DataType::I64)],
        value: vec![PlanField::new("v", streamrt_wit::DataType::I64)],
        ttl_ms: None,
    };
    let guest = |slot: &str| Misbehaving { states: vec![state.clone()], ..Misbehaving::new(&ASKING.replace("{SLOT}", slot)) };
    let ask = |slot: &str| {
        let mut chain = chain(&load(&guest(slot).component()));
        let columns = numbers(&[POISON, 4]);
        let mut access: Box<dyn StateAccess> = Box::new(Slots { n_asked: 0 });
        let invocation = Invocation {
            call: Call::Process,
            rows: Some(RowsIn { slots: Some(&[0, 1]), ..rows(&columns) }),
            slots: Some(SlotsIn { n_slots: 2, keys: None, windows: None, offsets: None }),
            states: Vec::new(),
            timers: &[],
            clock: None,
            access: &mut access,
        };
        let result = chain.invoke(invocation, DEADLINE);
        let access: Box<dyn Any> = access;
        let access = access.downcast::<Slots>().expect("the same box comes back");
        (result, access.n_asked, chain.calls())
    };
    let (outcome, n_asked, calls) = ask("0");
    assert_eq!((doubled(&outcome.unwrap()), n_asked, calls), (vec![202, 200], 2, (1, 1)));
    let (failure, n_asked, _) = ask("2");
    check_failure(&failure.unwrap_err(), code::BAD_OUTPUT, "get-many of state `seen`: slot 2 is asked for, but the call has 2");
    assert_eq!(n_asked, 0);
}

#[test]
fn wasi_is_inert() {
    let import = |interface: &str, functions: &str| format!("(import \"wasi:{interface}@0.2.3\" (instance $wasi {functions}))");
    let random = Import {
        component: import("random/random", r#"(export "get-random-u64" (func (result u64)))"#),
        lowered: r#"(alias export $wasi "get-random-u64" (func $wild)) (core func $wild (canon lower (func $wild)))"#.into(),
        exports: r#"(export "wild" (func $wild))"#.into(),
        core: r#"(import "host" "wild" (func $wild (result i64)))"#.into(),
    };
    let guest = Misbehaving { import: random, ..Misbehaving::new("(i64.store align=1 (local.get $n) (call $wild))") };
    let plugin = load(&guest.component());
    let draw = || doubled(&run(&mut chain(&plugin), &[POISON]).unwrap());
    assert_eq!(draw(), draw(), "a replay gets the same");

    let sockets = Import {
        component: import("sockets/network", r#"(export "connect" (func (result u64)))"#),
        lowered: r#"(alias export $wasi "connect" (func $wild)) (core func $wild (canon lower (func $wild)))"#.into(),
        exports: r#"(export "wild" (func $wild))"#.into(),
        core: r#"(import "host" "wild" (func $wild (result i64)))"#.into(),
    };
    let guest = Misbehaving { import: sockets, ..Misbehaving::new("(drop (call $wild))") };
    check_guest(guest, code::TRAP, "the plugin calls wasi:sockets/network@0.2.3#connect, which a plugin cannot have");
}

#[test]
fn deadline_checks_can_be_left_out() {
    let host = PluginHost::new(&Configuration { plugin_epoch: false, ..small() }, None).unwrap();
    let mut chain = chain(&host.load(&guests::even()).unwrap());
    assert_eq!(run(&mut chain, &[1, 2]).unwrap().rows[0].n_rows, 1);
}
