//! What the tests of recovery share: an example over its shipped input, with checkpoints, and the
//! answer that it must come to.

use std::path::PathBuf;

use streamrt_tests::binary::{component, hidden_files, outputs};
use streamrt_tests::data;
use streamrt_tests::oracle::{self, Outputs};
use tempfile::TempDir;

/// A job that can be started again and again.
pub struct Job {
    pub example: &'static str,
    folder: TempDir,
    n_lines: usize,
    expected: Outputs,
    /// `-D` options of every run.
    options: Vec<String>,
    /// Arguments beside the input and the output.
    arguments: Vec<String>,
}

impl Job {
    /// An example over its shipped input.
    pub fn new(example: &'static str) -> Job {
        let folder = TempDir::new().unwrap();
        let text = data::shipped(example);
        let lines: Vec<&str> = text.lines().collect();
        data::write(&folder.path().join("input"), &lines);
        let expected = oracle::run(example, &lines).unwrap();
        Job {
            example,
            folder,
            n_lines: lines.len(),
            expected,
            options: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// The guest `sinks` over numbered lines, which it is to write as they are.
    pub fn of_sinks(n_lines: usize, arguments: &[&str]) -> Job {
        let folder = TempDir::new().unwrap();
        let text: Vec<String> = (0..n_lines).map(|line| format!("line {line}")).collect();
        let lines: Vec<&str> = text.iter().map(String::as_str).collect();
        data::write(&folder.path().join("input"), &lines);
        let mut expected = Outputs::default();
        lines
            .iter()
            .for_each(|line| expected.add_line("", (*line).to_owned()));
        let arguments = arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        Job {
            example: "sinks",
            folder,
            n_lines,
            expected: expected.sorted(),
            options: Vec::new(),
            arguments,
        }
    }

    /// An example over a folder of several files, each in time order, so that every reader has
    /// something to read.
    pub fn over_files(example: &'static str) -> Job {
        let folder = TempDir::new().unwrap();
        let text = data::shipped(example);
        let lines = data::in_time_order(example, &text);
        std::fs::create_dir(folder.path().join("input")).unwrap();
        for (i, hand) in data::deal(&lines, 9).iter().enumerate() {
            data::write(&folder.path().join(format!("input/part-{i}.txt")), hand);
        }
        let expected = oracle::run(example, &lines).unwrap();
        Job {
            example,
            folder,
            n_lines: lines.len(),
            expected,
            options: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// With its keyed state on disk, and this many bytes of memory for it.
    pub fn on_disk(mut self, memory_bytes: usize) -> Job {
        let folder = self.path("state").to_string_lossy().into_owned();
        self.options = vec![
            "state.backend=rocksdb".into(),
            format!("state.memory={memory_bytes}"),
            format!("state.dir={folder}"),
        ];
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command line: parallelism, about how many seconds it takes, the folder of checkpoints,
    /// and further options.
    pub fn args(
        &self,
        parallelism: u32,
        seconds: f64,
        checkpoints: &str,
        further: &[&str],
    ) -> Vec<String> {
        let text = |name: &str| self.path(name).to_string_lossy().into_owned();
        let rate = (self.n_lines as f64 / seconds) as u64 + 1;
        let options = [
            format!("checkpoint.dir={}", text(checkpoints)),
            "checkpoint.interval=40ms".into(),
            format!("source.rate={rate}"),
            "restart.delay=10ms".into(),
        ];
        let mut args = vec![
            "run".to_owned(),
            component(self.example).to_string_lossy().into_owned(),
            "--parallelism".into(),
            parallelism.to_string(),
        ];
        args.extend(self.grants());
        args.extend(
            options
                .into_iter()
                .chain(self.options.iter().cloned())
                .flat_map(|option| ["-D".to_owned(), option]),
        );
        args.extend(further.iter().map(|&further| further.to_owned()));
        args.extend(["--".to_owned(), "--input".into(), text("input")]);
        args.extend(data::output(self.example, &self.path("out")));
        args.extend(self.arguments.iter().cloned());
        args
    }

    fn grants(&self) -> Vec<String> {
        match self.example {
            "sinks" => ["out", "faults"]
                .iter()
                .flat_map(|name| {
                    [
                        "--grant".to_owned(),
                        format!("{name}={}", self.path(name).display()),
                    ]
                })
                .collect(),
            example => data::options(example, &self.path("out")),
        }
    }

    /// The number of lines of the input.
    pub fn n_lines(&self) -> usize {
        self.n_lines
    }

    /// Entries of the log of its checkpoints.
    pub fn n_log_entries(&self) -> usize {
        std::fs::read_dir(self.path("checkpoints/log")).map_or(0, Iterator::count)
    }

    /// Panics unless every visible line is among the expected ones, as often at most.
    #[track_caller]
    pub fn assert_part(&self, when: &str) {
        if !self.path("out").exists() {
            return;
        }
        for (name, lines) in &outputs(&self.path("out")).0 {
            let mut rest = self.expected.lines(name).iter().peekable();
            for line in lines {
                while rest.next_if(|next| *next < line).is_some() {}
                let known = rest.next_if(|next| *next == line).is_some();
                assert!(
                    known,
                    "{}, {when}, output `{name}`: {line} is not expected, or not so often",
                    self.example
                );
            }
        }
    }

    /// Panics unless the output is what a run without failures writes, and nothing else is left.
    #[track_caller]
    pub fn assert_whole(&self, when: &str) {
        self.assert_part(when);
        let actual = outputs(&self.path("out"));
        for (name, lines) in &self.expected.0 {
            let n = actual.lines(name).len();
            assert!(
                n == lines.len(),
                "{}, {when}, output `{name}`: {n} of {} lines",
                self.example,
                lines.len()
            );
        }
        assert_eq!(
            hidden_files(&self.path("out")),
            Vec::<PathBuf>::new(),
            "{}, {when}: uncommitted files are left",
            self.example
        );
    }
}
