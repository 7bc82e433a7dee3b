//! How much of each second subtasks have worked and waited lately, for people who look.

use crate::vertices::{SubtaskCounters, VertexReport};
use std::time::Duration;

/// What is older than this is not "lately", if somebody has looked since.
const WINDOW: Duration = Duration::from_secs(1);

/// How many ms of each second a subtask has worked, waited for input, and waited for room: Flink's
/// `busyTimeMsPerSecond` and its like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerSecond {
    pub busy_ms: u64,
    pub idle_ms: u64,
    pub back_pressured_ms: u64,
}

/// The last looks at the subtasks of a job.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// What the rates are measured from: a look at least a second old, or the start.
    from: Look,
    newest: Look,
}

#[derive(Debug, Default)]
struct Look {
    at: Duration,
    /// (busy, idle, back-pressured) of each subtask, in order.
    times: Vec<[Duration; 3]>,
}

impl Rates {
    /// From the start of tasks at this time of the clock.
    pub fn new(at: Duration) -> Rates {
        let look = || Look {
            at,
            times: Vec::new(),
        };
        Rates {
            from: look(),
            newest: look(),
        }
    }

    /// Adds the rates to a look at this time.
    pub fn look(&mut self, at: Duration, vertices: &mut [VertexReport]) {
        if at.saturating_sub(self.newest.at) >= WINDOW {
            self.from = std::mem::take(&mut self.newest);
            self.newest = Look {
                at,
                times: subtasks(vertices).map(|subtask| times(subtask)).collect(),
            };
        }
        let elapsed = at.saturating_sub(self.from.at).as_nanos();
        for (number, subtask) in subtasks(vertices).enumerate() {
            let before = self.from.times.get(number).copied().unwrap_or_default();
            let [busy_ms, idle_ms, back_pressured_ms] = [0, 1, 2].map(|kind| {
                // Tasks that were started again count anew.
                let time = times(subtask)[kind].saturating_sub(before[kind]);
                (time.as_nanos() * 1000)
                    .checked_div(elapsed)
                    .map_or(0, |ms| ms.min(1000) as u64)
            });
            subtask.per_second = PerSecond {
                busy_ms,
                idle_ms,
                back_pressured_ms,
            };
        }
    }
}

fn subtasks(vertices: &mut [VertexReport]) -> impl Iterator<Item = &mut SubtaskCounters> {
    vertices.iter_mut().flat_map(|vertex| &mut vertex.subtasks)
}

fn times(subtask: &SubtaskCounters) -> [Duration; 3] {
    [subtask.busy, subtask.idle, subtask.back_pressured]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_a_look_that_is_a_second_old() {
        let ms = Duration::from_millis;
        let mut rates = Rates::new(ms(5_000));
        let mut check = |at, busy, idle, expected| {
            let subtask = SubtaskCounters {
                busy: ms(busy),
                idle: ms(idle),
                ..SubtaskCounters::default()
            };
            let mut vertices = [VertexReport {
                id: String::new(),
                name: String::new(),
                inputs: Vec::new(),
                subtasks: vec![subtask],
            }];
            rates.look(ms(at), &mut vertices);
            let per_second = vertices[0].subtasks[0].per_second;
            assert_eq!(
                (per_second.busy_ms, per_second.idle_ms),
                expected,
                "at {at}"
            );
        };
        check(5_000, 0, 0, (0, 0));
        check(5_500, 100, 400, (200, 800));
        check(6_000, 200, 800, (200, 800));
        check(7_000, 1_200, 800, (1_000, 0));
        check(8_000, 2_200, 800, (1_000, 0));
        check(8_500, 2_200, 1_300, (666, 333));
        // It was started again.
        check(8_600, 100, 0, (0, 0));
    }
}
