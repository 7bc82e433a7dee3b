//! The START and the END of a ride, brought together; what finds no partner within four hours is
//! unmatched.

use std::collections::HashMap;

use serde::Serialize;

use super::watermark::Watermark;
use super::{Outputs, at, seconds_to_ms};

const PATIENCE_MS: i64 = 4 * 3_600_000;

#[derive(Serialize, Clone, PartialEq)]
struct Event<'a> {
    ride: &'a str,
    kind: &'a str,
    time: i64,
}

#[derive(Serialize)]
struct Ride<'a> {
    ride: &'a str,
    start: i64,
    end: i64,
    duration_ms: i64,
}

fn parse(line: &str) -> Option<Event<'_>> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[ride, kind @ ("START" | "END"), seconds] = fields.as_slice() else {
        return None;
    };
    Some(Event {
        ride,
        kind,
        time: seconds_to_ms(seconds)?,
    })
}

/// The ride of two events, if they are its two ends.
fn pair<'a>(one: &Event<'a>, other: &Event<'a>) -> Option<Ride<'a>> {
    let (start, end) = match (one.kind, other.kind) {
        ("START", "END") => (one, other),
        ("END", "START") => (other, one),
        _ => return None,
    };
    let duration_ms = end.time - start.time;
    (0..=PATIENCE_MS).contains(&duration_ms).then_some(Ride {
        ride: one.ride,
        start: start.time,
        end: end.time,
        duration_ms,
    })
}

/// Brings an event together with the one that waits for it longest, or lets it wait.
fn treat<'a>(waiting: &mut Vec<Event<'a>>, event: Event<'a>, outputs: &mut Outputs) {
    match waiting
        .iter()
        .enumerate()
        .find_map(|(i, other)| Some((i, pair(other, &event)?)))
    {
        Some((i, ride)) => {
            waiting.remove(i);
            outputs.main(&ride);
        }
        None => waiting.push(event),
    }
}

/// Sends away what has waited until the watermark.
fn expire(waiting: &mut HashMap<&str, Vec<Event>>, watermark: i64, outputs: &mut Outputs) {
    for events in waiting.values_mut() {
        for event in events.extract_if(.., |event| event.time + PATIENCE_MS <= watermark) {
            outputs.push("unmatched", &event);
        }
    }
}

pub fn run(lines: &[&str]) -> Result<Outputs, String> {
    let mut watermark = Watermark::new(2_000);
    let mut waiting: HashMap<&str, Vec<Event>> = HashMap::new();
    let mut outputs = Outputs::default();
    for (number, line) in lines.iter().enumerate() {
        let event = at(number, parse(line), line)?;
        let time = event.time;
        if time <= watermark.current() {
            outputs.push("late", &event);
        } else {
            treat(waiting.entry(event.ride).or_default(), event, &mut outputs);
        }
        watermark.raise(time);
        expire(&mut waiting, watermark.current(), &mut outputs);
    }
    expire(&mut waiting, i64::MAX, &mut outputs);
    Ok(outputs)
}
