//! `bench idle`: what jobs cost that have nothing to do, in one JobManager: each reads a socket on
//! which nothing comes.

use crate::child::{component, streamrt};
use crate::measure::{cpu_time_of, field_bytes};
use crate::report::{Goal, Report};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const JOBS: u32 = 1_000;

/// Threads that have helped to start jobs are gone by then.
const SETTLED: Duration = Duration::from_secs(15);

/// CPU is measured over this time.
const LOOK: Duration = Duration::from_secs(10);

const MB: f64 = 1e6;

/// A JobManager, ended when it is dropped.
struct JobManager {
    process: Child,
    address: String,
}

pub fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let manager = JobManager::start(folder.path())?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port().to_string();
    // Kept, so that no connection ends.
    std::thread::spawn(move || silent.incoming().collect::<Vec<_>>());
    let mut times = Vec::new();
    manager.deploy(0, folder.path(), &port)?;
    std::thread::sleep(SETTLED);
    let first = manager.look()?;
    for job in 1..=JOBS {
        let start = Instant::now();
        manager.deploy(job, folder.path(), &port)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    std::thread::sleep(SETTLED);
    let all = manager.look()?;
    ensure!(manager.n_running()? == JOBS as usize + 1, "a job has ended");
    let each = |of: fn(&Look) -> f64| (of(&all) - of(&first)) / f64::from(JOBS);
    let name = |what: &str| format!("{JOBS} idle jobs in one process: {what}");
    let memory = each(|look| look.memory) / MB;
    report.figure(&name("memory of each"), memory, "MB", Goal::AtMost(1.0));
    let threads = each(|look| look.threads);
    report.figure(&name("threads of each"), threads, "threads", Goal::None);
    let before = cpu_time_of(manager.process.id())?;
    std::thread::sleep(LOOK);
    let cpu = cpu_time_of(manager.process.id())?.saturating_sub(before);
    let cpu = cpu.as_secs_f64() / LOOK.as_secs_f64() * 100.0;
    report.figure(&name("CPU of all"), cpu, "% of a core", Goal::None);
    let times = crate::measure::spread(times);
    report.spread(
        "deploy to running, cached",
        times,
        "ms",
        Goal::AtMost(150.0),
    );
    Ok(())
}

struct Look {
    /// Bytes.
    memory: f64,
    threads: f64,
}

impl JobManager {
    fn start(folder: &Path) -> Result<JobManager> {
        let mut process = streamrt()?
            .args(["jobmanager", "--embedded", "--rest", "127.0.0.1:0"])
            .args(["--slots", &(JOBS + 1).to_string(), "--dir"])
            .arg(folder.join("cluster"))
            .stderr(Stdio::piped())
            .spawn()
            .context("streamrt cannot be started")?;
        let stderr = process.stderr.take().context("it has a stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut manager = JobManager {
            process,
            address: String::new(),
        };
        let greeting = lines.next().context("the JobManager says nothing")??;
        let (_, rest) = greeting.split_once("http://").context("no address")?;
        manager.address = rest.split(' ').next().unwrap_or_default().to_owned();
        // The rest is taken too, or it would wait for us.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(manager)
    }

    /// Returns when the job runs.
    fn deploy(&self, job: u32, folder: &Path, port: &str) -> Result<()> {
        let output = folder.join(format!("out-{job}"));
        let done = streamrt()?
            .args(["deploy", "--cluster", &self.address, "--name"])
            .arg(format!("idle-{job}"))
            .arg(component("word-count")?)
            .args(["--", "--host", "127.0.0.1", "--port", port, "--output"])
            .arg(output)
            .output()?;
        match done.status.success() {
            true => Ok(()),
            false => bail!(
                "a deployment failed: {}",
                String::from_utf8_lossy(&done.stderr)
            ),
        }
    }

    fn n_running(&self) -> Result<usize> {
        let listed = streamrt()?
            .args(["list", "--output", "json", "--cluster", &self.address])
            .output()?;
        let text = String::from_utf8(listed.stdout)?;
        let running = |line: &&str| line.contains(r#""state":"running""#);
        Ok(text.lines().filter(running).count())
    }

    fn look(&self) -> Result<Look> {
        let status = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(&status)?;
        let threads = text.lines().find_map(|line| line.strip_prefix("Threads:"));
        Ok(Look {
            memory: field_bytes(&status, "VmRSS")? as f64,
            threads: threads.context("no threads")?.trim().parse()?,
        })
    }
}

impl Drop for JobManager {
    fn drop(&mut self) {
        // One that has ended by itself is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
