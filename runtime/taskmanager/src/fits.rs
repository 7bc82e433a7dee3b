//! Whether the states of a snapshot fit the job that is to go on from it; what they hold is checked
//! by the operators themselves.

use crate::dead_letters::DEAD_LETTERS_SUFFIX;
use crate::definition::Definition;
use crate::restored::Restored;
use crate::task::GATE_SUFFIX;
use std::collections::BTreeSet;
use streamrt_checkpoint::OperatorEntry;
use streamrt_types::{Error, Result, code, say};
use streamrt_wit::Body;

/// Refuses files that the job's backend does not read.
pub fn check_backend(restored: &Restored, definition: &Definition) -> Result<()> {
    match restored.on_disk().filter(|_| definition.disks.is_none()) {
        None => Ok(()),
        Some(uid) => {
            let message = format!(
                "the checkpoint holds the state of operator `{uid}` in files of the rocksdb backend: go on with `-D state.backend=rocksdb`, \
                 or make a savepoint with it, which every backend reads"
            );
            Err(Error::new(code::SNAPSHOT_FOREIGN, message))
        }
    }
}

/// Refuses state whose operator is gone. A gate's watermark goes with the shape of the chains, and
/// dead letters are settled already.
pub fn check_uids(
    restored: &Restored,
    operators: &[OperatorEntry],
    definition: &Definition,
) -> Result<()> {
    let known: BTreeSet<&str> = operators
        .iter()
        .map(|operator| operator.uid.as_str())
        .collect();
    let goes_with_chains =
        |uid: &&str| uid.ends_with(GATE_SUFFIX) || uid.ends_with(DEAD_LETTERS_SUFFIX);
    let mut gone = restored
        .with_state()
        .filter(|uid| !known.contains(uid) && !goes_with_chains(uid));
    if definition.configuration.allow_non_restored_state {
        gone.for_each(|uid| say!("streamrt: the checkpoint's state of `{uid}` is left behind, since the job does not have it"));
        return Ok(());
    }
    match gone.next() {
        None => Ok(()),
        Some(uid) => Err(Error::new(
            code::STATE_GONE,
            format!("the checkpoint holds state of operator `{uid}`, which the job does not have"),
        )),
    }
}

/// Says which operators with state the snapshot does not know: they start empty, which may be a
/// mistake in a uid.
pub fn name_new_operators(restored: &Restored, definition: &Definition) {
    let stream = &definition.graph.stream;
    for (number, node) in stream.nodes.iter().enumerate() {
        let has_states = |function: &&streamrt_graph::FunctionRef| {
            !function.function().states.is_empty() || function.function().timers
        };
        let is_stateful = match node.body {
            Body::Aggregate { .. } | Body::Window { .. } => true,
            Body::Function { .. } => stream.functions_of(number).iter().any(has_states),
            _ => false,
        };
        if is_stateful && !restored.knows(&node.uid) {
            say!(
                "streamrt: operator `{}` is not in the checkpoint, and starts without state",
                node.uid
            );
        }
    }
}
