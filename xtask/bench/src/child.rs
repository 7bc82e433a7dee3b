//! Runs of the `streamrt` binary as a child process: what it took, and what it wrote.

use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often the memory of a child is looked at. The kernel keeps the peak, so only what is new in
/// the last moment is missed.
const POLL: Duration = Duration::from_millis(5);

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// User and system, of all its threads.
    pub cpu: Duration,
    pub peak_bytes: u64,
    /// Until its first line on stdout, if it was waited for.
    pub first_line: Option<Duration>,
}

/// `streamrt run` of a component.
pub struct Job {
    command: Command,
    wait_for_line: bool,
}

impl Job {
    /// `component` is its name without `.wasm`; `options` are those of `run`, `args` the job's own.
    pub fn new(component: &str, options: &[&str], args: &[&str]) -> Result<Job> {
        let mut command = streamrt()?;
        command
            .arg("run")
            .arg(self::component(component)?)
            .args(options)
            .arg("--")
            .args(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(Job {
            command,
            wait_for_line: false,
        })
    }

    /// With one more argument of the job.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Job {
        self.command.arg(arg);
        self
    }

    /// Measures the time until the first line on stdout too.
    pub fn wait_for_line(mut self) -> Job {
        self.command.stdout(Stdio::piped());
        self.wait_for_line = true;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn run(mut self) -> Result<Run> {
        let (cpu, start) = (cpu_of_children()?, Instant::now());
        let mut child = self.command.spawn().context("streamrt cannot be started")?;
        let lines = child
            .stdout
            .take()
            .filter(|_| self.wait_for_line)
            .map(|stdout| std::thread::spawn(move || first_line(stdout, start)));
        let stderr = child
            .stderr
            .take()
            .map(|stderr| std::thread::spawn(move || std::io::read_to_string(stderr)));
        let (succeeded, peak_bytes) = peak(&mut child)?;
        let said = stderr
            .and_then(|thread| thread.join().ok())
            .and_then(Result::ok)
            .unwrap_or_default();
        ensure!(succeeded, "`{:?}` failed: {said}", self.command);
        let first_line = lines.and_then(|thread| thread.join().ok()).flatten();
        Ok(Run {
            cpu: cpu_of_children()?.saturating_sub(cpu),
            peak_bytes,
            first_line,
        })
    }
}

/// The binary.
pub fn streamrt() -> Result<Command> {
    let binary = std::env::var("STREAMRT_BIN");
    let binary = binary.context("STREAMRT_BIN is not set; `cargo xtask bench` sets it")?;
    Ok(Command::new(binary))
}

/// Where a component is.
pub fn component(name: &str) -> Result<PathBuf> {
    let folder = std::env::var("STREAMRT_COMPONENTS")
        .context("STREAMRT_COMPONENTS is not set; `cargo xtask bench` sets it")?;
    Ok(Path::new(&folder).join(format!("{name}.wasm")))
}

/// The lines of all part files below a folder, whatever their order: how many, and the sum of their
/// hashes.
pub fn lines_below(folder: &Path) -> Result<(u64, u64)> {
    let (mut n, mut sum) = (0, 0u64);
    for entry in
        fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            let (more, hash) = lines_below(&path)?;
            (n, sum) = (n + more, sum.wrapping_add(hash));
            continue;
        }
        for line in BufReader::new(fs::File::open(&path)?).lines() {
            let mut hasher = DefaultHasher::new();
            line?.hash(&mut hasher);
            (n, sum) = (n + 1, sum.wrapping_add(hasher.finish()));
        }
    }
    Ok((n, sum))
}

fn first_line(stdout: impl std::io::Read, start: Instant) -> Option<Duration> {
    let mut lines = BufReader::new(stdout).lines();
    lines.next()?.ok()?;
    let elapsed = start.elapsed();
    // The rest is taken too, or the job would wait for us.
    lines.for_each(drop);
    Some(elapsed)
}

/// Waits for its end, and says whether it succeeded and how much memory it had at most.
fn peak(child: &mut Child) -> Result<(bool, u64)> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak_bytes = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status.success(), peak_bytes));
        }
        // Between its last instruction and our look at its end it has no memory any more.
        peak_bytes = crate::measure::field_bytes(&status, "VmHWM").unwrap_or(peak_bytes);
        std::thread::sleep(POLL);
    }
}

/// CPU time of all children that have ended.
fn cpu_of_children() -> Result<Duration> {
    crate::measure::cpu_fields(13)
}
