//! The job of `tests/guests/rules` over readings and limits that are made here, and what it must
//! come to.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use streamrt_tests::binary::{LIMIT, Running, component, outputs, streamrt};
use tempfile::TempDir;

/// Readings of a job.
pub const READINGS: i64 = 600;

fn sensor(number: i64) -> String {
    format!("s{}", number % 7)
}

fn value(number: i64) -> i64 {
    number * 37 % 100
}

/// From time `10 * number` on, for the sensor of that number.
fn highest(number: i64) -> i64 {
    number * 53 % 100
}

/// As the guest's alerts: number and limit of each reading that is above the newest limit of its
/// sensor.
pub fn expected_alerts() -> Vec<String> {
    let newest = |number: i64| {
        (0..=number)
            .rev()
            .find(|limit| sensor(*limit) == sensor(number))
            .map(highest)
    };
    let alert = |number: i64| {
        newest(number)
            .filter(|highest| value(number) > *highest)
            .map(|highest| (number, highest))
    };
    let mut lines: Vec<String> = (0..READINGS)
        .filter_map(alert)
        .map(|(number, highest)| format!("{{\"number\":{number},\"highest\":{highest}}}"))
        .collect();
    lines.sort();
    lines
}

/// A job that can be started again and again.
pub struct Job {
    folder: TempDir,
}

impl Job {
    pub fn new() -> Job {
        Job::with_bad_lines(0)
    }

    /// A job with a line that is not a reading after every `every` readings.
    pub fn with_bad_lines(every: i64) -> Job {
        let folder = TempDir::new().unwrap();
        let input = folder.path().join("input");
        std::fs::create_dir(&input).unwrap();
        let lines = |line: &dyn Fn(i64) -> String| (0..READINGS).map(line).collect::<String>();
        let reading = |number: i64| {
            let bad = if every > 0 && number % every == 0 {
                format!("bad line behind {number}\n")
            } else {
                String::new()
            };
            format!(
                "{number},{},{},{}\n{bad}",
                sensor(number),
                value(number),
                10 * number
            )
        };
        let limit =
            |number: i64| format!("{},{},{}\n", sensor(number), highest(number), 10 * number);
        std::fs::write(input.join("readings.csv"), lines(&reading)).unwrap();
        std::fs::write(input.join("limits.csv"), lines(&limit)).unwrap();
        Job { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command line: with further options of the command, and further arguments of the job.
    pub fn args(
        &self,
        parallelism: u32,
        further_options: &[&str],
        further: &[&str],
    ) -> Vec<String> {
        let text = |name: &str| self.path(name).to_string_lossy().into_owned();
        let options = [
            format!("checkpoint.dir={}", text("checkpoints")),
            "checkpoint.interval=40ms".into(),
            "source.rate=300".into(),
        ];
        let mut args = vec![
            "run".to_owned(),
            component("rules").to_string_lossy().into_owned(),
            "--parallelism".into(),
            parallelism.to_string(),
        ];
        args.extend(
            options
                .into_iter()
                .flat_map(|option| ["-D".to_owned(), option]),
        );
        args.extend(further_options.iter().map(|&option| option.to_owned()));
        args.extend([
            "--".to_owned(),
            "--input".into(),
            text("input"),
            "--output".into(),
            text("out"),
        ]);
        args.extend(further.iter().map(|&further| further.to_owned()));
        args
    }

    pub fn n_log_entries(&self) -> usize {
        std::fs::read_dir(self.path("checkpoints/log")).map_or(0, Iterator::count)
    }

    /// Runs until the log has grown by some checkpoints, and kills the process.
    pub fn run_and_kill(&self, parallelism: u32, options: &[&str]) {
        let entries = self.n_log_entries();
        let mut running = Running::start(streamrt(self.args(parallelism, options, &[])));
        let start = Instant::now();
        while self.n_log_entries() < entries + 9 {
            assert!(start.elapsed() < LIMIT, "the job makes no checkpoints");
            if running.ends_within(Duration::from_millis(2)) {
                break;
            }
        }
        running.kill();
        running.finish(LIMIT);
    }

    /// Panics unless the alerts are the expected ones, and each number was in one batch at most and
    /// in one of them unless it is still held.
    pub fn assert_whole(&self, parallelism_max: usize) {
        assert_eq!(lines(&self.path("out/alerts")), expected_alerts());
        let numbers: Vec<i64> = lines(&self.path("out/batches"))
            .iter()
            .map(|line| number(line))
            .collect();
        let distinct: std::collections::BTreeSet<i64> = numbers.iter().copied().collect();
        assert_eq!(numbers.len(), distinct.len(), "a reading is in two batches");
        let held = READINGS as usize - distinct.len();
        assert!(
            held <= 2 * parallelism_max,
            "{held} readings are in no batch"
        );
    }
}

/// The visible lines in a folder.
pub fn lines(folder: &Path) -> Vec<String> {
    outputs(folder).lines("").to_vec()
}

/// The number in a line of a batch.
pub fn number(line: &str) -> i64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["value"]
        .as_i64()
        .unwrap()
}
