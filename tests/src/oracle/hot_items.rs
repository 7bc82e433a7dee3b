//! The three most clicked items of each hour, every five minutes.

use serde::Serialize;

use super::session_clicks::Behaviour;
use super::sliding::SlidingTop;
use super::{Outputs, at};

const MINUTE_MS: i64 = 60_000;

#[derive(Serialize)]
struct HotItem {
    window_end: i64,
    rank: u32,
    item: i64,
    count: u64,
}

pub fn run(lines: &[&str]) -> Result<Outputs, String> {
    let mut windows = SlidingTop::new(60 * MINUTE_MS, 5 * MINUTE_MS, 2_000, 3);
    let mut outputs = Outputs::default();
    for (number, line) in lines.iter().enumerate() {
        let behaviour = at(number, Behaviour::parse(line), line)?;
        if behaviour.behaviour == "pv" && !windows.count(behaviour.time, &behaviour.item) {
            outputs.push("late", &behaviour);
        }
        windows.advance(behaviour.time);
    }
    for row in windows.finish() {
        outputs.main(&HotItem {
            window_end: row.window_end,
            rank: row.rank,
            item: row.key,
            count: row.count,
        });
    }
    Ok(outputs)
}
