//! Whole jobs natively: time, unions, broadcast streams, kills, and the place that a misuse is
//! reported at. `tests/tests/harness.rs` compares the harness with the host.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use streamrt_sdk::prelude::*;
use streamrt_sdk::testing;

#[derive(Record, Clone, Debug, PartialEq)]
struct Click {
    user: i64,
    time: i64,
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Count {
    user: i64,
    window_end: i64,
    count: i64,
}

fn click(user: i64, time: i64) -> Click {
    Click { user, time }
}

fn counted(user: i64, window_end: i64, count: i64) -> Count {
    Count {
        user,
        window_end,
        count,
    }
}

fn clicks(env: &mut Env, uid: &str) -> Stream<Click> {
    let marks = Watermarks::monotonous(Click::TIME).idle(secs(1));
    env.source(uid, File::csv::<Click>(uid)).watermarks(marks)
}

fn counts(clicks: &Stream<Click>, assigner: streamrt_sdk::Assigner) {
    let counts = clicks
        .key_by(Click::USER)
        .window(assigner)
        .aggregate::<Count>("counts", [count().to("count")]);
    counts.late().sink("late", Print);
    counts.sink("out", Print);
}

fn of_two(env: &mut Env) {
    let both = clicks(env, "a").union(&clicks(env, "b"));
    counts(&both, Tumbling::of(millis(10)));
}

#[test]
fn a_union_waits_for_the_lesser_watermark() {
    let mut job = testing::job(of_two, [""; 0]);
    job.push("a", [click(1, 5), click(1, 30)]);
    assert_eq!(
        (job.output::<Count>("out"), job.watermark("counts")),
        (Vec::new(), i64::MIN)
    );
    job.push("b", [click(1, 8), click(2, 12)]);
    assert_eq!(
        (job.output::<Count>("out"), job.watermark("counts")),
        (vec![counted(1, 10, 2)], 11)
    );
    job.push("b", [click(1, 3)]);
    assert_eq!(job.output::<Click>("late"), [click(1, 3)]);
    job.end("b");
    assert_eq!(
        (job.output::<Count>("out"), job.watermark("counts")),
        (vec![counted(2, 20, 1)], 29)
    );
    job.finish();
    assert_eq!(job.output::<Count>("out"), [counted(1, 40, 1)]);
}

#[test]
fn a_source_that_is_silent_for_long_holds_nothing_back() {
    let mut job = testing::job(of_two, [""; 0]);
    job.push("a", [click(1, 5)]);
    job.push("b", [click(1, 6)]);
    job.processing_time(900);
    job.push("a", [click(1, 20)]);
    job.processing_time(1000);
    assert_eq!(
        (job.output::<Count>("out"), job.watermark("counts")),
        (vec![counted(1, 10, 2)], 19)
    );
    // It comes back after the watermark, and is late.
    job.push("b", [click(2, 7), click(2, 25)]);
    assert_eq!(job.output::<Click>("late"), [click(2, 7)]);
}

#[test]
fn windows_of_processing_time_go_by_the_clock_of_the_test() {
    let job = |env: &mut Env| {
        counts(
            &env.source("a", File::csv::<Click>("a")),
            Tumbling::of(millis(100)).processing_time(),
        )
    };
    let mut job = testing::job(job, [""; 0]);
    job.push("a", [click(1, 7)]);
    job.processing_time(50);
    job.push("a", [click(1, 5), click(2, 5)]);
    job.processing_time(99);
    assert_eq!(job.output::<Count>("out"), []);
    job.processing_time(100);
    assert_eq!(
        job.output::<Count>("out"),
        [counted(1, 100, 2), counted(2, 100, 1)]
    );
}

/// Lets numbers pass that are above the last limit of their user, and counts what it has seen in
/// its own memory, which a kill takes.
#[derive(Default)]
struct Limits {
    limits: BroadcastState<i64, i64>,
    seen: i64,
}

impl BroadcastProcessFunction for Limits {
    type In = Click;
    type Broadcast = Count;
    type Key = i64;
    type Out = Click;

    fn open(&mut self, setup: &mut Setup) {
        self.limits = setup.broadcast("limits");
    }

    fn on_element(
        &mut self,
        click: &Click,
        ctx: &mut Context<'_, i64>,
        out: &mut Collector<Click>,
    ) -> Result<()> {
        self.seen += 1;
        if self
            .limits
            .get(ctx.key())?
            .is_some_and(|limit| click.time > limit)
        {
            out.collect(Click {
                user: self.seen,
                ..click.clone()
            });
        }
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        limit: &Count,
        _: &mut BroadcastContext<'_>,
        _: &mut Collector<Click>,
    ) -> Result<()> {
        self.limits.put(limit.user, limit.count)
    }
}

fn limited(env: &mut Env) {
    let limits = env
        .source("limits", File::csv::<Count>("limits"))
        .broadcast();
    let clicks = env.source("clicks", File::csv::<Click>("clicks"));
    clicks
        .key_by(Click::USER)
        .connect(&limits)
        .process("limited", Limits::default())
        .sink("out", Print);
}

#[test]
fn broadcast_state_outlasts_a_kill_and_memory_does_not() {
    let mut job = testing::job(limited, [""; 0]);
    job.push("clicks", [click(1, 50)]);
    job.push("limits", [counted(1, 0, 10)]);
    job.push("clicks", [click(1, 50), click(2, 50)]);
    assert_eq!(job.output::<Click>("out"), [click(2, 50)]);
    job.kill();
    job.push("clicks", [click(1, 11)]);
    assert_eq!(job.output::<Click>("out"), [click(1, 11)]);
}

#[test]
fn a_job_that_builds_another_plan_each_time_is_found() {
    thread_local!(static RUNS: RefCell<usize> = const { RefCell::new(0) });
    let job = |env: &mut Env| {
        let run = RUNS.with_borrow_mut(|runs| {
            *runs += 1;
            *runs
        });
        env.source("a", File::csv::<Click>(format!("{run}")))
            .sink("out", Print);
    };
    let mut job = testing::job(job, [""; 0]);
    assert!(
        told(|| job.kill())
            .0
            .contains("builds another plan when it runs a second time")
    );
}

#[test]
fn a_row_that_a_function_refuses_is_an_error_of_its_operator() {
    let job = |env: &mut Env| {
        let clicks = env.source("a", File::csv::<Click>("a"));
        let positive = clicks.map("positive", |click: &Click| {
            if click.user < 0 {
                Err(Error::new("it is negative"))
            } else {
                Ok(click.user)
            }
        });
        positive.sink("out", Print);
    };
    let mut job = testing::job(job, [""; 0]);
    let refused = job
        .try_push("a", [click(3, 0), click(-1, 0), click(4, 0)])
        .unwrap_err();
    assert_eq!(
        (refused.message(), job.output::<i64>("out")),
        ("positive: it is negative", vec![3])
    );
}

/// The message of a panic, and the line of this file that it points at.
fn told<T>(work: impl FnOnce() -> T) -> (String, u32) {
    thread_local!(static TOLD: RefCell<(String, String, u32)> = RefCell::default());
    static ONE_HOOK: Mutex<()> = Mutex::new(());
    let _hook = ONE_HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(|place| (place.file().to_owned(), place.line()))
            .unwrap_or_default();
        TOLD.set((
            panic.payload_as_str().unwrap_or_default().to_owned(),
            place.0,
            place.1,
        ));
    }));
    let panicked = catch_unwind(AssertUnwindSafe(work)).is_err();
    std::panic::set_hook(before);
    let (message, file, line) = TOLD.take();
    assert!(
        panicked && file.ends_with("tests/job.rs"),
        "{message} at {file}:{line}"
    );
    (message, line)
}

/// Whether a misuse is reported at the line on which it stands.
macro_rules! check {
    ($misuse:expr, $message:literal) => {
        let (message, line) = told(|| $misuse);
        assert_eq!(message, $message);
        assert!(
            (line!()..line!() + 5).contains(&line),
            "{message} at line {line}"
        );
    };
}

#[test]
fn misuse_points_at_the_caller() {
    let mut job = testing::job(of_two, [""; 0]);
    check!(
        job.push("c", [click(1, 1)]),
        "the job has no source c; it has a, b"
    );
    check!(
        job.push("a", [1i64]),
        "the rows of the source a are (user: i64, time: i64), not (value: i64)"
    );
    check!(
        job.output::<Count>("counts"),
        "the job has no sink counts; it has late, out"
    );
    check!(
        job.watermark("x"),
        "the job has no operator x; it has a, a-watermarks, b, b-watermarks, counts, late, out"
    );
    check!(job.end("out"), "the job has no source out; it has a, b");
    job.push("a", [click(1, 1)]);
    job.finish();
    check!(
        job.output::<Click>("out"),
        "the output has the columns (user: i64, window_end: i64, count: i64), not (user: i64, time: i64)"
    );
    check!(
        testing::job(
            |env: &mut Env| env.source("", File::lines("a")).sink("o", Print),
            ["x"]
        ),
        "the job does not build: the argument `x` belongs to no --name; it reads none"
    );
    let mut harness = testing::harness(limited, [""; 0]);
    check!(
        harness.operator("x"),
        "the job has no operator x; it has limits, clicks, limited, out"
    );
    let mut limited = harness.operator("limited");
    check!(
        limited.push(counted(1, 1, 1), 0),
        "limited failed: limited: the stream has no column time of that type: it has user, window_end, count"
    );
    check!(
        limited.state_entries("x"),
        "the function declares no state x"
    );
}
