//! sensor-alerts: jumps and rises of a sensor's temperature, in the order of event time.
//!
//! 1. A reading at or before the watermark is late.
//! 2. Any other waits in list state, with a timer at its time.
//! 3. When the watermark has passed that time, nothing earlier can come: the readings of that time
//!    are followed, as they came.

mod course;

use course::Course;
use streamrt_sdk::prelude::*;

/// A line of the input.
#[derive(Record, Clone, Debug, PartialEq)]
struct Reading {
    sensor: String,
    /// Seconds on the way in, ms everywhere else.
    time: i64,
    temperature: f64,
}

/// What is reported.
#[derive(Record, Debug, PartialEq)]
struct Alert {
    sensor: String,
    time: i64,
    kind: String,
    from: f64,
    to: f64,
}

/// A reading that waits for the watermark.
#[derive(Record, Clone)]
struct Waiting {
    time: i64,
    temperature: f64,
}

/// [`Course`] as it lies in state.
#[derive(Record, Clone)]
struct Known {
    last: f64,
    rise_time: i64,
    rise_from: f64,
    rise_reported: bool,
}

const LATE: OutputTag<Reading> = OutputTag::new("late");

#[derive(Default)]
struct Alerts {
    readings: ListState<Waiting>,
    course: ValueState<Known>,
}

impl ProcessFunction for Alerts {
    type In = Reading;
    type Key = String;
    type Out = Alert;

    fn open(&mut self, setup: &mut Setup) {
        self.readings = setup.list("readings");
        self.course = setup.value("course");
    }

    fn on_element(
        &mut self,
        row: &Reading,
        ctx: &mut Context<'_, String>,
        _out: &mut Collector<Alert>,
    ) -> Result<()> {
        let time = row.time * 1000;
        if time <= ctx.watermark() {
            ctx.side(
                &LATE,
                Reading {
                    time,
                    ..row.clone()
                },
            );
            return Ok(());
        }
        ctx.register_event_timer(time);
        self.readings.add(Waiting {
            time,
            temperature: row.temperature,
        });
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<Alert>,
    ) -> Result<()> {
        // Each time has its timer, and timers fire in order: what is due now has exactly this time.
        let (due, later): (Vec<Waiting>, Vec<Waiting>) = self
            .readings
            .get()?
            .into_iter()
            .partition(|reading| reading.time <= time);
        for reading in due {
            self.follow(&reading, ctx.key(), out);
        }
        self.readings.update(later);
        Ok(())
    }
}

impl Alerts {
    fn follow(&mut self, reading: &Waiting, sensor: &str, out: &mut Collector<Alert>) {
        let before = self.course.get().map(Course::from);
        let (course, findings) = Course::follow(before, reading.time, reading.temperature);
        for finding in findings.into_iter().flatten() {
            let (sensor, kind) = (sensor.to_owned(), finding.kind.to_owned());
            out.collect(Alert {
                sensor,
                time: reading.time,
                kind,
                from: finding.from,
                to: reading.temperature,
            });
        }
        self.course.set(course.into());
    }
}

impl From<Known> for Course {
    fn from(known: Known) -> Course {
        let Known {
            last,
            rise_time,
            rise_from,
            rise_reported,
        } = known;
        Course {
            last,
            rise_time,
            rise_from,
            rise_reported,
        }
    }
}

impl From<Course> for Known {
    fn from(course: Course) -> Known {
        let Course {
            last,
            rise_time,
            rise_from,
            rise_reported,
        } = course;
        Known {
            last,
            rise_time,
            rise_from,
            rise_reported,
        }
    }
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output) = (env.arg_or("input", "input"), env.arg_or("output", "out"));
    let alerts = env
        .source("readings", File::csv::<Reading>(input))
        .watermarks(Watermarks::bounded(Reading::TIME.seconds(), secs(2)))
        .key_by(Reading::SENSOR)
        .process("alerts", Alerts::default());
    alerts.sink("output", File::json(&output));
    alerts
        .side_output(&LATE)
        .sink("late", File::json(format!("{output}/late")));
    Ok(())
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    fn reading(time: i64, temperature: f64) -> Reading {
        Reading {
            sensor: "a".to_owned(),
            time,
            temperature,
        }
    }

    fn alert(time: i64, kind: &str, from: f64, to: f64) -> Alert {
        Alert {
            sensor: "a".to_owned(),
            time,
            kind: kind.to_owned(),
            from,
            to,
        }
    }

    #[test]
    fn readings_are_followed_in_the_order_of_their_times() {
        let mut alerts = testing::harness(job, [""; 0]).operator("alerts");
        for (seconds, temperature) in [(-5, 1.0), (0, 3.0), (-3, 2.0), (0, 50.0)] {
            alerts.push(reading(seconds, temperature), seconds * 1000);
        }
        alerts.watermark(-1);
        assert_eq!(alerts.output::<Alert>(), []);
        alerts.watermark(0);
        assert_eq!(
            alerts.output::<Alert>(),
            [alert(0, "rise", 1.0, 3.0), alert(0, "jump", 3.0, 50.0)]
        );
        assert!(alerts.event_timers().is_empty());
    }

    #[test]
    fn a_reading_at_the_watermark_is_late() {
        let mut alerts = testing::harness(job, [""; 0]).operator("alerts");
        alerts.watermark(5_000);
        alerts.push(reading(5, 1.0), 5_000);
        assert_eq!(alerts.side_output(&LATE), [reading(5_000, 1.0)]);
        assert!(alerts.event_timers().is_empty());
    }
}
