//! A job without code: numbered rows from several files into one sink, with checkpoints. Its answer
//! is its input.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use streamrt_tests::binary::{Finished, LIMIT, Running, streamrt};
use streamrt_tests::random::Random;
use tempfile::TempDir;

/// Rows of each input file.
const FILE_ROWS: usize = 1000;
const FILES: usize = 4;
pub const ROWS: usize = FILE_ROWS * FILES;

/// Kills before a job is let alone.
const KILLS: u32 = 5;

pub struct Job {
    folder: TempDir,
    /// Where checkpoints are kept.
    pub checkpoints: String,
    /// The environment of every run.
    pub environment: Vec<(String, String)>,
}

/// Row `n`: a number, a text that is empty now and then and null once, a time in ms.
fn line(n: usize) -> String {
    let text = if n.is_multiple_of(7) {
        String::new()
    } else {
        format!("text {n}")
    };
    format!("{n},{text},{}", 1_500_000_000_000i64 + n as i64)
}

impl Job {
    /// `sink` are the lines of the job file that configure the sink.
    pub fn new(sink: &str) -> Job {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("input")).unwrap();
        for file in 0..FILES {
            let text: String = (file * FILE_ROWS..(file + 1) * FILE_ROWS)
                .map(|n| line(n) + "\n")
                .collect();
            std::fs::write(folder.path().join(format!("input/{file}.csv")), text).unwrap();
        }
        let columns = r#"[ { name = "n", type = "i64" }, { name = "text", type = "string", nullable = true }, { name = "time", type = "i64" } ]"#;
        let toml = format!(
            "name = \"copy\"\n[[source]]\nuid = \"rows\"\nconnector = \"file\"\npath = \"input\"\nformat = \"csv\"\ncolumns = {columns}\n\
             [[sink]]\nuid = \"out\"\ninput = \"rows\"\n{sink}\n"
        );
        std::fs::write(folder.path().join("job.toml"), toml).unwrap();
        Job {
            folder,
            checkpoints: "checkpoints".into(),
            environment: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run that takes about this long, with further options.
    pub fn command(&self, parallelism: u32, seconds: f64, further: &[&str]) -> Command {
        let rate = (ROWS as f64 / seconds) as u64 + 1;
        let mut command = streamrt(["run", "job.toml", "--parallelism", &parallelism.to_string()]);
        for option in [
            &format!("checkpoint.dir={}", self.checkpoints),
            "checkpoint.interval=40ms",
            &format!("source.rate={rate}"),
            "restart.delay=10ms",
        ] {
            command.args(["-D", option]);
        }
        command
            .args(further)
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.path("cache"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn start(&self, parallelism: u32, seconds: f64, further: &[&str]) -> Running {
        Running::start(self.command(parallelism, seconds, further))
    }

    /// Runs it to its end.
    pub fn run(&self, parallelism: u32, seconds: f64) -> Finished {
        self.start(parallelism, seconds, &[]).finish(LIMIT)
    }

    /// Runs it with failpoints, to its end.
    pub fn run_with(&self, failpoints: &str) -> Finished {
        let mut command = self.command(2, 0.4, &[]);
        command.env("STREAMRT_FAILPOINTS", failpoints);
        Running::start(command).finish(LIMIT)
    }

    /// Every row as a query or a reader of files shows it: `n|text|time`.
    pub fn expected(&self) -> Vec<String> {
        let mut rows: Vec<String> = (0..ROWS).map(|n| line(n).replace(',', "|")).collect();
        rows.sort();
        rows
    }

    /// Panics unless each row was expected, and none is there twice.
    #[track_caller]
    pub fn assert_part(&self, mut rows: Vec<String>, when: &str) {
        rows.sort();
        let expected = self.expected();
        assert!(
            rows.windows(2).all(|pair| pair[0] != pair[1]),
            "{when}: a row is there twice"
        );
        assert!(
            rows.iter().all(|row| expected.binary_search(row).is_ok()),
            "{when}: a row is there that was not expected"
        );
    }

    /// Panics unless every row is there once.
    #[track_caller]
    pub fn assert_whole(&self, rows: Vec<String>, when: &str) {
        self.assert_part(rows.clone(), when);
        assert_eq!(rows.len(), ROWS, "{when}: rows are missing");
    }

    /// Runs it to its end under kills at random moments; `look` is given each time to see what is
    /// committed.
    #[track_caller]
    pub fn survive(&self, seconds: f64, committed: impl Fn() -> Vec<String>) {
        let mut random = Random::from_environment();
        let mut resumed = 0;
        for kill in 0..=KILLS {
            let mut running = self.start(2 + kill % 2, seconds, &[]);
            let moment = Duration::from_millis(100 + random.below((seconds * 500.0) as u64));
            let killed = kill < KILLS && !ends_before(&mut running, moment, || committed().len());
            if killed {
                running.kill();
            }
            let finished = running.finish(LIMIT);
            resumed += u32::from(finished.stderr.contains("goes on from checkpoint"));
            self.assert_part(committed(), &format!("after kill {kill}"));
            if !killed {
                finished.succeeded();
                break;
            }
        }
        assert!(resumed > 0, "no run went on from a checkpoint");
        self.assert_whole(committed(), "at the end");
        let again = self.run(1, seconds).succeeded();
        assert!(again.stderr.contains("has finished"), "{}", again.stderr);
        self.assert_whole(committed(), "after the end");
    }
}

/// Waits until a run has committed something, and then for a moment. Returns whether it ended
/// before.
fn ends_before(running: &mut Running, moment: Duration, n_committed: impl Fn() -> usize) -> bool {
    let (before, start) = (n_committed(), Instant::now());
    while n_committed() == before && start.elapsed() < LIMIT {
        if running.ends_within(Duration::from_millis(20)) {
            return true;
        }
    }
    running.ends_within(moment)
}
