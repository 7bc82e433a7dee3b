//! The sessions of each user, with the number of clicks.

use std::collections::HashMap;

use serde::Serialize;

use super::watermark::Watermark;
use super::{Outputs, at, seconds_to_ms};

const GAP_MS: i64 = 30 * 60_000;

/// A line of UserBehavior.csv.
#[derive(Serialize)]
pub struct Behaviour<'a> {
    pub user: i64,
    pub item: i64,
    pub category: i64,
    pub behaviour: &'a str,
    pub time: i64,
}

impl Behaviour<'_> {
    pub fn parse(line: &str) -> Option<Behaviour<'_>> {
        let fields: Vec<&str> = line.split(',').collect();
        let &[user, item, category, behaviour, seconds] = fields.as_slice() else {
            return None;
        };
        let number = |text: &str| text.parse::<i64>().ok();
        Some(Behaviour {
            user: number(user)?,
            item: number(item)?,
            category: number(category)?,
            behaviour,
            time: seconds_to_ms(seconds)?,
        })
    }
}

#[derive(Serialize, Clone)]
struct Session {
    user: i64,
    start: i64,
    end: i64,
    clicks: u64,
}

/// Merges a new session into those that it overlaps or touches. None, and nothing changes: the
/// result is late already.
fn merge(open: &mut Vec<Session>, new: Session, watermark: i64) -> Option<()> {
    let meets = |old: &Session| old.start <= new.end && old.end >= new.start;
    let merged = open
        .iter()
        .filter(|old| meets(old))
        .fold(new.clone(), |a, b| Session {
            user: a.user,
            start: a.start.min(b.start),
            end: a.end.max(b.end),
            clicks: a.clicks + b.clicks,
        });
    if merged.end - 1 <= watermark {
        return None;
    }
    open.retain(|old| !meets(old));
    open.push(merged);
    Some(())
}

/// Reports the sessions that the watermark has passed.
fn fire(open: &mut HashMap<i64, Vec<Session>>, watermark: i64, outputs: &mut Outputs) {
    for sessions in open.values_mut() {
        for session in sessions.extract_if(.., |session| session.end - 1 <= watermark) {
            outputs.main(&session);
        }
    }
    open.retain(|_, sessions| !sessions.is_empty());
}

pub fn run(lines: &[&str]) -> Result<Outputs, String> {
    let mut watermark = Watermark::new(2_000);
    let mut open: HashMap<i64, Vec<Session>> = HashMap::new();
    let mut outputs = Outputs::default();
    for (number, line) in lines.iter().enumerate() {
        let click = at(number, Behaviour::parse(line), line)?;
        let session = Session {
            user: click.user,
            start: click.time,
            end: click.time + GAP_MS,
            clicks: 1,
        };
        if merge(
            open.entry(click.user).or_default(),
            session,
            watermark.current(),
        )
        .is_none()
        {
            outputs.push("late", &click);
        }
        let before = watermark.current();
        watermark.raise(click.time);
        if watermark.current() > before {
            fire(&mut open, watermark.current(), &mut outputs);
        }
    }
    fire(&mut open, i64::MAX, &mut outputs);
    Ok(outputs)
}
