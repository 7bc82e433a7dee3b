//! Sinks of a plugin: what user code implements, and the running forms that `glue` and the test
//! harness call.
//!
//! Invariant: no commit or withdrawal depends on what this process remembers of a transaction;
//! another process may make it.

use crate::bindings::streamrt::plugin::types::Section;
use crate::column::Table;
use crate::error::{Error, Result};
use crate::files::{FileHost, Folder};
use crate::record::Record;
use std::rc::Rc;

/// A sink whose rows become visible with the checkpoint that holds them, each exactly once.
///
/// What comes between two checkpoints is a transaction. Calls come as `begin`, `write` for each
/// row, `pre_commit`; `commit` follows when the checkpoint is published, and by then the next
/// transaction has begun. After a crash a sink that remembers nothing gets the `commit` of each
/// transaction that the checkpoint holds, then `abort_unlisted`, then `begin`. None of these calls
/// is repeated in place: an error ends the attempt. [`Error::unavailable`] lets the job be tried
/// again, [`Error::lost`] ends it for good; any other error is a fault of the sink.
///
/// `examples/audit-log` has a sink that writes files; [`testing::sink`](crate::testing::sink) runs
/// one in `cargo test`.
pub trait TwoPhaseSink: 'static {
    /// The rows that it takes.
    type In: Record;

    /// Asks for folders. It also runs whenever the job is described, so it must not touch anything.
    fn open(&mut self, _setup: &mut SinkSetup) {}

    /// Begins a transaction. No other one ever has its name: letters, digits, `-`, `_`, `.` and
    /// `%`.
    ///
    /// # Errors
    /// If it cannot be begun.
    fn begin(&mut self, transaction: &str) -> Result<()>;

    /// Adds a row to the transaction that was begun last.
    ///
    /// # Errors
    /// If it cannot be written; no row is skipped.
    fn write(&mut self, row: &Self::In) -> Result<()>;

    /// Ends the transaction: what was written is durable, and [`commit`](TwoPhaseSink::commit) can
    /// make it visible from what is returned alone, at any later time, in any process. `None` if
    /// there is nothing to commit.
    ///
    /// # Errors
    /// If it is not durable.
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>>;

    /// Makes a transaction visible. It may have been committed before, wholly or in part: that
    /// counts as success.
    ///
    /// # Errors
    /// [`Error::lost`] if it cannot be committed any more; [`Error::unavailable`] if it cannot be
    /// committed now.
    fn commit(&mut self, committable: &[u8]) -> Result<()>;

    /// Withdraws the transaction that was begun and not pre-committed.
    ///
    /// # Errors
    /// If it cannot be withdrawn.
    fn abort(&mut self) -> Result<()>;

    /// Withdraws every transaction whose name begins with `prefix`, whoever began it, except those
    /// of the committables `keep`.
    ///
    /// # Errors
    /// If one cannot be withdrawn. It is not an error if there are none.
    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()>;
}

/// A sink to a system without transactions. The host keeps the rows in the checkpoint, and hands
/// them over to be sent when it is published.
///
/// Rows of a transaction are sent again if nobody knows whether they were: after a crash, and at
/// each start from the checkpoint that holds them. A system that recognises the name of a
/// transaction gets each row once; any other one gets it at least once.
///
/// # Source
/// Flink's `GenericWriteAheadSink`.
pub trait WriteAheadSink: 'static {
    /// The rows that it takes.
    type In: Record;

    /// The same as [`TwoPhaseSink::open`].
    fn open(&mut self, _setup: &mut SinkSetup) {}

    /// Sends all rows of a transaction. They may have been sent before, wholly or in part, under
    /// the same name.
    ///
    /// # Errors
    /// The same as for [`TwoPhaseSink::commit`].
    fn send(&mut self, transaction: &str, rows: &[Self::In]) -> Result<()>;
}

/// What a sink asks for.
pub struct SinkSetup {
    pub(crate) grants: Vec<String>,
    /// What stands in for folders outside Wasm.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) files: Rc<dyn FileHost>,
}

impl SinkSetup {
    #[cfg(target_family = "wasm")]
    pub(crate) fn new() -> SinkSetup {
        SinkSetup { grants: Vec::new() }
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn new() -> SinkSetup {
        SinkSetup::over(Rc::new(crate::testing::MemoryFiles::default()))
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn over(files: Rc<dyn FileHost>) -> SinkSetup {
        SinkSetup {
            grants: Vec::new(),
            files,
        }
    }

    /// A folder that the user grants under this name: with `--grant NAME=DIR`, or under
    /// `[plugin.grant]` in a job.toml.
    pub fn folder(&mut self, name: &str) -> Folder {
        if !self.grants.iter().any(|known| known == name) {
            self.grants.push(name.to_owned());
        }
        Folder::new(name, self.host())
    }

    // The imports are named only where a folder is asked for, so that other components do not
    // import them.
    #[cfg(target_family = "wasm")]
    fn host(&self) -> Rc<dyn FileHost> {
        Rc::new(crate::files::Imports)
    }

    #[cfg(not(target_family = "wasm"))]
    fn host(&self) -> Rc<dyn FileHost> {
        self.files.clone()
    }
}

/// A sink with its types erased.
pub(crate) trait RunningSink {
    fn begin(&mut self, transaction: &str) -> Result<()>;
    fn write(&mut self, rows: &Section) -> Result<()>;
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>>;
    fn commit(&mut self, committable: &[u8]) -> Result<()>;
    fn abort(&mut self) -> Result<()>;
    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()>;
}

/// Calls `each` with every row of a section.
fn each_row<T: Record>(
    rows: &Section,
    record: &mut T,
    mut each: impl FnMut(&T) -> Result<()>,
) -> Result<()> {
    let columns = T::columns(&Table::of(rows, T::schema().len()))?;
    (0..rows.rows as usize).try_for_each(|row| {
        T::load(record, &columns, row);
        each(record)
    })
}

/// A [`TwoPhaseSink`] that runs.
pub(crate) struct TwoPhase<S: TwoPhaseSink> {
    sink: S,
    row: S::In,
}

impl<S: TwoPhaseSink> TwoPhase<S> {
    pub(crate) fn open(mut sink: S, setup: &mut SinkSetup) -> TwoPhase<S> {
        sink.open(setup);
        TwoPhase {
            sink,
            row: S::In::empty(),
        }
    }
}

impl<S: TwoPhaseSink> RunningSink for TwoPhase<S> {
    fn begin(&mut self, transaction: &str) -> Result<()> {
        self.sink.begin(transaction)
    }
    fn write(&mut self, rows: &Section) -> Result<()> {
        each_row(rows, &mut self.row, |row| self.sink.write(row))
    }
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        self.sink.pre_commit()
    }
    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        self.sink.commit(committable)
    }
    fn abort(&mut self) -> Result<()> {
        self.sink.abort()
    }
    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        self.sink.abort_unlisted(prefix, keep)
    }
}

/// A [`WriteAheadSink`] that runs: the host begins, writes and ends a transaction only when it is
/// to be sent.
pub(crate) struct WriteAhead<S: WriteAheadSink> {
    sink: S,
    transaction: String,
    rows: Vec<S::In>,
}

impl<S: WriteAheadSink> WriteAhead<S> {
    pub(crate) fn open(mut sink: S, setup: &mut SinkSetup) -> WriteAhead<S> {
        sink.open(setup);
        WriteAhead {
            sink,
            transaction: String::new(),
            rows: Vec::new(),
        }
    }
}

impl<S: WriteAheadSink> RunningSink for WriteAhead<S> {
    fn begin(&mut self, transaction: &str) -> Result<()> {
        transaction.clone_into(&mut self.transaction);
        self.rows.clear();
        Ok(())
    }
    fn write(&mut self, rows: &Section) -> Result<()> {
        let columns = S::In::columns(&Table::of(rows, S::In::schema().len()))?;
        self.rows
            .extend((0..rows.rows as usize).map(|row| crate::state::loaded(&columns, row)));
        Ok(())
    }
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        self.sink.send(&self.transaction, &self.rows)?;
        self.rows.clear();
        Ok(None)
    }
    fn commit(&mut self, _committable: &[u8]) -> Result<()> {
        Err(Error::host("a write-ahead sink has nothing to commit"))
    }
    fn abort(&mut self) -> Result<()> {
        self.rows.clear();
        Ok(())
    }
    fn abort_unlisted(&mut self, _prefix: &str, _keep: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }
}
