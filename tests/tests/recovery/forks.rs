//! Starts from a snapshot with other arguments than it was made with: results go to another place
//! from then on, and no source is read that the snapshot does not know.

use std::path::Path;

use streamrt_tests::binary::{LIMIT, Running, hidden_files, run, streamrt};

use crate::jobs::Job;
use crate::savepoints;

/// The command line from a snapshot, with another value for one argument of the job.
fn args(job: &Job, checkpoints: &str, from: &Path, name: &str, value: &Path) -> Vec<String> {
    let mut args = job.args(2, 0.3, checkpoints, &["--from", from.to_str().unwrap()]);
    let at = args
        .iter()
        .position(|arg| arg == name)
        .expect("the job has this argument");
    args[at + 1] = value.to_string_lossy().into_owned();
    args
}

/// Puts what is visible in one folder beside what is in the other; no name is there twice.
fn gather(from: &Path, into: &Path) {
    assert_eq!(hidden_files(from), Vec::<std::path::PathBuf>::new());
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = into.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            gather(&path, &target);
        } else {
            assert!(!target.exists());
            std::fs::rename(&path, target).unwrap();
        }
    }
}

#[test]
fn a_savepoint_is_forked_to_another_folder() {
    let job = Job::new("hot-items");
    let running = savepoints::start(&job, 2, 6.0);
    let (folder, other) = (job.path("savepoint"), job.path("other"));
    savepoints::command(
        &job,
        &["stop", "hot-items", "--savepoint", folder.to_str().unwrap()],
    )
    .succeeded();
    running.finish(LIMIT).succeeded();
    run(args(&job, "forked", &folder, "--output", &other)).succeeded();
    gather(&other, &job.path("out"));
    job.assert_whole("in both folders");
}

#[test]
fn a_fork_leaves_what_is_not_committed_to_the_job_that_made_the_savepoint() {
    let job = Job::over_files("hot-items");
    // No checkpoint commits what the savepoint holds before the job is killed.
    let mut running = savepoints::start_command(
        &job,
        streamrt(job.args(2, 3.0, "checkpoints", &["-D", "checkpoint.interval=1h"])),
    );
    savepoints::await_rows(&job);
    let (folder, other) = (job.path("savepoint"), job.path("other"));
    savepoints::command(&job, &["savepoint", "hot-items", folder.to_str().unwrap()]).succeeded();
    running.kill();
    running.finish(LIMIT);
    let forked = run(args(&job, "forked", &folder, "--output", &other)).succeeded();
    assert!(
        forked.stderr.contains("is left to its own job"),
        "{}",
        forked.stderr
    );
    assert!(
        !hidden_files(&job.path("out")).is_empty(),
        "the fork has touched the results of the first job"
    );
    // The first job resumes from its savepoint, and commits it; so both together have what comes
    // after it twice.
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    job.assert_whole("of the first job");
}

/// A sink of a component writes to the folders that it is granted, and to nothing else.
#[test]
fn a_sink_of_a_component_is_forked_to_another_folder_like_a_native_one() {
    let job = Job::of_sinks(2000, &[]);
    let mut running = savepoints::start_command(
        &job,
        streamrt(job.args(2, 3.0, "checkpoints", &["-D", "checkpoint.interval=1h"])),
    );
    savepoints::await_rows(&job);
    let (folder, other) = (job.path("savepoint"), job.path("other"));
    savepoints::command(&job, &["savepoint", "sinks", folder.to_str().unwrap()]).succeeded();
    running.kill();
    running.finish(LIMIT);
    let granted = |mut args: Vec<String>, path: &Path| {
        let at = args
            .iter()
            .position(|arg| arg.starts_with("out="))
            .expect("the job is granted a folder `out`");
        args[at] = format!("out={}", path.display());
        args
    };
    let same = granted(job.args(2, 0.3, "checkpoints", &[]), &other);
    run(same).failed_with("S7013").names(&format!(
        "it has promised results in {}",
        job.path("out").canonicalize().unwrap().display()
    ));
    let forked = run(granted(
        job.args(2, 0.3, "forked", &["--from", folder.to_str().unwrap()]),
        &other,
    ))
    .succeeded();
    assert!(
        forked.stderr.contains("is left to its own job"),
        "{}",
        forked.stderr
    );
    assert!(
        !hidden_files(&job.path("out")).is_empty(),
        "the fork has touched the results of the first job"
    );
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    job.assert_whole("of the first job");
}

#[test]
fn the_same_job_commits_where_it_wrote_before_it_writes_elsewhere() {
    let job = Job::new("hot-items");
    let mut command = streamrt(job.args(2, 0.4, "checkpoints", &[]));
    command.env("STREAMRT_FAILPOINTS", "complete.before=crash:2");
    assert!(!Running::start(command).finish(LIMIT).status.success());
    let other = job.path("other");
    run(args(
        &job,
        "checkpoints",
        &job.path("checkpoints"),
        "--output",
        &other,
    ))
    .succeeded();
    gather(&other, &job.path("out"));
    job.assert_whole("in both folders");
}

#[test]
fn a_snapshot_does_not_go_on_in_another_input_silently() {
    let job = Job::new("hot-items");
    let running = savepoints::start(&job, 2, 6.0);
    let (folder, copy) = (job.path("savepoint"), job.path("copy"));
    savepoints::command(
        &job,
        &["stop", "hot-items", "--savepoint", folder.to_str().unwrap()],
    )
    .succeeded();
    running.finish(LIMIT).succeeded();
    std::fs::copy(job.path("input"), &copy).unwrap();
    let other = args(&job, "forked", &folder, "--input", &copy);
    let refused = run(&other)
        .failed_with("S7013")
        .names("--allow-changed-arguments")
        .names("another uid");
    assert!(
        refused.stderr.contains(copy.to_str().unwrap()),
        "{}",
        refused.stderr
    );
    assert!(
        !job.path("forked/log").exists(),
        "a refusal changes nothing"
    );
    let mut allowed = other;
    allowed.insert(2, "--allow-changed-arguments".into());
    let ended = run(&allowed).succeeded();
    assert!(ended.stderr.contains("goes on in"), "{}", ended.stderr);
    job.assert_whole("after it went on in the first file");
}
