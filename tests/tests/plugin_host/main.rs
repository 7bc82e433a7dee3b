//! The plugin host, called as a task calls it: components without an SDK, what a call may reach,
//! and (in the modules) everything that can go wrong.
//!
//! Each fault is one sentence with a stable code, and the chain answers the next good batch.

mod faults;
mod loading;
mod wasi;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use streamrt_operator::{
    Call, Failure, FunctionChain, Invocation, NoState, Outcome, RowsIn, SlotsIn, StateAccess,
};
use streamrt_plugin::{ChainSpec, Log, Plugin, PluginChain, PluginHost};
use streamrt_tests::guests::{Misbehaving, POISON, even};
use streamrt_types::{Code, Configuration, code};
use streamrt_wit::{Field as PlanField, StateDescriptor, StateKind, TtlUpdate, TtlVisibility};

const DEADLINE: Duration = Duration::from_secs(5);

fn small() -> Configuration {
    Configuration {
        plugin_memory_bytes: 8 << 20,
        plugin_output_bytes: 1 << 20,
        ..Configuration::default()
    }
}

fn host() -> Arc<PluginHost> {
    PluginHost::new(&small(), None).unwrap()
}

fn load(component: &[u8]) -> Arc<Plugin> {
    host().load(component).unwrap()
}

fn spec(plugin: &Plugin, log: Log) -> ChainSpec {
    let plan = Arc::new(plugin.describe(&[]).unwrap());
    ChainSpec {
        args: Vec::new(),
        plan,
        functions: vec![0],
        subtask: 0,
        parallelism: 1,
        cancel: Arc::default(),
        log,
        counters: Arc::default(),
    }
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
    RowsIn {
        columns,
        times: None,
        marks: &[],
        slots: None,
    }
}

fn run_within(
    chain: &mut PluginChain,
    values: &[i64],
    deadline: Duration,
) -> Result<Outcome, Failure> {
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
    outcome.rows[0]
        .columns
        .as_ref()
        .unwrap()
        .column(0)
        .as_primitive::<Int64Type>()
        .values()
        .to_vec()
}

fn check_failure(failure: &Failure, code: Code, sentence: &str) {
    let found = (failure.error.code().id, failure.error.message());
    assert!(
        found.0 == code.id && found.1.contains(sentence),
        "expected {} `{sentence}`, found {found:?}",
        code.id
    );
    assert!(!found.1.contains('\n'), "one sentence: {}", found.1);
}

/// A guest that fails on a poisoned batch, and answers the batches around it.
#[track_caller]
fn check_guest(guest: Misbehaving, code: Code, sentence: &str) -> Failure {
    let mut chain = chain(&load(&guest.component()));
    assert_eq!(doubled(&run(&mut chain, &[1, 2]).unwrap()), [2, 4]);
    let failure = run_within(&mut chain, &[POISON, 2], Duration::from_millis(200)).unwrap_err();
    check_failure(&failure, code, sentence);
    assert_eq!(
        doubled(&run(&mut chain, &[3, POISON, 5]).unwrap()),
        [6, 2 * POISON, 10],
        "the next good batch"
    );
    failure
}

#[track_caller]
fn check_misbehaviour(instructions: &str, code: Code, sentence: &str) -> Failure {
    check_guest(Misbehaving::new(instructions), code, sentence)
}

#[test]
fn a_component_without_an_sdk_filters() {
    let plugin = load(&even());
    assert_eq!(plugin.describe(&[]).unwrap().functions[0].name, "even");
    let mut chain = chain(&plugin);
    for values in [&[1i64, 2, 3, 4, 6][..], &[7], &[], &[8, 8]] {
        let outcome = run(&mut chain, values).unwrap();
        let expected: Vec<u32> = (0u32..)
            .zip(values)
            .filter(|(_, n)| *n % 2 == 0)
            .map(|(row, _)| row)
            .collect();
        assert_eq!(
            outcome.rows[0].origin.as_deref(),
            Some(&expected[..]),
            "{values:?}"
        );
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
    assert_eq!(
        (outcome.rows.len(), outcome.rows[0].origin.as_deref()),
        (1, Some(&[0, 1][..]))
    );
    check_failure(
        &run(&mut chain, &[POISON, 14]).unwrap_err(),
        code::TRAP,
        "trapped",
    );
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
    let plugin = load(
        &Misbehaving::new(logging)
            .with_definitions(r#"(data (i32.const 12288) "hello")"#)
            .component(),
    );
    let messages = Arc::new(Mutex::new(Vec::new()));
    let sink = messages.clone();
    let log: Log = Arc::new(move |level, message: &str| {
        sink.lock().unwrap().push((level, message.to_owned()))
    });
    let mut chain = plugin.chain(spec(&plugin, log)).unwrap();
    run(&mut chain, &[POISON]).unwrap();
    let messages = messages.lock().unwrap();
    assert_eq!(
        (messages.len(), &messages[0]),
        (257, &(3, "hello".to_owned()))
    );
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
    fn map(
        &mut self,
        number: u32,
        slots: &[u32],
        keys: &RecordBatch,
    ) -> streamrt_types::Result<(RecordBatch, Vec<u8>)> {
        self.n_asked += slots.len();
        assert_eq!(
            (number, keys.num_rows(), keys.num_columns()),
            (0, slots.len(), 1)
        );
        Ok((
            numbers(
                &slots
                    .iter()
                    .map(|&slot| i64::from(slot) + 100)
                    .collect::<Vec<_>>(),
            ),
            vec![1; slots.len()],
        ))
    }
    fn put(&mut self, _: u32, _: &[u32], _: &[u8], _: &RecordBatch) -> streamrt_types::Result<()> {
        unreachable!("nothing is written")
    }
    fn scan(
        &mut self,
        _: u32,
        _: u32,
        _: &[u8],
        _: usize,
    ) -> streamrt_types::Result<(RecordBatch, Option<Vec<u8>>)> {
        unreachable!("nothing is listed")
    }
}

/// Asks for the map's entries at slot 1 and {SLOT}, under the values of the batch as keys, and
/// answers with what it gets.
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
        ttl_update: TtlUpdate::default(),
        ttl_visibility: TtlVisibility::default(),
    };
    let guest = |slot: &str| Misbehaving {
        states: vec![state.clone()],
        ..Misbehaving::new(&ASKING.replace("{SLOT}", slot))
    };
    let ask = |slot: &str| {
        let mut chain = chain(&load(&guest(slot).component()));
        let columns = numbers(&[POISON, 4]);
        let mut access: Box<dyn StateAccess> = Box::new(Slots { n_asked: 0 });
        let invocation = Invocation {
            call: Call::Process,
            rows: Some(RowsIn {
                slots: Some(&[0, 1]),
                ..rows(&columns)
            }),
            slots: Some(SlotsIn {
                n_slots: 2,
                keys: None,
                windows: None,
                offsets: None,
            }),
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
    assert_eq!(
        (doubled(&outcome.unwrap()), n_asked, calls),
        (vec![202, 200], 2, (1, 1))
    );
    let (failure, n_asked, _) = ask("2");
    check_failure(
        &failure.unwrap_err(),
        code::BAD_OUTPUT,
        "get-many of state `seen`: slot 2 is asked for, but the call has 2",
    );
    assert_eq!(n_asked, 0);
}

#[test]
fn deadline_checks_can_be_left_out() {
    let host = PluginHost::new(
        &Configuration {
            plugin_epoch: false,
            ..small()
        },
        None,
    )
    .unwrap();
    let mut chain = chain(&host.load(&even()).unwrap());
    assert_eq!(run(&mut chain, &[1, 2]).unwrap().rows[0].n_rows, 1);
}
