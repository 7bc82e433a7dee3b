//! `streamrt run`: a job in this process, from the file to the summary. The only place of the
//! command line that calls the engine.
//!
//! 1. Read the job: a component that builds its own graph, or a `job.toml` that names components.
//! 2. Submit it; everything that can be refused is refused there.
//! 3. Show progress until it ends by itself, or by Ctrl-C, which lets it finish what is in flight.

use crate::args::{Format, RunArgs};
use crate::job::{Reader, check_grants, new_version};
use crate::plugin_file::Disk;
use crate::progress::{self, Style};
use crate::running::Running;
use crate::{one_job, report};
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use streamrt_graph::JobSpec;
use streamrt_jobmanager::job_master::CheckpointStatus;
use streamrt_minicluster::{Ended, JobHandle, JobRemote, MiniCluster, Submission};
use streamrt_plugin::Engines;
use streamrt_types::{
    Configuration, Error, LogRing, Result, finish_saying, for_job, say_as_json, say_raw,
};
use streamrt_web::Bound;
use streamrt_wit::Body;

/// How often we look whether the job has ended: short jobs end without a delay that one would
/// notice, and 100 looks a second cost nothing.
const LOOK: Duration = Duration::from_millis(10);

/// How often we look which checkpoints there are: a hundred are remembered.
const LOOK_AT_CHECKPOINTS: Duration = Duration::from_millis(200);

/// Runs a job to its end.
///
/// # Errors
/// Whatever keeps the job from starting or ends it.
pub fn run(args: RunArgs) -> Result<()> {
    if args.output == Format::Json {
        say_as_json();
    }
    // Before anything is opened, so that a signal never meets a half-started job without us.
    let has_started = Arc::new(AtomicBool::new(false));
    let interrupts = interrupts(has_started.clone())?;
    let reader = Reader {
        args,
        files: Arc::new(Disk),
        defaults: Configuration::default(),
        engines: Engines::default(),
        whole_paths: false,
    };
    let job = reader.read()?;
    let args = &reader.args;
    check_grants(&job, &args.grants)?;
    let style = style(args.output, &job.spec);
    let folder = job.configuration.checkpoint_dir.clone().unwrap_or_default();
    let name = job.spec.name.clone();
    let load = new_version(&reader, &job);
    let origins = job.origins();
    let rest = args.rest.as_deref().map(Bound::new).transpose()?;
    let configuration = job.configuration.clone();
    let submitted = job.to_run(args)?;
    let log = LogRing::new(None);
    let submit = || MiniCluster::default().submit(submitted);
    let handle = match crate::failpoints().scope(|| for_job(&log, submit))? {
        Submission::Started(handle) => handle,
        Submission::Finished => {
            report::status(&format!(
                "the job in {folder} has finished; nothing is changed"
            ));
            return Ok(());
        }
    };
    has_started.store(true, Ordering::SeqCst);
    for_job(&log, || say_beginning(&handle));
    let running = Running::new(&handle, configuration, load, origins);
    let shown = one_job::show(&name, (running, log), rest)?;
    let ended = watch(handle, style, &interrupts);
    drop(shown);
    let (ended, stopped) = ended?;
    show(&style.summary(&ended.summary, stopped || ended.stopped_at.is_some()));
    if let Some(checkpoint) = ended.stopped_at {
        report::status(&format!(
            "the job was stopped at checkpoint {checkpoint} in {folder}, from which the same command goes on"
        ));
    }
    Ok(())
}

/// Says where the job begins, and what a user should know of it.
fn say_beginning(handle: &JobHandle) {
    if let Some((checkpoint, place)) = handle.resumed_from() {
        report::status(&format!(
            "the job goes on from checkpoint {checkpoint} in {place}"
        ));
    }
    handle
        .remarks()
        .iter()
        .for_each(|remark| report::status(remark));
}

/// Before the job has started there is nothing to finish: reading, compiling or looking for a
/// database may take long, and the program ends at once. That is what a crash would leave at that
/// moment.
fn interrupts(has_started: Arc<AtomicBool>) -> Result<Receiver<()>> {
    let (sender, receiver) = channel();
    let handler = move || {
        if !has_started.load(Ordering::SeqCst) {
            report::status("interrupted before the job had started");
            finish_saying();
            std::process::exit(crate::INTERRUPTED);
        }
        // The receiver is gone only when the program ends anyway.
        sender.send(()).unwrap_or(());
    };
    ctrlc::set_handler(handler)
        .map_err(|e| Error::internal("the handler for Ctrl-C cannot be set").with_source(e))?;
    Ok(receiver)
}

/// A live line would be torn apart by results that go to the same terminal.
fn style(format: Format, spec: &JobSpec) -> Style {
    let prints = spec
        .nodes
        .iter()
        .any(|node| matches!(&node.body, Body::Sink { connector, .. } if connector == "print"));
    let shared = prints && std::io::stdout().is_terminal();
    match format {
        Format::Json => Style::Json,
        Format::Text if std::io::stderr().is_terminal() && !shared => Style::Live,
        Format::Text => Style::Plain,
    }
}

/// Waits for the end of the job, and shows how it goes. The second value is whether it was stopped.
fn watch(handle: JobHandle, style: Style, interrupts: &Receiver<()>) -> Result<(Ended, bool)> {
    let mut shown = (Instant::now(), handle.progress());
    let mut checkpoints = Checkpoints::new(&handle, style);
    let mut stopped = false;
    while !handle.is_finished() {
        match interrupts.recv_timeout(LOOK) {
            // Whoever asks twice does not want to wait.
            Ok(()) if stopped => {
                finish_saying();
                std::process::exit(crate::INTERRUPTED)
            }
            Ok(()) => {
                stopped = true;
                handle.stop();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
        }
        checkpoints.show();
        if shown.0.elapsed() >= style.interval() {
            let now = handle.progress();
            show(&style.progress(&shown.1, &now));
            shown = (Instant::now(), now);
        }
    }
    let result = handle.wait();
    checkpoints.show_all();
    if result.is_err() && style == Style::Live {
        show("\n");
    }
    result.map(|ended| (ended, stopped))
}

/// Shows each checkpoint that counts, or has failed, as JSON.
struct Checkpoints {
    /// None: they are not shown.
    job: Option<JobRemote>,
    looked: Instant,
    /// By when they began; a number that has failed may come again.
    shown: BTreeSet<(i64, u64)>,
}

impl Checkpoints {
    fn new(handle: &JobHandle, style: Style) -> Checkpoints {
        Checkpoints {
            job: (style == Style::Json).then(|| handle.remote()),
            looked: Instant::now(),
            shown: BTreeSet::new(),
        }
    }

    fn show(&mut self) {
        if self.looked.elapsed() >= LOOK_AT_CHECKPOINTS {
            self.looked = Instant::now();
            self.show_all();
        }
    }

    fn show_all(&mut self) {
        let reports = self
            .job
            .as_ref()
            .map(|job| job.checkpoints(usize::MAX))
            .unwrap_or_default();
        let mut known = BTreeSet::new();
        for report in reports
            .iter()
            .filter(|report| report.status != CheckpointStatus::Pending)
        {
            let this = (report.triggered_ms, report.checkpoint);
            if !self.shown.contains(&this) {
                show(&progress::checkpoint(report));
            }
            known.insert(this);
        }
        self.shown = known;
    }
}

/// Puts onto stderr what holds nothing of others.
fn show(text: &str) {
    say_raw(text.to_owned());
}
