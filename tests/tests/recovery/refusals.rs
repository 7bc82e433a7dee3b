//! Checkpoint folders that cannot be used: a sentence with the choices, and nothing is changed.

use std::path::{Path, PathBuf};

use streamrt_tests::binary::{component, run, streamrt};

use crate::jobs::Job;

/// A job that crashed after its second checkpoint.
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
        if path.is_dir() {
            all.extend(files(&path))
        } else {
            all.push((path.clone(), std::fs::read(&path).unwrap()))
        }
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
    run(&other)
        .failed_with("S7005")
        .names("its name is `hot-items`");
    let mut args = job.args(2, 0.4, "checkpoints", &[]);
    let output = args.iter().position(|arg| arg == "--output").unwrap() + 1;
    args[output] += "-of-another-job";
    run(&args).failed_with("S7005").names("its arguments are");
    run(job.args(2, 0.4, "checkpoints", &["-D", "max-parallelism=7"]))
        .failed_with("S2007")
        .names("max-parallelism is 7");
    assert_eq!(
        files(&job.path("checkpoints")),
        before,
        "a refusal changes nothing"
    );
    run(job.args(2, 0.4, "checkpoints", &[])).succeeded();
    job.assert_whole("after refusals");
}

#[test]
fn another_job_on_the_folder_of_one_that_has_finished_is_refused() {
    let job = Job::new("hot-items");
    let mine = job.args(2, 0.1, "checkpoints", &[]);
    run(&mine).succeeded();
    let before = files(&job.path("checkpoints"));
    let refused = |args: &[String], why: &str| {
        run(args)
            .failed_with("S7005")
            .names("has finished")
            .names(why);
    };
    let mut component_of_another = mine.clone();
    component_of_another[1] = component("session-clicks").to_string_lossy().into_owned();
    refused(&component_of_another, "its name is `hot-items`");
    refused(
        &job.args(2, 0.1, "checkpoints", &["--name", "other"]),
        "its name is `hot-items`",
    );
    component_of_another.splice(2..2, ["--name".to_owned(), "hot-items".into()]);
    refused(&component_of_another, "has the digest");
    let mut arguments = mine.clone();
    *arguments.last_mut().unwrap() += "-of-another-job";
    refused(&arguments, "its arguments are");
    // A snapshot starts nothing in such a folder either.
    let of_itself = job.path("checkpoints").to_string_lossy().into_owned();
    let again = run(job.args(2, 0.1, "checkpoints", &["--from", &of_itself])).succeeded();
    assert!(
        again.stderr.contains("has finished; nothing is changed"),
        "{}",
        again.stderr
    );
    // The same job needs no input to say so.
    std::fs::remove_file(job.path("input")).unwrap();
    let again = run(&mine).succeeded();
    assert!(
        again.stderr.contains("has finished; nothing is changed"),
        "{}",
        again.stderr
    );
    assert_eq!(
        files(&job.path("checkpoints")),
        before,
        "a refusal changes nothing"
    );
    job.assert_whole("after refusals");
}

#[test]
fn a_changed_job_file_does_not_run_where_the_first_one_has_finished() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("input"), "a\nb\n").unwrap();
    let file = folder.path().join("job.toml");
    let start = |sink: &str| {
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let text = format!(
            r#"
            name = "copy"
            configuration = {{ "checkpoint.dir" = {:?}, "checkpoint.interval" = "1h" }}
            [[source]]
            uid = "lines"
            connector = "file"
            path = {:?}
            columns = [{{ name = "line", type = "string" }}]
            [[sink]]
            uid = "{sink}"
            connector = "file"
            input = "lines"
            path = {:?}
            "#,
            path("checkpoints"),
            path("input"),
            path(sink),
        );
        std::fs::write(&file, text).unwrap();
        run([Path::new("run"), &file])
    };
    start("out").succeeded();
    assert!(
        start("out")
            .succeeded()
            .stderr
            .contains("has finished; nothing is changed")
    );
    start("other")
        .failed_with("S7005")
        .names("it has a node `out`");
    assert!(!folder.path().join("other").exists());
}

#[test]
fn a_snapshot_of_another_job_starts_nothing_in_a_folder_that_has_one() {
    let (job, other) = (crashed("hot-items"), Job::new("word-count"));
    run(other.args(2, 0.1, "checkpoints", &[])).succeeded();
    let before = files(&job.path("checkpoints"));
    let from = other.path("checkpoints").to_string_lossy().into_owned();
    run(job.args(2, 0.4, "checkpoints", &["--from", &from]))
        .failed_with("S7005")
        .names("was not started from");
    assert_eq!(
        files(&job.path("checkpoints")),
        before,
        "a refusal changes nothing"
    );
    run(job.args(2, 0.4, "checkpoints", &[])).succeeded();
    job.assert_whole("after a refusal");
}

/// Trying again would find it there again.
#[test]
fn a_folder_in_the_place_of_a_component_is_refused_at_once() {
    let job = crashed("hot-items");
    let components: Vec<_> = std::fs::read_dir(job.path("checkpoints/plugins"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    for component in &components {
        std::fs::remove_file(component).unwrap();
        std::fs::create_dir(component).unwrap();
    }
    let name = components[0].file_name().unwrap().to_string_lossy();
    run(job.args(2, 0.4, "checkpoints", &[]))
        .failed_with("S7001")
        .names(&name)
        .names("a folder has its name");
    components
        .iter()
        .for_each(|component| std::fs::remove_dir(component).unwrap());
    run(job.args(2, 0.4, "checkpoints", &[])).succeeded();
    job.assert_whole("after the folder was gone");
}

/// Damages each file that a start needs, in turn, and expects a refusal: never an empty start.
#[test]
fn damage_is_found_before_use() {
    let job = crashed("hot-items");
    let before = files(&job.path("checkpoints"));
    let needed = |path: &&(PathBuf, Vec<u8>)| {
        ["/log/", "/chk-2/"]
            .iter()
            .any(|part| path.0.to_string_lossy().contains(part))
    };
    let needed: Vec<_> = before.iter().filter(needed).collect();
    assert!(needed.len() > 5, "the second checkpoint is not there");
    for (path, bytes) in needed {
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for damage in [bytes[..bytes.len() / 2].to_vec(), flipped] {
            std::fs::write(path, &damage).unwrap();
            let name = path.file_name().unwrap().to_string_lossy();
            run(job.args(2, 0.4, "checkpoints", &[]))
                .failed_with("S7001")
                .names(&name);
            std::fs::write(path, bytes).unwrap();
        }
    }
    assert_eq!(
        files(&job.path("checkpoints")),
        before,
        "a refusal changes nothing"
    );
    run(job.args(2, 0.4, "checkpoints", &[])).succeeded();
    job.assert_whole("after damage was mended");
}
