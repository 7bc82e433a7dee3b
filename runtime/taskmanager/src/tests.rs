//! Whether `compat` says what a restore says: each change of a matrix is judged, and then the state
//! of the old version is given to the operators of the new one.

use crate::factory::operator_of;
use serde_json::{Value, json};
use std::sync::Arc;
use streamrt_graph::{JobSpec, StreamGraph, Verdict, compare};
use streamrt_operator::harness::{Harness, NativeChain};
use streamrt_operator::{Failure, FunctionChain, Invocation, Operator};
use streamrt_state::{OperatorState, Part, Share};
use streamrt_types::{Batch, Error, KeyGroupRange, Result};
use streamrt_wit::{Body, Function, Plan};

const KEY_GROUPS: u32 = 16;

fn column(name: &str, data_type: &str) -> Value {
    json!({"name": name, "type": data_type})
}

/// A source of columns `k` and `x`; after it a running aggregate, windows of each kind, and
/// process functions with each kind of state.
// Long: the text of a plan.
fn plan() -> Value {
    let hash = |columns: &[&str]| json!([{"node": 0, "partitioning": {"kind": "hash", "columns": columns}}]);
    let aggregates = json!([{"function": "sum", "column": "x"}]);
    let columns = json!([{"name": "sum", "from": {"kind": "aggregate", "index": 0}}]);
    let sliding = json!({"kind": "sliding", "size-ms": 10, "slide-ms": 5});
    let function = |number: u32, kind: &str, more: Value| {
        let mut function = json!({"number": number, "kind": kind, "name": format!("f{number}"), "input": [column("x", "i64")],
            "outputs": [{"name": "", "columns": {"kind": "replace", "schema": [column("n", "i64")]}}]});
        more.as_object()
            .unwrap()
            .iter()
            .for_each(|(name, value)| function[name] = value.clone());
        function
    };
    let states = json!([
        {"name": "value", "kind": "value", "value": [column("v", "i64")]},
        {"name": "list", "kind": "list", "value": [column("v", "string")]},
        {"name": "map", "kind": "map", "key": [column("m", "string")], "value": [column("v", "i64")]},
        {"name": "expires", "kind": "value", "value": [column("v", "i64")], "ttl-ms": 1000}]);
    let node = |id: u32, uid: &str, inputs: Value, body: Value| json!({"id": id, "uid": uid, "inputs": inputs, "body": body});
    let mut nodes = vec![
        json!({"id": 0, "uid": "in", "body": {"kind": "source", "connector": "datagen", "schema": [column("k", "i64"), column("x", "i64")]}}),
        node(
            1,
            "running",
            hash(&["k"]),
            json!({"kind": "aggregate", "aggregates": aggregates, "columns": columns}),
        ),
        node(
            2,
            "panes",
            hash(&["k"]),
            json!({"kind": "window", "assigner": sliding, "contents": {"kind": "builtin", "aggregates": aggregates, "columns": columns}}),
        ),
        node(
            3,
            "sessions",
            hash(&["k"]),
            json!({"kind": "window", "assigner": {"kind": "session", "gap-ms": 5}, "contents": {"kind": "aggregate", "function": 0}}),
        ),
        node(
            4,
            "rows",
            hash(&["k"]),
            json!({"kind": "window", "assigner": sliding, "contents": {"kind": "process", "function": 1}}),
        ),
        node(
            5,
            "process",
            hash(&["k"]),
            json!({"kind": "function", "function": 2}),
        ),
        node(
            6,
            "free",
            json!([{"node": 0}]),
            json!({"kind": "function", "function": 3}),
        ),
        node(
            7,
            "map",
            json!([{"node": 0}]),
            json!({"kind": "function", "function": 4}),
        ),
    ];
    nodes.extend((1..8).map(|n| {
        node(
            10 + n,
            &format!("out{n}"),
            json!([{"node": n}]),
            json!({"kind": "sink", "connector": "blackhole"}),
        )
    }));
    let functions = json!([
        function(0, "aggregate", json!({"accumulator": [column("a", "i64")]})),
        function(1, "window-process", json!({})),
        function(
            2,
            "process",
            json!({"key": [column("k", "i64")], "timers": true, "states": states})
        ),
        function(
            3,
            "process",
            json!({"states": [{"name": "items", "kind": "operator-list", "value": [column("v", "i64")]}]})
        ),
        function(4, "map", json!({})),
    ]);
    json!({"version": 1, "functions": functions, "nodes": nodes})
}

fn job(plan: &Value) -> JobSpec {
    JobSpec::from_plan("job", Arc::new(Plan::from_json(&plan.to_string()).unwrap()))
}

struct Boxed(Box<dyn Operator>);

impl Operator for Boxed {
    fn open(&mut self, context: &streamrt_operator::OperatorContext) -> Result<()> {
        self.0.open(context)
    }
    fn batch(&mut self, batch: Batch, output: &mut dyn streamrt_operator::Output) -> Result<()> {
        self.0.batch(batch, output)
    }
}

/// The operator under a uid, opened; `None` if there is none.
fn operator(graph: &StreamGraph, uid: &str) -> Option<Harness<Boxed>> {
    let at = graph.nodes.iter().position(|node| node.uid == uid)?;
    let declared: Vec<Function> = graph
        .functions_of(at)
        .into_iter()
        .map(|function| function.function().clone())
        .collect();
    let idle = || {
        NativeChain(|_: Invocation<'_>| {
            Err(Failure::from(Error::internal("nothing is called here")))
        })
    };
    let users = declared
        .into_iter()
        .map(|function| (Box::new(idle()) as Box<dyn FunctionChain>, vec![function]))
        .collect();
    Some(Harness::new(Boxed(
        operator_of(&graph.nodes[at], users).unwrap(),
    )))
}

/// What a restore says of the operator under `uid`: that it is gone, or the error of the new
/// version.
fn restored(old: &StreamGraph, new: &StreamGraph, uid: &str) -> Result<()> {
    let mut object = Vec::new();
    let snapshot = operator(old, uid).unwrap().operator.0.snapshot(1)?;
    let index = snapshot.write(uid, KEY_GROUPS, &mut object);
    let share = Share {
        subtask: 0,
        parallelism: 1,
        key_groups: KeyGroupRange::all(KEY_GROUPS),
        max_parallelism: KEY_GROUPS,
    };
    let mut state = OperatorState::assemble(
        uid,
        &[Some(Part {
            object: Arc::new(object),
            index,
        })],
        share,
    )?;
    match operator(new, uid) {
        Some(mut operator) => operator
            .operator
            .0
            .restore(&mut state)
            .and_then(|()| state.check_taken()),
        None => state.check_taken(),
    }
}

/// Applies a change, compares the verdict on every operator with a restore, and returns the uids
/// that are refused.
fn check(change: &dyn Fn(&mut Value)) -> Vec<String> {
    let mut changed = plan();
    change(&mut changed);
    let (old, new) = (job(&plan()), job(&changed));
    let found = compare(&old, &new).unwrap();
    let (old, new) = (
        StreamGraph::new(&old).unwrap(),
        StreamGraph::new(&new).unwrap(),
    );
    let keeps_state = |uid: &str| {
        old.nodes.iter().any(|node| {
            node.uid == uid && !node.body.is_sink() && !matches!(node.body, Body::Source { .. })
        })
    };
    let mut refused = Vec::new();
    for operator in found
        .operators
        .iter()
        .filter(|operator| keeps_state(&operator.uid))
    {
        let restored = restored(&old, &new, &operator.uid);
        assert_eq!(
            operator.verdict == Verdict::Refused,
            restored.is_err(),
            "{operator:?}: {restored:?}"
        );
        if restored.is_err() {
            refused.push(operator.uid.clone());
        }
    }
    refused
}

/// Sets what stands at a JSON pointer.
fn set(pointer: &'static str, value: Value) -> Box<dyn Fn(&mut Value)> {
    Box::new(move |plan| *plan.pointer_mut(pointer).unwrap() = value.clone())
}

/// The column `from` is called `to` wherever the plan names it.
fn rename(from: &'static str, to: &'static str) -> Box<dyn Fn(&mut Value)> {
    Box::new(move |plan| {
        *plan = serde_json::from_str(
            &plan
                .to_string()
                .replace(&format!("\"{from}\""), &format!("\"{to}\"")),
        )
        .unwrap()
    })
}

// Long: a table.
#[test]
fn the_verdict_is_that_of_a_restore() {
    let key_of_type = |data_type: &'static str| -> Box<dyn Fn(&mut Value)> {
        Box::new(move |plan| {
            plan["nodes"][0]["body"]["schema"][0]["type"] = json!(data_type);
            plan["functions"][2]["key"][0]["type"] = json!(data_type);
        })
    };
    let matrix: Vec<(&str, Box<dyn Fn(&mut Value)>, &[&str])> = vec![
        ("nothing", Box::new(|_| {}), &[]),
        (
            "a key of another type",
            key_of_type("string"),
            &["panes", "process", "rows", "running", "sessions"],
        ),
        ("a key of another name", rename("k", "id"), &[]),
        (
            "an input column of another name",
            rename("x", "y"),
            &["panes", "running"],
        ),
        (
            "an accumulator of another type",
            set("/functions/0/accumulator/0/type", json!("f64")),
            &["sessions"],
        ),
        (
            "an accumulator of another name",
            set("/functions/0/accumulator/0/name", json!("b")),
            &[],
        ),
        (
            "a reduce for an aggregate",
            set("/functions/0/kind", json!("reduce")),
            &["sessions"],
        ),
        (
            "another gap",
            set("/nodes/3/body/assigner/gap-ms", json!(6)),
            &["sessions"],
        ),
        (
            "another slide",
            set("/nodes/2/body/assigner/slide-ms", json!(2)),
            &["panes"],
        ),
        (
            "another lateness",
            Box::new(|plan| plan["nodes"][2]["body"]["allowed-lateness-ms"] = json!(7)),
            &[],
        ),
        (
            "tumbling for sliding windows",
            set(
                "/nodes/4/body/assigner",
                json!({"kind": "tumbling", "size-ms": 10}),
            ),
            &["rows"],
        ),
        (
            "another aggregate",
            set("/nodes/1/body/aggregates/0/function", json!("max")),
            &["running"],
        ),
        (
            "a value of another type",
            set("/functions/2/states/0/value/0/type", json!("f64")),
            &["process"],
        ),
        (
            "a value of another name",
            set("/functions/2/states/0/value/0/name", json!("w")),
            &[],
        ),
        (
            "a value that may be null",
            Box::new(|plan| {
                plan["functions"][2]["states"][0]["value"][0]["nullable"] = json!(true)
            }),
            &["process"],
        ),
        (
            "a key of a map of another type",
            set("/functions/2/states/2/key/0/type", json!("i64")),
            &["process"],
        ),
        (
            "another kind of state",
            set("/functions/2/states/1/kind", json!("value")),
            &["process"],
        ),
        (
            "another name of a state",
            set("/functions/2/states/0/name", json!("other")),
            &["process"],
        ),
        (
            "a state more",
            Box::new(|plan| {
                let state = json!({"name": "more", "kind": "value", "value": [column("v", "i64")]});
                plan["functions"][2]["states"]
                    .as_array_mut()
                    .unwrap()
                    .push(state);
            }),
            &[],
        ),
        (
            "a time to live",
            Box::new(|plan| plan["functions"][2]["states"][0]["ttl-ms"] = json!(5)),
            &[],
        ),
        (
            "a time to live of a list",
            Box::new(|plan| plan["functions"][2]["states"][1]["ttl-ms"] = json!(5)),
            &[],
        ),
        (
            "no time to live",
            Box::new(|plan| {
                drop(
                    plan["functions"][2]["states"][3]
                        .as_object_mut()
                        .unwrap()
                        .remove("ttl-ms"),
                )
            }),
            &[],
        ),
        (
            "no timers",
            set("/functions/2/timers", json!(false)),
            &["process"],
        ),
        (
            "another mode of operator state",
            set("/functions/3/states/0/kind", json!("union-list")),
            &["free"],
        ),
        (
            "operator state of another type",
            set("/functions/3/states/0/value/0/type", json!("string")),
            &["free"],
        ),
        (
            "another dealing of operator state",
            set(
                "/nodes/6/inputs/0",
                json!({"node": 0, "partitioning": {"kind": "rebalance"}}),
            ),
            &[],
        ),
        (
            "another uid of an aggregate",
            set("/nodes/1/uid", json!("other")),
            &["running"],
        ),
        (
            "another uid of a map",
            set("/nodes/7/uid", json!("other")),
            &[],
        ),
        (
            "operators that change places",
            Box::new(|plan| {
                plan["nodes"][1]["uid"] = json!("panes");
                plan["nodes"][2]["uid"] = json!("running");
            }),
            &["panes", "running"],
        ),
    ];
    for (name, change, refused) in matrix {
        assert_eq!(check(&*change), refused, "{name}");
    }
}
