//! A job that is upgraded while it runs, the versions of its component, and what its output has to
//! be.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use streamrt_plugin::PluginHost;
use streamrt_tests::binary::{
    Finished, LIMIT, Running, component, hidden_files, outputs, streamrt,
};
use streamrt_tests::guests::Misbehaving;
use streamrt_types::Configuration;
use tempfile::TempDir;

/// What the guest has, and what a version has in its place.
pub(super) const FIRST: &str = "the version of this guest is: first";

pub(super) const SECOND: &str = "the version of this guest is: again";

const FAILS: &str = "the version of this guest is: fails";

/// It fails at the row `LATER` of the guest and those after it.
const LATER: &str = "the version of this guest is: later";

pub const FILES: usize = 9;

const KEYS: usize = 100;

/// More rows than a job reads at its rate while a test is at work.
pub(super) const MANY: usize = 1_000_000;

/// A job of the guest `versions` over some files of numbers.
pub struct Versions {
    folder: TempDir,
    n_rows: usize,
}

impl Versions {
    pub fn new(n_rows: usize) -> Versions {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("input")).unwrap();
        for file in 0..FILES {
            let mut text = String::new();
            (file..n_rows)
                .step_by(FILES)
                .for_each(|n| writeln!(text, "{n},{}", n % KEYS).unwrap());
            std::fs::write(folder.path().join(format!("input/part-{file}.txt")), text).unwrap();
        }
        let versions = Versions { folder, n_rows };
        for (name, version) in [
            ("first", FIRST),
            ("again", SECOND),
            ("fails", FAILS),
            ("later", LATER),
        ] {
            versions.write_component(name, version);
        }
        versions
    }

    fn write_component(&self, name: &str, version: &str) {
        let mut bytes = std::fs::read(component("versions")).unwrap();
        let at = bytes
            .windows(FIRST.len())
            .position(|window| window == FIRST.as_bytes())
            .expect("the guest has its version");
        bytes[at..at + version.len()].copy_from_slice(version.as_bytes());
        assert!(
            !bytes
                .windows(FIRST.len())
                .any(|window| window == FIRST.as_bytes())
                || version == FIRST,
            "the text stands there once"
        );
        std::fs::write(self.wasm(name), bytes).unwrap();
    }

    /// A component that describes the same job, and traps when it is opened.
    pub(super) fn write_trap(&self, name: &str) {
        let host = PluginHost::new(&Configuration::default(), None).unwrap();
        let plugin = host
            .load(&std::fs::read(self.wasm("first")).unwrap())
            .unwrap();
        let plan = plugin.describe(&self.job_args()).unwrap().to_json();
        let guest = Misbehaving {
            plan_text: Some(plan),
            open: "unreachable".into(),
            ..Misbehaving::default()
        };
        std::fs::write(self.wasm(name), guest.component()).unwrap();
    }

    fn job_args(&self) -> [String; 4] {
        let text = |name: &str| self.path(name).to_string_lossy().into_owned();
        [
            "--input".into(),
            text("input"),
            "--output".into(),
            text("out"),
        ]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn wasm(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.wasm"))
    }

    /// The command that starts the job with its first version; a rate of 0 is none.
    pub fn command(&self, parallelism: u32, rate: usize, further: &[&str]) -> Command {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut args = vec![
            "run".to_owned(),
            text(&self.wasm("first")),
            "--parallelism".into(),
            parallelism.to_string(),
        ];
        let mut options = vec![
            format!("checkpoint.dir={}", text(&self.path("checkpoints"))),
            "restart.delay=10ms".into(),
        ];
        options.extend((rate > 0).then(|| format!("source.rate={rate}")));
        options.extend(further.iter().map(|&further| further.to_owned()));
        args.extend(
            options
                .into_iter()
                .flat_map(|option| ["-D".to_owned(), option]),
        );
        args.push("--".into());
        args.extend(self.job_args());
        self.in_cache(args)
    }

    pub(super) fn in_cache(&self, args: Vec<String>) -> Command {
        let mut command = streamrt(args);
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    pub fn tell(&self, args: &[&str]) -> Finished {
        Running::start(self.in_cache(args.iter().map(|&arg| arg.to_owned()).collect()))
            .finish(LIMIT)
    }

    pub fn upgrade(&self, name: &str) -> Finished {
        self.tell(&["upgrade", "first", &self.wasm(name).to_string_lossy()])
    }

    /// Starts the job, and waits until it takes commands and has written something.
    pub fn start(&self, command: Command) -> Running {
        self.awaited(Running::start(command))
    }

    pub(super) fn awaited(&self, running: Running) -> Running {
        let start = Instant::now();
        while !self.path("out").exists()
            || !self.tell(&["list"]).succeeded().stdout.contains("first")
        {
            assert!(start.elapsed() < LIMIT, "the job does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        running
    }

    /// Waits until the job takes commands.
    pub(super) fn awaited_only(&self, running: &Running) {
        running.says("goes on from checkpoint");
        let start = Instant::now();
        while !self.tell(&["list"]).succeeded().stdout.contains("first") {
            assert!(start.elapsed() < LIMIT, "the job does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the job, which has more to read than it can at its rate, and runs the same command to
    /// the end at once.
    pub(super) fn stop_and_finish(&self, running: Running) -> (Finished, Finished) {
        self.tell(&["stop", "first"]).succeeded();
        let stopped = running.finish(LIMIT).succeeded();
        assert!(
            stopped.stderr.contains("was stopped at checkpoint"),
            "{}",
            stopped.stderr
        );
        self.check_part("when stopped");
        (stopped, self.finish())
    }

    pub fn finish(&self) -> Finished {
        Running::start(self.command(2, 0, &["checkpoint.interval=1s"]))
            .finish(LIMIT)
            .succeeded()
    }

    pub fn rows(&self) -> Vec<Value> {
        outputs(&self.path("out"))
            .lines("")
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Panics unless the output is right as far as it goes. Returns how often each key went from
    /// one version to the other.
    #[track_caller]
    pub(super) fn check_part(&self, when: &str) -> usize {
        let mut of_key: BTreeMap<i64, BTreeMap<i64, (i64, String)>> = BTreeMap::new();
        for row in self.rows() {
            let number = |field: &str| row[field].as_i64().unwrap();
            assert_eq!(
                row["mapped_by"], row["counted_by"],
                "{when}: two versions treated the row {row}"
            );
            let version = row["counted_by"].as_str().unwrap().to_owned();
            let twice = of_key
                .entry(number("key"))
                .or_default()
                .insert(number("seen"), (number("n"), version));
            assert!(
                twice.is_none(),
                "{when}: row {row} is counted like another one"
            );
        }
        of_key
            .values()
            .map(|rows| {
                assert!(
                    rows.keys().copied().eq(1..=rows.len() as i64),
                    "{when}: counts are missing"
                );
                let versions: Vec<&String> = rows.values().map(|(_, version)| version).collect();
                versions
                    .windows(2)
                    .filter(|pair| pair[0] != pair[1])
                    .count()
            })
            .max()
            .unwrap_or(0)
    }

    /// Like [`Versions::check_part`], for a job that has finished.
    #[track_caller]
    pub(super) fn check_whole(&self, when: &str) -> usize {
        let switches = self.check_part(when);
        let mut numbers: Vec<i64> = self
            .rows()
            .iter()
            .map(|row| row["n"].as_i64().unwrap())
            .collect();
        numbers.sort_unstable();
        assert!(
            numbers.iter().copied().eq(0..self.n_rows as i64),
            "{when}: {} of {} rows, some twice",
            numbers.len(),
            self.n_rows
        );
        assert_eq!(
            hidden_files(&self.path("out")),
            Vec::<PathBuf>::new(),
            "{when}: uncommitted files are left"
        );
        switches
    }
}
