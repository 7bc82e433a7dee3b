//! Operator state and broadcast-process functions through the harness, and the sentences for jobs
//! that use them wrongly.

use streamrt_sdk::prelude::*;
use streamrt_sdk::testing::{self, Event};
use streamrt_wit::{FunctionKind, Partitioning, StateKind};

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Reading {
    sensor: String,
    value: i64,
}

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Rule {
    name: String,
    highest: i64,
}

const REFUSED: OutputTag<Rule> = OutputTag::new("refused");

/// Reports readings above the limits, a second later; rules below zero go to a side output, and
/// "all" forgets the others.
#[derive(Default)]
struct Rules {
    limits: BroadcastState<String, i64>,
    over: ValueState<i64>,
    write: bool,
    read_key: bool,
}

impl BroadcastProcessFunction for Rules {
    type In = Reading;
    type Broadcast = Rule;
    type Key = String;
    type Out = String;

    fn open(&mut self, setup: &mut Setup) {
        self.over = setup.value("over");
        self.limits = setup.broadcast("limits");
    }

    fn on_element(
        &mut self,
        reading: &Reading,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        for (name, highest) in self.limits.entries()? {
            if reading.value > highest {
                out.collect(&format!("{} > {name}", ctx.key()));
                self.over.update(|over| *over += 1);
                ctx.register_event_timer(ctx.timestamp().unwrap_or_default() + 1000);
            }
        }
        if self.write {
            self.limits.put("mine".into(), 1)
        } else {
            Ok(())
        }
    }

    fn on_broadcast(
        &mut self,
        rule: &Rule,
        ctx: &mut BroadcastContext<'_>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        if rule.name == "all" {
            self.limits.clear()?;
        }
        if self.read_key {
            self.over.get();
        }
        self.limits.put(rule.name.clone(), rule.highest)?;
        let known: Vec<String> = self
            .limits
            .entries()?
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        out.collect(&format!(
            "at {:?} under {}: {}",
            ctx.timestamp(),
            ctx.watermark(),
            known.join(" ")
        ));
        if rule.highest < 0 {
            ctx.side(&REFUSED, rule);
            return Err(Error::new("a limit below zero"));
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        out.collect(&format!(
            "{} {} times until {time}",
            ctx.key(),
            self.over.get().unwrap_or_default()
        ));
        Ok(())
    }
}

fn connected(env: &mut Env, rules: Rules) {
    let broadcast = env
        .source("rules", File::csv::<Rule>("rules.csv"))
        .broadcast();
    let readings = env.source("readings", File::csv::<Reading>("readings.csv"));
    let reports = readings
        .key_by(Reading::SENSOR)
        .connect(&broadcast)
        .process("reports", rules);
    reports.side_output(&REFUSED).sink("refused", Print);
    reports.sink("out", Print);
}

fn job(env: &mut Env) {
    connected(env, Rules::default());
}

fn reading(sensor: &str, value: i64) -> Reading {
    Reading {
        sensor: sensor.into(),
        value,
    }
}

fn rule(name: &str, highest: i64) -> Rule {
    Rule {
        name: name.into(),
        highest,
    }
}

#[test]
fn rows_meet_what_was_broadcast_before_them() {
    let mut reports = testing::harness(job, [""; 0]).operator("reports");
    reports.push(reading("a", 50), 1);
    reports.push_broadcast(rule("low", 10), 2);
    reports.push_broadcast(rule("high", 40), 3);
    assert_eq!(
        reports.output::<String>(),
        [
            format!("at Some(2) under {}: low", i64::MIN),
            format!("at Some(3) under {}: high low", i64::MIN)
        ]
    );
    reports.batch([
        Event::Row(reading("a", 50), 100),
        Event::Row(reading("b", 20), 200),
        Event::Watermark(1100),
    ]);
    reports.push_broadcast(rule("all", 60), 1200);
    reports.push(reading("b", 50), 1200);
    reports.watermark(1300);
    let expected = [
        "a > high",
        "a > low",
        "b > low",
        "a 2 times until 1100",
        "at Some(1200) under 1100: all",
        "b 1 times until 1200",
    ];
    assert_eq!(reports.output::<String>(), expected);
    assert_eq!(
        (
            reports.state_entries("limits"),
            reports.state_entries("over")
        ),
        (1, 2)
    );
}

#[test]
fn a_broadcast_row_that_is_refused_leaves_everything_as_it_was() {
    let mut reports = testing::harness(job, [""; 0]).operator("reports");
    reports.push_broadcast(rule("low", 10), 2);
    assert_eq!(
        reports
            .try_push_broadcast(rule("all", -1), 3)
            .unwrap_err()
            .message(),
        "a limit below zero"
    );
    reports.push(reading("a", 20), 4);
    assert_eq!(reports.output::<String>()[1..], ["a > low"]);
    assert_eq!(
        (
            reports.side_output(&REFUSED),
            reports.state_entries("limits")
        ),
        (Vec::new(), 1)
    );
}

#[test]
fn the_other_side_reads_and_does_not_write() {
    let mut reports = testing::harness(
        |env: &mut Env| {
            connected(
                env,
                Rules {
                    write: true,
                    ..Rules::default()
                },
            )
        },
        [""; 0],
    )
    .operator("reports");
    let sentence = "broadcast state limits can be written in on_broadcast alone, or the subtasks' copies would differ";
    assert_eq!(
        reports.try_push(reading("a", 1), 1).unwrap_err().message(),
        sentence
    );
    reports.push_broadcast(rule("low", 10), 2);
    assert_eq!(reports.state_entries("limits"), 1);
}

#[test]
#[should_panic(expected = "broadcast rows have none")]
fn broadcast_rows_have_no_state_by_key() {
    let mut reports = testing::harness(
        |env: &mut Env| {
            connected(
                env,
                Rules {
                    read_key: true,
                    ..Rules::default()
                },
            )
        },
        [""; 0],
    )
    .operator("reports");
    reports.push(reading("a", 1), 1);
    reports.push_broadcast(rule("low", 10), 2);
}

/// Pairs the rows of a subtask.
#[derive(Default)]
struct Pairs {
    first: ListState<i64>,
    seen: ListState<i64>,
    key: bool,
    ttl: bool,
}

impl ProcessFunction for Pairs {
    type In = Reading;
    type Key = ();
    type Out = String;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.first = setup.operator_list("first");
        self.seen = setup.union_list("seen");
        if self.ttl {
            self.seen = std::mem::take(&mut self.seen).ttl(secs(1));
        }
        if self.key {
            setup.value::<i64>("by-key");
        }
    }

    fn on_element(
        &mut self,
        reading: &Reading,
        _: &mut Context<'_, ()>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        self.seen.add(reading.value);
        match self.first.get()?.first() {
            None => self.first.add(reading.value),
            Some(first) => {
                out.collect(&format!(
                    "{first} {} of {}",
                    reading.value,
                    self.seen.len()?
                ));
                self.first.clear();
            }
        }
        if reading.value < 0 {
            Err(Error::new("a negative value"))
        } else {
            Ok(())
        }
    }
}

fn pairs(env: &mut Env, pairs: Pairs) {
    env.source("readings", File::csv::<Reading>("readings.csv"))
        .process("pairs", pairs)
        .sink("out", Print);
}

#[test]
fn lists_of_a_subtask_need_no_key() {
    let mut operator =
        testing::harness(|env: &mut Env| pairs(env, Pairs::default()), [""; 0]).operator("pairs");
    operator.batch((1..=5).map(|value| Event::Row(reading("a", value), 0)));
    assert_eq!(operator.output::<String>(), ["1 2 of 2", "3 4 of 4"]);
    assert!(operator.try_push(reading("a", -6), 0).is_err());
    operator.push(reading("a", 6), 0);
    assert_eq!(operator.output::<String>(), ["5 6 of 6"]);
    assert_eq!(
        (
            operator.state_entries("first"),
            operator.state_entries("seen")
        ),
        (0, 6)
    );
}

#[test]
fn the_plan_says_what_is_state_of_the_subtask_and_what_is_broadcast() {
    let plan = testing::plan(job, [""; 0]).unwrap();
    let function = &plan.functions[0];
    assert_eq!(
        (function.kind, function.second_input.len()),
        (FunctionKind::BroadcastProcess, 2)
    );
    assert_eq!(
        function
            .states
            .iter()
            .map(|state| state.kind)
            .collect::<Vec<_>>(),
        [StateKind::Value, StateKind::Broadcast]
    );
    let inputs: Vec<_> = plan.nodes[2]
        .inputs
        .iter()
        .map(|input| (input.node, input.input, input.partitioning.clone()))
        .collect();
    assert_eq!(
        inputs,
        [
            (
                1,
                0,
                Partitioning::Hash {
                    columns: vec!["sensor".into()]
                }
            ),
            (0, 1, Partitioning::Broadcast)
        ]
    );
}

#[track_caller]
fn check(job: fn(&mut Env), sentence: &str) {
    let error = testing::plan(job, [""; 0]).unwrap_err();
    let (place, message) = error.message().split_once(": ").unwrap();
    assert!(
        place.starts_with("sdk/rust/tests/operator_state.rs:"),
        "{place}"
    );
    assert_eq!(message, sentence);
}

#[test]
fn jobs_that_cannot_be_are_refused_with_a_sentence() {
    let by_key = |env: &mut Env| {
        pairs(
            env,
            Pairs {
                key: true,
                ..Pairs::default()
            },
        )
    };
    check(
        by_key,
        "pairs: state by-key needs a key: call key_by in front of it",
    );
    let expires = |env: &mut Env| {
        pairs(
            env,
            Pairs {
                ttl: true,
                ..Pairs::default()
            },
        )
    };
    check(
        expires,
        "pairs: operator state has no time to live, but seen is given one",
    );
    let not_broadcast = |env: &mut Env| {
        let rules = env.source("rules", File::csv::<Rule>("rules.csv"));
        let readings = env.source("readings", File::csv::<Reading>("readings.csv"));
        readings
            .key_by(Reading::SENSOR)
            .connect(&rules)
            .process("reports", Rules::default())
            .sink("out", Print);
    };
    check(
        not_broadcast,
        "reports: the stream that it is connected with must be broadcast: call broadcast() on it",
    );
    let without_key = |env: &mut Env| {
        let rules = env
            .source("rules", File::csv::<Rule>("rules.csv"))
            .broadcast();
        env.source("readings", File::csv::<Reading>("readings.csv"))
            .connect(&rules)
            .process("reports", Rules::default())
            .sink("out", Print);
    };
    check(
        without_key,
        "reports: state over needs a key: call key_by in front of it",
    );
}
