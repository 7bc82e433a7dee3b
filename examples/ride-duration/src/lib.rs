//! ride-duration: brings START and END of a ride together, and sends away what has waited four
//! hours for its partner.
//!
//! 1. An event at or before the watermark is late.
//! 2. An event whose partner waits makes a ride with it.
//! 3. Any other waits in list state until four hours after its own time, when a timer sends it to
//!    `unmatched`.
//!
//! No event is ever lost or used twice, even if a ride has more than one START or END: each finds
//! the partner that has waited longest.

use streamrt_sdk::prelude::*;

/// A line of the input.
#[derive(Record, Clone, Debug, PartialEq)]
struct Event {
    ride: String,
    /// `START` or `END`.
    kind: String,
    /// Seconds on the way in, ms everywhere else.
    time: i64,
}

/// A ride with both ends.
#[derive(Record, Debug, PartialEq)]
struct Ride {
    ride: String,
    start: i64,
    end: i64,
    duration_ms: i64,
}

/// An end of a ride that waits for the other.
#[derive(Record, Clone)]
struct Waiting {
    is_start: bool,
    time: i64,
}

const UNMATCHED: OutputTag<Event> = OutputTag::new("unmatched");
const LATE: OutputTag<Event> = OutputTag::new("late");
/// How long a ride may take, and how long an event waits.
const PATIENCE_MS: i64 = 4 * 3_600_000;

#[derive(Default)]
struct Durations {
    waiting: ListState<Waiting>,
}

impl ProcessFunction for Durations {
    type In = Event;
    type Key = String;
    type Out = Ride;

    fn open(&mut self, setup: &mut Setup) {
        self.waiting = setup.list("waiting");
    }

    fn on_element(
        &mut self,
        row: &Event,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<Ride>,
    ) -> Result<()> {
        let time = row.time * 1000;
        let event = Waiting {
            is_start: is_start(&row.kind)?,
            time,
        };
        if time <= ctx.watermark() {
            ctx.side(
                &LATE,
                Event {
                    time,
                    ..row.clone()
                },
            );
            return Ok(());
        }
        let mut waiting = self.waiting.get()?;
        match waiting
            .iter()
            .position(|other| duration_ms(other, &event).is_some())
        {
            Some(place) => {
                out.collect(ride(&row.ride, &waiting.remove(place), &event));
                self.waiting.update(waiting);
            }
            None => {
                ctx.register_event_timer(time + PATIENCE_MS);
                self.waiting.add(event);
            }
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, String>,
        _out: &mut Collector<Ride>,
    ) -> Result<()> {
        let (due, later): (Vec<Waiting>, Vec<Waiting>) = self
            .waiting
            .get()?
            .into_iter()
            .partition(|event| event.time + PATIENCE_MS <= time);
        for event in due {
            let kind = if event.is_start { "START" } else { "END" };
            let unmatched = Event {
                ride: ctx.key().clone(),
                kind: kind.to_owned(),
                time: event.time,
            };
            ctx.side(&UNMATCHED, unmatched);
        }
        self.waiting.update(later);
        Ok(())
    }
}

fn is_start(kind: &str) -> Result<bool> {
    match kind {
        "START" => Ok(true),
        "END" => Ok(false),
        _ => Err(Error::new(format!("`{kind}` is neither START nor END"))),
    }
}

/// How long a ride with these two ends takes; `None` if they are not the two ends of one.
fn duration_ms(one: &Waiting, other: &Waiting) -> Option<i64> {
    let duration = match (one.is_start, other.is_start) {
        (true, false) => other.time - one.time,
        (false, true) => one.time - other.time,
        _ => return None,
    };
    (0..=PATIENCE_MS).contains(&duration).then_some(duration)
}

fn ride(name: &str, one: &Waiting, other: &Waiting) -> Ride {
    let (start, end) = (one.time.min(other.time), one.time.max(other.time));
    Ride {
        ride: name.to_owned(),
        start,
        end,
        duration_ms: end - start,
    }
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output) = (env.arg_or("input", "input"), env.arg_or("output", "out"));
    let rides = env
        .source("events", File::csv::<Event>(input))
        .watermarks(Watermarks::bounded(Event::TIME.seconds(), secs(2)))
        .key_by(Event::RIDE)
        .process("durations", Durations::default());
    rides.sink("output", File::json(&output));
    rides
        .side_output(&UNMATCHED)
        .sink("unmatched", File::json(format!("{output}/unmatched")));
    rides
        .side_output(&LATE)
        .sink("late", File::json(format!("{output}/late")));
    Ok(())
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    fn event(kind: &str, time: i64) -> Event {
        Event {
            ride: "r".to_owned(),
            kind: kind.to_owned(),
            time,
        }
    }

    /// The rides, and what was unmatched at the end, for events in seconds.
    #[track_caller]
    fn check(events: &[(&str, i64)], rides: &[(i64, i64)], unmatched: &[(&str, i64)]) {
        let mut durations = testing::harness(job, [""; 0]).operator("durations");
        for (kind, seconds) in events {
            durations.push(event(kind, *seconds), seconds * 1000);
        }
        durations.watermark(i64::MAX);
        let found: Vec<(i64, i64)> = durations
            .output::<Ride>()
            .into_iter()
            .map(|ride| (ride.start / 1000, ride.end / 1000))
            .collect();
        assert_eq!(found, rides);
        let expected: Vec<Event> = unmatched
            .iter()
            .map(|(kind, seconds)| event(kind, seconds * 1000))
            .collect();
        assert_eq!(durations.side_output(&UNMATCHED), expected);
    }

    #[test]
    fn two_ends_meet_in_either_order() {
        check(&[("START", -10), ("END", 5)], &[(-10, 5)], &[]);
        check(&[("END", 5), ("START", 4)], &[(4, 5)], &[]);
        check(&[("START", 0), ("END", 0)], &[(0, 0)], &[]);
        check(&[("START", 0), ("END", 14_400)], &[(0, 14_400)], &[]);
    }

    #[test]
    fn what_does_not_fit_is_unmatched() {
        check(
            &[("START", 0), ("END", 14_401)],
            &[],
            &[("START", 0), ("END", 14_401)],
        );
        check(
            &[("START", 1), ("END", 0)],
            &[],
            &[("END", 0), ("START", 1)],
        );
        check(
            &[("START", 0), ("START", 1), ("END", 2)],
            &[(0, 2)],
            &[("START", 1)],
        );
    }

    #[test]
    fn an_event_waits_for_four_hours() {
        let mut durations = testing::harness(job, [""; 0]).operator("durations");
        durations.push(event("START", 1), 1_000);
        durations.watermark(1_000 + PATIENCE_MS - 1);
        assert_eq!(durations.side_output(&UNMATCHED), []);
        durations.watermark(1_000 + PATIENCE_MS);
        assert_eq!(durations.side_output(&UNMATCHED), [event("START", 1_000)]);
    }

    #[test]
    fn an_event_at_the_watermark_is_late_and_another_kind_is_refused() {
        let mut durations = testing::harness(job, [""; 0]).operator("durations");
        durations.watermark(5_000);
        durations.push(event("END", 5), 5_000);
        assert_eq!(durations.side_output(&LATE), [event("END", 5_000)]);
        let refused = durations
            .try_push(event("PAUSE", 6), 6_000)
            .map_err(|e| e.message().to_owned());
        assert_eq!(refused, Err("`PAUSE` is neither START nor END".to_owned()));
    }
}
