//! What stands in the folder of checkpoints and cannot be used: a sentence with the choices, and nothing is changed.

use std::path::{Path, PathBuf};

use streamrt_tests::binary::{component, run, streamrt};

use crate::jobs::Job;

/// A job that crashed behind its second checkpoint.
fn crashed(example: &'static str) -> Job {
    let job = Job::new(example);
    let mut command = streamrt(job.args(2, 0.4, "checkpoints", &[]));
    command.env("STREAMRT_FAILPOINTS", "complete.before=crash:2");
    assert!(!command.output().unwrap().status.success());
    job
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push((path.clone(), std::fs::read(&path).unwrap())) }
    }
    all.sort();
    all
}

#[test]
fn another_component_or_other_arguments_are_refused() {
    let job = crashed("hot-items");
    let before = files(&job.path("checkpoints"));
    let mut other = job.args(2, 0.4, "checkpoints", &[]);
    other[1] = component("session-clicks").to_string_lossy().into_owned();
    run(&other).failed_with("S7005").names("its name is `hot-items`");
    let mut args = job.args(2, 0.4, "checkpoints", &[]);
    let output = args.iter().position(|arg| arg == "--output").unwrap() + 1;
    args[output] += "-of-another-job";
    run(&args).failed_with("S7005").names("its arguments are");
    run(job.args(2, 0.4, "checkpoints", &["-D", "max-parallelism=7"])).failed_with("S2007").names("max-parallelism is 7");
    assert_eq!(files(&job.path("checkpoints")), before, "a refusal changes nothing");
    run(job.args(2, 0.4, "checkpoints", &[])).succeeded();
    job.assert_whole("after refusals");
}

/// Damages each file that a start needs, in turn, and expects a refusal: never an empty start.
#[test]
fn damage_is_found_before_use() {
    let job = crashed("hot-items");
    let before = files(&job.path("checkpoints"));
    let needed = |path: &&(PathBuf, Vec<u8>)| ["/log/", "/chk-2/"].iter().any(|part| path.0.to_string_lossy().contains(part));
    let needed: Vec<_> = before.iter().filter(needed).collect();
    assert!(needed.len() > 5, "the second checkpoint is not there");
    for (path, bytes) in needed {
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for damage in [bytes[..bytes.len() / 2].to_vec(), flipped] {
            std::fs::write(path, &damage).unwrap();
            let name = path.file_name().unwrap().to_string_lossy();
            run(job.args(2, 0.4, "checkpoints", &[])).failed_with("S7001").names(&name);
            std::fs::write(path, bytes).unwrap();
        }
    }
    assert_eq!(files(&job.path("checkpoints")), before, "a refusal changes nothing");
    run(job.args(2, 0.4, "checkpoints", &[])).succeeded();
    job.assert_whole("after damage was mended");
}
