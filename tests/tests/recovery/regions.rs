//! A job of three pipelines that have nothing to do with each other: one that fails starts again
//! from the newest checkpoint while the others run on, and nothing is lost or doubled in any of
//! them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use streamrt_tests::binary::{
    Finished, LIMIT, Running, component, hidden_files, outputs, streamrt,
};
use streamrt_tests::random::Random;
use tempfile::TempDir;

const PIPELINES: [&str; 3] = ["a", "b", "c"];
/// In each pipeline; each number comes twice.
const NUMBERS: usize = 400;
/// Files that each pipeline reads.
const FILES: usize = 3;
/// The number of good numbers after which a bad line comes.
const BAD_EVERY: usize = 50;
const SECONDS: f64 = 1.0;

/// The first of each number in every pipeline, out of files in which each comes twice, with bad
/// lines between them.
struct Pipelines {
    folder: TempDir,
    options: Vec<String>,
}

/// A job of these pipelines.
fn toml(names: &[&str]) -> String {
    let pipeline = |name: &&str| {
        format!(
            "[[source]]\nuid = \"in-{name}\"\nconnector = \"file\"\npath = \"in-{name}\"\nformat = \"csv\"\n\
             columns = [ {{ name = \"n\", type = \"i64\" }} ]\n\
             [[operator]]\nuid = \"first-{name}\"\ncomponent = \"deduplicate.wasm\"\nfunction = \"deduplicate\"\ninput = \"in-{name}\"\n\
             key = [\"n\"]\n[[sink]]\nuid = \"out-{name}\"\nconnector = \"file\"\npath = \"out-{name}\"\nformat = \"csv\"\n\
             input = \"first-{name}\"\n"
        )
    };
    format!(
        "name = \"pipelines\"\n{}",
        names.iter().map(pipeline).collect::<String>()
    )
}

impl Pipelines {
    fn new() -> Pipelines {
        let folder = TempDir::new().unwrap();
        for name in PIPELINES {
            std::fs::create_dir(folder.path().join(format!("in-{name}"))).unwrap();
            for file in 0..FILES {
                let numbers = (0..2 * NUMBERS)
                    .map(|n| n % NUMBERS)
                    .filter(|n| n % FILES == file);
                let line = |n: usize| {
                    if n % BAD_EVERY == file {
                        format!("{n}\nbad {name} {n}\n")
                    } else {
                        format!("{n}\n")
                    }
                };
                std::fs::write(
                    folder.path().join(format!("in-{name}/{file}.csv")),
                    numbers.map(line).collect::<String>(),
                )
                .unwrap();
            }
        }
        std::fs::write(folder.path().join("job.toml"), toml(&PIPELINES)).unwrap();
        std::fs::copy(
            component("deduplicate"),
            folder.path().join("deduplicate.wasm"),
        )
        .unwrap();
        let letters = folder.path().join("letters").display().to_string();
        let options = vec![
            "poison.policy=skip".into(),
            format!("poison.dead-letters={letters}"),
        ];
        Pipelines { folder, options }
    }

    fn on_disk(mut self) -> Pipelines {
        let state = self.path("state").display().to_string();
        self.options.extend([
            "state.backend=rocksdb".into(),
            "state.memory=8KiB".into(),
            format!("state.dir={state}"),
        ]);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, parallelism: u32, failpoints: &str) -> Running {
        let rate = (2 * NUMBERS) as f64 / SECONDS;
        let mut command = streamrt(["run", "job.toml", "--parallelism", &parallelism.to_string()]);
        let common = [
            "checkpoint.dir=checkpoints".to_owned(),
            "checkpoint.interval=40ms".to_owned(),
            "restart.delay=10ms".to_owned(),
            "restart.max-delay=20ms".to_owned(),
            format!("source.rate={rate:.0}"),
        ];
        for option in common.iter().chain(&self.options) {
            command.args(["-D", option]);
        }
        command
            .current_dir(self.folder.path())
            .env("STREAMRT_FAILPOINTS", failpoints);
        Running::start(command)
    }

    fn run(&self, parallelism: u32, failpoints: &str) -> Finished {
        self.start(parallelism, failpoints).finish(LIMIT)
    }

    fn lines(&self, folder: &str) -> Vec<String> {
        if !self.path(folder).exists() {
            return Vec::new();
        }
        outputs(&self.path(folder))
            .0
            .values()
            .flatten()
            .cloned()
            .collect()
    }

    /// The records of the letters.
    fn letters(&self) -> Vec<String> {
        let record = |line: &String| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["record"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        self.lines("letters").iter().map(record).collect()
    }

    /// Panics if something is there twice, or was not expected.
    #[track_caller]
    fn assert_part(&self, when: &str) {
        for name in PIPELINES {
            let lines = self.lines(&format!("out-{name}"));
            let numbers: BTreeSet<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
            assert!(
                numbers.len() == lines.len() && numbers.iter().all(|n| *n < NUMBERS),
                "{when}: pipeline {name} has {lines:?}"
            );
        }
    }

    #[track_caller]
    fn assert_whole(&self, when: &str) {
        self.assert_part(when);
        let mut bad = 0;
        for name in PIPELINES {
            assert_eq!(
                self.lines(&format!("out-{name}")).len(),
                NUMBERS,
                "{when}: pipeline {name}"
            );
            assert_eq!(
                hidden_files(&self.path(&format!("out-{name}"))),
                Vec::<PathBuf>::new(),
                "{when}"
            );
            bad += self
                .letters()
                .iter()
                .filter(|letter| letter.starts_with(&format!("bad {name}")))
                .count();
        }
        assert_eq!(
            (bad, self.letters().len()),
            (self.n_bad(), self.n_bad()),
            "{when}: {:?}",
            self.letters()
        );
        assert_eq!(
            hidden_files(&self.path("letters")),
            Vec::<PathBuf>::new(),
            "{when}"
        );
    }

    /// Bad lines in all pipelines.
    fn n_bad(&self) -> usize {
        let bad = |name: &str| -> usize {
            let read = |file| {
                std::fs::read_to_string(self.path(&format!("in-{name}/{file}.csv"))).unwrap()
            };
            (0..FILES)
                .map(|file| read(file).matches("bad").count())
                .sum()
        };
        PIPELINES.into_iter().map(bad).sum()
    }

    /// The generations in the names of the part files of each pipeline.
    fn generations(&self) -> Vec<BTreeSet<String>> {
        let of = |name: &str| {
            let files = std::fs::read_dir(self.path(&format!("out-{name}")))
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let generation = |file: std::ffi::OsString| {
                file.to_str()
                    .unwrap()
                    .split('-')
                    .rev()
                    .nth(2)
                    .unwrap()
                    .to_owned()
            };
            files.map(generation).collect()
        };
        PIPELINES.into_iter().map(of).collect()
    }
}

/// One pipeline fails at the `at`th passage of a failpoint in tasks, and the others run on under
/// their first generation.
#[track_caller]
fn check(job: &Pipelines, failpoint: &str, at: u32) {
    let failpoints = format!("{failpoint}=error:{at}");
    let finished = job.run(2, &failpoints).succeeded();
    assert_eq!(
        finished.stderr.matches("its region starts again").count(),
        1,
        "{failpoints}: {}",
        finished.stderr
    );
    assert!(
        !finished.stderr.contains("trying again"),
        "{failpoints}: {}",
        finished.stderr
    );
    job.assert_whole(&failpoints);
    assert!(
        finished
            .stderr
            .contains(&format!("{} dead letters", job.n_bad())),
        "{failpoints}: {}",
        finished.stderr
    );
    let generations = job.generations();
    let run_on = generations
        .iter()
        .filter(|generations| generations.len() == 1 && generations.contains("1"))
        .count();
    assert_eq!(run_on, PIPELINES.len() - 1, "{failpoints}: {generations:?}");
}

#[test]
fn a_pipeline_that_fails_starts_again_while_the_others_run_on() {
    for failpoint in [
        "barrier.before",
        "barrier.aligning",
        "snapshot.sync",
        "sink.pre-commit",
        "commit.before",
        "commit.after",
    ] {
        check(&Pipelines::new(), failpoint, 12);
    }
}

#[test]
fn a_pipeline_with_its_state_on_disk_starts_again_while_the_others_run_on() {
    for at in [4, 12, 20] {
        check(&Pipelines::new().on_disk(), "snapshot.sync", at);
    }
}

#[test]
fn a_pipeline_that_fails_before_the_first_checkpoint_starts_from_the_beginning() {
    check(&Pipelines::new(), "snapshot.sync", 1);
}

#[test]
fn no_checkpoint_waits_for_a_pipeline_that_pauses_before_it_starts_again() {
    let mut job = Pipelines::new();
    for option in [
        "restart.delay=4s",
        "restart.max-delay=4s",
        "checkpoint.timeout=3s",
    ] {
        job.options.push(option.into());
    }
    check(&job, "snapshot.sync", 12);
}

#[test]
fn a_start_of_a_region_that_fails_is_tried_again() {
    let job = Pipelines::new();
    // The start of the job passes it once for each sink.
    let finished = job
        .run(2, "snapshot.sync=error:20;recovery.abort=error:4")
        .succeeded();
    assert_eq!(
        finished.stderr.matches("its region starts again").count(),
        2,
        "{}",
        finished.stderr
    );
    job.assert_whole("after a start of a region that failed");
}

#[test]
fn pipelines_that_fail_without_a_checkpoint_between_start_the_whole_job_again() {
    let mut job = Pipelines::new();
    job.options.extend([
        "restart.strategy=fixed-delay".into(),
        "restart.attempts=9".into(),
    ]);
    let failed = job.run(2, "snapshot.sync=error").failed_with("S7010");
    let said = |what: &str| failed.stderr.matches(what).count();
    assert_eq!(
        (
            said("its region starts again") + said("trying again"),
            said("trying again") > 0
        ),
        (9, true),
        "{}",
        failed.stderr
    );
    job.assert_part("after failures without end");
    assert_eq!(job.lines("out-a").len(), 0);
}

#[test]
fn a_failure_that_concerns_all_pipelines_starts_the_job_again() {
    let job = Pipelines::new();
    let finished = job
        .run(2, "snapshot.sync=error:20;log.before=error:6")
        .succeeded();
    let said = |what: &str| finished.stderr.matches(what).count();
    assert_eq!(
        (said("its region starts again"), said("trying again")),
        (1, 1),
        "{}",
        finished.stderr
    );
    job.assert_whole("after both kinds of failures");
}

#[test]
fn what_is_not_tried_again_ends_all_pipelines() {
    let job = Pipelines::new();
    let options = ["-D", "restart.strategy=none"];
    let mut command = streamrt(
        [
            "run",
            "job.toml",
            "-D",
            "checkpoint.dir=checkpoints",
            "-D",
            "checkpoint.interval=40ms",
        ]
        .iter()
        .chain(&options),
    );
    command
        .args(["-D", "poison.policy=skip", "-D", "source.rate=200"])
        .current_dir(job.folder.path());
    command.env("STREAMRT_FAILPOINTS", "snapshot.sync=error:9");
    Running::start(command).finish(LIMIT).failed_with("S7010");
    job.assert_part("after a failure for good");
    PIPELINES.iter().for_each(|name| {
        assert_eq!(
            hidden_files(&job.path(&format!("out-{name}"))),
            Vec::<PathBuf>::new()
        )
    });
}

#[test]
fn pipelines_that_fail_survive_kills_at_any_moment() {
    for job in [Pipelines::new(), Pipelines::new().on_disk()] {
        let mut random = Random::from_environment();
        for kill in 0..5 {
            let failpoints = format!(
                "snapshot.sync=error:{};commit.before=error:{}",
                5 + random.below(40),
                5 + random.below(20)
            );
            let mut running = job.start(1 + kill % 3, &failpoints);
            if !running.ends_within(Duration::from_millis(150 + random.below(300))) {
                running.kill();
            }
            running.finish(LIMIT);
            job.assert_part(&format!("after kill {kill} with {failpoints}"));
        }
        job.run(2, "").succeeded();
        job.assert_whole("at the end");
    }
}

#[test]
fn state_that_the_job_has_no_operator_for_is_left_behind_only_if_that_is_allowed() {
    let mut job = Pipelines::new();
    let write = |job: &Pipelines, names: &[&str]| {
        std::fs::write(job.path("job.toml"), toml(names)).unwrap()
    };
    write(&job, &["a", "b"]);
    assert!(
        job.run(2, "complete.before=crash:5")
            .status
            .code()
            .is_none()
    );
    write(&job, &["a", "c"]);
    let refused = job.run(2, "").failed_with("S7004");
    refused
        .names("-b`, which the job does not have")
        .names("--allow-non-restored-state");
    job.options
        .push("restore.allow-non-restored-state=true".into());
    let finished = job.run(2, "").succeeded();
    assert!(
        finished
            .stderr
            .contains("state of `first-b` is left behind"),
        "{}",
        finished.stderr
    );
    assert!(
        finished
            .stderr
            .contains("operator `first-c` is not in the checkpoint, and starts without state"),
        "{}",
        finished.stderr
    );
    assert!(
        !finished.stderr.contains("operator `first-a` is not"),
        "{}",
        finished.stderr
    );
    job.assert_part("after a pipeline was exchanged");
    assert_eq!(
        ["a", "c"].map(|name| job.lines(&format!("out-{name}")).len()),
        [NUMBERS, NUMBERS]
    );
}
