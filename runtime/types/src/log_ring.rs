//! The log of a job: the last lines that it has said, for those who ask later.
//!
//! A thread that works for a job knows its log, and what is said on it goes there as well as to
//! stderr. A thread that it starts is to know it too, by [`inheriting`]. Nothing but saying pays
//! for it.

use crate::failpoint::Failpoints;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines that are remembered.
const LINES_MAX: usize = 1_000;

/// Bytes of a line that are remembered: a plugin may say a mebibyte at once.
const LINE_BYTES_MAX: usize = 4 << 10;

thread_local! {
    static LOG: RefCell<Option<Speaker>> = const { RefCell::new(None) };
}

/// Whom a thread speaks for.
#[derive(Clone)]
struct Speaker {
    log: Arc<LogRing>,
    /// 0 before the first one.
    attempt: u64,
}

/// A line that a job has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// In ms since the epoch.
    pub at_ms: i64,
    /// The generation of the attempt that said it; 0 if none had begun.
    pub attempt: u64,
    /// The thread that said it, which is called by its task.
    pub task: String,
    pub message: String,
}

/// See the module.
#[derive(Debug)]
pub struct LogRing {
    /// What stands before each line on stderr, where jobs share it.
    name: Option<String>,
    lines: Mutex<VecDeque<LogLine>>,
}

impl LogRing {
    /// The log of a job; with a `name`, that stands before each of its lines on stderr.
    pub fn new(name: Option<&str>) -> Arc<LogRing> {
        Arc::new(LogRing {
            name: name.map(str::to_owned),
            lines: Mutex::default(),
        })
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<LogLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last `n` lines, the newest last.
    pub fn last(&self, n: usize) -> Vec<LogLine> {
        let ring = self.ring();
        let first = ring.len().saturating_sub(n);
        ring.iter().skip(first).cloned().collect()
    }

    /// Forgets all but the last `n` lines.
    pub fn shorten(&self, n: usize) {
        let mut ring = self.ring();
        let surplus = ring.len().saturating_sub(n);
        ring.drain(..surplus);
        ring.shrink_to_fit();
    }

    fn add(&self, attempt: u64, message: &str) {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let end = message.floor_char_boundary(LINE_BYTES_MAX);
        let line = LogLine {
            at_ms: since.as_millis() as i64,
            attempt,
            task: std::thread::current().name().unwrap_or_default().to_owned(),
            message: message[..end].to_owned(),
        };
        let mut ring = self.ring();
        if ring.len() == LINES_MAX {
            ring.pop_front();
        }
        ring.push_back(line);
    }
}

/// Does something for a job, in whose log is what is said meanwhile.
pub fn for_job<T>(log: &Arc<LogRing>, work: impl FnOnce() -> T) -> T {
    let (log, attempt) = (log.clone(), 0);
    speaking(Some(Speaker { log, attempt }), work)
}

fn speaking<T>(speaker: Option<Speaker>, work: impl FnOnce() -> T) -> T {
    let before = LOG.replace(speaker);
    let done = work();
    LOG.set(before);
    done
}

/// The body of a thread that is about to be started, for the same job as this one.
pub fn inheriting<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let (speaker, failpoints) = (LOG.with_borrow(Clone::clone), Failpoints::given());
    move || failpoints.scope(|| speaking(speaker, body))
}

/// From now on this thread, and those that it starts, belong to the attempt of this generation.
pub fn begin_attempt(generation: u64) {
    LOG.with_borrow_mut(|speaker| {
        speaker
            .iter_mut()
            .for_each(|speaker| speaker.attempt = generation);
    });
}

/// Keeps what is said on this thread, if it works for a job. Returns how the job is called, where
/// several share a stderr, and the attempt.
pub(crate) fn keep(message: &str) -> (Option<String>, u64) {
    LOG.with_borrow(|speaker| match speaker {
        None => (None, 0),
        Some(Speaker { log, attempt }) => {
            log.add(*attempt, message);
            (log.name.clone(), *attempt)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_those_that_it_starts_speak_for_their_job() {
        let (one, two) = (LogRing::new(Some("one")), LogRing::new(None));
        for_job(&one, || {
            assert_eq!(keep("first"), (Some("one".to_owned()), 0));
            begin_attempt(3);
            for_job(&two, || assert_eq!(keep("of another"), (None, 0)));
            let body = inheriting(|| drop(keep("second")));
            let builder = std::thread::Builder::new().name("count (1/2)".into());
            builder.spawn(body).unwrap().join().unwrap();
        });
        assert_eq!(keep("of nobody"), (None, 0));
        let said: Vec<(String, u64)> = one
            .last(9)
            .into_iter()
            .map(|line| (line.message, line.attempt))
            .collect();
        assert_eq!(said, [("first".to_owned(), 0), ("second".to_owned(), 3)]);
        assert_eq!(one.last(1)[0].task, "count (1/2)");
        assert_eq!(two.last(9).len(), 1);
    }

    #[test]
    fn the_last_lines_are_remembered_and_none_is_long() {
        let log = LogRing::new(None);
        for line in 0..LINES_MAX + 5 {
            log.add(1, &line.to_string());
        }
        let all = log.last(usize::MAX);
        assert_eq!((all.len(), all[0].message.as_str()), (LINES_MAX, "5"));
        log.add(1, &"ä".repeat(LINE_BYTES_MAX));
        assert_eq!(log.last(1)[0].message.len(), LINE_BYTES_MAX);
    }
}
