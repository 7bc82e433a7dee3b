//! The loop of a source's enumerator: finds splits, deals them to the readers in turn, and tells the end of each listing.
//!
//! A split's number is unique in the job, also where rows of several sources meet before watermarks are made: above the count of the splits of a
//! source stands the hash of its uid, which stays when other sources come and go.
//!
//! On its edge, status IDLE says that a listing is complete, and the end of the input that no split will follow. A barrier parts the splits
//! that were dealt before a checkpoint, which are the readers', from those behind it.

use crate::control::Control;
use crate::split_rows;
use crate::task::{HeadSnapshot, Task};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::{Enumeration, Exits, Source, Split, SplitEnumerator};
use streamrt_state::{ListMode, ListSnapshot, OperatorSnapshot, OperatorState};
use streamrt_types::{Error, Result, Status, code, murmur3_32};

/// A snapshot keeps the state of an enumerator under the uid of its source with this suffix.
pub const ENUMERATOR_SUFFIX: &str = ":splits";
const FOUND: &str = "found";
/// Splits that go to a reader in one batch.
const DEALT_SPLITS_MAX: usize = 1024;

/// Nobody finds so many; a snapshot that says so was made up.
const SPLITS_MAX: u32 = 1 << 31;

/// What a checkpoint keeps of an enumerator.
#[derive(Serialize, Deserialize)]
struct Found {
    n_splits: u32,
    /// The connector's own words.
    connector: String,
}

/// The enumerator of one source.
pub struct Enumerator {
    uid: Arc<str>,
    enumerator: Box<dyn SplitEnumerator>,
    parallelism: u32,
    n_splits: u32,
    finished: bool,
}

impl Enumerator {
    /// `parallelism` is that of the readers; `state` is that of the checkpoint, and `finished` whether it had found all splits by then.
    ///
    /// # Errors
    /// What the connector says; `Data` if the state is damaged.
    pub fn new(uid: Arc<str>, source: &Arc<dyn Source>, parallelism: u32, state: &mut OperatorState, finished: bool) -> Result<Enumerator> {
        let damaged =
            |e| Error::new(code::SNAPSHOT_DAMAGED, format!("source `{uid}`: the state of its splits cannot be read")).with_source(e);
        let found: Option<Found> = state.list(FOUND).first().map(|item| serde_json::from_slice(item)).transpose().map_err(damaged)?;
        if let Some(found) = found.as_ref().filter(|found| found.n_splits > SPLITS_MAX) {
            let message = format!("source `{uid}`: the state says that there are {} splits", found.n_splits);
            return Err(Error::new(code::SNAPSHOT_DAMAGED, message));
        }
        let enumerator = source.enumerator(found.as_ref().map(|found| found.connector.as_str()))?;
        let n_splits = found.map_or(0, |found| found.n_splits);
        Ok(Enumerator { uid, enumerator, parallelism, n_splits, finished })
    }

    fn snapshot(&self) -> HeadSnapshot {
        let found = Found { n_splits: self.n_splits, connector: self.enumerator.snapshot() };
        let items = vec![serde_json::to_vec(&found).unwrap_or_default()];
        let lists = vec![ListSnapshot { name: FOUND.into(), mode: ListMode::Union, types: serde_json::Value::Null, items }];
        (format!("{}{ENUMERATOR_SUFFIX}", self.uid).into(), OperatorSnapshot { lists, ..OperatorSnapshot::default() })
    }

    /// Runs until the source has no more splits, or the job is stopped. `mailbox` is a gate without channels.
    ///
    /// # Errors
    /// What the connector says, or that the job was cancelled.
    pub fn run(&mut self, task: &mut Task, mailbox: &mut InputGate) -> Result<()> {
        let mut status = Status::Active;
        task.exits.status(0, status)?;
        let mut listed = false;
        while !task.control.is_stopped() && !task.control.is_drained() && !self.finished {
            // Before the first listing is complete no reader knows its status, which goes before any barrier.
            if listed {
                self.barrier(task, mailbox)?;
            }
            match self.enumerator.poll(self.parallelism)? {
                Enumeration::Finished => self.finished = true,
                Enumeration::Splits(splits) => {
                    tell(task, &mut status, Status::Active)?;
                    self.deal(splits, task)?;
                }
                Enumeration::Idle { ms } => {
                    listed = true;
                    tell(task, &mut status, Status::Idle)?;
                    mailbox.wait(Duration::from_millis(ms));
                }
            }
            if task.control.is_cancelled() {
                return Err(Control::cancelled());
            }
        }
        task.end_of_input(mailbox, || self.snapshot())
    }

    /// Deals splits to the readers in turn: rebalancing deals batch by batch, so each batch has the splits of one reader.
    fn deal(&mut self, splits: Vec<Split>, task: &mut Task) -> Result<()> {
        let of_source = u64::from(murmur3_32(self.uid.as_bytes())) << 32;
        let numbered = splits.into_iter().zip(self.n_splits..).map(|(split, n)| Split { number: of_source | u64::from(n), ..split });
        let numbered: Vec<Split> = numbered.collect();
        self.n_splits += numbered.len() as u32;
        let n_readers = self.parallelism.max(1) as usize;
        for some in numbered.chunks(DEALT_SPLITS_MAX * n_readers) {
            for reader in 0..n_readers.min(some.len()) {
                let share: Vec<Split> = some.iter().skip(reader).step_by(n_readers).cloned().collect();
                task.exits.batch(0, split_rows::to_batch(&share)?)?;
            }
        }
        Ok(())
    }

    fn barrier(&self, task: &mut Task, mailbox: &mut InputGate) -> Result<()> {
        task.commands(mailbox)?;
        match mailbox.poll(Some(Duration::ZERO))? {
            GateEvent::Barrier(barrier, alignment) => task.checkpoint(barrier, alignment, self.snapshot()),
            _ => Ok(()),
        }
    }
}

fn tell(task: &mut Task, status: &mut Status, next: Status) -> Result<()> {
    if *status == next {
        return Ok(());
    }
    *status = next;
    task.exits.status(0, next)
}
