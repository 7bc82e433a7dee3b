//! Two traces of sensor readings, watermark bound 2 s, tumbling windows of 5 s.

use super::functions::collecting;
use super::*;

const BASE: i64 = 1_547_718_000;

/// Turns lines into `[start,end) times` and `late time`, in seconds after the base.
fn check(lateness_ms: u64, seconds: &[i64], expected: &[&str]) {
    let input: Vec<(i64, i64)> = seconds
        .iter()
        .map(|second| (1, (BASE + second) * 1000))
        .collect();
    let short = |text: &str| (text.parse::<i64>().unwrap() / 1000 - BASE).to_string();
    let collected = run_all(
        2000,
        || collecting(tumbling(5000), lateness_ms, None),
        &input,
    );
    let lines: Vec<String> = collected
        .iter()
        .map(
            |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["+", _, start, end, times, _] => {
                    let times = times
                        .trim_matches('"')
                        .split(',')
                        .map(short)
                        .collect::<Vec<_>>()
                        .join(",");
                    format!("[{},{}) {times}", short(start), short(end))
                }
                ["late", _, time, _] => format!("late {}", short(time)),
                _ => panic!("{line}"),
            },
        )
        .collect();
    assert_eq!(lines, expected);
    let counted = run_all(2000, || builtin(tumbling(5000), lateness_ms), &input);
    let counts: Vec<String> = counted
        .iter()
        .filter(|line| line.starts_with('+'))
        .map(|line| line.split(' ').nth(4).unwrap().into())
        .collect();
    let n_times = |line: &&&str| line.starts_with('[');
    let expected: Vec<String> = expected
        .iter()
        .filter(n_times)
        .map(|line| line.split(',').count().saturating_sub(1).to_string())
        .collect();
    assert_eq!(counts, expected);
}

#[test]
fn trace_1_without_lateness() {
    let expected = [
        "[195,200) 199",
        "[200,205) 202,203,204",
        "[205,210) 205,206,207",
    ];
    check(0, &[199, 202, 203, 204, 205, 206, 207], &expected);
}

#[test]
fn trace_2_with_a_minute_of_lateness() {
    let expected = [
        "[210,215) 211,214",
        "[210,215) 211,214,212",
        "[215,220) 215,217,218",
        "[220,225) 222",
        "[280,285) 280",
        "[225,230) 228",
        "[225,230) 228,225",
        "[285,290) 288",
        "[290,295) 292",
        "late 212",
        "late 225",
    ];
    check(
        60_000,
        &[
            211, 215, 214, 217, 212, 218, 222, 280, 212, 288, 228, 225, 292, 225,
        ],
        &expected,
    );
}

#[test]
fn each_firing_stands_before_the_watermark_that_caused_it() {
    let input: Vec<(i64, i64)> = [199, 202, 207]
        .iter()
        .map(|second| (1, second * 1000))
        .collect();
    for batch_rows in BATCH_ROWS {
        let lines = run(2000, builtin(tumbling(5000), 0), &input, batch_rows);
        let expected = [
            "w 196999",
            "+ 1 195000 200000 1 199000 199000 @199999",
            "w 199999",
            "+ 1 200000 205000 1 202000 202000 @204999",
            "w 204999",
            "+ 1 205000 210000 1 207000 207000 @209999",
            "end",
        ];
        assert_eq!(lines[..expected.len()], expected);
    }
}
