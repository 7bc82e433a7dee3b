//! The test guest that fails on the line `bad`, as `--how` says. It counts to N million on `busy
//! N`, and makes N lines of 1 MiB of `wide N`; other lines pass. Or its job is put together
//! wrongly, as `--mistake` says. Run by `tests/tests/bad_input.rs` and `tests/tests/mistakes.rs`.

use std::hint::black_box;
use std::time::SystemTime;

use streamrt_sdk::prelude::*;
use streamrt_sdk::{dbg, eprintln, println};

#[derive(Record)]
struct Line {
    line: String,
}

/// Ends only when it is stopped from outside.
fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// Keeps the processor busy.
fn work(millions: u64) {
    (0..millions * 1_000_000).for_each(|n| {
        black_box(n);
    });
}

/// Grows without end. Each piece is kept, and written to, so that nothing can be optimised away.
fn hoard() -> ! {
    let mut pieces = Vec::new();
    loop {
        pieces.push(vec![1u8; black_box(1 << 20)]);
    }
}

/// Has something to do after the call, so that it cannot become a loop; and keeps nothing in
/// memory, so that the stack of calls, and not that of the guest's own, is what runs out.
#[expect(unconditional_recursion, reason = "the host must survive it")]
#[inline(never)]
fn dig(depth: u64) -> u64 {
    dig(depth + 1).wrapping_mul(3) ^ depth
}

fn fail(how: &str) -> Result<()> {
    match how {
        "loop" => spin(),
        "allocate" => hoard(),
        "recurse" => Err(Error::new(dig(0).to_string())),
        "panic" => panic!("this line is more than I can bear"),
        "clock" => Err(Error::new(format!("it is {:?}", SystemTime::now()))),
        _ => Err(Error::new("I do not like this line")),
    }
}

/// Prints in every way that there is.
fn print(line: &str) {
    println!("println has {line}\nin two lines");
    eprintln!("eprintln has {line}");
    let length = dbg![line.len()];
    streamrt_sdk::log(2, &format!("log has {length}"));
}

/// Registers timers, for which it would need a key.
struct Timed;

impl ProcessFunction for Timed {
    type In = Line;
    type Key = ();
    type Out = Forward;

    fn on_element(
        &mut self,
        _: &Line,
        ctx: &mut Context<'_, ()>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        ctx.register_processing_timer(1);
        out.forward()
    }
}

/// Looks at a key, which is a number.
struct ByNumber;

impl ProcessFunction for ByNumber {
    type In = Line;
    type Key = i64;
    type Out = Forward;

    fn open(&mut self, setup: &mut Setup) {
        let (_, _): (ValueState<i64>, ValueState<i64>) = (setup.value("seen"), setup.value("seen"));
    }

    fn on_element(
        &mut self,
        _: &Line,
        _: &mut Context<'_, i64>,
        out: &mut Collector<Forward>,
    ) -> Result<()> {
        out.forward()
    }
}

/// What the host would learn about lines.
#[derive(Record)]
struct Counted {
    line: String,
    count: i32,
}

/// Adds a mistake to the job.
fn mistake(what: &str, lines: &Stream<Line>) -> Result<()> {
    match what {
        "none" => {}
        "doubled-uid" => lines.filter("output", |_| true).sink("second", Print),
        "no-uid" => lines.filter("", |_| true).sink("second", Print),
        "no-key" => lines.process("by-number", ByNumber).sink("second", Print),
        "wrong-key" => lines
            .key_by(Line::LINE)
            .process("by-number", ByNumber)
            .sink("second", Print),
        "aggregate" => lines
            .key_by(Line::LINE)
            .aggregate_running::<Counted>("counts", [count().to("count")])
            .sink("second", Print),
        "timers" => lines.process("timed", Timed).sink("second", Print),
        "window" => lines
            .key_by(Line::LINE)
            .window(Tumbling::of(secs(0)))
            .reduce("none", |a: &Line, _| Line {
                line: a.line.clone(),
            })
            .sink("second", Print),
        "dead-end" => drop(lines.filter("unused", |_| true)),
        "panic" => panic!("the job is more than I can bear"),
        other => return Err(Error::new(format!("I know no mistake {other}"))),
    }
    Ok(())
}

/// Far more than one call may return.
fn flood(out: &mut Collector<Line>) {
    let line = "x".repeat(1 << 20);
    for _ in 0..100 {
        out.collect(Line { line: line.clone() });
    }
}

fn job(env: &mut Env) -> Result<()> {
    let how = env.arg_or("how", "refuse");
    if how == "describe-loop" {
        spin();
    }
    let lines = env.source("lines", File::lines(env.arg_or("input", "input")));
    let passed: Stream<Line> = lines.flat_map(
        "faulty",
        move |line: &String, out: &mut Collector<Line>| -> Result<()> {
            let (word, n) = line
                .split_once(' ')
                .map_or((line.as_str(), 0), |(word, n)| {
                    (word, n.parse().unwrap_or(0))
                });
            match (word, how.as_str()) {
                ("bad", "flood") => flood(out),
                ("bad", "print") => print(line),
                ("bad", how) => return fail(how),
                ("wide", _) => (0..n).for_each(|_| {
                    out.collect(Line {
                        line: "x".repeat(1 << 20),
                    })
                }),
                ("busy", _) => {
                    work(n);
                    out.collect(Line { line: line.clone() });
                }
                _ => out.collect(Line { line: line.clone() }),
            }
            Ok(())
        },
    );
    mistake(&env.arg_or("mistake", "none"), &passed)?;
    passed.sink("output", File::json(env.arg_or("output", "out")));
    Ok(())
}

streamrt_sdk::job!(job);
