//! Places where a test makes the process crash, or a step fail, to see that nothing is lost.
//!
//! `STREAMRT_FAILPOINTS` names them: `snapshot.sync=crash`, or `store.put=error:3` for the third
//! time only, several with `;` between them. Without it a failpoint costs one load.

use crate::code;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::OnceLock;
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

struct Armed {
    action: Action,
    /// The passage on which it acts, counted from 1; 0 means every one.
    at: u64,
    passed: AtomicU64,
}

fn armed() -> &'static HashMap<String, Armed> {
    static ARMED: OnceLock<HashMap<String, Armed>> = OnceLock::new();
    ARMED.get_or_init(|| {
        std::env::var("STREAMRT_FAILPOINTS")
            .map(|text| parse(&text))
            .unwrap_or_default()
    })
}

fn parse(text: &str) -> HashMap<String, Armed> {
    let one = |entry: &str| {
        let (name, what) = entry.split_once('=')?;
        let (action, at) = what.split_once(':').unwrap_or((what, "0"));
        let action = match action {
            "crash" => Action::Crash,
            "error" => Action::Error,
            _ => return None,
        };
        FAILPOINTS.contains(&name).then_some(())?;
        Some((
            name.to_owned(),
            Armed {
                action,
                at: at.parse().ok()?,
                passed: AtomicU64::new(0),
            },
        ))
    };
    text.split(';')
        .filter(|entry| !entry.is_empty())
        .filter_map(one)
        .collect()
}

/// Passes, unless a test wants it otherwise.
///
/// # Errors
/// `Unavailable`, if `STREAMRT_FAILPOINTS` says so for this passage.
pub fn failpoint(name: &str) -> Result<()> {
    let armed = armed();
    if armed.is_empty() {
        return Ok(());
    }
    armed.get(name).map_or(Ok(()), |armed| armed.pass(name))
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

    #[test]
    fn a_failpoint_acts_at_its_passage() {
        let armed = parse("log.before=error:2;commit.after=error;nonsense=crash;log.before");
        let passes = |name: &str| armed[name].pass(name).is_ok();
        assert_eq!(
            (
                armed.len(),
                passes("log.before"),
                passes("log.before"),
                passes("log.before")
            ),
            (2, true, false, true)
        );
        assert!(!passes("commit.after") && failpoint("commit.after").is_ok());
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = FAILPOINTS.iter().collect();
        assert_eq!(names.len(), FAILPOINTS.len());
    }
}
