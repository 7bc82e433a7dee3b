//! hot-items: the three most clicked items of the last hour, every five minutes.
//!
//! 1. Watermarks are taken from every record, then only page views stay.
//! 2. The host counts per item in sliding windows.
//! 3. The counts of one window meet under the window's end as key. They all precede the watermark
//!    that fired it, so a timer after that end ranks them when all are there.

use streamrt_sdk::prelude::*;

/// A line of UserBehavior.csv.
#[derive(Record, Clone)]
struct Behaviour {
    user: i64,
    item: i64,
    category: i64,
    behaviour: String,
    /// Seconds on the way in, ms on the way out.
    time: i64,
}

/// Page views of an item in a window.
#[derive(Record, Clone)]
struct ItemCount {
    window_end: i64,
    item: i64,
    count: i64,
}

/// An item's place in a window.
#[derive(Record, Debug, PartialEq)]
struct HotItem {
    window_end: i64,
    rank: i64,
    item: i64,
    count: i64,
}

/// Ranks the counts of one window.
#[derive(Default)]
struct TopItems {
    counts: ListState<ItemCount>,
}

const PLACES: usize = 3;

impl ProcessFunction for TopItems {
    type In = ItemCount;
    type Key = i64;
    type Out = HotItem;

    fn open(&mut self, setup: &mut Setup) {
        self.counts = setup.list("counts");
    }

    fn on_element(
        &mut self,
        row: &ItemCount,
        ctx: &mut Context<'_, i64>,
        _out: &mut Collector<HotItem>,
    ) -> Result<()> {
        ctx.register_event_timer(row.window_end + 1);
        self.counts.add(row.clone());
        Ok(())
    }

    fn on_timer(
        &mut self,
        _time: i64,
        ctx: &mut Context<'_, i64>,
        out: &mut Collector<HotItem>,
    ) -> Result<()> {
        let window_end = *ctx.key();
        for (counted, rank) in top(self.counts.get()?).iter().zip(1..) {
            out.collect(HotItem {
                window_end,
                rank,
                item: counted.item,
                count: counted.count,
            });
        }
        self.counts.clear();
        Ok(())
    }
}

/// The most clicked items; among equals, the smaller number first.
fn top(mut counts: Vec<ItemCount>) -> Vec<ItemCount> {
    counts.sort_unstable_by_key(|counted| (-counted.count, counted.item));
    counts.truncate(PLACES);
    counts
}

fn in_ms(late: &Behaviour) -> Behaviour {
    Behaviour {
        time: late.time * 1000,
        ..late.clone()
    }
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output) = (env.arg_or("input", "input"), env.arg_or("output", "out"));
    let counts = env
        .source("behaviours", File::csv::<Behaviour>(input))
        .watermarks(Watermarks::bounded(Behaviour::TIME.seconds(), secs(2)))
        .filter_by("page-views", Behaviour::BEHAVIOUR, |behaviour| {
            behaviour == "pv"
        })
        .key_by(Behaviour::ITEM)
        .window(Sliding::of(hours(1), minutes(5)))
        .aggregate::<ItemCount>("counts", [count().to("count")]);
    counts
        .key_by(ItemCount::WINDOW_END)
        .process("top-items", TopItems::default())
        .sink("output", File::json(&output));
    counts
        .late()
        .map("late-in-ms", in_ms)
        .sink("late", File::json(format!("{output}/late")));
    Ok(())
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    #[test]
    fn items_are_ranked_when_all_counts_are_there() {
        let mut top = testing::harness(job, [""; 0]).operator("top-items");
        for (window_end, item, count) in [
            (300, 7, 2),
            (300, 9, 5),
            (300, 8, 2),
            (300, 1, 1),
            (600, 1, 4),
        ] {
            top.push(
                ItemCount {
                    window_end,
                    item,
                    count,
                },
                window_end - 1,
            );
        }
        top.watermark(300);
        assert_eq!(top.output::<HotItem>(), []);
        top.watermark(301);
        let place = |rank, item, count| HotItem {
            window_end: 300,
            rank,
            item,
            count,
        };
        assert_eq!(
            top.output::<HotItem>(),
            [place(1, 9, 5), place(2, 7, 2), place(3, 8, 2)]
        );
        top.watermark(i64::MAX);
        assert_eq!(
            top.output::<HotItem>(),
            [HotItem {
                window_end: 600,
                rank: 1,
                item: 1,
                count: 4
            }]
        );
    }
}
