//! Settling sinks: what a checkpoint promises is committed, and what no checkpoint names is
//! withdrawn, before tasks run, and when the job has failed for good or was cancelled.
//!
//! Before tasks run, a user who stops or cancels the job is heard: what waits for a system outside
//! gives up, and the next start settles again.
//!
//! Invariant: what was promised is committed where it lies, by the job that promised it
//! (`places.rs`), as often as nobody knows that it is done.

use crate::attempt;
use crate::dead_letters::{self, DeadLetters};
use crate::factory::Factory;
use crate::places::Promised;
use crate::restored::Restored;
use std::sync::Arc;
use streamrt_operator::{COMMITTABLES, OperatorContext, Sink, subtask_prefix, transaction_prefix};
use streamrt_types::{Error, Result, failpoint, say};

/// Commits what a checkpoint holds, unless that is known to be done (`None`), and withdraws what it
/// does not name. `control` says when to give up.
pub(crate) fn settle(factory: &Factory<'_>, restored: Option<&Restored>) -> Result<()> {
    let all: Vec<usize> = (0..factory.definition.graph.vertices.len()).collect();
    settle_sinks(factory, restored, &all)?;
    let letters = [dead_letters::prefix(&factory.job)];
    dead_letters::settle(factory, restored, &letters)
}

/// The same for a region of these vertices that starts again. Its tasks before had the generation
/// `old`.
///
/// # Errors
/// The same as for [`settle`].
pub(crate) fn settle_region(
    factory: &Factory<'_>,
    restored: Option<&Restored>,
    vertices: &[usize],
    old: u64,
) -> Result<()> {
    settle_sinks(factory, restored, vertices)?;
    let prefix = dead_letters::prefix(&factory.job);
    let tasks = factory.definition.tasks_of(vertices);
    let letters: Vec<String> = tasks
        .map(|(task, _)| subtask_prefix(&prefix, old, task as u32))
        .collect();
    dead_letters::settle(factory, restored, &letters)
}

/// The sinks of these vertices.
fn settle_sinks(
    factory: &Factory<'_>,
    restored: Option<&Restored>,
    vertices: &[usize],
) -> Result<()> {
    let Factory {
        definition, job, ..
    } = factory;
    restored.map_or(Ok(()), |restored| {
        restored.places.check_sinks(definition, job)
    })?;
    for (node, mut sink) in factory.sinks(vertices)? {
        let context = factory.context(
            node,
            &attempt::first_subtask(definition, node),
            Arc::default(),
            &DeadLetters::default(),
        );
        let uid = &context.uid;
        let place = |e: Error| e.at(format_args!("sink `{uid}`"));
        // In the order of the subtasks, and of the checkpoints within each.
        let parts = restored.map_or(&[][..], |restored| restored.parts(uid));
        let items = parts
            .iter()
            .flatten()
            .map(|part| part.list(COMMITTABLES))
            .collect::<Result<Vec<_>>>()?
            .concat();
        let body = &definition.graph.stream.nodes[node].body;
        let promised = match (restored, factory.granted(node)?) {
            (None, _) => Promised::Here,
            (Some(_), Some(_)) if items.is_empty() => Promised::Here,
            (Some(restored), Some(granted)) => restored
                .places
                .of_component_sink(&granted, job)
                .map_err(place)?,
            (Some(restored), None) => restored.places.of_sink(uid, body, job),
        };
        let here = match promised {
            Promised::Here => items,
            Promised::Before(old) => {
                settle_sink(factory.sink_as(node, old)?.as_mut(), &context, &items)
                    .map_err(place)?;
                Vec::new()
            }
            Promised::Elsewhere => {
                if !items.is_empty() {
                    say!(
                        "streamrt: sink `{uid}` writes to another place now; what the snapshot has not committed is left to its own job"
                    );
                }
                Vec::new()
            }
        };
        settle_sink(sink.as_mut(), &context, &here).map_err(place)?;
    }
    Ok(())
}

/// Commits what was promised, and withdraws everything else that the job has written there.
fn settle_sink(sink: &mut dyn Sink, context: &OperatorContext, promised: &[Vec<u8>]) -> Result<()> {
    sink.open(context)?;
    for item in promised {
        failpoint("recovery.commit")?;
        sink.commit(item)?;
    }
    failpoint("recovery.abort")?;
    sink.abort_unlisted(&transaction_prefix(&context.job, &context.uid), &[])
}
