//! Jobs that are ended from outside, as a user does: by signals and by commands. What comes out is
//! part of what the whole run gives, so nothing has fired that was not due. The engine's own tests
//! have the ways that need no process.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use streamrt_tests::binary::{LIMIT, Running, component, hidden_files, outputs, streamrt};
use streamrt_tests::data;
use streamrt_tests::oracle::{self, Outputs};
use tempfile::TempDir;

/// How a run is ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Signal(&'static str),
    Command(&'static str),
}

fn end(running: &Running, how: End, example: &str, cache: &Path) {
    let status = match how {
        End::Signal(signal) => Command::new("kill")
            .args([signal, &running.id().to_string()])
            .status()
            .unwrap(),
        End::Command(name) => {
            let mut command = streamrt([name, example]);
            command.env("XDG_CACHE_HOME", cache);
            Running::start(command).finish(LIMIT).status
        }
    };
    assert!(status.success(), "{how:?} did not reach the job");
}

#[track_caller]
fn assert_part(found: &Outputs, whole: &Outputs, what: &str) {
    for (name, lines) in &found.0 {
        let mut rest = whole.lines(name).iter().peekable();
        for line in lines {
            while rest.next_if(|next| *next < line).is_some() {}
            assert!(
                rest.next_if(|next| *next == line).is_some(),
                "{what}, output `{name}`: {line} was not due"
            );
        }
    }
}

/// Runs an example over one file, slowly, and ends it in the middle.
fn check(example: &str, how: End, parallelism: u32, checkpoints: bool) {
    let what = format!("{example}, {how:?}, parallelism {parallelism}, checkpoints: {checkpoints}");
    let folder = TempDir::new().unwrap();
    let (input, output, cache) = (
        folder.path().join("input"),
        folder.path().join("out"),
        folder.path().join("cache"),
    );
    let text = data::shipped(example);
    let lines = data::in_time_order(example, &text);
    data::write(&input, &lines);
    let whole = oracle::run(example, &lines).unwrap();
    let mut args = vec![
        "run".to_owned(),
        component(example).to_string_lossy().into_owned(),
        "--parallelism".into(),
        parallelism.to_string(),
    ];
    args.extend(data::options(example, &output));
    // Some 2 s in all.
    let mut options = vec![
        format!("source.rate={}", lines.len() / 2 + 1),
        "batch.rows=16".to_owned(),
    ];
    if checkpoints {
        options.extend([
            format!(
                "checkpoint.dir={}",
                folder.path().join("checkpoints").display()
            ),
            "checkpoint.interval=50ms".to_owned(),
        ]);
    }
    args.extend(
        options
            .into_iter()
            .flat_map(|option| ["-D".to_owned(), option]),
    );
    args.extend(["--", "--input"].map(str::to_owned));
    args.extend([
        input.display().to_string(),
        "--output".into(),
        output.display().to_string(),
    ]);
    let mut command = streamrt(args);
    command.env("XDG_CACHE_HOME", &cache);
    let running = Running::start(command);
    // In the middle of what it does.
    let start = Instant::now();
    while !output.exists() || hidden_files(&output).is_empty() && outputs(&output).0.is_empty() {
        assert!(start.elapsed() < LIMIT, "{what}: nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    end(&running, how, example, &cache);
    let finished = running.finish(LIMIT);
    if how != End::Command("cancel") {
        finished.succeeded();
    }
    assert_eq!(
        hidden_files(&output),
        [] as [std::path::PathBuf; 0],
        "{what}"
    );
    assert_part(&outputs(&output), &whole, &what);
}

#[test]
fn a_signal_or_a_command_fires_nothing_that_is_not_due() {
    let ways = [
        End::Signal("-INT"),
        End::Signal("-TERM"),
        End::Command("stop"),
        End::Command("cancel"),
    ];
    for (example, parallelism) in [
        ("ride-duration", 2),
        ("hot-items", 2),
        ("session-clicks", 7),
        ("hot-items", 1),
    ] {
        for (i, how) in ways.into_iter().enumerate() {
            check(
                example,
                how,
                parallelism,
                i % 2 == usize::from(parallelism == 2),
            );
        }
    }
    check("ride-duration", End::Signal("-INT"), 2, false);
    check("hot-items", End::Signal("-TERM"), 7, false);
}
