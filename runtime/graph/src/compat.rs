//! What changes from one version of a job to the next, and whether its state can be kept. Pure: two
//! jobs in, a verdict for each operator out.
//!
//! State is found by uid, so an operator is the same if its uid is. `streamrt_types::state_types`
//! says what its states are, as it does for the operators, so the verdict is that of a restore:
//! names of columns do not matter where the bytes do not depend on them.

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
    /// It is gone, and had no state to lose.
    Gone,
    /// It cannot keep its state.
    Refused,
}

/// Everything that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compatibility {
    /// Verdicts by uid.
    pub operators: Vec<OperatorChange>,
    /// Only code has changed: nodes, their options, edges, columns, states and what functions
    /// declare are the same. A running job can then be given the new code in place.
    pub same_shape: bool,
}

impl Compatibility {
    /// Whether the new version can continue with the state of the old one.
    pub fn is_compatible(&self) -> bool {
        self.operators
            .iter()
            .all(|operator| operator.verdict != Verdict::Refused)
    }
}

/// Compares two versions of a job.
///
/// # Errors
/// `Invalid` if one of them is not a valid job, with the uid of the wrong node.
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
            // Rows that wait to be sent are in the checkpoint; for a two-phase sink it holds only
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

    /// Whether there is state to lose.
    fn has_state(&self) -> bool {
        !self.states.is_empty() || !self.lists().is_null()
    }

    fn kind(&self) -> Value {
        json!(self.node.body)["kind"].clone()
    }

    /// How rows are distributed to it, for people.
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

/// Everything in a plan except the numbers of the functions: these follow from the order in which
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
        // Lines of the program move when other parts of it change.
        node["place"] = Value::Null;
        json!([node, functions])
    };
    job.nodes.iter().map(node).collect()
}

/// The functions that a body calls are compared separately; whether it calls one is kept.
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

/// The name of a state in a sentence.
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
mod tests;
