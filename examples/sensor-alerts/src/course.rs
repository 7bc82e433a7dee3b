//! The course of one sensor's temperature, reading by reading in event-time order. Pure; called by
//! the process function.

/// A reading more than this above or below the last one is a jump.
const JUMP: f64 = 20.0;
/// A rise is reported when it has lasted this long, in ms.
const RISE_MS: i64 = 5_000;

/// What is known after the last reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    pub last: f64,
    /// The reading at which the unbroken rise began: its time in ms, and its temperature.
    pub rise_time: i64,
    pub rise_from: f64,
    pub rise_reported: bool,
}

/// What a reading indicates, and the temperature with which it is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    pub kind: &'static str,
    pub from: f64,
}

impl Course {
    /// The first reading of a sensor, or one that is not higher than the one before, begins the
    /// next rise.
    fn begin(time: i64, temperature: f64) -> Course {
        Course {
            last: temperature,
            rise_time: time,
            rise_from: temperature,
            rise_reported: false,
        }
    }

    /// The course after another reading, and what that reading indicates: a jump, a rise, both or
    /// nothing.
    pub fn follow(
        before: Option<Course>,
        time: i64,
        temperature: f64,
    ) -> (Course, [Option<Finding>; 2]) {
        let Some(before) = before else {
            return (Course::begin(time, temperature), [None; 2]);
        };
        let jumps = (temperature - before.last).abs() > JUMP;
        let jump = jumps.then_some(Finding {
            kind: "jump",
            from: before.last,
        });
        let higher = temperature > before.last;
        if !higher {
            return (Course::begin(time, temperature), [jump, None]);
        }
        let rises = !before.rise_reported && time - before.rise_time >= RISE_MS;
        let rise = rises.then_some(Finding {
            kind: "rise",
            from: before.rise_from,
        });
        (
            Course {
                last: temperature,
                rise_reported: before.rise_reported || rises,
                ..before
            },
            [jump, rise],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows readings (seconds, temperature); the findings as (seconds, kind, from).
    fn findings(readings: &[(i64, f64)]) -> Vec<(i64, &'static str, f64)> {
        let mut course = None;
        let mut found = Vec::new();
        for &(seconds, temperature) in readings {
            let (next, findings) = Course::follow(course, seconds * 1000, temperature);
            course = Some(next);
            found.extend(
                findings
                    .into_iter()
                    .flatten()
                    .map(|finding| (seconds, finding.kind, finding.from)),
            );
        }
        found
    }

    #[test]
    fn a_jump_is_more_than_twenty() {
        assert_eq!(
            findings(&[(1, 10.0), (2, 30.0), (3, 50.5), (4, 30.4)]),
            [(3, "jump", 30.0), (4, "jump", 50.5)]
        );
    }

    #[test]
    fn a_rise_is_reported_once_after_five_seconds() {
        let readings = [
            (0, 1.0),
            (4, 2.0),
            (5, 3.0),
            (9, 4.0),
            (10, 4.0),
            (14, 5.0),
            (15, 6.0),
            (16, 5.0),
            (30, 5.5),
        ];
        assert_eq!(
            findings(&readings),
            [(5, "rise", 1.0), (15, "rise", 4.0), (30, "rise", 5.0)]
        );
    }

    #[test]
    fn one_reading_can_be_both() {
        assert_eq!(
            findings(&[(-6, 1.0), (-1, 25.0)]),
            [(-1, "jump", 1.0), (-1, "rise", 1.0)]
        );
    }
}
