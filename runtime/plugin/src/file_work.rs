//! The thread that does a guest's file work, and what one call may have done there.
//!
//! Time in the files is not the guest's: a slow disk must not look like a loop. But a guest can
//! sync the same file for ever, and a disk can hang. So the file calls of one call have a limit of
//! their own, and the guest's task waits for an answer no longer than that, and not when it is
//! cancelled: what hangs is a thread for which nobody waits. Such a thread does nothing more, and
//! its instance gets no other.

use crate::trap::Stop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use wasmtime::Result;

/// How often the cancel flag is checked while the disk works.
const LOOK: Duration = Duration::from_millis(10);

type Job = Box<dyn FnOnce() + Send>;

/// See the module. There is one per instance; the first call starts the thread.
pub(crate) struct FileWork {
    thread: Option<Sender<Job>>,
    time_max: Duration,
    time_left: Duration,
    bytes_max: u64,
    bytes_left: u64,
}

impl FileWork {
    /// How long the file calls of each call may take together, and how much they may write.
    pub fn new(time_max: Duration, bytes_max: u64) -> FileWork {
        FileWork {
            thread: None,
            time_max,
            time_left: time_max,
            bytes_max,
            bytes_left: bytes_max,
        }
    }

    /// A call begins.
    pub fn renew(&mut self) {
        (self.time_left, self.bytes_left) = (self.time_max, self.bytes_max);
    }

    /// Takes `n_bytes` off what the call may still write.
    ///
    /// # Errors
    /// Ends the guest if there are not that many left.
    pub fn spend(&mut self, n_bytes: usize) -> Result<()> {
        let left = self.bytes_left.checked_sub(n_bytes as u64);
        self.bytes_left = left.ok_or(Stop::Written {
            bytes_max: self.bytes_max,
        })?;
        Ok(())
    }

    /// Does work, and waits for it.
    ///
    /// # Errors
    /// Ends the guest if it is cancelled, or if the time for files is used up.
    pub fn run<T: Send + 'static>(
        &mut self,
        cancel: &AtomicBool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = channel();
        let start = Instant::now();
        let job: Job = Box::new(move || drop(sender.send(work())));
        self.thread()?.send(job).map_err(|_| Stop::Files {
            limit: self.time_max,
            hangs: true,
        })?;
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(done) => {
                    self.time_left = self.time_left.saturating_sub(start.elapsed());
                    return if self.time_left.is_zero() {
                        Err(self.used_up(start))
                    } else {
                        Ok(done)
                    };
                }
                Err(RecvTimeoutError::Timeout) if cancel.load(Ordering::Relaxed) => {
                    return Err(Stop::Cancelled.into());
                }
                Err(RecvTimeoutError::Timeout) if start.elapsed() < self.time_left => {}
                Err(_) => return Err(self.used_up(start)),
            }
        }
    }

    /// If one call takes most of the time, the disk hangs; many short ones are the guest's doing.
    fn used_up(&self, start: Instant) -> wasmtime::Error {
        Stop::Files {
            limit: self.time_max,
            hangs: start.elapsed() > self.time_max / 2,
        }
        .into()
    }

    fn thread(&mut self) -> Result<&Sender<Job>> {
        if self.thread.is_none() {
            let (sender, jobs) = channel::<Job>();
            std::thread::Builder::new()
                .name("plugin-files".into())
                .spawn(move || jobs.into_iter().for_each(|job| job()))?;
            self.thread = Some(sender);
        }
        self.thread
            .as_ref()
            .ok_or_else(|| wasmtime::Error::msg("the thread for files is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop_of<T>(result: Result<T>) -> String {
        result.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn short_work_is_done_until_the_time_is_used_up() {
        let mut files = FileWork::new(Duration::from_millis(200), 10);
        let cancel = AtomicBool::new(false);
        assert_eq!(files.run(&cancel, || 5).unwrap(), 5);
        let nap = || std::thread::sleep(Duration::from_millis(2));
        let end = std::iter::repeat_with(|| files.run(&cancel, nap))
            .find(Result::is_err)
            .unwrap();
        assert_eq!(
            stop_of(end),
            "the plugin's calls of files took more than 200 ms together"
        );
        files.renew();
        assert_eq!(files.run(&cancel, || 6).unwrap(), 6);
    }

    #[test]
    fn a_disk_that_hangs_is_left_alone() {
        let mut files = FileWork::new(Duration::from_millis(50), 10);
        let cancel = AtomicBool::new(false);
        let (release, hanging) = channel::<()>();
        let hang = move || hanging.recv().is_err();
        assert_eq!(
            stop_of(files.run(&cancel, hang)),
            "the disk did not answer a plugin's call of files within 50 ms"
        );
        drop(release);
    }

    #[test]
    fn a_cancel_is_heard() {
        let mut files = FileWork::new(Duration::from_secs(3600), 10);
        let (release, hanging) = channel::<()>();
        let stopped = files.run(&AtomicBool::new(true), move || hanging.recv().is_err());
        assert_eq!(stop_of(stopped), "the call into the plugin was cancelled");
        drop(release);
    }

    #[test]
    fn bytes_are_counted_over_a_call() {
        let mut files = FileWork::new(Duration::from_secs(1), 10);
        assert!(files.spend(6).is_ok() && files.spend(5).is_err());
        files.renew();
        assert!(files.spend(10).is_ok());
    }
}
