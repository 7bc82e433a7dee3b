//! Jobs whose keyed state is on disk: killed, moved between backends, damaged, and larger than the
//! memory that they may use.

use std::path::{Path, PathBuf};

use streamrt_tests::binary::{LIMIT, Running, component, outputs, run, streamrt};
use streamrt_tests::oracle::EXAMPLES;

use crate::jobs::Job;
use crate::kills;

/// So little that entries leave all the time.
const TIGHT_BYTES: usize = 8 << 10;
const AMPLE_BYTES: usize = 64 << 20;

#[test]
fn every_example_on_disk_survives_kills() {
    for example in EXAMPLES {
        kills::check(&Job::over_files(example).on_disk(TIGHT_BYTES), &[3]);
    }
}

#[test]
fn state_on_disk_goes_on_with_another_parallelism() {
    for example in ["word-count", "ride-duration", "sensor-alerts", "hot-items"] {
        kills::check(
            &Job::over_files(example).on_disk(AMPLE_BYTES),
            &[1, 3, 2, 4],
        );
    }
}

#[test]
fn windows_that_have_left_memory_go_on_with_another_parallelism() {
    for example in ["hot-items", "hot-pages"] {
        kills::check(
            &Job::over_files(example).on_disk(TIGHT_BYTES),
            &[1, 3, 2, 4],
        );
    }
}

/// Lets a job run until it has made some checkpoints, and kills it.
pub fn killed_behind_checkpoints(job: &Job) {
    let mut running = Running::start(streamrt(job.args(2, 40.0, "checkpoints", &[])));
    while job.n_log_entries() < 12 {
        assert!(
            !running.ends_within(std::time::Duration::from_millis(2)),
            "the job ended before it made checkpoints"
        );
    }
    running.kill();
    running.finish(LIMIT);
}

/// The files of states on disk below a folder of checkpoints.
fn state_files(folder: &Path) -> Vec<PathBuf> {
    let checkpoints = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = checkpoints.filter(|path| path.is_dir()).flat_map(|path| {
        std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    });
    files
        .filter(|path| path.to_string_lossy().contains(".sst"))
        .collect()
}

#[test]
fn a_checkpoint_shares_the_files_of_the_one_before_it() {
    check_shared("ride-duration", "durations", "waiting");
    check_shared("hot-items", "counts", "panes");
}

#[track_caller]
fn check_shared(example: &'static str, uid: &str, state: &str) {
    let job = Job::new(example).on_disk(AMPLE_BYTES);
    killed_behind_checkpoints(&job);
    let checkpoints = job.path("checkpoints");
    let folders: std::collections::BTreeSet<PathBuf> = state_files(&checkpoints)
        .iter()
        .map(|file| file.parent().unwrap().to_owned())
        .collect();
    assert!(folders.len() > 1, "all files are in {folders:?}");
    let inspected = run(["savepoint", "inspect", checkpoints.to_str().unwrap()])
        .succeeded()
        .stdout;
    assert!(
        inspected.contains(&format!("{state}: on disk")),
        "{inspected}"
    );
    let state = ["--uid", uid, "--state", state];
    run(["state", "get", checkpoints.to_str().unwrap()]
        .into_iter()
        .chain(state))
    .failed_with("S7002")
    .names("a savepoint of the job");
    let report = run(["fsck", checkpoints.to_str().unwrap()]).succeeded();
    assert!(
        report.stdout.contains("objects are whole"),
        "{}",
        report.stdout
    );
}

#[test]
fn damaged_and_missing_files_of_state_are_refused() {
    let job = Job::new("ride-duration").on_disk(AMPLE_BYTES);
    killed_behind_checkpoints(&job);
    // A kill may have come before the older checkpoint was retired, and between two uploads. Behind
    // another checkpoint and another start only what the newest refers to is left.
    for (seconds, failpoint) in [
        (40.0, "manifest.before=crash:3"),
        (0.3, "recovery.abort=crash:1"),
    ] {
        let mut crashes = streamrt(job.args(2, seconds, "checkpoints", &[]));
        crashes.env("STREAMRT_FAILPOINTS", failpoint);
        assert!(
            Running::start(crashes)
                .finish(LIMIT)
                .status
                .code()
                .is_none(),
            "{failpoint} did not act"
        );
    }
    for file in state_files(&job.path("checkpoints")) {
        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        for damaged in [Some(flipped), Some(whole[..whole.len() / 2].to_vec()), None] {
            match damaged {
                Some(bytes) => std::fs::write(&file, bytes).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            run(job.args(2, 0.3, "checkpoints", &[])).failed_with("S7001");
        }
        // A start takes away a folder of which nothing is left.
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, whole).unwrap();
    }
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    job.assert_whole("after the files were mended");
}

#[test]
fn a_job_changes_its_backend_through_a_savepoint_alone() {
    check_backends("ride-duration", "waiting: ");
}

#[test]
fn windows_change_their_backend_through_a_savepoint() {
    check_backends("hot-items", "panes: ");
}

/// Stops a job with savepoints, and goes on from them on disk and in memory in turn. `state` is
/// what a savepoint of either shows.
#[track_caller]
fn check_backends(example: &'static str, state: &str) {
    let job = Job::new(example).on_disk(TIGHT_BYTES);
    killed_behind_checkpoints(&job);
    let memory = ["-D", "state.backend=memory"];
    run(job.args(2, 0.3, "checkpoints", &memory))
        .failed_with("S7002")
        .names("state.backend=rocksdb");
    let mut parallelism = [2, 3, 1].into_iter().cycle();
    for (number, backend) in [&[][..], &memory, &[]].into_iter().enumerate() {
        let folder = job.path(&format!("savepoint-{number}"));
        let mut command =
            streamrt(job.args(parallelism.next().unwrap(), 40.0, "checkpoints", backend));
        command.env("XDG_CACHE_HOME", job.path("cache"));
        let before = job.n_log_entries();
        let mut running = Running::start(command);
        while job.n_log_entries() < before + 6 {
            assert!(
                !running.ends_within(std::time::Duration::from_millis(2)),
                "the job ended before it was stopped"
            );
        }
        let mut stop = streamrt(["stop", example, "--savepoint", folder.to_str().unwrap()]);
        stop.env("XDG_CACHE_HOME", job.path("cache"));
        Running::start(stop).finish(LIMIT).succeeded();
        running.finish(LIMIT).succeeded();
        let text = run(["savepoint", "inspect", folder.to_str().unwrap()])
            .succeeded()
            .stdout;
        assert!(text.contains(state) && !text.contains("on disk"), "{text}");
        job.assert_part(&format!("stopped the {number}. time"));
    }
    run(job.args(2, 0.3, "checkpoints", &memory)).succeeded();
    job.assert_whole("at the end");
    assert_eq!(
        std::fs::read_dir(job.path("state")).map_or(0, Iterator::count),
        0,
        "folders of state are left"
    );
}

#[test]
fn state_of_four_times_the_memory_gives_the_same_results() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    // Each word comes three times, far apart: it has left and comes back twice.
    let words: Vec<String> = (0..3)
        .flat_map(|_| {
            (0..120_000u64).map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        })
        .collect();
    let lines: Vec<String> = words.chunks(8).map(|words| words.join(" ")).collect();
    std::fs::write(path("input"), lines.join("\n")).unwrap();
    let word_count = component("word-count").to_string_lossy().into_owned();
    let count = |out: &str, options: &[&str]| {
        let args = ["run", &word_count]
            .into_iter()
            .chain(options.iter().copied());
        run(args.chain(["--", "--input", &path("input"), "--output", &path(out)])).succeeded();
        outputs(Path::new(&path(out)))
    };
    // 120,000 entries of some 70 bytes; three quarters of the memory are for the tables.
    let state = path("state");
    let dir = format!("state.dir={state}");
    let on_disk = count(
        "on-disk",
        &[
            "-D",
            "state.backend=rocksdb",
            "-D",
            "state.memory=2800KiB",
            "-D",
            &dir,
        ],
    );
    let in_memory = count("in-memory", &[]);
    assert!(on_disk.0.values().map(Vec::len).sum::<usize>() >= 120_000);
    assert_eq!(on_disk.0, in_memory.0);
}

#[test]
fn windows_of_four_times_the_memory_give_the_same_results() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    // 50,000 sensors in each of two windows, and each of them twice in a window, far apart.
    let sensor = |n: u64| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let line = |second: u64, n: u64| format!("{},{second},20.5", sensor(n));
    let lines: Vec<String> = [1, 4, 5, 9]
        .into_iter()
        .flat_map(|second| (0..50_000).map(move |n| line(second, n)))
        .collect();
    std::fs::write(path("input"), lines.join("\n")).unwrap();
    let traces = component("traces").to_string_lossy().into_owned();
    let count = |out: &str, options: &[&str]| {
        let args = ["run", &traces].into_iter().chain(options.iter().copied());
        run(args.chain(["--", "--input", &path("input"), "--output", &path(out)])).succeeded();
        outputs(Path::new(&path(out)))
    };
    let dir = format!("state.dir={}", path("state"));
    // 100,000 entries of some 100 bytes are open at once.
    let on_disk = count(
        "on-disk",
        &[
            "-D",
            "state.backend=rocksdb",
            "-D",
            "state.memory=3MiB",
            "-D",
            &dir,
        ],
    );
    let in_memory = count("in-memory", &[]);
    assert_eq!(on_disk.lines("counts").len(), 100_000);
    assert_eq!(on_disk.0, in_memory.0);
}
