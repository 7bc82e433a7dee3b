//! The contract of a source: an enumerator finds splits, readers read them.
//!
//! The enumerator is an operator of parallelism 1 in front of the readers; a split travels to its
//! reader as a row, so barriers order its assignment. The first listing ends before any split is
//! read. Rows of one split keep their order.

use std::sync::Arc;
use std::time::Duration;
use streamrt_types::{Batch, Code, Result, Watermark, code};

/// A part of the input that one reader reads from beginning to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Unique in the source when an enumerator gives it. The task then gives it one that is unique
    /// in the job, in the order of discovery: rows of several sources may meet before watermarks
    /// are made.
    pub number: u64,
    /// For people, for example a path; positions in reports follow it.
    pub name: Arc<str>,
    /// What only the connector understands; JSON.
    pub detail: String,
}

/// What happens to the splits of a reader. Watermark generators go by it: a known split that has
/// not begun holds the watermark, a finished one leaves the minimum, and one whose turn it is not
/// is silent without being idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitEvent {
    /// A reader is at the head of this chain, and its status says whether splits may come. It sends
    /// this first.
    Reader,
    /// Assigned to this subtask, not begun yet.
    Known {
        number: u64,
    },
    /// From here on the reader asks it for rows, whenever it may have some.
    Turn {
        number: u64,
    },
    /// It may have rows, but the reader does not ask it: others come first.
    Waits {
        number: u64,
    },
    Finished {
        number: u64,
    },
}

/// How far a split has come according to its watermark generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitTime {
    /// [`streamrt_types::WATERMARK_MIN`] before its first row.
    pub watermark: Watermark,
    /// It has been silent for so long that it holds nothing back.
    pub idle: bool,
}

impl SplitTime {
    /// Combines two generators for the same split.
    pub fn min(self, other: SplitTime) -> SplitTime {
        SplitTime {
            watermark: self.watermark.min(other.watermark),
            idle: self.idle && other.idle,
        }
    }
}

/// What an enumerator found.
#[derive(Debug)]
pub enum Enumeration {
    /// New splits; ask again at once.
    Splits(Vec<Split>),
    /// A listing is complete; ask again after `ms`.
    Idle { ms: u64 },
    /// No split will ever come again.
    Finished,
}

/// A source as the plan configures it: a factory for both sides. Cheap to clone and send.
pub trait Source: Send + Sync {
    /// Whether the source ends by itself.
    fn bounded(&self) -> bool;

    /// Whether its splits stay open, like the partitions of a log: without event time they are read
    /// in turn instead of one after the other, and none is closed to be opened again at its
    /// position. Default false.
    fn stays_open(&self) -> bool {
        false
    }

    /// Makes an enumerator. `restored` is what [`SplitEnumerator::snapshot`] returned: splits that
    /// were found before are not found again.
    fn enumerator(&self, restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>>;

    /// Refuses a split of a snapshot that no enumerator of this source would return: whoever wrote
    /// the snapshot may not decide what is read. Whether the split still exists does not matter. By
    /// default any split is accepted, because splits name nothing outside.
    ///
    /// # Errors
    /// `Invalid` (S7013), `Data` if it cannot be read.
    fn admits(&self, _split: &Split) -> Result<()> {
        Ok(())
    }

    /// Opens a split at `position`, which [`SplitReader::position`] returned, or at its beginning.
    /// The reader's batches have the source's schema and an [`streamrt_types::Origin`]; times and
    /// marks come later. Splits are also closed and opened again while the job runs, unless they
    /// stay open: many are read side by side.
    ///
    /// # Errors
    /// `Unavailable` if the split is not there, `Data` if it no longer has such a position.
    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>>;
}

pub trait SplitEnumerator: Send {
    /// Looks for splits. `parallelism` is that of the readers, for sources that cut by it.
    fn poll(&mut self, parallelism: u32) -> Result<Enumeration>;

    /// What it has found so far, as JSON that only the connector understands.
    fn snapshot(&self) -> String;
}

/// What a reader has at the moment.
#[derive(Debug)]
pub enum ReaderPoll {
    /// One row or more.
    Batch(Batch),
    /// The input is dry; ask again after at most `ms`.
    Pending {
        ms: u64,
    },
    Finished,
}

pub trait SplitReader: Send {
    /// Reads up to `rows` rows, fewer if the input runs dry or the first of them is as old as
    /// `timeout`. Blocks for at most 10 ms on a silent network; a file may block as disks do.
    ///
    /// # Errors
    /// A record that the format refuses is not an error of this call: the reader returns the rows
    /// before it and reports it through [`SplitReader::take_poison`].
    fn poll(&mut self, rows: usize, timeout: Duration) -> Result<ReaderPoll>;

    /// Where the next call of `poll` continues, as JSON that only the connector understands. Rows
    /// that were returned lie before it, all others after it.
    fn position(&self) -> String;

    /// The approximate number of bytes of memory that the reader holds: those that hold the most
    /// are closed first. Default 0.
    fn held_bytes(&self) -> usize {
        0
    }

    /// What it costs to open a reader at the position of this one, beyond what opening one at the
    /// beginning costs: the bytes, or the rows, that are read once more. A split that was closed
    /// and opened again is read until it has come twice as far. Default 0.
    fn way_back(&self) -> u64 {
        0
    }

    /// A checkpoint is published with `position`, which this reader returned: no run begins before
    /// it any more. Meant for systems that keep offsets of their own. Called for splits that stay
    /// open.
    ///
    /// # Errors
    /// What ends the task.
    fn checkpoint_complete(&mut self, _position: &str) -> Result<()> {
        Ok(())
    }

    /// Asks to report a record too long for memory as refused, and not as an error of `poll`.
    /// Called before the first `poll`, under the poison policy `skip`: under another one nobody
    /// wants to wait for the end of such a record.
    fn skip_long_records(&mut self) {}

    /// Asks to close a batch with the row by which it reaches this number of bytes. Called before
    /// the first `poll`. A reader that cannot tell beforehand is asked for a number of rows
    /// estimated from the last batches.
    fn limit_bytes(&mut self, _batch_bytes: usize) {}

    /// The records that the format refused since the last call, oldest first: (position, the raw
    /// record, the reason).
    ///
    /// Under the policy `fail` the task ends with the first one.
    fn take_poison(&mut self) -> Vec<PoisonLine> {
        Vec::new()
    }
}

/// A record that a format refused, or input that is skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoisonLine {
    /// As in [`streamrt_types::Rows`]; 0 for a split as a whole.
    pub position: u64,
    /// All of its bytes; for one that is too long for memory, the first KiB.
    pub record: Vec<u8>,
    /// For example: column `temperature` is `warm`, but it must be a number.
    pub reason: String,
    /// `BAD_RECORD`, and `BAD_FILE` if the split ends here, for what is subject to the poison
    /// policy; `PASSED_OVER` for what is only reported.
    pub code: Code,
}

impl PoisonLine {
    /// A record that is subject to the poison policy.
    pub fn refused(position: u64, record: Vec<u8>, reason: String) -> PoisonLine {
        PoisonLine {
            position,
            record,
            reason,
            code: code::BAD_RECORD,
        }
    }

    /// Input that is not read because the source's options say so; the job continues under any
    /// policy.
    pub fn passed_over(reason: impl Into<String>) -> PoisonLine {
        PoisonLine {
            position: 0,
            record: Vec::new(),
            reason: reason.into(),
            code: code::PASSED_OVER,
        }
    }
}
