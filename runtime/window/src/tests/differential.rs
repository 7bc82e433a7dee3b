//! Random rows through every way of keeping windows, against a plain simulation of Flink's rules,
//! one row at a time.

use super::functions::{collecting, counting};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Windows of a key by bounds, with the times of their rows.
type Windows = BTreeMap<(i64, i64, i64), Vec<i64>>;

struct Oracle {
    assigner: WindowAssigner,
    lateness: i64,
    watermark: i64,
    windows: Windows,
    lines: Vec<String>,
}

impl Oracle {
    fn assign(&self, time: i64) -> Vec<(i64, i64)> {
        match self.assigner {
            WindowAssigner::Session { gap_ms, .. } => vec![(time, time + gap_ms)],
            WindowAssigner::Sliding {
                size_ms, slide_ms, ..
            } => {
                let remainder = time % slide_ms;
                let last = time
                    - if remainder < 0 {
                        remainder + slide_ms
                    } else {
                        remainder
                    };
                (0..)
                    .map(|n| last - n * slide_ms)
                    .take_while(|start| *start > time - size_ms)
                    .map(|start| (start, start + size_ms))
                    .collect()
            }
            _ => unreachable!(),
        }
    }

    fn fire(&mut self, window: (i64, i64, i64)) {
        let times = &self.windows[&window];
        self.lines.push(format!(
            "+ {} {} {} {} {times:?} @{}",
            window.0,
            window.1,
            window.2,
            times.len(),
            window.2 - 1
        ));
    }

    /// Merges windows that touch, for sessions.
    fn merge(&mut self, key: i64, bounds: (i64, i64)) -> Option<(i64, i64)> {
        let WindowAssigner::Session { .. } = self.assigner else {
            return Some(bounds);
        };
        let touched: Vec<_> = self
            .windows
            .keys()
            .copied()
            .filter(|w| w.0 == key && w.1 <= bounds.1 && w.2 >= bounds.0)
            .collect();
        let merged = touched
            .iter()
            .fold(bounds, |m, w| (m.0.min(w.1), m.1.max(w.2)));
        if merged.1 - 1 + self.lateness <= self.watermark {
            return None;
        }
        let mut times = Vec::new();
        touched
            .iter()
            .for_each(|w| times.extend(self.windows.remove(w).unwrap()));
        if !times.is_empty() {
            self.windows.insert((key, merged.0, merged.1), times);
        }
        Some(merged)
    }

    fn row(&mut self, key: i64, time: i64) {
        let mut skipped = true;
        for bounds in self.assign(time) {
            let Some((start, end)) = self.merge(key, bounds) else {
                continue;
            };
            if end - 1 + self.lateness <= self.watermark {
                continue;
            }
            skipped = false;
            self.windows
                .entry((key, start, end))
                .or_default()
                .push(time);
            if end - 1 <= self.watermark {
                self.fire((key, start, end));
            }
        }
        if skipped && time + self.lateness <= self.watermark {
            self.lines.push(format!("late {key} {time} @{time}"));
        }
    }

    fn rise(&mut self, watermark: i64) {
        let mut due: Vec<_> = self
            .windows
            .keys()
            .copied()
            .filter(|w| self.watermark < w.2 - 1 && w.2 - 1 <= watermark)
            .collect();
        due.sort_by_key(|w| w.2);
        let step = if let WindowAssigner::Session { gap_ms, .. } = self.assigner {
            gap_ms
        } else {
            1
        };
        let mut last = None;
        for window in due {
            let time = window.2 - 1;
            if let Some(before) = last
                .replace(time)
                .filter(|before: &i64| before.div_euclid(step) < time.div_euclid(step))
            {
                self.lines.push(format!("w {before}"));
            }
            self.fire(window);
        }
        self.watermark = watermark;
        let lateness = self.lateness;
        self.windows
            .retain(|w, _| (w.2 - 1).saturating_add(lateness) > watermark);
    }
}

fn simulate(assigner: &WindowAssigner, lateness: i64, bound: i64, input: Input<'_>) -> Vec<String> {
    let mut oracle = Oracle {
        assigner: assigner.clone(),
        lateness,
        watermark: i64::MIN,
        windows: Windows::new(),
        lines: Vec::new(),
    };
    for &(key, time) in input {
        oracle.row(key, time);
        if time - bound - 1 > oracle.watermark {
            oracle.rise(time - bound - 1);
            oracle.lines.push(format!("w {}", time - bound - 1));
        }
    }
    oracle.rise(i64::MAX);
    oracle.lines.push("end".into());
    oracle.lines
}

/// Keys that fire at one time come in no particular order: sorts the results between two other
/// lines that have one time. Late rows are on another port, and are compared separately.
fn normal(lines: &[String], shape: impl Fn(&str) -> String) -> (Vec<String>, Vec<String>) {
    let late = lines
        .iter()
        .filter(|line| line.starts_with("late "))
        .cloned()
        .collect();
    let end = lines.iter().position(|line| line == "end").unwrap();
    let mut others: Vec<String> = lines[..end]
        .iter()
        .filter(|line| !line.starts_with("late "))
        .cloned()
        .collect();
    others
        .iter_mut()
        .filter(|line| line.starts_with('+'))
        .for_each(|line| *line = shape(line));
    let time = |line: &String| line.rsplit_once('@').map(|(_, time)| time.to_owned());
    others
        .chunk_by_mut(|a, b| time(a).is_some() && time(a) == time(b))
        .for_each(<[String]>::sort);
    (others, late)
}

/// Key, start, end and count of a line of the oracle, which has the times as well.
fn counted(line: &str) -> String {
    let parts: Vec<&str> = line.split(' ').collect();
    format!(
        "+ {} {} {} {} @{}",
        parts[1],
        parts[2],
        parts[3],
        parts[4].trim_matches('"'),
        line.rsplit_once('@').unwrap().1
    )
}

/// With the times in ascending order: a merge of sessions does not keep their order.
fn collected(line: &str) -> String {
    let (head, time) = line.rsplit_once('@').unwrap();
    let parts: Vec<&str> = head.splitn(5, ' ').collect();
    let list = parts[4].rsplit_once('[').map_or(parts[4], |(_, list)| list);
    let mut times: Vec<i64> = list
        .split(|c: char| !c.is_ascii_digit() && c != '-')
        .filter_map(|text| text.parse().ok())
        .collect();
    times.sort_unstable();
    format!("+ {} {} {} {times:?} @{time}", parts[1], parts[2], parts[3])
}

fn check(assigner: &WindowAssigner, lateness: i64, bound: i64, input: Input<'_>) {
    let expected = simulate(assigner, lateness, bound, input);
    let (by_count, by_times) = (normal(&expected, counted), normal(&expected, collected));
    for batch_rows in [1, 2, 7, 1024] {
        let run = |window: WindowOperator| run(bound as u64, window, input, batch_rows);
        assert_eq!(
            normal(&run(builtin(assigner.clone(), lateness as u64)), counted),
            by_count,
            "built-in, {batch_rows} rows"
        );
        assert_eq!(
            normal(
                &run(counting(assigner.clone(), lateness as u64, None)),
                counted
            ),
            by_count,
            "aggregate, {batch_rows} rows"
        );
        assert_eq!(
            normal(
                &run(collecting(assigner.clone(), lateness as u64, None)),
                collected
            ),
            by_times,
            "process, {batch_rows} rows"
        );
    }
}

pub(super) fn assigners() -> impl Strategy<Value = WindowAssigner> {
    prop_oneof![
        (1i64..12, 1i64..12).prop_map(|(size, slide)| sliding(size, slide)),
        (1i64..12).prop_map(|size| sliding(size, size)),
        (12i64..40, 1i64..4).prop_map(|(size, slide)| sliding(size, slide)),
        (1i64..8).prop_map(session),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn windows_fire_as_the_rules_say(
        assigner in assigners(),
        lateness in prop_oneof![Just(0i64), 0i64..15],
        bound in 0i64..6,
        input in prop::collection::vec((0i64..4, -30i64..60), 0..60),
    ) {
        check(&assigner, lateness, bound, &input);
    }

    #[test]
    fn windows_of_rising_times_fire_as_the_rules_say(
        assigner in assigners(),
        lateness in 0i64..4,
        bound in 0i64..3,
        steps in prop::collection::vec((0i64..4, -3i64..6), 0..120),
    ) {
        let mut time = -40;
        let input: Vec<(i64, i64)> = steps.into_iter().map(|(key, step)| { time += step; (key, time) }).collect();
        check(&assigner, lateness, bound, &input);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn windows_that_slide_often_fire_as_the_rules_say(
        (size, slide) in (100i64..900, 1i64..5),
        lateness in prop_oneof![Just(0i64), 0i64..500],
        bound in 0i64..200,
        input in prop::collection::vec((0i64..3, -400i64..400), 0..25),
    ) {
        let assigner = sliding(size, slide);
        let expected = normal(&simulate(&assigner, lateness, bound, &input), counted);
        for batch_rows in [3, 1024] {
            let found = run(bound as u64, builtin(assigner.clone(), lateness as u64), &input, batch_rows);
            assert_eq!(normal(&found, counted), expected, "{batch_rows} rows");
        }
    }
}
