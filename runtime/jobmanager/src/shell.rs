//! What this crate takes from the machine: threads for commands, alarms, and how long somebody waits
//! for another thread.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use streamrt_types::{Error, Result};

/// Starts a thread that ends by itself.
///
/// # Errors
/// `Internal` if the system has none left.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    let no_thread = |e| Error::internal(format!("no thread for a {name}")).with_source(e);
    thread.spawn(body).map(drop).map_err(no_thread)
}

/// Until when somebody waits.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub fn after(wait: Duration) -> Deadline {
        Deadline(Instant::now() + wait)
    }

    /// Zero when it has passed.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Calls something at a time that is set, and set again, until it is dropped.
#[derive(Default)]
pub(crate) struct Alarm(Arc<Setting>);

#[derive(Default)]
struct Setting {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Default)]
struct AlarmState {
    at: Option<Instant>,
    is_over: bool,
}

impl Alarm {
    /// Starts its thread.
    ///
    /// # Errors
    /// `Internal` if the system has none left.
    pub fn start(&self, name: &str, ring: impl Fn() + Send + 'static) -> Result<()> {
        let setting = self.0.clone();
        spawn(name, move || {
            while setting.wait() {
                ring();
            }
        })
    }

    /// It rings once, when this time has passed; the time that was set before is forgotten.
    pub fn set(&self, after: Option<Duration>) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = after.map(|after| Instant::now() + after);
        // Later is told when the earlier time has come.
        let is_sooner = at.is_some_and(|at| state.at.is_none_or(|before| at < before));
        state.at = at;
        drop(state);
        if is_sooner {
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.0.changed.notify_all();
    }
}

impl Setting {
    /// Waits for the time; false when it is over.
    fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = state
                .at
                .map(|at| at.saturating_duration_since(Instant::now()));
            state = match left {
                _ if state.is_over => return false,
                Some(left) if left.is_zero() => {
                    state.at = None;
                    return true;
                }
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => match self.changed.wait_timeout(state, left) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                },
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn an_alarm_rings_when_its_time_has_come_and_not_when_it_is_gone() {
        let (sender, rings) = channel();
        let alarm = Alarm::default();
        alarm
            .start("alarm", move || sender.send(()).unwrap_or(()))
            .unwrap();
        alarm.set(Some(Duration::from_secs(3600)));
        alarm.set(Some(Duration::ZERO));
        rings.recv_timeout(Duration::from_secs(60)).unwrap();
        alarm.set(Some(Duration::from_secs(3600)));
        drop(alarm);
        assert!(
            rings.recv_timeout(Duration::from_secs(60)).is_err(),
            "its thread has ended"
        );
    }
}
