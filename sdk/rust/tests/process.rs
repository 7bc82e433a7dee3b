//! Process functions through the harness: state, timers, side outputs, and the same results for
//! every way of cutting batches.

use streamrt_sdk::prelude::*;
use streamrt_sdk::testing::{self, Event, Operator};

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Vote {
    name: String,
    points: i64,
}

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Report {
    text: String,
    at: i64,
}

const ODD: OutputTag<Vote> = OutputTag::new("odd");

/// Uses every kind of state, both kinds of output, and timers that register and delete others.
#[derive(Default)]
struct Tally {
    sum: ValueState<i64>,
    last: ValueState<String>,
    best: ReducingState<i64>,
    all: ListState<Vote>,
    by_points: MapState<i64, String>,
}

impl ProcessFunction for Tally {
    type In = Vote;
    type Key = String;
    type Out = Report;

    fn open(&mut self, setup: &mut Setup) {
        self.sum = setup.value("sum");
        self.last = setup.value("last").ttl(hours(1));
        self.best = setup.reducing("best", |best: &mut i64, other| *best = (*best).max(*other));
        self.all = setup.list("all");
        self.by_points = setup.map("by-points");
    }

    fn on_element(
        &mut self,
        vote: &Vote,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<Report>,
    ) -> Result<()> {
        if vote.points < 0 {
            return Err(Error::new("points are not negative"));
        }
        let time = ctx.timestamp().unwrap_or_default();
        let sum = self.sum.update(|sum| {
            *sum += vote.points;
            *sum
        });
        let before = self.last.get().unwrap_or_default();
        self.last.set(format!("{}{}", before, vote.points));
        self.best.add(vote.points);
        self.all.add(vote.clone());
        if !self.by_points.contains(&vote.points)? {
            self.by_points.put(vote.points, format!("first at {time}"));
        }
        if vote.points % 2 == 1 {
            ctx.side(&ODD, vote);
        }
        ctx.register_event_timer(time + 10);
        out.collect(Report {
            text: format!(
                "{} {sum} {}",
                ctx.key(),
                self.last.get().unwrap_or_default()
            ),
            at: ctx.watermark(),
        });
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<Report>,
    ) -> Result<()> {
        let n = self.all.len()?;
        let entries = self.by_points.entries()?;
        let best = self.best.get().unwrap_or_default();
        out.collect(Report {
            text: format!("{} timer {n} {entries:?} best {best}", ctx.key()),
            at: time,
        });
        if n == 2 {
            self.all.clear();
            self.by_points.remove(&1);
            ctx.delete_event_timer(time + 5);
            ctx.register_event_timer(time + 3);
        }
        Ok(())
    }
}

fn job(env: &mut Env) {
    let votes = env.source("votes", File::csv::<Vote>("votes.csv"));
    let tally = votes.key_by(Vote::NAME).process("tally", Tally::default());
    tally.side_output(&ODD).sink("odd", Print);
    tally.sink("reports", Print);
    votes
        .key_by_fn("initial", |vote: &Vote| {
            vote.name.chars().take(1).collect::<String>()
        })
        .process("by-initial", Tally::default())
        .sink("b", Print);
}

fn tally() -> Operator {
    testing::harness(job, Vec::<String>::new()).operator("tally")
}

fn vote(name: &str, points: i64, time: i64) -> Event<Vote> {
    Event::Row(
        Vote {
            name: name.to_owned(),
            points,
        },
        time,
    )
}

/// One row or watermark after the other, then whatever they are cut into: all give the same.
fn check(events: &[Event<Vote>]) -> (Vec<Report>, Vec<Vote>) {
    let mut results = [1, 2, 3, 100].map(|n| {
        let mut tally = tally();
        events
            .chunks(n)
            .for_each(|chunk| tally.batch(chunk.to_vec()));
        (
            tally.output::<Report>(),
            tally.side_output(&ODD),
            tally.event_timers(),
        )
    });
    assert!(
        results.iter().all(|result| *result == results[0]),
        "{results:#?}"
    );
    let (reports, odd, _) = std::mem::take(&mut results[0]);
    (reports, odd)
}

#[test]
fn state_timers_and_side_outputs_do_not_depend_on_the_batch() {
    let (reports, odd) = check(&[
        vote("ann", 1, 0),
        vote("bob", 2, 5),
        vote("ann", 3, 5),
        Event::Watermark(9),
        vote("ann", 4, 1),
        Event::Watermark(10),
        Event::Watermark(13),
        vote("bob", 2, 30),
        Event::Watermark(100),
    ]);
    let texts: Vec<String> = reports
        .iter()
        .map(|report| format!("{} @{}", report.text, report.at))
        .collect();
    let start = i64::MIN;
    assert_eq!(
        texts,
        [
            format!("ann 1 1 @{start}"),
            format!("bob 2 2 @{start}"),
            format!("ann 4 13 @{start}"),
            "ann 8 134 @9".to_owned(),
            r#"ann timer 3 [(1, "first at 0"), (3, "first at 5"), (4, "first at 1")] best 4 @10"#
                .to_owned(),
            r#"ann timer 3 [(1, "first at 0"), (3, "first at 5"), (4, "first at 1")] best 4 @11"#
                .to_owned(),
            "bob 4 22 @13".to_owned(),
            r#"ann timer 3 [(1, "first at 0"), (3, "first at 5"), (4, "first at 1")] best 4 @15"#
                .to_owned(),
            r#"bob timer 2 [(2, "first at 5")] best 2 @15"#.to_owned(),
            r#"bob timer 0 [(2, "first at 5")] best 2 @18"#.to_owned(),
            r#"bob timer 0 [(2, "first at 5")] best 2 @40"#.to_owned(),
        ]
    );
    assert_eq!(
        odd.iter().map(|vote| vote.points).collect::<Vec<_>>(),
        [1, 3]
    );
}

#[test]
fn a_deleted_timer_does_not_fire() {
    // The timer at 10 sees two votes: it deletes the one at 15 and registers one at 13.
    let (reports, _) = check(&[vote("ann", 1, 0), vote("ann", 2, 5), Event::Watermark(20)]);
    let at: Vec<i64> = reports.iter().skip(2).map(|report| report.at).collect();
    assert_eq!(at, [10, 13]);
}

#[test]
fn a_failed_call_leaves_nothing_behind() {
    let mut tally = tally();
    let failed = tally.try_batch([vote("ann", 1, 0), vote("ann", -1, 1)]);
    assert_eq!(failed.unwrap_err().message(), "points are not negative");
    tally.push(
        Vote {
            name: "ann".into(),
            points: 5,
        },
        3,
    );
    assert_eq!(
        tally.output::<Report>(),
        [Report {
            text: "ann 5 5".into(),
            at: i64::MIN
        }]
    );
    assert_eq!(tally.event_timers(), [13]);
}

#[test]
fn a_key_may_be_computed() {
    let mut tally = testing::harness(job, Vec::<String>::new()).operator("by-initial");
    tally.batch([vote("ann", 1, 0), vote("alf", 2, 0), vote("bob", 4, 0)]);
    let texts: Vec<String> = tally
        .output::<Report>()
        .into_iter()
        .map(|report| report.text)
        .collect();
    assert_eq!(texts, ["a 1 1", "a 3 12", "b 4 4"]);
}

/// A keyed sum in value state alone.
#[derive(Default)]
struct Sum(ValueState<i64>);

impl ProcessFunction for Sum {
    type In = Vote;
    type Key = ();
    type Out = i64;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.0 = setup.value("sum");
    }

    fn on_element(
        &mut self,
        vote: &Vote,
        _: &mut Context<'_, ()>,
        out: &mut Collector<i64>,
    ) -> Result<()> {
        let sum = self.0.get().unwrap_or_default() + vote.points;
        self.0.set(sum);
        out.collect(sum);
        Ok(())
    }
}

/// Reads no column and lets the first row of a key pass.
#[derive(Default)]
struct Deduplicate(ValueState<bool>);

impl ProcessFunction for Deduplicate {
    type In = Vote;
    type Key = ();
    type Out = Forward;

    fn open(&mut self, setup: &mut Setup) {
        self.0 = setup.value("seen");
    }

    fn on_element(
        &mut self,
        _: &Vote,
        _: &mut Context<'_, ()>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        if self.0.is_set() {
            return Ok(());
        }
        self.0.set(true);
        out.forward()
    }
}

/// Fires by the clock, and once more from within.
#[derive(Default)]
struct Clock;

impl ProcessFunction for Clock {
    type In = Vote;
    type Key = String;
    type Out = Report;

    fn on_element(
        &mut self,
        _: &Vote,
        ctx: &mut Context<'_, String>,
        _: &mut Collector<Report>,
    ) -> Result<()> {
        ctx.register_processing_timer(ctx.processing_time() + 100);
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<Report>,
    ) -> Result<()> {
        assert_eq!(ctx.time_domain(), Some(TimeDomain::ProcessingTime));
        out.collect(Report {
            text: ctx.key().clone(),
            at: time,
        });
        if time < 200 {
            ctx.register_processing_timer(time + 50);
        }
        Ok(())
    }
}

fn small_jobs(env: &mut Env) {
    let votes = env.source("votes", Datagen::<Vote>::new().rows(10));
    votes
        .key_by(Vote::NAME)
        .process("sum", Sum::default())
        .sink("sums", Blackhole);
    votes
        .key_by(Vote::NAME)
        .process("first", Deduplicate::default())
        .sink("firsts", Blackhole);
    votes
        .key_by((Vote::NAME, Vote::POINTS))
        .process("by-both", Deduplicate::default())
        .sink("both", Blackhole);
    votes
        .key_by(Vote::NAME)
        .process("clock", Clock)
        .sink("ticks", Blackhole);
}

#[test]
fn value_state_needs_no_call_of_the_host() {
    let mut sum = testing::harness(small_jobs, [""]).operator("sum");
    sum.batch([vote("a", 1, 0), vote("b", 2, 0), vote("a", 3, 0)]);
    sum.push(
        Vote {
            name: "a".into(),
            points: 4,
        },
        0,
    );
    assert_eq!(sum.output::<i64>(), [1, 2, 4, 8]);
    assert_eq!(sum.state_calls(), 0);
}

#[test]
fn forwarded_rows_are_input_rows() {
    let mut jobs = testing::harness(small_jobs, [""]);
    let rows = [vote("a", 1, 0), vote("b", 2, 0), vote("a", 3, 0)];
    let points = |operator: &mut Operator| {
        operator
            .output::<Vote>()
            .iter()
            .map(|vote| vote.points)
            .collect::<Vec<_>>()
    };
    let mut first = jobs.operator("first");
    first.batch(rows.clone());
    assert_eq!(points(&mut first), [1, 2]);
    let mut both = jobs.operator("by-both");
    both.batch(rows.clone());
    both.batch(rows);
    assert_eq!(points(&mut both), [1, 2, 3]);
}

#[test]
fn processing_time_timers_follow_the_clock() {
    let mut clock = testing::harness(small_jobs, [""]).operator("clock");
    clock.batch([vote("b", 1, 0), vote("a", 1, 0)]);
    clock.processing_time(99);
    assert_eq!(clock.output::<Report>(), []);
    clock.processing_time(160);
    let ticks: Vec<_> = clock
        .output::<Report>()
        .into_iter()
        .map(|report| (report.at, report.text))
        .collect();
    assert_eq!(
        ticks.iter().map(|tick| tick.0).collect::<Vec<_>>(),
        [100, 100, 150, 150]
    );
    clock.processing_time(1000);
    assert_eq!(
        clock
            .output::<Report>()
            .iter()
            .map(|report| report.at)
            .collect::<Vec<_>>(),
        [200, 200]
    );
}
