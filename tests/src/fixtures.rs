//! Stored formats of each version of streamrt: snapshots of the guest `stored` in
//! `tests/fixtures/VERSION`, which must restore for ever.
//!
//! 1. [`make`] runs the job in a folder of its own until it is in the middle of its input, and
//!    keeps what a crash leaves: checkpoints, files that are promised and not committed, dead
//!    letters. It does so for each backend, with a checkpoint and with a savepoint.
//! 2. [`Fixture::restore`] resumes from a copy, to the end, with the same component: what both have
//!    written is what one run without a break writes.
//!
//! All paths in a fixture are relative, so the job runs in the folder. What is in `tests/fixtures`
//! is never made again: a new version adds its own, see `tests/fixtures/README.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::binary::{LIMIT, Running, component, repository, streamrt};

/// Rows of the input, and the rate at which a job reads that is to be stopped in the middle.
const ROWS: usize = 900;
const RATE: usize = 200;

/// Each backend, with what its job resumes from.
pub const KINDS: [(&str, Origin); 4] = [
    ("memory", Origin::Checkpoint),
    ("memory", Origin::Savepoint),
    ("rocksdb", Origin::Checkpoint),
    ("rocksdb", Origin::Savepoint),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Checkpoint,
    Savepoint,
}

/// One snapshot of one version.
pub struct Fixture {
    /// The folder of the version.
    version: PathBuf,
    backend: &'static str,
    from: Origin,
}

/// Lines by file sink, sorted.
pub type Lines = BTreeMap<String, Vec<String>>;

/// The folders of all versions.
pub fn versions() -> Vec<PathBuf> {
    let folder = repository().join("tests/fixtures");
    let listing = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("cannot list {}: {e}", folder.display()));
    let mut versions: Vec<PathBuf> = listing
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.is_dir())
        .collect();
    versions.sort();
    versions
}

impl Fixture {
    pub fn new(version: &Path, (backend, from): (&'static str, Origin)) -> Fixture {
        Fixture {
            version: version.to_owned(),
            backend,
            from,
        }
    }

    fn name(&self) -> String {
        format!(
            "{}-{}",
            self.backend,
            if self.from == Origin::Savepoint {
                "savepoint"
            } else {
                "checkpoint"
            }
        )
    }

    /// Where it was kept.
    pub fn folder(&self) -> PathBuf {
        self.version.join(self.name())
    }

    fn digest(&self) -> String {
        let text = std::fs::read_to_string(self.version.join("inspect.json"))
            .expect("a version has what `inspect` said of its component");
        let shown: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        shown["digest"]
            .as_str()
            .expect("it has the digest")
            .to_owned()
    }

    /// Resumes from a copy in `folder`, to the end. Returns all that was written.
    #[track_caller]
    pub fn restore(&self, folder: &Path) -> Lines {
        copy(&self.folder(), folder);
        copy(&self.version.join("input"), &folder.join("input"));
        std::fs::copy(self.version.join("stored.wasm"), folder.join("stored.wasm"))
            .expect("a fixture has its component");
        // Snapshots keep it by its digest; here it is kept once for all.
        let digest = self.digest();
        for parent in ["checkpoints", "savepoint"]
            .map(|name| folder.join(name))
            .iter()
            .filter(|parent| parent.exists())
        {
            std::fs::create_dir(parent.join("plugins")).expect("it is not there");
            let kept = parent.join(format!("plugins/{digest}.wasm"));
            std::fs::copy(self.version.join("stored.wasm"), kept)
                .expect("a fixture has its component");
        }
        let further: &[&str] = match self.from {
            Origin::Checkpoint => &["-D", "checkpoint.dir=checkpoints"],
            Origin::Savepoint => &["-D", "checkpoint.dir=forked", "--from", "savepoint"],
        };
        let ended = Running::start(command(folder, self.backend, further))
            .finish(LIMIT)
            .succeeded();
        assert!(
            ended.stderr.contains("goes on from checkpoint"),
            "{}: {}",
            self.name(),
            ended.stderr
        );
        lines(folder)
    }
}

/// The job in this folder.
fn command(folder: &Path, backend: &str, further: &[&str]) -> Command {
    let mut args = vec![
        "run",
        "stored.wasm",
        "--parallelism",
        "2",
        "--grant",
        "sent=sent",
    ];
    let backend = format!("state.backend={backend}");
    for option in [
        "checkpoint.interval=100ms",
        "poison.policy=skip",
        "poison.dead-letters=letters",
        "state.memory=1MiB",
        "state.dir=state",
        &backend,
    ] {
        args.extend(["-D", option]);
    }
    args.extend(further);
    args.extend(["--", "--input", "input", "--output", "out"]);
    let mut command = streamrt(args);
    command
        .current_dir(folder)
        .env("XDG_CACHE_HOME", folder.join("cache"));
    command
}

/// What a dead letter says in whatever words: which operator has skipped a record, and why.
fn letter(line: &str) -> String {
    let letter: serde_json::Value = serde_json::from_str(line).expect("a dead letter is JSON");
    format!("{} {}", letter["uid"], letter["code"])
}

/// Everything that the sinks of a job have made visible.
fn lines(folder: &Path) -> Lines {
    let mut lines = Lines::new();
    for path in files(folder) {
        let name = path
            .strip_prefix(folder)
            .expect("it is below")
            .to_string_lossy()
            .into_owned();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        assert!(
            !is_hidden || !name.starts_with("out"),
            "{name} is not committed"
        );
        let sink = match name.split('/').collect::<Vec<_>>()[..] {
            ["out", sink, _] => sink,
            [sink @ ("letters" | "sent"), _] => sink,
            _ => continue,
        };
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let line = |line: &str| {
            if sink == "letters" {
                letter(line)
            } else {
                line.to_owned()
            }
        };
        lines
            .entry(sink.to_owned())
            .or_default()
            .extend(text.lines().map(line));
    }
    lines.values_mut().for_each(|lines| lines.sort());
    lines
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("cannot list {}: {e}", folder.display()));
    let entries = listing.map(|entry| entry.expect("it can be listed").path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).expect("it is below"));
        std::fs::create_dir_all(target.parent().expect("it is in a folder"))
            .expect("folders can be made");
        std::fs::copy(&path, &target)
            .unwrap_or_else(|e| panic!("cannot copy {}: {e}", path.display()));
    }
}

/// What a version of a fixture has to come to: the lines of one run without a break.
pub fn expected(version: &Path) -> Lines {
    let text = std::fs::read_to_string(version.join("expected.json"))
        .expect("a version has its expected lines");
    serde_json::from_str(&text).expect("the expected lines are JSON")
}

/// Makes the fixtures of the version that was built last, in a new folder.
///
/// # Panics
/// If there are some already, or something fails on the way: nothing useful is left then.
pub fn make() -> PathBuf {
    let version = repository()
        .join("tests/fixtures")
        .join(env!("CARGO_PKG_VERSION"));
    assert!(
        !version.exists(),
        "{} is there: fixtures are never made again, since old ones must restore for ever",
        version.display()
    );
    std::fs::create_dir_all(version.join("input")).expect("the folder can be made");
    std::fs::copy(component("stored"), version.join("stored.wasm"))
        .expect("the component can be copied");
    write_input(&version.join("input"));
    let scratch = tempfile::tempdir().expect("there is room");
    let whole = scratch.path().join("whole");
    prepare(&version, &whole);
    Running::start(command(
        &whole,
        "memory",
        &["-D", "checkpoint.dir=checkpoints"],
    ))
    .finish(LIMIT)
    .succeeded();
    let expected = serde_json::to_string_pretty(&lines(&whole)).expect("lines are JSON");
    std::fs::write(version.join("expected.json"), expected).expect("it can be written");
    let inspect = [
        "inspect",
        "stored.wasm",
        "--output",
        "json",
        "--",
        "--input",
        "input",
        "--output",
        "out",
    ];
    let mut inspect = streamrt(inspect);
    inspect.current_dir(&whole);
    std::fs::write(
        version.join("inspect.json"),
        Running::start(inspect).finish(LIMIT).succeeded().stdout,
    )
    .expect("it can be written");
    for kind in KINDS {
        let fixture = Fixture::new(&version, kind);
        let folder = scratch.path().join(fixture.name());
        prepare(&version, &folder);
        stop_in_the_middle(&folder, kind);
        keep(&folder, &fixture);
    }
    version
}

fn prepare(version: &Path, folder: &Path) {
    copy(&version.join("input"), &folder.join("input"));
    std::fs::copy(version.join("stored.wasm"), folder.join("stored.wasm"))
        .expect("the component can be copied");
}

/// Events in time order, some of them bad, and limits that change now and then.
fn write_input(folder: &Path) {
    let mut events = String::new();
    for n in 0..ROWS {
        let number = if n % 500 == 250 { -1 } else { n as i64 };
        events += &format!("{},{number},{}\n", n * 7 % 40, n * 100);
    }
    let limits: String = (0..30)
        .map(|limit| format!("{},{},{}\n", limit % 40, limit * 150, limit * 10_000))
        .collect();
    std::fs::write(folder.join("events.csv"), events).expect("the input can be written");
    std::fs::write(folder.join("limits.csv"), limits).expect("the input can be written");
}

/// Leaves what a crash leaves, a checkpoint whose commits were not carried out; or a savepoint with
/// which the job was stopped.
fn stop_in_the_middle(folder: &Path, (backend, from): (&str, Origin)) {
    let rate = format!("source.rate={RATE}");
    let mut command = command(
        folder,
        backend,
        &["-D", "checkpoint.dir=checkpoints", "-D", &rate],
    );
    if from == Origin::Checkpoint {
        command.env("STREAMRT_FAILPOINTS", "complete.before=crash:3");
        assert!(
            !Running::start(command).finish(LIMIT).status.success(),
            "the failpoint did not act"
        );
        return;
    }
    let running = Running::start(command);
    let start = Instant::now();
    while std::fs::read_dir(folder.join("checkpoints/log")).map_or(0, Iterator::count) < 8 {
        assert!(start.elapsed() < LIMIT, "the job makes no checkpoints");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut savepoint = streamrt(["stop", "stored", "--savepoint", "savepoint"]);
    savepoint
        .current_dir(folder)
        .env("XDG_CACHE_HOME", folder.join("cache"));
    Running::start(savepoint).finish(LIMIT).succeeded();
    running.finish(LIMIT).succeeded();
}

/// Keeps what a restart needs.
fn keep(folder: &Path, fixture: &Fixture) {
    let snapshot = if fixture.from == Origin::Savepoint {
        "savepoint"
    } else {
        "checkpoints"
    };
    std::fs::remove_dir_all(folder.join(snapshot).join("plugins"))
        .expect("a snapshot has its components");
    for name in [snapshot, "out", "letters", "sent"]
        .map(|name| folder.join(name))
        .iter()
        .filter(|path| path.exists())
    {
        copy(
            name,
            &fixture
                .folder()
                .join(name.file_name().expect("it has a name")),
        );
    }
}
