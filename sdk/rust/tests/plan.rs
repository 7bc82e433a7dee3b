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
        .source(
            "clicks",
            File::csv::<Click>(env.arg("input")?).delimiter(';'),
        )
        .watermarks(Watermarks::bounded(Click::TIME.seconds(), secs(2)).idle(minutes(1)))
        .filter("pv", |click: &Click| click.behavior == "pv");
    let top = clicks
        .key_by(Click::ITEM)
        .window(Sliding::of(hours(1), minutes(5)))
        .allowed_lateness(secs(1))
        .aggregate::<Top>(
            "top",
            [
                count().to("count"),
                max(Click::PRICE).to("most"),
                key(Click::ITEM).to("id"),
                window_end().to("end"),
            ],
        );
    top.late().rebalance().sink("late", Print);
    top.parallelism(2).sink("out", File::json("out"));
    Ok(())
}

#[test]
fn a_plan_is_the_same_for_ever() {
    let plan = testing::plan(job, ["--input=clicks.csv"]).unwrap();
    let golden = include_str!("plan.json");
    let mut written: serde_json::Value = serde_json::from_str(&plan.to_json()).unwrap();
    for node in written["nodes"].as_array_mut().unwrap() {
        let place = node.as_object_mut().unwrap().remove("place").unwrap();
        assert!(
            place.as_str().unwrap().contains("tests/plan.rs:"),
            "{place}"
        );
    }
    let expected: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(
        written,
        expected,
        "{}",
        serde_json::to_string_pretty(&written).unwrap()
    );
}

/// A mistake in a job: its sentence, and the code of the WIT. Mistakes have their place in this
/// file.
#[track_caller]
fn check(job: fn(&mut Env) -> Result<()>, sentence: &str, code: u16) {
    let error = testing::plan(job, [""; 0]).unwrap_err();
    let (place, said) = error
        .message()
        .split_once(": ")
        .unwrap_or(("", error.message()));
    let place = place.split(':').map(str::to_owned).collect::<Vec<_>>();
    match &place[..] {
        [file, line, column] if code >= 10 => {
            assert!(
                file.ends_with("tests/plan.rs")
                    && line.parse::<u32>().is_ok()
                    && column.parse::<u32>().is_ok(),
                "{error}"
            );
            assert_eq!((said, error.code()), (sentence, code));
        }
        _ => assert_eq!((error.message(), error.code()), (sentence, code)),
    }
}

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Part {
    item: i32,
}

#[track_caller]
fn clicks(env: &mut Env) -> Stream<Click> {
    env.source("s", File::csv::<Click>(""))
}

fn keyed(env: &mut Env) -> KeyedStream<Click, i64> {
    env.source("s", File::csv::<Click>("")).key_by(Click::ITEM)
}

struct WrongKey;

impl ProcessFunction for WrongKey {
    type In = Click;
    type Key = String;
    type Out = Forward;

    fn on_element(
        &mut self,
        _: &Click,
        _: &mut Context<'_, String>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        out.forward()
    }
}

/// Has keyed state, and does not look at the key.
#[derive(Default)]
struct Counts {
    n: ValueState<i64>,
}

impl ProcessFunction for Counts {
    type In = Click;
    type Key = ();
    type Out = Forward;

    fn open(&mut self, setup: &mut Setup) {
        self.n = setup.value("n");
    }

    fn on_element(
        &mut self,
        _: &Click,
        _: &mut Context<'_, ()>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        self.n.set(1);
        out.forward()
    }
}

/// Says what its key is, while it sends a side output.
struct Upcount;

impl ProcessFunction for Upcount {
    type In = Click;
    type Key = i64;
    type Out = Forward;

    fn on_element(
        &mut self,
        click: &Click,
        ctx: &mut Context<'_, i64>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        ctx.side(
            &SEEN,
            Part {
                item: *ctx.key() as i32,
            },
        );
        ctx.register_event_timer(*ctx.key() + click.time);
        out.forward()
    }
}

const SEEN: OutputTag<Part> = OutputTag::new("seen");

/// Makes text loud.
struct Upper;

impl ProcessFunction for Upper {
    type In = String;
    type Key = ();
    type Out = String;

    fn on_element(
        &mut self,
        text: &String,
        _: &mut Context<'_, ()>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        out.collect(text.to_uppercase());
        Ok(())
    }
}

/// Declares two states with one name.
#[derive(Default)]
struct Twice;

impl ProcessFunction for Twice {
    type In = Click;
    type Key = ();
    type Out = Forward;

    fn open(&mut self, setup: &mut Setup) {
        let (_, _): (ValueState<i64>, ListState<i64>) = (setup.value("seen"), setup.list("seen"));
    }

    fn on_element(
        &mut self,
        _: &Click,
        _: &mut Context<'_, ()>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        out.forward()
    }
}

#[test]
fn mistakes_in_functions_are_sentences() {
    check(
        |env| done(keyed(env).process("p", Twice)),
        "p: it declares two states named seen",
        10,
    );
    check(
        |env| done(keyed(env).process("p", WrongKey)),
        "p: its type Key is string, but the key of the stream is i64; () takes any key",
        13,
    );
    check(
        |env| done(clicks(env).process("p", WrongKey)),
        "p: its type Key is string, but the stream has no key: call key_by in front of it",
        10,
    );
    check(
        |env| done(clicks(env).process("p", Counts::default())),
        "p: state n needs a key: call key_by in front of it",
        10,
    );
    check(
        |env| done(clicks(env).filter_on("f", |part: &Part| part.item > 0)),
        "f: the stream has no column item of that type: it is i64, not i32",
        13,
    );
    check(
        |env| done(clicks(env).filter_on("f", |top: &Top| top.id > 0)),
        "f: the stream has no column id of that type: it has user, item, behavior, price, time",
        13,
    );
}

#[test]
fn mistakes_in_the_graph_are_sentences() {
    check(
        |env| {
            env.source("s", File::lines(""))
                .process("p", Upper)
                .side_output(&OutputTag::<i64>::new("x"));
            done(
                env.source("t", File::lines(""))
                    .filter("f", |_| true)
                    .side_output(&OutputTag::<i64>::new("x")),
            )
        },
        "f: it has no side output x: only process functions have side outputs",
        10,
    );
    check(
        |env| done(env.source("", File::lines("")).sink("s", Print)),
        "the uid of an operator is empty: its state is found by it",
        11,
    );
    let twice = testing::plan(
        |env: &mut Env| env.source("s", File::lines("")).sink("s", Print),
        [""; 0],
    )
    .unwrap_err();
    assert_eq!(twice.code(), 12);
    let sentence = twice.message().split(": ").collect::<Vec<_>>();
    assert!(sentence[0].contains("tests/plan.rs:"), "{twice}");
    assert!(
        sentence[1].starts_with("the uid s is used twice, first at ")
            && sentence[1].contains("tests/plan.rs:"),
        "{twice}"
    );
}

#[test]
fn mistakes_in_aggregates_are_sentences() {
    check(
        |env| done(keyed(env).aggregate_running::<Top>("a", [count().to("sum")])),
        "a: the output record has no field sum; it has id, end, count, most",
        13,
    );
    check(
        |env| done(keyed(env).aggregate_running::<Top>("a", [count().to("count")])),
        "a: nothing fills the field id: it is no aggregate, key column (item)",
        13,
    );
    check(
        |env| done(keyed(env).aggregate_running::<Top>("a", [avg(Click::ITEM).to("id")])),
        "a: the field id has type i64, but what fills it has type f64",
        13,
    );
    check(
        |env| done(keyed(env).aggregate_running::<Top>("a", [key(Click::USER).to("id")])),
        "a: user is no key column; those are item",
        13,
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let job = |env: &mut Env| {
        let clicks = clicks(env);
        clicks.process("p", WrongKey).sink("p", Print);
        clicks.key_by(Click::ITEM).process("q", Twice);
    };
    let error = testing::plan(job, [""; 0]).unwrap_err();
    let lines: Vec<&str> = error.message().lines().collect();
    let [first, second, third] = &lines[..] else {
        panic!("{error}")
    };
    assert!(
        first.contains("p: its type Key")
            && second.contains("q: it declares two states")
            && third.contains("the uid p is used twice"),
        "{error}"
    );
    assert_eq!(error.code(), 10);
}

#[test]
fn streams_of_one_type_are_united() {
    let job = |env: &mut Env| {
        let (a, b) = (
            env.source("a", File::csv::<Click>("a")),
            env.source("b", File::csv::<Click>("b")),
        );
        let all = a
            .union(&b)
            .union(&a.filter("dear", |click: &Click| click.price > Some(1.0)));
        all.watermarks(Watermarks::monotonous(Click::TIME))
            .sink("out", Print);
        all.key_by(Click::ITEM)
            .process("p", Upcount)
            .sink("counts", Print);
    };
    let plan = testing::plan(job, [""; 0]).unwrap();
    let inputs = |uid: &str| {
        let node = plan.nodes.iter().find(|node| node.uid == uid).unwrap();
        node.inputs
            .iter()
            .map(|input| (plan.nodes[input.node as usize].uid.as_str(), input.input))
            .collect::<Vec<_>>()
    };
    let all = [("a", 0), ("b", 0), ("dear", 0)];
    assert_eq!(
        (inputs("a-b-dear-watermarks"), inputs("p")),
        (all.to_vec(), all.to_vec())
    );
}

#[test]
fn streams_that_cannot_be_united_are_refused() {
    check(
        |env| {
            let clicks = clicks(env);
            done(clicks.union(&clicks))
        },
        "the stream of s is united with itself: flat_map gives each row twice",
        10,
    );
    check(
        |env| {
            let (a, b) = (
                env.source("a", File::csv::<Click>("a")),
                env.source("b", File::csv::<Click>("b")),
            );
            done(a.rebalance().union(&b))
        },
        "the streams of a union are partitioned in different ways: call rebalance, broadcast or global after union",
        10,
    );
    check(
        |env| {
            let (a, b) = (
                env.source("a", File::csv::<Click>("a")),
                env.source("b", File::csv::<Click>("b")),
            );
            done(a.union(&b).parallelism(2))
        },
        "parallelism is for the stream of one operator, and this is a union: call it in front",
        10,
    );
}

#[test]
fn arguments_that_nothing_reads_are_refused() {
    let job = |env: &mut Env| {
        env.source("s", File::lines(env.arg_or("input", "input.txt")))
            .sink("out", Print);
    };
    let refused = testing::plan(job, ["--inptu", "x"]).unwrap_err();
    assert_eq!(
        (refused.message(), refused.code()),
        ("the job has no argument --inptu; did you mean --input?", 2)
    );
    check(
        |env| env.arg("input").map(drop),
        "the argument --input is missing",
        2,
    );
}

/// For jobs that end in a mistake.
fn done<T>(_: T) -> Result<()> {
    Ok(())
}
