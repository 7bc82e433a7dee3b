//! The five most visited pages of ten minutes, every five seconds.

use serde::Serialize;

use super::apache_log::Visit;
use super::sliding::SlidingTop;
use super::{Outputs, at};

const SECOND_MS: i64 = 1_000;
const NO_PAGES: [&str; 4] = [".css", ".js", ".png", ".ico"];

#[derive(Serialize)]
struct HotPage {
    window_end: i64,
    rank: u32,
    path: String,
    count: u64,
}

fn is_page(visit: &Visit) -> bool {
    visit.method == "GET" && !NO_PAGES.iter().any(|suffix| visit.path.ends_with(suffix))
}

pub fn run(lines: &[&str]) -> Result<Outputs, String> {
    let mut windows = SlidingTop::new(600 * SECOND_MS, 5 * SECOND_MS, 60 * SECOND_MS, 5);
    let mut outputs = Outputs::default();
    for (number, line) in lines.iter().enumerate() {
        let visit = at(number, Visit::parse(line), line)?;
        if is_page(&visit) && !windows.count(visit.time, &visit.path) {
            outputs.push("late", &visit);
        }
        windows.advance(visit.time);
    }
    for row in windows.finish() {
        outputs.main(&HotPage {
            window_end: row.window_end,
            rank: row.rank,
            path: row.key.to_owned(),
            count: row.count,
        });
    }
    Ok(outputs)
}
