//! hot-pages: the five most visited pages of the last ten minutes, every five seconds.
//!
//! 1. Lines are parsed; a line that is not a log line is a poison record.
//! 2. Watermarks are taken from every line, then only visits of pages stay.
//! 3. The host counts per path in sliding windows.
//! 4. The counts of one window meet under its end, and are ranked after it.

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

    fn on_element(
        &mut self,
        row: &PageCount,
        ctx: &mut Context<'_, i64>,
        _out: &mut Collector<HotPage>,
    ) -> Result<()> {
        ctx.register_event_timer(row.window_end + 1);
        self.counts.add(row.clone());
        Ok(())
    }

    fn on_timer(
        &mut self,
        _time: i64,
        ctx: &mut Context<'_, i64>,
        out: &mut Collector<HotPage>,
    ) -> Result<()> {
        let window_end = *ctx.key();
        for (counted, rank) in top(self.counts.get()?).into_iter().zip(1..) {
            out.collect(HotPage {
                window_end,
                rank,
                path: counted.path,
                count: counted.count,
            });
        }
        self.counts.clear();
        Ok(())
    }
}

/// The most visited pages; among equals, the smaller path first.
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
    counts
        .key_by(PageCount::WINDOW_END)
        .process("top-pages", TopPages::default())
        .sink("output", File::json(&output));
    counts
        .late()
        .sink("late", File::json(format!("{output}/late")));
    Ok(())
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    #[test]
    fn pages_are_what_people_get() {
        let mut pages = testing::harness(job, [""; 0]).operator("pages");
        for (method, path) in [
            ("GET", "/"),
            ("POST", "/"),
            ("GET", "/a.css"),
            ("GET", "/a.css?v=1"),
            ("GET", "/favicon.ico"),
            ("GET", "/js"),
        ] {
            let (ip, user, method, path) = (
                "1".to_owned(),
                "-".to_owned(),
                method.to_owned(),
                path.to_owned(),
            );
            pages.push(
                Visit {
                    ip,
                    user,
                    time: 0,
                    method,
                    path,
                },
                0,
            );
        }
        let paths: Vec<String> = pages
            .output::<Visit>()
            .into_iter()
            .map(|visit| visit.path)
            .collect();
        assert_eq!(paths, ["/", "/a.css?v=1", "/js"]);
    }

    #[test]
    fn pages_are_ranked_when_all_counts_are_there() {
        let mut top = testing::harness(job, [""; 0]).operator("top-pages");
        for (path, count) in [
            ("/b", 2),
            ("/a", 2),
            ("/c", 5),
            ("/d", 1),
            ("/e", 1),
            ("/f", 1),
        ] {
            top.push(
                PageCount {
                    window_end: 5_000,
                    path: path.to_owned(),
                    count,
                },
                4_999,
            );
        }
        top.watermark(5_001);
        let ranked: Vec<(i64, String)> = top
            .output::<HotPage>()
            .into_iter()
            .map(|page| (page.rank, page.path))
            .collect();
        assert_eq!(
            ranked,
            [(1, "/c"), (2, "/a"), (3, "/b"), (4, "/d"), (5, "/e")]
                .map(|(rank, path)| (rank, path.to_owned()))
        );
    }
}
