//! What a declaration of state tells the host, and what reading it costs. The rules of time to live
//! are in `tests/guests/states`, which is run here and in the host.

use streamrt_sdk::Plan;
use streamrt_sdk::prelude::*;
use streamrt_sdk::testing::{self, Event, Operator};

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Vote {
    name: String,
    points: i64,
}

/// The mean; refuses negative numbers.
struct Mean;

#[derive(Record, Clone, Debug, PartialEq)]
struct SumAndCount {
    sum: i64,
    count: i64,
}

impl AggregateFunction for Mean {
    type In = i64;
    type Accumulator = SumAndCount;
    type Out = f64;

    fn create(&mut self) -> SumAndCount {
        SumAndCount { sum: 0, count: 0 }
    }
    fn add(&mut self, row: &i64, accumulator: &mut SumAndCount) -> Result<()> {
        accumulator.count += 1;
        accumulator.sum += row;
        if *row < 0 {
            Err(Error::new("points are not negative"))
        } else {
            Ok(())
        }
    }
    fn merge(&mut self, accumulator: &mut SumAndCount, other: &SumAndCount) -> Result<()> {
        *accumulator = SumAndCount {
            sum: accumulator.sum + other.sum,
            count: accumulator.count + other.count,
        };
        Ok(())
    }
    fn result(&mut self, accumulator: &SumAndCount) -> Result<f64> {
        Ok(accumulator.sum as f64 / accumulator.count as f64)
    }
}

/// Folds the points of a name, and clears at 99.
#[derive(Default)]
struct Folds {
    best: ReducingState<i64>,
    mean: AggregatingState<Mean>,
}

impl ProcessFunction for Folds {
    type In = Vote;
    type Key = ();
    type Out = String;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.best = setup.reducing("best", |best: &mut i64, other| *best = (*best).max(*other));
        self.mean = setup
            .aggregating("mean", Mean)
            .ttl(Ttl::of(secs(1)).on_read_and_write());
    }

    fn on_element(
        &mut self,
        vote: &Vote,
        _: &mut Context<'_, ()>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        if vote.points == 99 {
            self.best.clear();
            self.mean.clear();
        } else {
            self.best.add(vote.points);
            self.mean.add(&vote.points)?;
        }
        out.collect(format!("{:?} {:?}", self.best.get(), self.mean.get()?));
        Ok(())
    }
}

/// Reads the list of each key whose row asks for it.
#[derive(Default)]
struct Lists<const RENEWS: bool>(ListState<i64>);

impl<const RENEWS: bool> ProcessFunction for Lists<RENEWS> {
    type In = Vote;
    type Key = ();
    type Out = i64;

    fn open(&mut self, setup: &mut Setup) {
        let ttl = Ttl::of(millis(10));
        self.0 = setup
            .list("list")
            .ttl(if RENEWS { ttl.on_read_and_write() } else { ttl });
    }

    fn on_element(
        &mut self,
        vote: &Vote,
        _: &mut Context<'_, ()>,
        out: &mut Collector<i64>,
    ) -> Result<()> {
        self.0.add(vote.points);
        out.collect(self.0.len()? as i64);
        Ok(())
    }
}

/// A time to live below a millisecond.
#[derive(Default)]
struct Hasty(ValueState<i64>);

impl ProcessFunction for Hasty {
    type In = Vote;
    type Key = ();
    type Out = i64;

    fn open(&mut self, setup: &mut Setup) {
        self.0 = setup
            .value("hasty")
            .ttl(std::time::Duration::from_micros(999));
    }

    fn on_element(
        &mut self,
        _: &Vote,
        _: &mut Context<'_, ()>,
        _: &mut Collector<i64>,
    ) -> Result<()> {
        Ok(())
    }
}

fn jobs(env: &mut Env) {
    let votes = env
        .source("votes", Datagen::<Vote>::new().rows(10))
        .key_by(Vote::NAME);
    votes
        .process("folds", Folds::default())
        .sink("a", Blackhole);
    votes
        .process("plain", Lists::<false>::default())
        .sink("b", Blackhole);
    votes
        .process("renewed", Lists::<true>::default())
        .sink("c", Blackhole);
}

fn operator(uid: &str) -> Operator {
    testing::harness(jobs, [""]).operator(uid)
}

fn vote(name: &str, points: i64) -> Event<Vote> {
    Event::Row(
        Vote {
            name: name.into(),
            points,
        },
        0,
    )
}

#[test]
fn the_plan_says_what_the_declaration_says() {
    let plan: Plan = testing::plan(jobs, [""]).unwrap();
    let states = serde_json::to_value(&plan.functions[0].states).unwrap();
    let expected = serde_json::json!([
        {"name": "best", "kind": "reducing", "value": [{"name": "value", "type": "i64"}]},
        {"name": "mean", "kind": "aggregating", "value": [{"name": "sum", "type": "i64"}, {"name": "count", "type": "i64"}],
         "ttl-ms": 1000, "ttl-update": "on-read-and-write"},
    ]);
    assert_eq!(states, expected);
}

#[test]
fn folds_are_value_state_and_need_no_call_of_the_host() {
    let mut folds = operator("folds");
    folds.batch([vote("a", 4), vote("b", 1), vote("a", 7)]);
    folds.batch([vote("a", 1), vote("a", 99), vote("a", 2)]);
    let expected = [
        "Some(4) Some(4.0)",
        "Some(1) Some(1.0)",
        "Some(7) Some(5.5)",
        "Some(7) Some(4.0)",
        "None None",
        "Some(2) Some(2.0)",
    ];
    assert_eq!(folds.output::<String>(), expected);
    assert_eq!(
        (
            folds.state_calls(),
            folds.state_entries("best"),
            folds.state_entries("mean")
        ),
        (0, 2, 2)
    );
    assert_eq!(
        folds
            .try_push(
                Vote {
                    name: "a".into(),
                    points: -1
                },
                0
            )
            .unwrap_err()
            .message(),
        "points are not negative"
    );
    folds.push(
        Vote {
            name: "a".into(),
            points: 4,
        },
        0,
    );
    assert_eq!(folds.output::<String>(), ["Some(4) Some(3.0)"]);
}

#[test]
fn reading_one_list_renews_no_other_of_the_call() {
    for (uid, calls) in [("plain", 2), ("renewed", 3)] {
        let mut lists = operator(uid);
        lists.batch([vote("a", 1), vote("b", 2), vote("a", 3)]);
        assert_eq!(
            (lists.output::<i64>(), lists.state_calls()),
            (vec![1, 1, 2], calls),
            "{uid}"
        );
    }
}

#[test]
fn a_time_to_live_is_at_least_a_millisecond() {
    let job = |env: &mut Env| {
        let votes = env
            .source("votes", Datagen::<Vote>::new().rows(10))
            .key_by(Vote::NAME);
        votes
            .process("quick", Hasty::default())
            .sink("a", Blackhole);
    };
    let error = testing::plan(job, [""]).unwrap_err();
    assert!(
        error.message().starts_with("sdk/rust/tests/state.rs:"),
        "{}",
        error.message()
    );
    assert!(
        error
            .message()
            .ends_with(": quick: the time to live of state hasty must be at least 1 ms"),
        "{}",
        error.message()
    );
}
