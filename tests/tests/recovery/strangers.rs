//! Checkpoints that somebody else has written, with every checksum right: their claims about files,
//! folders and sizes are refused before anything is read, created or written because of them.

use std::path::Path;

use serde_json::{Value, json};
use streamrt_tests::binary::run;
use streamrt_tests::sealed::change_newest;

use crate::disks::killed_behind_checkpoints;
use crate::jobs::Job;

/// A job with its state on disk, killed after some checkpoints.
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
    let with_files = subtasks
        .iter_mut()
        .find(|subtask| subtask.get("files").is_some())
        .expect("state is on disk");
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
    for name in [
        format!("{}{}", "../".repeat(20), &victim.to_string_lossy()[1..]),
        victim.to_string_lossy().into_owned(),
    ] {
        change_newest(&checkpoints, |manifest| {
            disk_files(manifest)[0]["name"] = json!(name)
        });
        run(job.args(2, 0.3, "checkpoints", &[]))
            .failed_with("S7001")
            .names("whose name is no plain one");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
    let here = |paths: Vec<std::path::PathBuf>| {
        paths
            .into_iter()
            .filter(|path| !path.starts_with(job.path("state")))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        here(entries(job.path("").as_path())),
        here(before),
        "something was written"
    );
}

/// Puts `new` in the place of `old`, which is as long, in all that the newest checkpoint refers to.
fn replace_in_states(checkpoints: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    change_newest(checkpoints, |manifest| {
        let mut n_replaced = 0;
        let folder = checkpoints.join(format!("chk-{}", manifest["checkpoint"]));
        for subtask in manifest["subtasks"].as_array_mut().unwrap() {
            let Some(stored) = subtask
                .get_mut("object")
                .filter(|stored| stored.is_object())
            else {
                continue;
            };
            let path = folder.join(stored["path"].as_str().unwrap());
            let mut bytes = std::fs::read(&path).unwrap();
            while let Some(at) = bytes
                .windows(old.len())
                .position(|window| window == old.as_bytes())
            {
                bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
                n_replaced += 1;
            }
            stored["checksum"] = json!(blake3::hash(&bytes).to_hex().as_str());
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(n_replaced > 0, "no state names {old}");
    });
}

#[test]
fn a_split_outside_of_what_the_source_may_read_is_not_read() {
    let job = Job::new("hot-items");
    killed_behind_checkpoints(&job);
    let (input, victim) = (job.path("input"), job.path("other"));
    std::fs::copy(&input, &victim).unwrap();
    let (input, victim) = (
        input.to_string_lossy().into_owned(),
        victim.to_string_lossy().into_owned(),
    );
    replace_in_states(&job.path("checkpoints"), &input, &victim);
    run(job.args(2, 0.3, "checkpoints", &[]))
        .failed_with("S7013")
        .names(&format!("would have it read {victim}"));
    // As it was, it goes on, although the user may not have the file any more.
    replace_in_states(&job.path("checkpoints"), &victim, &input);
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    job.assert_whole("after a refusal");
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let job = job();
    let refused = |change: &dyn Fn(&mut Value), what: &str| {
        change_newest(&job.path("checkpoints"), change);
        run(job.args(2, 0.3, "checkpoints", &[]))
            .failed_with("S7001")
            .names(what);
    };
    for max_parallelism in [0u64, 32_769, u64::from(u32::MAX)] {
        refused(
            &|manifest| manifest["max_parallelism"] = json!(max_parallelism),
            "max parallelism",
        );
    }
    refused(
        &|manifest| {
            manifest["max_parallelism"] = json!(128);
            manifest["checkpoint"] = json!(u64::MAX);
        },
        "numbers that nobody counts up to",
    );
}
