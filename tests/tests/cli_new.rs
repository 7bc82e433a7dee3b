//! `streamrt new` as a newcomer meets it: the crate that it makes builds, and its test passes, with
//! nothing but cargo.

use std::path::Path;
use std::process::Command;

use streamrt_tests::binary::{LIMIT, Running, run, streamrt};
use tempfile::TempDir;

/// A cargo command in the new crate. It uses the target folder and the settings of our own profile,
/// so that what the SDK depends on is not compiled again.
fn cargo(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(folder);
    let profile = [
        ("OVERFLOW_CHECKS", "true"),
        ("DEBUG", "line-tables-only"),
        ("SPLIT_DEBUGINFO", "packed"),
    ];
    command.envs(profile.map(|(key, value)| (format!("CARGO_PROFILE_RELEASE_{key}"), value)));
    if let Some(target) = streamrt_tests::binary::binary().ancestors().nth(2) {
        command.env("CARGO_TARGET_DIR", target);
    }
    command
}

#[test]
fn a_new_crate_passes_its_own_test() {
    let folder = TempDir::new().unwrap();
    let made = folder.path().join("my-op");
    run(["new".as_ref(), made.as_os_str()]).succeeded();
    let output = cargo(&made, &["test", "--release"]).output().unwrap();
    let said = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.contains("test result: ok. 1 passed"),
        "{said}"
    );
}

/// What `cargo fmt` would change in a crate, its SDK included.
fn would_format(made: &Path) -> Vec<String> {
    let output = cargo(made, &["fmt", "--all", "--check", "--", "-l"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn formatting_leaves_a_new_crate_and_its_sdk_alone() {
    let folder = TempDir::new().unwrap();
    let made = folder.path().join("my-op");
    run(["new".as_ref(), made.as_os_str()]).succeeded();
    assert_eq!(would_format(&made), Vec::<String>::new());
}

#[test]
fn crates_of_a_workspace_share_one_sdk() {
    let folder = TempDir::new().unwrap();
    let manifest = folder.path().join("Cargo.toml");
    std::fs::write(
        &manifest,
        "[workspace]\nresolver = \"3\"\nmembers = [] # none yet\n",
    )
    .unwrap();
    for name in ["first", "jobs/second"] {
        Running::start(in_folder(folder.path(), &["new", name]))
            .finish(LIMIT)
            .succeeded();
    }
    assert!(folder.path().join(".streamrt/sdk/rust/src/lib.rs").exists());
    assert!(
        !folder.path().join("first/.streamrt").exists()
            && !folder.path().join("jobs/second/.streamrt").exists()
    );
    let members = cargo(
        folder.path(),
        &[
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ],
    )
    .output()
    .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&members.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&members.stderr)));
    let mut names: Vec<&str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["first", "second"]);
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(
        text.contains("[profile.component]") && text.contains("# none yet"),
        "{text}"
    );
}

#[test]
fn an_existing_folder_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let new = || Running::start(in_folder(folder.path(), &["new", "twice"])).finish(LIMIT);
    new().succeeded();
    let readme = folder.path().join("twice/README.md");
    std::fs::write(&readme, "mine").unwrap();
    new().failed_with("S6003");
    assert_eq!(std::fs::read_to_string(readme).unwrap(), "mine");
}

#[test]
fn a_name_that_is_none_is_refused() {
    let folder = TempDir::new().unwrap();
    for name in ["1st", "a.b", ".."] {
        Running::start(in_folder(folder.path(), &["new", name]))
            .finish(LIMIT)
            .failed_with("S6004");
    }
}

fn in_folder(folder: &Path, args: &[&str]) -> Command {
    let mut command = streamrt(args);
    command.current_dir(folder);
    command
}
