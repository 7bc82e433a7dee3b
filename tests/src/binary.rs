//! Runs the `streamrt` binary as a user would, and collects what it leaves behind.
//!
//! Invariant: no run outlives its limit, so that a job that hangs is a failed test and not a
//! hanging one. Called by the tests in `tests/tests`; it panics on purpose if something is missing:
//! the message is the test's.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::oracle::Outputs;

/// How long a run may take unless a test says otherwise. The slowest takes seconds; the rest is for
/// a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies one folder below the root")
        .to_owned()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// A path from the environment, or below the target folder; it must exist.
fn built(variable: &str, default: &str, file: &str) -> PathBuf {
    let path = std::env::var_os(variable)
        .map_or_else(|| target().join(default), PathBuf::from)
        .join(file);
    assert!(
        path.exists(),
        "run `cargo xtask build` first: there is no {}",
        path.display()
    );
    path
}

/// The binary: `$STREAMRT_BIN`, else `release/streamrt` in the target folder.
pub fn binary() -> PathBuf {
    match std::env::var_os("STREAMRT_BIN") {
        Some(path) => PathBuf::from(path),
        None => built("STREAMRT_RELEASE", "release", "streamrt"),
    }
}

/// A component: `<name>.wasm` in `$STREAMRT_COMPONENTS`, else in `components` in the target folder.
pub fn component(name: &str) -> PathBuf {
    built("STREAMRT_COMPONENTS", "components", &format!("{name}.wasm"))
}

/// A command line of the binary.
pub fn streamrt<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(binary());
    // Messages within the process go through bytes and back, as between two.
    command.env("STREAMRT_TEST_WIRE", "1");
    command.args(args).stdin(Stdio::null());
    command
}

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Panics with the whole output unless the exit code is 0.
    #[track_caller]
    pub fn succeeded(self) -> Finished {
        assert!(
            self.status.success(),
            "{}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Panics unless the run failed with this code, in one sentence, and without falling over.
    #[track_caller]
    pub fn failed_with(self, code: &str) -> Finished {
        let said = format!(
            "{}\nstdout: {}\nstderr: {}",
            self.status, self.stdout, self.stderr
        );
        assert!(
            self.status.code().is_some_and(|code| code != 0),
            "no failure: {said}"
        );
        assert!(self.stderr.contains(code), "no {code}: {said}");
        // A plugin may panic, and its message is shown; what begins like this is a thread of the
        // host.
        assert!(!self.stderr.contains("thread '"), "a panic: {said}");
        assert!(self.stdout.is_empty(), "something on stdout: {said}");
        self
    }

    /// Panics unless stderr names this.
    #[track_caller]
    pub fn names(self, place: &str) -> Finished {
        assert!(
            self.stderr.contains(place),
            "`{place}` is not named: {}",
            self.stderr
        );
        self
    }
}

/// A run in progress, whose output is read as it comes.
pub struct Running {
    child: Child,
    stdout: Pipe,
    stderr: Pipe,
}

/// What comes out of a pipe.
struct Pipe {
    so_far: Arc<Mutex<Vec<u8>>>,
    /// Notified when the other side has closed it, or reading failed.
    closed: mpsc::Receiver<std::io::Result<()>>,
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let stdout = Pipe::read(child.stdout.take().expect("it was piped"));
        let stderr = Pipe::read(child.stderr.take().expect("it was piped"));
        Running {
            child,
            stdout,
            stderr,
        }
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its stderr so far.
    pub fn said(&self) -> String {
        self.stderr.text()
    }

    /// Waits until this appears on stderr.
    #[track_caller]
    pub fn says(&self, what: &str) {
        let start = std::time::Instant::now();
        while !self.stderr.text().contains(what) {
            assert!(
                start.elapsed() < LIMIT,
                "`{what}` was not said: {}",
                self.stderr.text()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .expect("kill is there");
        assert!(status.success(), "the process {pid} is gone already");
    }

    /// Ends the process as a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// Whether it has ended by itself within this time.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let start = std::time::Instant::now();
        while start.elapsed() < limit {
            if self
                .child
                .try_wait()
                .expect("it was started here")
                .is_some()
            {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Waits for the end, at most this long, then kills it and panics.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Finished {
        let in_time = self.stderr.is_closed_within(limit);
        if !in_time {
            self.child.kill().expect("it can be killed");
        }
        assert!(
            in_time,
            "still running after {limit:?}: {}",
            self.stderr.text()
        );
        // Both are closed by its end.
        self.stdout.is_closed_within(limit);
        let status = self.child.wait().expect("it was started here");
        Finished {
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

impl Pipe {
    fn read(mut pipe: impl Read + Send + 'static) -> Pipe {
        let (sender, closed) = mpsc::channel();
        let so_far = Arc::new(Mutex::new(Vec::new()));
        let bytes = so_far.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            let end = loop {
                match pipe.read(&mut piece) {
                    Ok(0) => break Ok(()),
                    Ok(n) => bytes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend_from_slice(&piece[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => break Err(e),
                }
            };
            // Nobody listens any more when the test has failed.
            let _ = sender.send(end);
        });
        Pipe { so_far, closed }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.so_far.lock().unwrap_or_else(PoisonError::into_inner))
            .into_owned()
    }

    fn is_closed_within(&self, limit: Duration) -> bool {
        self.closed
            .recv_timeout(limit)
            .map(|read| read.expect("a pipe can be read"))
            .is_ok()
    }
}

/// Runs the binary to its end.
#[track_caller]
pub fn run<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Finished {
    Running::start(streamrt(args)).finish(LIMIT)
}

/// What a reader of a file sink's folder sees: files directly in it, and those of side outputs in
/// sub-folders. Files whose names begin with a dot are omitted, as by `*`; [`hidden_files`] has
/// those.
pub fn outputs(folder: &Path) -> Outputs {
    let mut outputs = Outputs::default();
    for path in entries(folder) {
        if path.is_dir() {
            let side = path
                .file_name()
                .expect("an entry has a name")
                .to_string_lossy()
                .into_owned();
            entries(&path)
                .iter()
                .for_each(|file| add_lines(&mut outputs, &side, file));
        } else {
            add_lines(&mut outputs, "", &path);
        }
    }
    outputs.sorted()
}

fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let listing = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("cannot list {}: {e}", folder.display()));
    listing
        .map(|entry| entry.expect("the listing goes on").path())
        .collect()
}

/// Files of a sink that are not committed.
pub fn hidden_files(folder: &Path) -> Vec<PathBuf> {
    let hidden = |path: &PathBuf| is_hidden(path) && path.is_file();
    let inside = |path: PathBuf| {
        if path.is_dir() {
            entries(&path).into_iter().collect()
        } else {
            vec![path]
        }
    };
    entries(folder)
        .into_iter()
        .flat_map(inside)
        .filter(hidden)
        .collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn add_lines(outputs: &mut Outputs, name: &str, file: &Path) {
    if is_hidden(file) {
        return;
    }
    let text = std::fs::read_to_string(file)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
    text.lines()
        .for_each(|line| outputs.add_line(name, line.to_owned()));
}
