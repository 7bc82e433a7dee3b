//! What changes from one version of a job to the next, and whether its state can be kept. Pure: two jobs in, a verdict for each operator out.
//!
//! State is found by uid, so an operator is the same if its uid is. Names of columns do not matter to the bytes of user state, types do. What is
//! said here is what a restore would say: see `streamrt_state::OperatorState`.

use crate::spec::{JobSpec, functions_of};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use streamrt_wit::{Body, Function, FunctionKind, Node, StateDescriptor, WindowContents};

/// What becomes of one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorChange {
    pub uid: String,
    pub verdict: Verdict,
    /// What differs, as phrases.
    pub changes: Vec<String>,
}

/// Whether an operator keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It keeps what it has.
    Keeps,
    /// It is new, or has a new state, and starts empty.
    StartsEmpty,
    /// It is gone, and had nothing to lose.
    Gone,
    /// It cannot keep its state.
    Refused,
}

/// All that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compatibility {
    /// By uid.
    pub operators: Vec<OperatorChange>,
    /// Only code has changed: nodes, their options, edges, columns, states and what functions declare are the same. A running job can then be
    /// given the new code in place.
    pub same_shape: bool,
}

impl Compatibility {
    /// Whether the new version can go on with the state of the old one.
    pub fn is_compatible(&self) -> bool {
        self.operators.iter().all(|operator| operator.verdict != Verdict::Refused)
    }
}

/// Compares two versions of a job.
pub fn compare(old: &JobSpec, new: &JobSpec) -> Compatibility {
    let by_uid =
        |job: &JobSpec| -> BTreeMap<String, usize> { job.nodes.iter().enumerate().map(|(i, node)| (node.uid.clone(), i)).collect() };
    let (olds, news) = (by_uid(old), by_uid(new));
    let kept = olds.iter().map(|(uid, &at)| match news.get(uid) {
        Some(&now) => compare_node(Operator::of(old, at), Operator::of(new, now)),
        None => gone(Operator::of(old, at)),
    });
    let added = news.keys().filter(|uid| !olds.contains_key(*uid)).map(|uid| OperatorChange {
        uid: uid.clone(),
        verdict: Verdict::StartsEmpty,
        changes: vec!["it is new".into()],
    });
    let mut operators: Vec<OperatorChange> = kept.chain(added).collect();
    operators.sort_by(|a, b| a.uid.cmp(&b.uid));
    Compatibility { operators, same_shape: shape(old) == shape(new) && !has_own_sinks(old) }
}

/// A node with the functions that it calls and the edges that lead to it.
struct Operator<'a> {
    node: &'a Node,
    functions: Vec<&'a Function>,
    /// How rows are dealt to it; the key is part of this.
    inputs: Value,
}

impl<'a> Operator<'a> {
    fn of(job: &'a JobSpec, at: usize) -> Operator<'a> {
        let node = &job.nodes[at];
        let functions = functions_of(&node.body).into_iter().map(|number| job.functions[number as usize].function()).collect();
        let inputs = node.inputs.iter().map(|input| json!(input.partitioning)).collect();
        Operator { node, functions, inputs }
    }

    /// What keeps state by itself: everything but functions, which declare theirs.
    fn has_own_state(&self) -> bool {
        !matches!(self.node.body, Body::Function { .. })
    }

    fn states(&self) -> BTreeMap<&'a str, &'a StateDescriptor> {
        self.functions.iter().flat_map(|function| &function.states).map(|state| (state.name.as_str(), state)).collect()
    }

    fn grants(&self) -> BTreeSet<&'a str> {
        self.functions.iter().flat_map(|function| &function.grants).map(String::as_str).collect()
    }

    fn has_timers(&self) -> bool {
        self.functions.iter().any(|function| function.timers)
    }

    /// What the bytes of the operator's own state depend on.
    fn own_state(&self) -> Value {
        let accumulators: Value =
            self.functions.iter().map(|function| json!([function.kind, function.accumulator, function.input])).collect();
        match &self.node.body {
            Body::Source { connector, .. } | Body::Sink { connector, .. } => json!({"connector": connector}),
            Body::Timestamps { generator, .. } => json!({"generator": json!(generator)["kind"]}),
            Body::Aggregate { aggregates, .. } => json!({"aggregates": aggregates}),
            Body::Window { assigner, contents: WindowContents::Builtin { aggregates, .. }, .. } => {
                json!({"assigner": assigner, "aggregates": aggregates})
            }
            Body::Window { assigner, .. } => json!({"assigner": assigner, "contents": accumulators}),
            // Rows that wait to be sent are in the checkpoint; of a two-phase sink there is only what its own code understands.
            Body::FunctionSink { .. } => {
                let waiting = |function: &&Function| {
                    json!([function.kind, (function.kind == FunctionKind::WriteAheadSink).then_some(&function.input)])
                };
                json!({"sink": self.functions.iter().map(|function| waiting(&function)).collect::<Value>()})
            }
            Body::Function { .. } => Value::Null,
        }
    }

    fn kind(&self) -> Value {
        json!(self.node.body)["kind"].clone()
    }
}

/// Whether a sink is user code: its transaction is open on both sides of a barrier, so it is not replaced in between.
fn has_own_sinks(job: &JobSpec) -> bool {
    job.nodes.iter().any(|node| matches!(node.body, Body::FunctionSink { .. }))
}

/// All that a plan says, but for the numbers of the functions: these follow from the order in which the code registers them.
fn shape(job: &JobSpec) -> Value {
    let node = |node: &Node| {
        let numbers = functions_of(&node.body);
        let called = |number: &u32| {
            let function = &job.functions[*number as usize];
            json!([function.plugin, Function { number: 0, ..function.function().clone() }])
        };
        let functions: Value = numbers.iter().map(called).collect();
        let mut node = json!(node);
        forget_numbers(&mut node["body"]);
        // Lines of the program move when it changes elsewhere.
        node["place"] = Value::Null;
        json!([node, functions])
    };
    job.nodes.iter().map(node).collect()
}

/// Which functions a body calls stands beside it; whether it calls one stays.
fn forget_numbers(body: &mut Value) {
    for pointer in ["/function", "/time/function", "/contents/function", "/contents/then"] {
        if let Some(number) = body.pointer_mut(pointer).filter(|number| number.is_number()) {
            *number = json!(0);
        }
    }
}

fn gone(operator: Operator<'_>) -> OperatorChange {
    let loses = operator.has_own_state() || !operator.states().is_empty() || operator.has_timers();
    let uid = operator.node.uid.clone();
    match loses {
        true => OperatorChange { uid, verdict: Verdict::Refused, changes: vec!["it is gone, and its state with it".into()] },
        false => OperatorChange { uid, verdict: Verdict::Gone, changes: vec!["it is gone".into()] },
    }
}

fn compare_node(old: Operator<'_>, new: Operator<'_>) -> OperatorChange {
    let uid = new.node.uid.clone();
    let mut changes = Vec::new();
    let mut verdict = Verdict::Keeps;
    let mut note = |worst: Verdict, change: String| {
        verdict = verdict.max(worst);
        changes.push(change);
    };
    let keyed = old.has_own_state() && !matches!(old.node.body, Body::Source { .. } | Body::Timestamps { .. }) && !old.node.body.is_sink();
    let has_state = keyed || !old.states().is_empty() || old.has_timers();
    // Operator state is dealt to subtasks and not by key, so it does not mind how rows are dealt.
    let has_keyed_state = keyed || old.has_timers() || old.states().values().any(|state| !state.kind.is_operator_state());
    if old.kind() != new.kind() {
        let worst = if old.has_own_state() || has_state { Verdict::Refused } else { Verdict::StartsEmpty };
        note(worst, format!("it was a {}, and is a {}", plain(&old.kind()), plain(&new.kind())));
        return OperatorChange { uid, verdict, changes };
    }
    if old.inputs != new.inputs {
        note(
            if has_keyed_state { Verdict::Refused } else { Verdict::Keeps },
            format!("its input was {}, and is {}", old.inputs, new.inputs),
        );
    }
    if old.own_state() != new.own_state() {
        note(Verdict::Refused, format!("its state is of {}, and would be of {}", old.own_state(), new.own_state()));
    }
    compare_states(&old, &new, &mut note);
    compare_grants(&old, &new, &mut note);
    OperatorChange { uid, verdict, changes }
}

fn compare_states(old: &Operator<'_>, new: &Operator<'_>, note: &mut impl FnMut(Verdict, String)) {
    let (olds, news) = (old.states(), new.states());
    for (name, state) in &olds {
        match news.get(name) {
            None => note(Verdict::Refused, format!("state `{name}` is gone")),
            Some(now) if types(state) != types(now) => {
                note(Verdict::Refused, format!("state `{name}` is {}, and would be {}", types(state), types(now)));
            }
            Some(_) => {}
        }
    }
    for name in news.keys().filter(|name| !olds.contains_key(*name)) {
        note(Verdict::StartsEmpty, format!("state `{name}` is new, and starts empty"));
    }
    if old.has_timers() && !new.has_timers() {
        note(Verdict::Refused, "it has no timers any more".into());
    }
}

/// What a new version may reach that the old one could not, and the other way round.
fn compare_grants(old: &Operator<'_>, new: &Operator<'_>, note: &mut impl FnMut(Verdict, String)) {
    let (olds, news) = (old.grants(), new.grants());
    news.difference(&olds).for_each(|name| note(Verdict::Keeps, format!("it asks for the folder `{name}`, which it did not")));
    olds.difference(&news).for_each(|name| note(Verdict::Keeps, format!("it does not ask for the folder `{name}` any more")));
}

/// What the bytes of a state mean: names of columns do not matter. A time to live may change, but not come or go.
fn types(state: &StateDescriptor) -> Value {
    let columns =
        |schema: &streamrt_wit::Schema| -> Value { schema.iter().map(|field| json!([field.data_type, field.nullable])).collect() };
    json!({"kind": state.kind, "key": columns(&state.key), "value": columns(&state.value), "ttl": state.ttl_ms.is_some()})
}

fn plain(kind: &Value) -> &str {
    kind.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use streamrt_wit::Plan;

    fn job(change: impl FnOnce(&mut Value)) -> JobSpec {
        let mut plan = json!({"version": 1,
            "functions": [{"number": 0, "kind": "process", "name": "f", "timers": true, "key": [{"name": "k", "type": "i64"}],
                "states": [{"name": "last", "kind": "value", "value": [{"name": "v", "type": "f64"}]}]},
                {"number": 1, "kind": "map", "name": "g"},
                {"number": 2, "kind": "two-phase-sink", "name": "audit", "input": [{"name": "k", "type": "i64"}], "grants": ["log"]}],
            "nodes": [
                {"id": 0, "uid": "in", "body": {"kind": "source", "connector": "file", "schema": [{"name": "k", "type": "i64"}]}},
                {"id": 1, "uid": "map", "inputs": [{"node": 0}], "body": {"kind": "function", "function": 1}},
                {"id": 2, "uid": "alert", "inputs": [{"node": 1, "partitioning": {"kind": "hash", "columns": ["k"]}}], "body": {"kind": "function", "function": 0}},
                {"id": 3, "uid": "out", "inputs": [{"node": 2}], "body": {"kind": "sink", "connector": "print"}},
                {"id": 4, "uid": "audit", "inputs": [{"node": 2}], "body": {"kind": "function-sink", "function": 2}}]});
        change(&mut plan);
        JobSpec::from_plan("job", Arc::new(Plan::from_json(&plan.to_string()).unwrap()))
    }

    /// Leaves out the sink of user code, which stands last.
    fn drop_audit(plan: &mut Value) {
        for list in ["nodes", "functions"] {
            plan[list].as_array_mut().unwrap().pop();
        }
    }

    /// Changes the plan, and compares the verdict on `uid`, whether all is compatible, and whether the shape of what is not `audit` is the same.
    fn check(change: impl Fn(&mut Value), uid: &str, verdict: Verdict, same_shape: bool, part: &str) {
        let found = compare(&job(|_| {}), &job(&change));
        let operator = found.operators.iter().find(|operator| operator.uid == uid).unwrap();
        let others = compare(
            &job(drop_audit),
            &job(|plan| {
                change(plan);
                drop_audit(plan);
            }),
        );
        assert_eq!((operator.verdict, others.same_shape), (verdict, same_shape), "{operator:?}");
        assert!(operator.changes.join("; ").contains(part), "{:?}", operator.changes);
        assert_eq!(found.is_compatible(), verdict != Verdict::Refused);
    }

    #[test]
    fn state_is_kept_where_uid_and_types_are() {
        check(|_| {}, "alert", Verdict::Keeps, true, "");
        check(|plan| plan["nodes"][2]["place"] = json!("src/lib.rs:9:9"), "alert", Verdict::Keeps, true, "");
        check(|plan| plan["functions"][0]["states"][0]["value"][0]["name"] = json!("w"), "alert", Verdict::Keeps, false, "");
        check(
            |plan| plan["functions"][0]["states"][0]["value"][0]["type"] = json!("i64"),
            "alert",
            Verdict::Refused,
            false,
            "state `last` is",
        );
        check(|plan| plan["functions"][0]["states"] = json!([]), "alert", Verdict::Refused, false, "state `last` is gone");
        check(|plan| plan["functions"][0]["timers"] = json!(false), "alert", Verdict::Refused, false, "no timers");
        check(|plan| plan["nodes"][2]["uid"] = json!("other"), "alert", Verdict::Refused, false, "its state with it");
        check(|plan| plan["nodes"][1]["uid"] = json!("other"), "map", Verdict::Gone, false, "it is gone");
        check(|plan| plan["nodes"][1]["uid"] = json!("other"), "other", Verdict::StartsEmpty, false, "it is new");
        check(
            |plan| plan["nodes"][2]["inputs"][0]["partitioning"] = json!({"kind": "rebalance"}),
            "alert",
            Verdict::Refused,
            false,
            "its input was",
        );
        check(|plan| plan["nodes"][3]["body"]["connector"] = json!("file"), "out", Verdict::Refused, false, "its state is of");
        check(|plan| plan["nodes"][0]["body"]["options"] = json!({"path": "/other"}), "in", Verdict::Keeps, false, "");
        let grant = "it asks for the folder `other`, which it did not; it does not ask for the folder `log` any more";
        check(|plan| plan["functions"][2]["grants"] = json!(["other"]), "audit", Verdict::Keeps, true, grant);
        check(|plan| plan["functions"][2]["input"][0]["type"] = json!("string"), "audit", Verdict::Keeps, true, "");
        check(|plan| plan["functions"][2]["kind"] = json!("write-ahead-sink"), "audit", Verdict::Refused, true, "its state is of");
    }

    #[test]
    fn a_sink_of_user_code_is_not_replaced_in_place() {
        assert!(!compare(&job(|_| {}), &job(|_| {})).same_shape);
        assert!(compare(&job(drop_audit), &job(drop_audit)).same_shape);
    }

    #[test]
    fn the_order_in_which_functions_are_registered_is_no_part_of_the_shape() {
        let swap = |plan: &mut Value| {
            drop_audit(plan);
            plan["functions"].as_array_mut().unwrap().swap(0, 1);
            for number in 0..2 {
                plan["functions"][number]["number"] = json!(number);
                plan["nodes"][number + 1]["body"]["function"] = json!(number);
            }
        };
        assert!(compare(&job(drop_audit), &job(swap)).same_shape);
        let two_maps = |plan: &mut Value| {
            drop_audit(plan);
            plan["nodes"][2]["body"]["function"] = json!(1);
        };
        assert!(!compare(&job(drop_audit), &job(two_maps)).same_shape);
    }

    #[test]
    fn operator_state_does_not_mind_how_rows_are_dealt() {
        let without_key = |kind: &str, partitioning: &str| {
            job(|plan| {
                plan["functions"][0]["states"][0]["kind"] = json!(kind);
                plan["functions"][0]["timers"] = json!(false);
                plan["nodes"][2]["inputs"][0]["partitioning"] = json!({"kind": partitioning});
            })
        };
        let verdict = |old: &JobSpec, new: &JobSpec| compare(old, new).operators[0].verdict;
        let old = without_key("union-list", "forward");
        assert_eq!(verdict(&old, &without_key("union-list", "rebalance")), Verdict::Keeps);
        assert_eq!(verdict(&old, &without_key("operator-list", "forward")), Verdict::Refused);
        assert_eq!(verdict(&without_key("value", "forward"), &without_key("value", "rebalance")), Verdict::Refused);
    }
}
