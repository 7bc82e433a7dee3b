//! Whether and when a job that failed is started again. Pure: the caller has the clock.
//!
//! # Source
//! Flink's restart strategies. **Ours:** what would fail again in the same way (a record, user
//! code, a wrong job) is not tried again.

use std::collections::VecDeque;
use std::time::Duration;
use streamrt_rpc::{Consequence, WireError};
use streamrt_types::{Configuration, RestartKind};

/// How much longer each delay of `exponential-delay` is than the one before, in percent.
const GROWTH_PERCENT: u32 = 150;

/// Counts the failures of one job.
#[derive(Debug)]
pub struct RestartStrategy {
    kind: RestartKind,
    attempts: u32,
    delay: Duration,
    max_delay: Duration,
    max_failures: u32,
    interval: Duration,
    /// When the job failed, since it was submitted; only as far back as the strategy looks.
    failures: VecDeque<Duration>,
    n_failures: u32,
    /// The next delay of `exponential-delay`.
    next_delay: Duration,
}

impl RestartStrategy {
    /// Without checkpoints there is nothing to go on from, so nothing is tried again unless the
    /// configuration wants it.
    pub fn new(configuration: &Configuration) -> RestartStrategy {
        let default = if configuration.checkpoint_interval_ms.is_some() {
            RestartKind::ExponentialDelay
        } else {
            RestartKind::None
        };
        let delay = Duration::from_millis(configuration.restart_delay_ms);
        RestartStrategy {
            kind: configuration.restart.unwrap_or(default),
            attempts: configuration.restart_attempts,
            delay,
            max_delay: Duration::from_millis(configuration.restart_max_delay_ms),
            max_failures: configuration.restart_max_failures,
            interval: Duration::from_millis(configuration.restart_interval_ms),
            failures: VecDeque::new(),
            n_failures: 0,
            next_delay: delay,
        }
    }

    /// Whether a failure of this kind may be followed by another attempt at all.
    pub fn may_try_again(&self, error: &WireError) -> bool {
        error.consequence == Consequence::MayPass && self.kind != RestartKind::None
    }

    /// How long to wait before the next attempt; `None` if there is none. `now` is the time since
    /// the job was submitted.
    pub fn after_failure(&mut self, now: Duration, error: &WireError) -> Option<Duration> {
        if !self.may_try_again(error) {
            return None;
        }
        let last = self.failures.back().copied();
        self.failures.push_back(now);
        self.n_failures += 1;
        match self.kind {
            RestartKind::None => None,
            RestartKind::FixedDelay => (self.n_failures <= self.attempts).then_some(self.delay),
            RestartKind::FailureRate => {
                while self
                    .failures
                    .front()
                    .is_some_and(|first| *first + self.interval < now)
                {
                    self.failures.pop_front();
                }
                (self.failures.len() <= self.max_failures as usize).then_some(self.delay)
            }
            RestartKind::ExponentialDelay => {
                self.failures.drain(..self.failures.len() - 1);
                if last.is_none_or(|last| last + self.interval <= now) {
                    self.next_delay = self.delay;
                }
                let delay = self.next_delay.min(self.max_delay);
                self.next_delay = (delay * GROWTH_PERCENT / 100).min(self.max_delay);
                Some(delay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_types::code;

    /// Feeds failures at these seconds, and compares the delays in ms.
    fn check(settings: &[(&str, &str)], failures: &[u64], expected: &[Option<u64>]) {
        let mut configuration = Configuration::default();
        settings
            .iter()
            .for_each(|(key, value)| configuration.set(key, value).unwrap());
        let mut strategy = RestartStrategy::new(&configuration);
        let error = WireError::new(code::STORE, "the disk is gone");
        let delay = |at: &u64| {
            strategy
                .after_failure(Duration::from_secs(*at), &error)
                .map(|delay| delay.as_millis() as u64)
        };
        assert_eq!(
            failures.iter().map(delay).collect::<Vec<_>>(),
            expected,
            "{settings:?}"
        );
    }

    #[test]
    fn strategies_do_as_flinks() {
        check(&[], &[0], &[None]);
        check(
            &[
                ("restart.strategy", "fixed-delay"),
                ("restart.attempts", "2"),
            ],
            &[0, 1, 2],
            &[Some(1000), Some(1000), None],
        );
        let rate = [
            ("restart.strategy", "failure-rate"),
            ("restart.max-failures", "2"),
            ("restart.delay", "5ms"),
        ];
        check(
            &rate,
            &[0, 1, 70, 80, 90],
            &[Some(5), Some(5), Some(5), Some(5), None],
        );
        let growing = [Some(1000), Some(1500), Some(2000), Some(2000), Some(1000)];
        check(
            &[("checkpoint.interval", "1s"), ("restart.max-delay", "2s")],
            &[0, 1, 2, 3, 63],
            &growing,
        );
        check(
            &[("checkpoint.interval", "1s"), ("restart.strategy", "none")],
            &[0],
            &[None],
        );
    }

    #[test]
    fn what_would_fail_again_is_not_tried_again() {
        let mut configuration = Configuration::default();
        configuration
            .set("restart.strategy", "exponential-delay")
            .unwrap();
        let error = WireError::new(code::BAD_RECORD, "line 3");
        let mut strategy = RestartStrategy::new(&configuration);
        assert!(
            !strategy.may_try_again(&error)
                && strategy.after_failure(Duration::ZERO, &error).is_none()
        );
        assert!(strategy.may_try_again(&WireError::new(code::DATABASE, "it is away")));
    }
}
