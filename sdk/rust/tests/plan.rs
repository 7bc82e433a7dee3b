//! The plan of a job, and the sentences for jobs that do not build.

use streamrt_sdk::prelude::*;
use streamrt_sdk::testing;

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Click {
    user: i64,
    item: i64,
    behavior: String,
    price: Option<f64>,
    time: i64,
}

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Top {
    id: i64,
    end: i64,
    count: i64,
    most: Option<f64>,
}

fn job(env: &mut Env) -> Result<()> {
    let clicks = env
        .source("clicks", File::csv::<Click>(env.arg("input")?).delimiter(';'))
        .watermarks(Watermarks::bounded(Click::TIME.seconds(), secs(2)).idle(minutes(1)))
        .filter("pv", |click: &Click| click.behavior == "pv");
    let top = clicks
        .key_by(Click::ITEM)
        .window(Sliding::of(hours(1), minutes(5)))
        .allowed_lateness(secs(1))
        .aggregate::<Top>("top", [count().to("count"), max(Click::PRICE).to("most"), key(Click::ITEM).to("id"), window_end().to("end")]);
    top.late().rebalance().sink("late", Print);
    top.parallelism(2).sink("out", File::json("out"));
    Ok(())
}

#[test]
fn a_plan_is_the_same_for_ever() {
    let plan = testing::plan(job, ["--input=clicks.csv"]).unwrap();
    let golden = include_str!("plan.json");
    let written: serde_json::Value = serde_json::from_str(&plan.to_json()).unwrap();
    let expected: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(written, expected, "{}", serde_json::to_string_pretty(&written).unwrap());
}

/// A mistake in a job, its sentence, and the code of the WIT.
fn check(job: fn(&mut Env) -> Result<()>, sentence: &str, code: u16) {
    let error = testing::plan(job, [""]).unwrap_err();
    assert_eq!((error.message(), error.code()), (sentence, code));
}

fn keyed(env: &mut Env) -> KeyedStream<Click, i64> {
    env.source("s", File::csv::<Click>("")).key_by(Click::ITEM)
}

struct WrongKey;

impl ProcessFunction for WrongKey {
    type In = Click;
    type Key = String;
    type Out = Forward;

    fn on_element(&mut self, _: &Click, _: &mut Context<'_, String>, out: &mut Collector<Forward>) -> Result<()> {
        out.forward()
    }
}

/// Makes text loud.
struct Upper;

impl ProcessFunction for Upper {
    type In = String;
    type Key = ();
    type Out = String;

    fn on_element(&mut self, text: &String, _: &mut Context<'_, ()>, out: &mut Collector<String>) -> Result<()> {
        out.collect(text.to_uppercase());
        Ok(())
    }
}

/// Declares two states of one name.
#[derive(Default)]
struct Twice;

impl ProcessFunction for Twice {
    type In = Click;
    type Key = ();
    type Out = Forward;

    fn open(&mut self, setup: &mut Setup) {
        let (_, _): (ValueState<i64>, ListState<i64>) = (setup.value("seen"), setup.list("seen"));
    }

    fn on_element(&mut self, _: &Click, _: &mut Context<'_, ()>, out: &mut Collector<Forward>) -> Result<()> {
        out.forward()
    }
}

#[test]
fn mistakes_are_sentences() {
    check(
        |env| {
            keyed(env).process("p", Twice);
            Ok(())
        },
        "p: it declares two states named seen",
        1,
    );
    check(
        |env| {
            env.source("s", File::lines("")).process("p", Upper).side_output(&OutputTag::<i64>::new("x"));
            env.source("t", File::lines("")).filter("f", |_| true).side_output(&OutputTag::<i64>::new("x"));
            Ok(())
        },
        "f: it has no side output x: only process functions have side outputs",
        1,
    );
    check(|env| env.arg("input").map(drop), "the argument --input is missing", 2);
    check(
        |env| {
            env.source("s", File::lines("")).sink("s", Print);
            Ok(())
        },
        "the uid s is used twice",
        1,
    );
    check(
        |env| {
            env.source("", File::lines("")).sink("s", Print);
            Ok(())
        },
        "operator 0 has an empty uid",
        1,
    );
    check(
        |env| {
            keyed(env).aggregate_running::<Top>("a", [count().to("sum")]);
            Ok(())
        },
        "a: the output record has no field sum",
        1,
    );
    check(
        |env| {
            keyed(env).aggregate_running::<Top>("a", [count().to("count")]);
            Ok(())
        },
        "a: nothing fills the field id: it is no aggregate, key column",
        1,
    );
    check(
        |env| {
            keyed(env).aggregate_running::<Top>("a", [avg(Click::ITEM).to("id")]);
            Ok(())
        },
        "a: the field id has type i64, but what fills it has type f64",
        1,
    );
    check(
        |env| {
            keyed(env).process("p", WrongKey).sink("o", Print);
            Ok(())
        },
        "p: the function's type Key is neither () nor the type of the stream's key",
        1,
    );
}
