//! Jumps and rises of a sensor's temperature, in the order of event time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::watermark::Watermark;
use super::{Outputs, at, seconds_to_ms};

const RISE_MS: i64 = 5_000;
const JUMP: f64 = 20.0;

#[derive(Serialize, Clone)]
struct Reading<'a> {
    sensor: &'a str,
    time: i64,
    temperature: f64,
}

#[derive(Serialize)]
struct Alert<'a> {
    sensor: &'a str,
    time: i64,
    kind: &'static str,
    from: f64,
    to: f64,
}

/// What is known of a sensor after its last reading.
struct Course<'a> {
    last: Reading<'a>,
    rise_began: Reading<'a>,
    rise_reported: bool,
}

fn parse(line: &str) -> Option<Reading<'_>> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[sensor, seconds, temperature] = fields.as_slice() else {
        return None;
    };
    Some(Reading {
        sensor,
        time: seconds_to_ms(seconds)?,
        temperature: temperature.parse().ok()?,
    })
}

impl<'a> Course<'a> {
    fn first(reading: Reading<'a>) -> Self {
        Course {
            last: reading.clone(),
            rise_began: reading,
            rise_reported: false,
        }
    }

    fn next(&mut self, reading: Reading<'a>, outputs: &mut Outputs) {
        let alert = |kind, from| Alert {
            sensor: reading.sensor,
            time: reading.time,
            kind,
            from,
            to: reading.temperature,
        };
        if (reading.temperature - self.last.temperature).abs() > JUMP {
            outputs.main(&alert("jump", self.last.temperature));
        }
        if reading.temperature > self.last.temperature {
            if !self.rise_reported && reading.time - self.rise_began.time >= RISE_MS {
                outputs.main(&alert("rise", self.rise_began.temperature));
                self.rise_reported = true;
            }
        } else {
            self.rise_began = reading.clone();
            self.rise_reported = false;
        }
        self.last = reading;
    }
}

/// Lateness goes by arrival; the rest by event time, so that what was not late is simply sorted
/// (stable: equal times in input order).
pub fn run(lines: &[&str]) -> Result<Outputs, String> {
    let mut watermark = Watermark::new(2_000);
    let mut outputs = Outputs::default();
    let mut readings = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let reading = at(number, parse(line), line)?;
        let time = reading.time;
        if time <= watermark.current() {
            outputs.push("late", &reading);
        } else {
            readings.push(reading);
        }
        watermark.raise(time);
    }
    readings.sort_by_key(|reading| reading.time);
    let mut courses: BTreeMap<&str, Course> = BTreeMap::new();
    for reading in readings {
        match courses.get_mut(reading.sensor) {
            Some(course) => course.next(reading, &mut outputs),
            None => drop(courses.insert(reading.sensor, Course::first(reading))),
        }
    }
    Ok(outputs)
}
