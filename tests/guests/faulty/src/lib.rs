//! The test guest that fails on the line `bad`, in the way that `--how` says. It counts to N million on `busy N`, and makes N lines of 1 MiB of
//! `wide N`; other lines pass. Run by `tests/tests/bad_input.rs`.

use std::hint::black_box;

use streamrt_sdk::prelude::*;

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

/// Grows without end. Each piece is kept, and written to, so that nothing can be left out.
fn hoard() -> ! {
    let mut pieces = Vec::new();
    loop {
        pieces.push(vec![1u8; black_box(1 << 20)]);
    }
}

/// Has something to do behind the call, so that it cannot become a loop; and keeps nothing in memory, so that the stack of calls, and not
/// that of the guest's own, is what ends.
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
        _ => Err(Error::new("I do not like this line")),
    }
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
    let lines = env.source("lines", File::lines(env.arg_or("input", "input")));
    let passed: Stream<Line> = lines.flat_map("faulty", move |line: &String, out: &mut Collector<Line>| -> Result<()> {
        let (word, n) = line.split_once(' ').map_or((line.as_str(), 0), |(word, n)| (word, n.parse().unwrap_or(0)));
        match (word, how.as_str()) {
            ("bad", "flood") => flood(out),
            ("bad", how) => return fail(how),
            ("wide", _) => (0..n).for_each(|_| out.collect(Line { line: "x".repeat(1 << 20) })),
            ("busy", _) => {
                work(n);
                out.collect(Line { line: line.clone() });
            }
            _ => out.collect(Line { line: line.clone() }),
        }
        Ok(())
    });
    passed.sink("output", File::json(env.arg_or("output", "out")));
    Ok(())
}

streamrt_sdk::job!(job);
