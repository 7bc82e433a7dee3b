//! Settling sinks: what a checkpoint promises is committed, and what no checkpoint names is
//! withdrawn, before tasks run, and when the job has failed for good or was cancelled.
//!
//! Before tasks run, a user who stops or cancels the job is heard: what waits for a system outside
//! gives up, and the next start settles again.
//!
//! Invariant: what was promised is committed where it lies, by the job that promised it
//! (`places.rs`), as often as nobody knows that it is done.

use crate::attempt;
use crate::control::Control;
use crate::dead_letters::{self, DeadLetters};
use crate::durable::{job_id, newest, number_in};
use crate::factory::{Definition, Factory};
use crate::places::Promised;
use crate::restored::Restored;
use std::sync::Arc;
use streamrt_checkpoint::{EndState, Entry, History, JobLog, Snapshot, Store, unique_token};
use streamrt_operator::{COMMITTABLES, OperatorContext, Sink, transaction_prefix};
use streamrt_types::{Error, Result, failpoint, say};

/// Withdraws what the job has written and no checkpoint names, because it will not be tried again
/// by itself. The job is taken over for it: an attempt that could not start may have done so as
/// well.
///
/// # Errors
/// What keeps it from being withdrawn, with how it is called.
pub(crate) fn give_up(definition: &Arc<Definition>) -> Result<()> {
    let Some(store) = definition
        .configuration
        .checkpoint_dir
        .as_deref()
        .map(Store::open)
        .transpose()?
    else {
        return Ok(());
    };
    let (mut log, _) = JobLog::take_over(&store, &unique_token())?;
    let job = job_id(&log.history().job);
    let restored = uncommitted(&store, log.history())?;
    settle(definition, Arc::default(), job.clone(), log.generation(), restored.as_ref()).map_err(|e| {
        e.at(format_args!("what was not committed is left behind, under names with `{job}`, until the next start withdraws it"))
    })?;
    log.append(Entry::Ended {
        state: EndState::Failed,
    })
}

/// What the newest checkpoint promises to commit; `None` if there is none, or that is known to be
/// done.
pub(crate) fn uncommitted(store: &Store, history: &History) -> Result<Option<Restored>> {
    let newest = newest(store, history)?;
    newest
        .as_ref()
        .filter(|newest| !is_committed(history, newest))
        .map(Restored::read)
        .transpose()
}

/// Whether the log says that what a snapshot promises to commit is committed. A reader of the
/// results may have moved it away since.
pub(crate) fn is_committed(history: &History, snapshot: &Snapshot) -> bool {
    (1..=history.committed).contains(&number_in(history, snapshot))
}

/// Commits what a checkpoint holds, unless that is known to be done (`None`), and withdraws what it
/// does not name. `control` says when to give up.
pub(crate) fn settle(
    definition: &Definition,
    control: Arc<Control>,
    job: Arc<str>,
    generation: u64,
    restored: Option<&Restored>,
) -> Result<()> {
    let all: Vec<usize> = (0..definition.graph.vertices.len()).collect();
    let factory = Factory {
        definition,
        control,
        job,
        generation,
        restored: Arc::default(),
    };
    settle_sinks(&factory, restored, &all)?;
    dead_letters::settle(&factory, restored, &[dead_letters::prefix(&factory.job)])
}

/// As [`settle`], of the sinks of these vertices.
pub(crate) fn settle_sinks(
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
