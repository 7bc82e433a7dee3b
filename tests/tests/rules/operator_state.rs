//! Operator state of user code: a job of `tests/guests/rules` that is killed and goes on, at the
//! same and at another parallelism; and how its lists are redistributed, through the plugin host.

use arrow_array::{ArrayRef, Int64Array, StringArray};
use std::sync::Arc;
use streamrt_operator::harness::{Harness, batch_of};
use streamrt_operator::{Operator, TransformOperator};
use streamrt_plugin::{ChainSpec, Plugin, PluginHost};
use streamrt_state::{OperatorState, Part, Share};
use streamrt_tests::binary::{component, run};
use streamrt_types::{Batch, Configuration, KeyGroupRange, PoisonPolicy};
use streamrt_wit::Plan;

use crate::jobs::Job;

/// Kills a job at each of these parallelisms, and lets it end at the last.
fn check(parallelism: &[u32]) {
    check_with(&Job::new(), parallelism, &[]);
}

/// Returns what the checkpoint of the last kill holds.
fn check_with(job: &Job, parallelism: &[u32], options: &[&str]) -> String {
    let (last, killed) = parallelism.split_last().unwrap();
    killed
        .iter()
        .for_each(|parallelism| job.run_and_kill(*parallelism, options));
    let state = run([
        "savepoint",
        "inspect",
        &job.path("checkpoints").to_string_lossy(),
    ])
    .succeeded()
    .stdout;
    for part in [
        "limits: ",
        "\"kind\":\"broadcast\"",
        "held: ",
        "\"kind\":\"operator-list\"",
        "numbers: ",
        "\"kind\":\"union-list\"",
    ] {
        assert!(state.contains(part), "`{part}` is not in {state}");
    }
    let ended = run(job.args(*last, options, &[])).succeeded();
    assert!(
        ended.stderr.contains("goes on from checkpoint"),
        "{}",
        ended.stderr
    );
    job.assert_whole(*parallelism.iter().max().unwrap() as usize);
    state
}

/// Broadcast state and lists are in memory with every backend; the keyed state beside them leaves
/// it all the time.
#[test]
fn a_killed_job_goes_on_with_its_operator_state_beside_keyed_state_on_disk() {
    let job = Job::new();
    let dir = format!("state.dir={}", job.path("state").display());
    let on_disk = [
        "-D",
        "state.backend=rocksdb",
        "-D",
        "state.memory=8KiB",
        "-D",
        &dir,
    ];
    let state = check_with(&job, &[2, 3, 2], &on_disk);
    assert!(state.contains("waiting: on disk"), "{state}");
}

#[test]
fn a_killed_job_goes_on_with_its_operator_state() {
    check(&[2, 2, 2]);
}

#[test]
fn a_killed_job_goes_on_with_its_operator_state_at_another_parallelism() {
    check(&[1, 3, 2]);
}

#[test]
fn broadcast_state_is_not_written_by_the_other_side() {
    let job = Job::new();
    let refused = run(job.args(2, &[], &["--write-anywhere"])).failed_with("S2006");
    refused
        .names("broadcast state limits can be written in on_broadcast alone")
        .names("alerts");
}

/// One subtask of a function of the guest.
fn subtask(plugin: &Arc<Plugin>, plan: &Arc<Plan>, name: &str) -> Harness<TransformOperator> {
    let function = plan
        .functions
        .iter()
        .find(|function| function.name == name)
        .expect("the guest has the function");
    let spec = ChainSpec {
        args: args(),
        plan: plan.clone(),
        functions: vec![function.number],
        subtask: 0,
        parallelism: 1,
        cancel: Arc::default(),
        log: Arc::new(|_, _| {}),
        counters: Arc::default(),
    };
    let chain = Box::new(plugin.chain(spec).expect("the guest opens"));
    let operator = TransformOperator::new(
        chain,
        std::slice::from_ref(function),
        &readings(&[]).columns.schema(),
    )
    .expect("the input fits");
    Harness::with(
        operator,
        Configuration {
            poison_policy: PoisonPolicy::Skip,
            ..Configuration::default()
        },
    )
    .expect("it opens")
}

fn args() -> Vec<String> {
    ["--input", "in", "--output", "out"]
        .map(str::to_owned)
        .to_vec()
}

/// Readings of these numbers; a negative number has a negative value.
fn readings(numbers: &[i64]) -> Batch {
    let column = || Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
    let sensors = Arc::new(StringArray::from(vec!["s"; numbers.len()]));
    batch_of([
        ("number", column()),
        ("sensor", sensors),
        ("value", column()),
        ("time", column()),
    ])
}

/// Gives readings to the subtasks of `name`, snapshots all of them, starts `parallelism` new ones,
/// gives each a reading 9, and returns what each puts out.
fn restored(name: &str, before: &[&[i64]], parallelism: u32) -> Vec<Vec<String>> {
    let host = PluginHost::new(&Configuration::default(), None).unwrap();
    let plugin = host
        .load(&std::fs::read(component("rules")).unwrap())
        .unwrap();
    let plan = Arc::new(plugin.describe(&args()).unwrap());
    let part = |numbers: &&[i64]| {
        let mut harness = subtask(&plugin, &plan, name);
        harness.batches(&readings(numbers), 2).unwrap();
        let mut object = Vec::new();
        let index = harness
            .operator
            .snapshot(1)
            .unwrap()
            .write(name, 16, &mut object);
        Some(Part {
            object: Arc::new(object),
            index,
        })
    };
    let parts: Vec<Option<Part>> = before.iter().map(part).collect();
    let start = |number: u32| {
        let key_groups = KeyGroupRange::of_subtask(16, parallelism, number);
        let share = Share {
            subtask: number,
            parallelism,
            key_groups,
            max_parallelism: 16,
        };
        let mut state = OperatorState::assemble(name, &parts, share).unwrap();
        let mut harness = subtask(&plugin, &plan, name);
        harness.operator.restore(&mut state).unwrap();
        state.check_taken().unwrap();
        harness.batches(&readings(&[9]), 1).unwrap();
        harness
            .lines(0)
            .iter()
            .map(|line| line.to_string())
            .collect()
    };
    (0..parallelism).map(start).collect()
}

fn batch(numbers: &[i64]) -> Vec<String> {
    numbers
        .iter()
        .map(|number| format!("- {{\"value\":{number}}}"))
        .collect()
}

#[test]
fn a_list_is_dealt_out_in_blocks_and_a_union_list_is_given_to_all() {
    // Two readings of each subtask are held; -8 is refused, so it is as if it had not come.
    let before: &[&[i64]] = &[&[1, -8, 2], &[3, 4], &[5]];
    assert_eq!(
        restored("batches", before, 3),
        [batch(&[1, 2, 9]), batch(&[3, 4, 9]), batch(&[])]
    );
    assert_eq!(
        restored("batches", before, 2),
        [batch(&[1, 2, 3, 9]), batch(&[4, 5, 9])]
    );
    let all = vec!["- {\"value\":\"1 2 3 4 5 9\"}".to_owned()];
    assert_eq!(restored("known", before, 2), [all.clone(), all.clone()]);
    assert_eq!(
        restored("known", before, 3),
        [all.clone(), all.clone(), all]
    );
}
