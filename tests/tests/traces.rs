//! The two traces that every engine of this family must reproduce, firing by firing, at every batch
//! size.
//!
//! A watermark of `second - 2 s - 1 ms` says which reading a window fired on; a late firing shows
//! the watermark that stands.

use std::path::Path;

use serde_json::Value;
use streamrt_tests::binary::{component, outputs, run};
use streamrt_tests::data;
use tempfile::TempDir;

/// What the seconds of the traces are counted from.
const EPOCH: i64 = 1_547_718_000;

/// A firing: the window, the readings in it, the reading it fired on (`None` at the end of the
/// input).
type Firing = (i64, i64, &'static [i64], Option<i64>);

struct Trace {
    sensor: &'static str,
    lateness: u32,
    readings: &'static [i64],
    firings: &'static [Firing],
    late: &'static [i64],
}

const TRACE_1: Trace = Trace {
    sensor: "sensor_6",
    lateness: 0,
    readings: &[199, 202, 203, 204, 205, 206, 207],
    firings: &[
        (195, 200, &[199], Some(202)),
        (200, 205, &[202, 203, 204], Some(207)),
        (205, 210, &[205, 206, 207], None),
    ],
    late: &[],
};

const TRACE_2: Trace = Trace {
    sensor: "sensor_1",
    lateness: 60,
    readings: &[
        211, 215, 214, 217, 212, 218, 222, 280, 212, 288, 228, 225, 292, 225,
    ],
    firings: &[
        (210, 215, &[211, 214], Some(217)),
        (210, 215, &[211, 214, 212], Some(217)),
        (215, 220, &[215, 217, 218], Some(222)),
        (220, 225, &[222], Some(280)),
        (280, 285, &[280], Some(288)),
        (225, 230, &[228], Some(288)),
        (225, 230, &[228, 225], Some(288)),
        (285, 290, &[288], Some(292)),
        (290, 295, &[292], None),
    ],
    late: &[212, 225],
};

impl Trace {
    fn lines(&self) -> Vec<String> {
        self.readings
            .iter()
            .map(|second| format!("{},{},35.8", self.sensor, EPOCH + second))
            .collect()
    }

    fn expected_firings(&self) -> Vec<Value> {
        self.firings
            .iter()
            .map(|firing| self.expected_firing(*firing))
            .collect()
    }

    fn expected_firing(&self, (start, end, readings, on): Firing) -> Value {
        let times: Vec<String> = readings
            .iter()
            .map(|second| (EPOCH + second).to_string())
            .collect();
        let watermark = on.map_or(i64::MAX, |second| (EPOCH + second) * 1000 - 2_001);
        let (start, end) = ((EPOCH + start) * 1000, (EPOCH + end) * 1000);
        serde_json::json!({"sensor": self.sensor, "start": start, "end": end, "times": times.join(" "), "watermark": watermark})
    }

    fn expected_counts(&self) -> Vec<Value> {
        let count = |(start, end, readings, _): &Firing| {
            let (first, last) = (
                readings.iter().min().unwrap() + EPOCH,
                readings.iter().max().unwrap() + EPOCH,
            );
            let (start, end) = ((EPOCH + start) * 1000, (EPOCH + end) * 1000);
            serde_json::json!({"sensor": self.sensor, "start": start, "end": end, "n": readings.len(), "first": first, "last": last})
        };
        self.firings.iter().map(count).collect()
    }

    fn expected_late(&self) -> Vec<Value> {
        let late = |second| serde_json::json!({"sensor": self.sensor, "time": EPOCH + second, "temperature": 35.8});
        self.late.iter().map(late).collect()
    }
}

/// The lines of the only file in a folder, in the order in which they were written; none if there
/// is no file.
fn in_order(folder: &Path) -> Vec<Value> {
    let files: Vec<_> = std::fs::read_dir(folder).map_or(Vec::new(), |entries| {
        entries.map(|e| e.unwrap().path()).collect()
    });
    let files: Vec<_> = files.iter().filter(|path| path.is_file()).collect();
    assert!(
        files.len() <= 1,
        "one sensor, one subtask, one file: {files:?}"
    );
    files
        .iter()
        .flat_map(|file| {
            data::read(file)
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[track_caller]
fn check(trace: &Trace) {
    let folder = TempDir::new().unwrap();
    let input = folder.path().join("readings.csv");
    let lines = trace.lines();
    data::write(
        &input,
        &lines.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    for (n, (parallelism, rows)) in [(1, 1), (1, 2), (1, 3), (1, 1024), (2, 1), (2, 1024), (7, 3)]
        .into_iter()
        .enumerate()
    {
        let output = folder.path().join(n.to_string());
        run_guest(trace, &input, &output, parallelism, rows);
        let what = format!("parallelism {parallelism}, batch.rows {rows}");
        assert_eq!(
            in_order(&output),
            trace.expected_firings(),
            "firings, {what}"
        );
        assert_eq!(
            in_order(&output.join("counts")),
            trace.expected_counts(),
            "counts, {what}"
        );
        assert_eq!(
            in_order(&output.join("late")),
            trace.expected_late(),
            "late, {what}"
        );
        assert_eq!(outputs(&output).lines("").len(), trace.firings.len());
    }
}

fn run_guest(trace: &Trace, input: &Path, output: &Path, parallelism: u32, rows: u32) {
    let (wasm, parallelism, rows, lateness) = (
        component("traces"),
        parallelism.to_string(),
        format!("batch.rows={rows}"),
        trace.lateness.to_string(),
    );
    let front = [
        "run".as_ref(),
        wasm.as_os_str(),
        "--parallelism".as_ref(),
        parallelism.as_ref(),
        "-D".as_ref(),
        rows.as_ref(),
        "--".as_ref(),
    ];
    let input = [
        "--lateness".as_ref(),
        lateness.as_ref(),
        "--input".as_ref(),
        input.as_os_str(),
        "--output".as_ref(),
        output.as_os_str(),
    ];
    run(front.into_iter().chain(input)).succeeded();
}

#[test]
fn trace_1_without_lateness() {
    check(&TRACE_1);
}

#[test]
fn trace_2_with_allowed_lateness() {
    check(&TRACE_2);
}
