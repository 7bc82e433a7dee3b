//! Checkpoints that somebody else has written, with every checksum right: what they say of files, folders and sizes is refused before anything
//! is read, made or written because of it.

use std::path::Path;

use serde_json::{Value, json};
use streamrt_tests::binary::run;
use streamrt_tests::sealed::change_newest;

use crate::disks::killed_behind_checkpoints;
use crate::jobs::Job;

/// A job with its state on disk, killed behind some checkpoints.
fn job() -> Job {
    let job = Job::over_files("ride-duration").on_disk(8 << 10);
    killed_behind_checkpoints(&job);
    job
}

/// Every path below a folder.
fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(entries(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn disk_files(manifest: &mut Value) -> &mut Vec<Value> {
    let subtasks = manifest["subtasks"].as_array_mut().unwrap();
    let with_files = subtasks.iter_mut().find(|subtask| subtask.get("files").is_some()).expect("state is on disk");
    with_files["files"].as_array_mut().unwrap()
}

#[test]
fn a_file_name_that_leads_out_writes_nothing() {
    let job = job();
    let checkpoints = job.path("checkpoints");
    // Far enough up, and then to a file that the user has.
    let victim = job.path("victim");
    std::fs::write(&victim, "mine").unwrap();
    let before = entries(job.path("").as_path());
    for name in [format!("{}{}", "../".repeat(20), &victim.to_string_lossy()[1..]), victim.to_string_lossy().into_owned()] {
        change_newest(&checkpoints, |manifest| disk_files(manifest)[0]["name"] = json!(name));
        run(job.args(2, 0.3, "checkpoints", &[])).failed_with("S7001").names("whose name is no plain one");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
    let here = |paths: Vec<std::path::PathBuf>| paths.into_iter().filter(|path| !path.starts_with(job.path("state"))).collect::<Vec<_>>();
    assert_eq!(here(entries(job.path("").as_path())), here(before), "something was written");
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let job = job();
    let refused = |change: &dyn Fn(&mut Value), what: &str| {
        change_newest(&job.path("checkpoints"), change);
        run(job.args(2, 0.3, "checkpoints", &[])).failed_with("S7001").names(what);
    };
    for max_parallelism in [0u64, 32_769, u64::from(u32::MAX)] {
        refused(&|manifest| manifest["max_parallelism"] = json!(max_parallelism), "max parallelism");
    }
    refused(
        &|manifest| {
            manifest["max_parallelism"] = json!(128);
            manifest["checkpoint"] = json!(u64::MAX);
        },
        "numbers that nobody counts up to",
    );
}
