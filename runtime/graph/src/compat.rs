//! What changes from one version of a job to the next, and whether its state can be kept. Pure: two
//! jobs in, a verdict for each operator out.
//!
//! State is found by uid, so an operator is the same if its uid is. What its states are is asked of
//! `streamrt_types::state_types`, as the operators do, so the verdict is that of a restore: names
//! of columns do not matter where the bytes do not depend on them.

use crate::spec::{JobSpec, functions_of};
use crate::stream::{EdgePartitioner, StreamGraph, StreamNode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use streamrt_types::state_types::{TIME_TO_LIVE, TIMERS, differ_in_time_to_live, node_states};
use streamrt_types::{Result, arrow_schema};
use streamrt_wit::{Body, Function, FunctionKind, Node};

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
    /// Only code has changed: nodes, their options, edges, columns, states and what functions
    /// declare are the same. A running job can then be given the new code in place.
    pub same_shape: bool,
}

impl Compatibility {
    /// Whether the new version can go on with the state of the old one.
    pub fn is_compatible(&self) -> bool {
        self.operators
            .iter()
            .all(|operator| operator.verdict != Verdict::Refused)
    }
}

/// Compares two versions of a job.
///
/// # Errors
/// `Invalid` if one of them is no job at all, with the uid of the node that is wrong.
pub fn compare(old: &JobSpec, new: &JobSpec) -> Result<Compatibility> {
    let same_shape = shape(old) == shape(new) && !has_own_sinks(old);
    let (old, new) = (StreamGraph::new(old)?, StreamGraph::new(new)?);
    let by_uid = |graph: &StreamGraph| -> BTreeMap<String, usize> {
        graph
            .nodes
            .iter()
            .enumerate()
            .map(|(i, node)| (node.uid.clone(), i))
            .collect()
    };
    let (olds, news) = (by_uid(&old), by_uid(&new));
    let mut operators = Vec::with_capacity(olds.len().max(news.len()));
    for (uid, &at) in &olds {
        let before = Operator::of(&old, at)?;
        operators.push(match news.get(uid) {
            Some(&now) => compare_node(&before, &Operator::of(&new, now)?),
            None => gone(&before),
        });
    }
    let added = news.keys().filter(|uid| !olds.contains_key(*uid));
    operators.extend(added.map(|uid| OperatorChange {
        uid: uid.clone(),
        verdict: Verdict::StartsEmpty,
        changes: vec!["it is new".into()],
    }));
    operators.sort_by(|a, b| a.uid.cmp(&b.uid));
    Ok(Compatibility {
        operators,
        same_shape,
    })
}

/// A node with the functions that it calls and the states that it has.
struct Operator<'a> {
    node: &'a StreamNode,
    functions: Vec<&'a Function>,
    /// Its typed states, by name.
    states: BTreeMap<String, Value>,
}

impl<'a> Operator<'a> {
    fn of(graph: &'a StreamGraph, at: usize) -> Result<Operator<'a>> {
        let node = &graph.nodes[at];
        let functions: Vec<&Function> = graph
            .functions_of(at)
            .into_iter()
            .map(|function| function.function())
            .collect();
        let nothing = arrow_schema(&Vec::new());
        let input = node.input_schema.as_ref().unwrap_or(&nothing);
        let states = node_states(&node.body, &functions, input, &node.key)?
            .into_iter()
            .collect();
        Ok(Operator {
            node,
            functions,
            states,
        })
    }

    fn grants(&self) -> BTreeSet<&'a str> {
        self.functions
            .iter()
            .flat_map(|function| &function.grants)
            .map(String::as_str)
            .collect()
    }

    /// What the state of a source, a sink or of timestamps depends on, which is in lists without
    /// types; null for all others.
    fn lists(&self) -> Value {
        match &self.node.body {
            Body::Source { connector, .. } | Body::Sink { connector, .. } => {
                json!({"connector": connector})
            }
            Body::Timestamps { generator, .. } => json!({"generator": json!(generator)["kind"]}),
            // Rows that wait to be sent are in the checkpoint; of a two-phase sink there is only
            // what its own code understands.
            Body::FunctionSink { .. } => {
                let waiting = |function: &&Function| {
                    json!([
                        function.kind,
                        (function.kind == FunctionKind::WriteAheadSink).then_some(&function.input)
                    ])
                };
                json!({"sink": self.functions.iter().map(|function| waiting(&function)).collect::<Value>()})
            }
            Body::Function { .. } | Body::Aggregate { .. } | Body::Window { .. } => Value::Null,
        }
    }

    /// Whether there is something to lose.
    fn has_state(&self) -> bool {
        !self.states.is_empty() || !self.lists().is_null()
    }

    fn kind(&self) -> Value {
        json!(self.node.body)["kind"].clone()
    }

    /// How rows are dealt to it, for people.
    fn dealing(&self) -> String {
        match (
            self.node.inputs.first().map(|edge| &edge.partitioner),
            &self.node.input_schema,
        ) {
            (Some(EdgePartitioner::Hash(columns)), Some(input)) => {
                let names: Vec<String> = columns
                    .iter()
                    .map(|&column| format!("`{}`", input.field(column).name()))
                    .collect();
                format!("by the key {}", names.join(", "))
            }
            (partitioner, _) => {
                format!("{:?}", partitioner.unwrap_or(&EdgePartitioner::Forward)).to_lowercase()
            }
        }
    }
}

/// Whether a sink is user code: its transaction is open on both sides of a barrier, so it is not
/// replaced in between.
fn has_own_sinks(job: &JobSpec) -> bool {
    job.nodes
        .iter()
        .any(|node| matches!(node.body, Body::FunctionSink { .. }))
}

/// All that a plan says, but for the numbers of the functions: these follow from the order in which
/// the code registers them.
fn shape(job: &JobSpec) -> Value {
    let node = |node: &Node| {
        let called = |number: &u32| {
            let function = &job.functions[*number as usize];
            json!([
                function.plugin,
                Function {
                    number: 0,
                    ..function.function().clone()
                }
            ])
        };
        let functions: Value = functions_of(&node.body).iter().map(called).collect();
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
    for pointer in [
        "/function",
        "/time/function",
        "/contents/function",
        "/contents/then",
    ] {
        if let Some(number) = body
            .pointer_mut(pointer)
            .filter(|number| number.is_number())
        {
            *number = json!(0);
        }
    }
}

fn gone(operator: &Operator<'_>) -> OperatorChange {
    let uid = operator.node.uid.clone();
    match operator.has_state() {
        true => OperatorChange {
            uid,
            verdict: Verdict::Refused,
            changes: vec!["it is gone, and its state with it".into()],
        },
        false => OperatorChange {
            uid,
            verdict: Verdict::Gone,
            changes: vec!["it is gone".into()],
        },
    }
}

fn compare_node(old: &Operator<'_>, new: &Operator<'_>) -> OperatorChange {
    let mut changes = Vec::new();
    let mut verdict = Verdict::Keeps;
    let mut note = |worst: Verdict, change: String| {
        verdict = verdict.max(worst);
        changes.push(change);
    };
    if old.kind() != new.kind() {
        let worst = if old.has_state() {
            Verdict::Refused
        } else {
            Verdict::StartsEmpty
        };
        note(
            worst,
            format!(
                "it was a {}, and is a {}",
                plain(&old.kind()),
                plain(&new.kind())
            ),
        );
    } else if old.lists() != new.lists() {
        note(
            Verdict::Refused,
            format!(
                "its state is of {}, and would be of {}",
                old.lists(),
                new.lists()
            ),
        );
    }
    if old.dealing() != new.dealing() {
        note(
            Verdict::Keeps,
            format!(
                "its input was dealt {}, and is dealt {}",
                old.dealing(),
                new.dealing()
            ),
        );
    }
    compare_states(old, new, &mut note);
    compare_grants(old, new, &mut note);
    OperatorChange {
        uid: new.node.uid.clone(),
        verdict,
        changes,
    }
}

/// How a state is called in a sentence.
fn called(name: &str) -> String {
    if name == TIMERS {
        "its timers".into()
    } else {
        format!("state `{name}`")
    }
}

fn compare_states(old: &Operator<'_>, new: &Operator<'_>, note: &mut impl FnMut(Verdict, String)) {
    for (name, types) in &old.states {
        match new.states.get(name) {
            None => note(Verdict::Refused, format!("{}: gone", called(name))),
            Some(now) if differ_in_time_to_live(types, now) => {
                let what = if now.get(TIME_TO_LIVE).is_some() {
                    "gets a time to live, from the restore on"
                } else {
                    "lives for ever now"
                };
                note(Verdict::Keeps, format!("{} {what}", called(name)));
            }
            Some(now) if types != now => note(
                Verdict::Refused,
                format!("{}: it is {types}, and would be {now}", called(name)),
            ),
            Some(_) => {}
        }
    }
    for name in new
        .states
        .keys()
        .filter(|name| !old.states.contains_key(*name))
    {
        note(
            Verdict::StartsEmpty,
            format!("{}: new, and empty at first", called(name)),
        );
    }
}

/// What a new version may reach that the old one could not, and the other way round.
fn compare_grants(old: &Operator<'_>, new: &Operator<'_>, note: &mut impl FnMut(Verdict, String)) {
    let (olds, news) = (old.grants(), new.grants());
    news.difference(&olds).for_each(|name| {
        note(
            Verdict::Keeps,
            format!("it asks for the folder `{name}`, which it did not"),
        )
    });
    olds.difference(&news).for_each(|name| {
        note(
            Verdict::Keeps,
            format!("it does not ask for the folder `{name}` any more"),
        )
    });
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
                "outputs": [{"columns": {"kind": "forward"}}],
                "states": [{"name": "last", "kind": "value", "value": [{"name": "v", "type": "f64"}]}]},
                {"number": 1, "kind": "map", "name": "g", "outputs": [{"columns": {"kind": "forward"}}]},
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

    /// Changes the plan, and compares the verdict on `uid`, whether all is compatible, and whether
    /// the shape of what is not `audit` is the same.
    fn check(
        change: impl Fn(&mut Value),
        uid: &str,
        verdict: Verdict,
        same_shape: bool,
        part: &str,
    ) {
        let found = compare(&job(|_| {}), &job(&change)).unwrap();
        let operator = found
            .operators
            .iter()
            .find(|operator| operator.uid == uid)
            .unwrap();
        let others = compare(
            &job(drop_audit),
            &job(|plan| {
                change(plan);
                drop_audit(plan);
            }),
        )
        .unwrap();
        assert_eq!(
            (operator.verdict, others.same_shape),
            (verdict, same_shape),
            "{operator:?}"
        );
        assert!(
            operator.changes.join("; ").contains(part),
            "{:?}",
            operator.changes
        );
        assert_eq!(found.is_compatible(), verdict != Verdict::Refused);
    }

    #[test]
    fn state_is_kept_where_uid_and_types_are() {
        check(|_| {}, "alert", Verdict::Keeps, true, "");
        check(
            |plan| plan["nodes"][2]["place"] = json!("src/lib.rs:9:9"),
            "alert",
            Verdict::Keeps,
            true,
            "",
        );
        check(
            |plan| plan["functions"][0]["states"][0]["value"][0]["name"] = json!("w"),
            "alert",
            Verdict::Keeps,
            false,
            "",
        );
        check(
            |plan| plan["functions"][0]["states"][0]["value"][0]["type"] = json!("i64"),
            "alert",
            Verdict::Refused,
            false,
            "state `last`: it is",
        );
        check(
            |plan| plan["functions"][0]["states"] = json!([]),
            "alert",
            Verdict::Refused,
            false,
            "state `last`: gone",
        );
        check(
            |plan| plan["functions"][0]["timers"] = json!(false),
            "alert",
            Verdict::Refused,
            false,
            "its timers: gone",
        );
        check(
            |plan| plan["nodes"][2]["uid"] = json!("other"),
            "alert",
            Verdict::Refused,
            false,
            "its state with it",
        );
        check(
            |plan| plan["nodes"][1]["uid"] = json!("other"),
            "map",
            Verdict::Gone,
            false,
            "it is gone",
        );
        check(
            |plan| plan["nodes"][1]["uid"] = json!("other"),
            "other",
            Verdict::StartsEmpty,
            false,
            "it is new",
        );
        check(
            |plan| plan["nodes"][3]["body"]["connector"] = json!("file"),
            "out",
            Verdict::Refused,
            false,
            "its state is of",
        );
        check(
            |plan| plan["nodes"][0]["body"]["options"] = json!({"path": "/other"}),
            "in",
            Verdict::Keeps,
            false,
            "",
        );
        let grant = "it asks for the folder `other`, which it did not; it does not ask for the folder `log` any more";
        check(
            |plan| plan["functions"][2]["grants"] = json!(["other"]),
            "audit",
            Verdict::Keeps,
            true,
            grant,
        );
        check(
            |plan| plan["functions"][2]["kind"] = json!("write-ahead-sink"),
            "audit",
            Verdict::Refused,
            true,
            "its state is of",
        );
    }

    #[test]
    fn a_sink_of_user_code_is_not_replaced_in_place() {
        assert!(!compare(&job(|_| {}), &job(|_| {})).unwrap().same_shape);
        assert!(
            compare(&job(drop_audit), &job(drop_audit))
                .unwrap()
                .same_shape
        );
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
        assert!(compare(&job(drop_audit), &job(swap)).unwrap().same_shape);
        let two_maps = |plan: &mut Value| {
            drop_audit(plan);
            plan["nodes"][2]["body"]["function"] = json!(1);
        };
        assert!(
            !compare(&job(drop_audit), &job(two_maps))
                .unwrap()
                .same_shape
        );
    }

    #[test]
    fn operator_state_does_not_mind_how_rows_are_dealt() {
        let without_key = |kind: &str, partitioning: &str| {
            job(|plan| {
                plan["functions"][0]["states"][0]["kind"] = json!(kind);
                plan["functions"][0]["timers"] = json!(false);
                plan["functions"][0]["key"] = Value::Null;
                plan["nodes"][2]["inputs"][0]["partitioning"] = json!({"kind": partitioning});
            })
        };
        let verdict =
            |old: &JobSpec, new: &JobSpec| compare(old, new).unwrap().operators[0].verdict;
        let old = without_key("union-list", "forward");
        assert_eq!(
            verdict(&old, &without_key("union-list", "rebalance")),
            Verdict::Keeps
        );
        assert_eq!(
            verdict(&old, &without_key("operator-list", "forward")),
            Verdict::Refused
        );
    }

    /// The key is a column `k` of this type, under this name.
    fn keyed_by(name: &str, data_type: &str) -> JobSpec {
        job(|plan| {
            let column = json!([{"name": name, "type": data_type}]);
            plan["nodes"][0]["body"]["schema"] = column.clone();
            plan["functions"][0]["key"] = column.clone();
            plan["functions"][2]["input"] = column;
            plan["nodes"][2]["inputs"][0]["partitioning"] =
                json!({"kind": "hash", "columns": [name]});
        })
    }

    #[test]
    fn a_key_of_another_type_is_another_key_and_one_of_another_name_is_not() {
        let alert = |new: &JobSpec| {
            compare(&keyed_by("k", "i64"), new)
                .unwrap()
                .operators
                .swap_remove(0)
        };
        assert_eq!(alert(&keyed_by("k", "i64")).changes, [""; 0]);
        let renamed = alert(&keyed_by("id", "i64"));
        assert_eq!(
            (renamed.verdict, renamed.changes),
            (
                Verdict::Keeps,
                vec!["its input was dealt by the key `k`, and is dealt by the key `id`".into()]
            )
        );
        assert_eq!(alert(&keyed_by("k", "string")).verdict, Verdict::Refused);
    }

    #[test]
    fn a_time_to_live_may_come_and_go() {
        let with = job(|plan| plan["functions"][0]["states"][0]["ttl-ms"] = json!(1000));
        let (on, off) = (
            compare(&job(|_| {}), &with).unwrap(),
            compare(&with, &job(|_| {})).unwrap(),
        );
        assert_eq!(
            on.operators[0].changes,
            ["state `last` gets a time to live, from the restore on"]
        );
        assert_eq!(
            off.operators[0].changes,
            ["state `last` lives for ever now"]
        );
        assert_eq!(
            (on.operators[0].verdict, off.operators[0].verdict),
            (Verdict::Keeps, Verdict::Keeps)
        );
    }

    #[test]
    fn what_is_no_job_is_an_error_with_its_place() {
        let wrong = job(|plan| {
            plan["nodes"][2]["inputs"][0]["partitioning"] = json!({"kind": "rebalance"})
        });
        assert_eq!(
            compare(&job(|_| {}), &wrong).unwrap_err().message(),
            "node `alert`: column `k` is not in the key of the stream"
        );
    }
}
