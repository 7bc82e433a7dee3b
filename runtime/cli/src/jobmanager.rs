//! `streamrt jobmanager`: takes jobs over REST, runs them in this process, and goes on with them
//! when it is started again.
//!
//! Ctrl-C (or SIGTERM) ends each job with a last checkpoint, from which the next JobManager goes
//! on; so it does after any other end, from the newest checkpoint that there is.

use crate::args::JobmanagerArgs;
use crate::cluster::Cluster;
use crate::embedded::Embedded;
use crate::report;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use streamrt_jobmanager::{Dispatcher, Limits, Settings};
use streamrt_minicluster::MiniCluster;
use streamrt_plugin::Engines;
use streamrt_types::{Configuration, Error, Result, SystemClock, code, parse_duration_ms};
use streamrt_web::{Access, Bound, ClusterApi, Server};

/// How many jobs that have ended are listed.
const ENDED_MAX: usize = 1_000;

/// How long the end waits for the last checkpoints.
const SUSPEND: Duration = Duration::from_secs(30);

/// Runs until it is told to end.
///
/// # Errors
/// S3006 if the address is taken, S3016 if another JobManager works in the folder, S7007 if that
/// cannot be used.
pub fn jobmanager(args: &JobmanagerArgs) -> Result<()> {
    let (sender, interrupts) = channel();
    // The receiver lives as long as the process.
    ctrlc::set_handler(move || sender.send(()).unwrap_or(()))
        .map_err(|e| Error::internal("the handler for Ctrl-C cannot be set").with_source(e))?;
    raise_limit_of_files();
    let bound = Bound::new(&args.rest)?;
    let settings = settings(args)?;
    let dir = std::path::absolute(&args.dir).map_err(|e| {
        let message = format!("{} is no path", args.dir.display());
        Error::new(code::WRONG_USE, message).with_source(e)
    })?;
    let options = options(args, &dir, settings.limits.slots);
    let runner = Embedded {
        dir: dir.clone(),
        cluster: MiniCluster::default(),
        engines: Engines::default(),
        ended: Arc::default(),
    };
    let dispatcher = Dispatcher::open(&dir, settings, runner)?;
    let cluster = Arc::new(Cluster {
        dispatcher: dispatcher.clone(),
        configuration: options,
    });
    let server = bound.serve(cluster.clone(), Access::Write)?;
    greet(&cluster, &server, &dir);
    // Without a sender nobody can end it but by force.
    let _ = interrupts.recv();
    report::status("the jobs end with a last checkpoint; Ctrl-C once more ends at once");
    std::thread::spawn(move || {
        if interrupts.recv().is_ok() {
            std::process::exit(crate::INTERRUPTED);
        }
    });
    dispatcher.suspend(SUSPEND);
    drop(server);
    Ok(())
}

/// As many files and connections as the system grants: jobs and clients share them.
fn raise_limit_of_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // What is refused leaves what there is.
    let _ = setrlimit(Resource::Nofile, raised);
}

fn settings(args: &JobmanagerArgs) -> Result<Settings> {
    let mut limits = Configuration::default();
    limits.set("plugin.size", &args.component_size)?;
    let timeout = args.slot_timeout.as_deref();
    let timeout_ms = timeout.map(|text| parse_duration_ms("--slot-timeout", text));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Ok(Settings {
        limits: Limits {
            slots: args.slots.unwrap_or(cores),
            slot_timeout: timeout_ms.transpose()?.map(Duration::from_millis),
            ended_max: ENDED_MAX,
        },
        component_bytes_max: limits.plugin_size_bytes,
        clock: SystemClock::shared(),
        failpoints: crate::failpoints(),
    })
}

fn options(args: &JobmanagerArgs, dir: &PathBuf, slots: u32) -> BTreeMap<String, String> {
    let timeout = args.slot_timeout.clone();
    let pairs = [
        ("dir", dir.to_string_lossy().into_owned()),
        ("slots", slots.to_string()),
        ("component-size", args.component_size.clone()),
        ("slot-timeout", timeout.unwrap_or_else(|| "none".into())),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn greet(cluster: &Cluster, server: &Server, dir: &PathBuf) {
    let address = server.address().map(|address| address.to_string());
    let slots = cluster.slots().total;
    report::status(&format!(
        "JobManager at http://{} with {slots} slots, in {}; whoever may use this machine may use it",
        address.unwrap_or_default(),
        dir.display()
    ));
    for job in cluster.jobs() {
        let status = job.status;
        if !status.state.is_end() {
            report::status(&format!("goes on with `{}` ({})", status.name, status.id));
        }
        let unreadable = status
            .reason
            .filter(|reason| reason.code == code::REGISTRY_DAMAGED.id);
        if let Some(reason) = unreadable {
            let causes = reason.causes.join(": ");
            report::status(&format!(
                "{}: {causes}; this job is left alone",
                reason.message
            ));
        }
    }
}
