//! Places where a test makes the process crash, or a step fail, to see that nothing is lost.
//!
//! [`Failpoints`] says which of them act, and is given to the threads that work for a job, as the
//! log of the job is. Where nobody has given any, a failpoint costs one load.

use crate::code;
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every failpoint, in the order in which a checkpoint meets them. The numbers are those of the
/// faults that they stand for.
pub const FAILPOINTS: &[&str] = &[
    // 1: a barrier has arrived at a task, and nothing was done.
    "barrier.before",
    // 2: some channels are aligned, others are not.
    "barrier.aligning",
    // 3: during the synchronous snapshot.
    "snapshot.sync",
    // 6: a sink has flushed, and its task has not acknowledged.
    "sink.pre-commit",
    // 4: objects are being uploaded.
    "snapshot.upload",
    // 5: a task has acknowledged, and there is no manifest.
    "snapshot.acknowledged",
    // 7: all have acknowledged.
    "manifest.before",
    // 7: the manifest is there, and the log does not name it.
    "log.before",
    // 8: the log names it, and nobody knows yet.
    "complete.before",
    // 9: some sinks have committed, others have not.
    "commit.before",
    // 10: the sink has committed, and the answer is lost.
    "commit.after",
    // 43: in an upgrade, before a task takes its new code; others may run theirs already.
    "upgrade.swap",
    // 29: the log says that a checkpoint is retired, and its objects are there.
    "retire.delete",
    // 8 and 9, when a job starts again.
    "recovery.commit",
    // 16: what no manifest names is being withdrawn.
    "recovery.abort",
    // 50: all input is processed, and the last checkpoint is not begun.
    "end.before-last-checkpoint",
    // 50: the last checkpoint is published, and the log does not say that the job has ended.
    "end.before-log",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Crash,
    Error,
}

#[derive(Debug)]
struct Armed {
    action: Action,
    /// The passage on which it acts, counted from 1; 0 means every one.
    at: u64,
    passed: AtomicU64,
}

/// Failpoints that act. Clones count their passages together.
#[derive(Debug, Clone, Default)]
pub struct Failpoints(BTreeMap<String, Arc<Armed>>);

thread_local! {
    static GIVEN: RefCell<Failpoints> = const { RefCell::new(Failpoints(BTreeMap::new())) };
}

impl Failpoints {
    /// Reads `snapshot.sync=crash`, or `log.before=error:3` for the third time only, several with
    /// `;` between them. What cannot be read is left out.
    pub fn parse(text: &str) -> Failpoints {
        let one = |entry: &str| {
            let (name, what) = entry.split_once('=')?;
            let (action, at) = what.split_once(':').unwrap_or((what, "0"));
            let action = match action {
                "crash" => Action::Crash,
                "error" => Action::Error,
                _ => return None,
            };
            FAILPOINTS.contains(&name).then_some(())?;
            let armed = Armed {
                action,
                at: at.parse().ok()?,
                passed: AtomicU64::new(0),
            };
            Some((name.to_owned(), Arc::new(armed)))
        };
        Failpoints(text.split(';').filter_map(one).collect())
    }

    /// Those that act on this thread.
    pub(crate) fn given() -> Failpoints {
        GIVEN.with_borrow(Clone::clone)
    }

    /// Does something that meets these, and no others.
    pub fn scope<T>(self, work: impl FnOnce() -> T) -> T {
        let before = GIVEN.replace(self);
        let done = work();
        GIVEN.set(before);
        done
    }
}

/// Passes, unless a test wants it otherwise.
///
/// # Errors
/// `Unavailable`, if the [`Failpoints`] of this thread say so for this passage.
pub fn failpoint(name: &str) -> Result<()> {
    let armed = GIVEN.with_borrow(|given| given.0.get(name).cloned());
    armed.map_or(Ok(()), |armed| armed.pass(name))
}

impl Armed {
    fn pass(&self, name: &str) -> Result<()> {
        let passage = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        if self.at != 0 && self.at != passage {
            return Ok(());
        }
        match self.action {
            Action::Crash => std::process::abort(),
            Action::Error => Err(Error::new(
                code::INJECTED,
                format!("the failpoint `{name}` was passed for the {passage}. time"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inheriting;

    #[test]
    fn a_failpoint_acts_at_its_passage_where_it_was_given() {
        let given = Failpoints::parse("log.before=error:2;commit.after=error;no=crash;log.before");
        let passes = || failpoint("log.before").is_ok();
        let counted = given.clone().scope(|| {
            let first = passes();
            let second = std::thread::spawn(inheriting(passes)).join().unwrap();
            (first, second, passes(), failpoint("commit.after").is_ok())
        });
        assert_eq!(counted, (true, false, true, false));
        assert!(failpoint("commit.after").is_ok() && given.0.len() == 2);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = FAILPOINTS.iter().collect();
        assert_eq!(names.len(), FAILPOINTS.len());
    }
}
