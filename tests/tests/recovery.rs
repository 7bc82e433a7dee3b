//! Jobs that are killed at random moments, and started again with the same command, until they end by themselves.
//!
//! What is visible is at each moment a part of what a run without failures writes, and in the end it is all of it, once. The moments come from
//! a seed, which is printed; `STREAMRT_SEED` sets it.

use std::path::Path;
use std::time::Duration;

use streamrt_tests::binary::{Finished, LIMIT, Running, component, hidden_files, outputs, run, streamrt};
use streamrt_tests::data;
use streamrt_tests::oracle::{self, EXAMPLES, Outputs};
use tempfile::TempDir;

/// Kills before a job is let alone.
const KILLS: u32 = 6;

/// A small generator of random numbers (xorshift), so that a seed gives the same moments everywhere.
struct Random(u64);

impl Random {
    fn from_environment() -> Random {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
        let seed = std::env::var("STREAMRT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("STREAMRT_SEED={seed}");
        Random(seed | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A job that can be started again and again.
struct Job<'a> {
    example: &'a str,
    input: &'a Path,
    checkpoints: &'a Path,
    output: &'a Path,
}

impl Job<'_> {
    /// The command line; `rate` in records a second.
    fn args(&self, parallelism: u32, rate: usize) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let options = [
            format!("checkpoint.dir={}", path(self.checkpoints)),
            "checkpoint.interval=40ms".to_owned(),
            format!("source.rate={rate}"),
            "buffer-timeout=5ms".to_owned(),
        ];
        let mut args = vec!["run".to_owned(), path(&component(self.example)), "--parallelism".to_owned(), parallelism.to_string()];
        args.extend(options.into_iter().flat_map(|option| ["-D".to_owned(), option]));
        args.extend(["--", "--input", &path(self.input), "--output", &path(self.output)].map(str::to_owned));
        args
    }
}

/// Panics unless every line is among the expected ones, as often at most.
#[track_caller]
fn assert_part(actual: &Outputs, expected: &Outputs, what: &str) {
    for (name, lines) in &actual.0 {
        let mut rest = expected.lines(name).iter().peekable();
        for line in lines {
            while rest.next_if(|next| *next < line).is_some() {}
            assert!(rest.next_if(|next| *next == line).is_some(), "{what}, output `{name}`: {line} is not expected, or not so often");
        }
    }
}

/// Runs a job to its end under kills. Returns how the last run ended, and how many runs went on from a checkpoint.
fn run_under_kills(job: &Job<'_>, parallelism: &[u32], rate: usize, expected: &Outputs, random: &mut Random) -> (Finished, u32) {
    let mut resumed = 0;
    for kill in 0.. {
        let args = job.args(parallelism[kill as usize % parallelism.len()], rate);
        let mut running = Running::start(streamrt(args));
        let alive = Duration::from_millis(30 + random.below(400));
        let killed = kill < KILLS && !running.ends_within(alive);
        if killed {
            running.kill();
        }
        let finished = running.finish(LIMIT);
        resumed += u32::from(finished.stderr.contains("goes on from checkpoint"));
        if job.output.exists() {
            assert_part(&outputs(job.output), expected, &format!("after kill {kill}"));
        }
        if !killed {
            return (finished.succeeded(), resumed);
        }
    }
    unreachable!("the last run is let alone")
}

/// Kills an example over a file, and compares what it leaves with the oracle's answer.
#[track_caller]
fn check(example: &str, lines: &[&str], parallelism: &[u32]) {
    let folder = TempDir::new().unwrap();
    let paths = ["input.txt", "checkpoints", "out"].map(|name| folder.path().join(name));
    data::write(&paths[0], lines);
    let expected = oracle::run(example, lines).unwrap();
    let job = Job { example, input: &paths[0], checkpoints: &paths[1], output: &paths[2] };
    // Some two seconds without kills.
    let (_, resumed) = run_under_kills(&job, parallelism, lines.len() / 2 + 1, &expected, &mut Random::from_environment());
    assert!(resumed > 0, "{example}: no run went on from a checkpoint");
    let actual = outputs(&paths[2]);
    for (name, lines) in &expected.0 {
        assert!(actual.lines(name) == lines.as_slice(), "{example}, output `{name}`: {} of {} lines", actual.lines(name).len(), lines.len());
    }
    assert_eq!(hidden_files(&paths[2]), [""; 0].map(std::path::PathBuf::from), "{example}: uncommitted files are left");
    let again = run(job.args(parallelism[0], lines.len())).succeeded();
    assert!(again.stderr.contains("has finished"), "{example}: {}", again.stderr);
    assert_part(&outputs(&paths[2]), &expected, "after the end");
}

#[test]
fn every_example_survives_kills() {
    for example in EXAMPLES {
        let text = data::shipped(example);
        check(example, &text.lines().collect::<Vec<_>>(), &[2]);
    }
}

#[test]
fn a_job_goes_on_with_another_parallelism() {
    let text = data::shipped("hot-items");
    check("hot-items", &text.lines().collect::<Vec<_>>(), &[1, 3, 2]);
}
