//! State with a time to live, and reducing and aggregating state, through the plugin host: a guest
//! that does what `scenario.txt` next to it says, under a clock that the test moves. The same file
//! is run in the test harness of the SDK, in the guest itself.

use arrow_array::{ArrayRef, StringArray};
use std::sync::Arc;
use streamrt_operator::harness::{Harness, batch_of};
use streamrt_operator::{KeyedProcessOperator, Operator};
use streamrt_plugin::{ChainSpec, Plugin, PluginHost};
use streamrt_state::{OperatorState, Part, Share};
use streamrt_tests::binary;
use streamrt_types::{Batch, Configuration, KeyGroupRange};
use streamrt_wit::Plan;

/// A line of the scenario.
struct Step {
    line: &'static str,
    now_ms: i64,
    row: Batch,
    answer: &'static str,
}

fn scenario() -> Vec<Step> {
    let lines = include_str!("../guests/states/scenario.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    lines.map(step).collect()
}

fn step(line: &'static str) -> Step {
    let (what, answer) = line.split_once(" =>").expect("a line has an answer");
    let words: Vec<&str> = what.splitn(3, ' ').collect();
    let column = |word: usize| Arc::new(StringArray::from(vec![words[word]])) as ArrayRef;
    let row = batch_of([("key", column(1)), ("text", column(2))]);
    Step {
        line,
        now_ms: words[0].parse().expect("a line begins with a time"),
        row,
        answer: answer.trim(),
    }
}

fn operator(plugin: &Arc<Plugin>, plan: &Arc<Plan>) -> Harness<KeyedProcessOperator> {
    let function = plan
        .functions
        .iter()
        .find(|function| function.name == "states")
        .expect("the guest has the function");
    let spec = ChainSpec {
        args: Vec::new(),
        plan: plan.clone(),
        functions: vec![function.number],
        subtask: 0,
        parallelism: 1,
        cancel: Arc::default(),
        log: Arc::new(|_, _| {}),
        counters: Arc::default(),
    };
    let schema = scenario()[0].row.columns.schema();
    let chain = Box::new(plugin.chain(spec).expect("the guest opens"));
    Harness::new(
        KeyedProcessOperator::new(chain, std::slice::from_ref(function), &schema, vec![0])
            .expect("the input fits"),
    )
}

/// What `before` holds, in a new operator.
fn restored(
    mut before: Harness<KeyedProcessOperator>,
    mut after: Harness<KeyedProcessOperator>,
) -> Harness<KeyedProcessOperator> {
    let (mut object, key_groups, max_parallelism) = (
        Vec::new(),
        before.context.key_groups,
        before.context.max_parallelism,
    );
    let index = before
        .operator
        .snapshot(1)
        .unwrap()
        .write("op", max_parallelism, &mut object);
    assert_eq!(key_groups, KeyGroupRange::all(max_parallelism));
    let share = Share {
        subtask: 0,
        parallelism: 1,
        key_groups,
        max_parallelism,
    };
    let mut state = OperatorState::assemble(
        "op",
        &[Some(Part {
            object: Arc::new(object),
            index,
        })],
        share,
    )
    .unwrap();
    after.operator.restore(&mut state).unwrap();
    state.check_taken().unwrap();
    after
}

fn check(restore_each: bool) {
    let plugin = PluginHost::new(&Configuration::default(), None)
        .unwrap()
        .load(&std::fs::read(binary::component("states")).unwrap())
        .unwrap();
    let plan = Arc::new(plugin.describe(&[]).unwrap());
    let mut harness = operator(&plugin, &plan);
    for step in scenario() {
        harness.clock.set_ms(step.now_ms);
        let n_before = harness.lines(0).len();
        harness.batches(&step.row, 1).unwrap();
        let answer = format!("- {{\"value\":\"{}\"}}", step.answer);
        assert_eq!(harness.lines(0)[n_before..], [answer], "{}", step.line);
        if restore_each {
            harness = restored(harness, operator(&plugin, &plan));
        }
    }
}

#[test]
fn the_scenario_through_the_plugin_host() {
    check(false);
}

#[test]
fn the_scenario_with_a_restore_behind_each_line() {
    check(true);
}
