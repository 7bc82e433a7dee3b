//! hot-pages: the five most visited pages of the last ten minutes, every five seconds.
//!
//! 1. Lines are parsed; a line that is no log line is a poison record. 2. Watermarks are taken from every line, then only visits of pages
//! stay. 3. The host counts per path in sliding windows. 4. The counts of one window meet under its end, and are ranked behind it.

mod log_line;

use log_line::Visit;
use streamrt_sdk::prelude::*;

/// Visits of a page in a window.
#[derive(Record, Clone)]
struct PageCount {
    window_end: i64,
    path: String,
    count: i64,
}

/// A page's place in a window.
#[derive(Record, Debug, PartialEq)]
struct HotPage {
    window_end: i64,
    rank: i64,
    path: String,
    count: i64,
}

/// Ranks the counts of one window.
#[derive(Default)]
struct TopPages {
    counts: ListState<PageCount>,
}

const PLACES: usize = 5;
const NO_PAGES: [&str; 4] = [".css", ".js", ".png", ".ico"];

impl ProcessFunction for TopPages {
    type In = PageCount;
    type Key = i64;
    type Out = HotPage;

    fn open(&mut self, setup: &mut Setup) {
        self.counts = setup.list("counts");
    }

    fn on_element(&mut self, row: &PageCount, ctx: &mut Context<'_, i64>, _out: &mut Collector<HotPage>) -> Result<()> {
        ctx.register_event_timer(row.window_end + 1);
        self.counts.add(row.clone());
        Ok(())
    }

    fn on_timer(&mut self, _time: i64, ctx: &mut Context<'_, i64>, out: &mut Collector<HotPage>) -> Result<()> {
        let window_end = *ctx.key();
        for (counted, rank) in top(self.counts.get()?).into_iter().zip(1..) {
            out.collect(HotPage { window_end, rank, path: counted.path, count: counted.count });
        }
        self.counts.clear();
        Ok(())
    }
}

/// The most visited pages; of equals, the smaller path first.
fn top(mut counts: Vec<PageCount>) -> Vec<PageCount> {
    counts.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
    counts.truncate(PLACES);
    counts
}

fn is_page(visit: &Visit) -> bool {
    visit.method == "GET" && !NO_PAGES.iter().any(|suffix| visit.path.ends_with(suffix))
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output) = (env.arg_or("input", "input"), env.arg_or("output", "out"));
    let counts = env
        .source("lines", File::lines(input))
        .map("visits", |line: &String| log_line::parse(line))
        .watermarks(Watermarks::bounded(Visit::TIME, minutes(1)))
        .filter("pages", is_page)
        .key_by(Visit::PATH)
        .window(Sliding::of(minutes(10), secs(5)))
        .aggregate::<PageCount>("counts", [count().to("count")]);
    counts.key_by(PageCount::WINDOW_END).process("top-pages", TopPages::default()).sink("output", File::json(&output));
    counts.late().sink("late", File::json(format!("{output}/late")));
    Ok(())
}

streamrt_sdk::job!(job);
