//! How long records stand still when a running job gets new code in place, at full rate: a keyed
//! running sum in a plugin, over bids.
//!
//! Two figures: what a task takes on its thread, as `streamrt upgrade` says it, and the longest
//! time in which no record reached the sink, which also holds alignment, the first calls of cold
//! code, and whatever else the machine does. The latter is taken without an upgrade as well.

use crate::engine::MANY_KEYS;
use crate::jobs::{Job, Settings};
use crate::measure::spread;
use crate::report::{Goal, Report};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use streamrt_graph::{FunctionRef, JobSpec};
use streamrt_minicluster::{JobHandle, JobRemote, JobToRun, LoadedPlugin, MiniCluster, Submission};
use streamrt_plugin::PluginHost;
use streamrt_types::Configuration;
use streamrt_wit::Plan;

/// More rows than any run processes.
const ENDLESS: u64 = 1 << 50;
const NEVER_MS: u64 = 86_400_000;
const WARM_UP: Duration = Duration::from_millis(1_500);
const UPGRADES: usize = 20;
/// Between two upgrades, and as long as one without.
const APART: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_micros(200);

pub fn run(report: &mut Report, component: &Path) -> Result<()> {
    let first = std::fs::read(component)
        .with_context(|| format!("{} cannot be read", component.display()))?;
    // A custom section more makes another component of the same code.
    let second = [&first[..], &[0, 5, 4, b't', b'e', b's', b't']].concat();
    let host = PluginHost::new(&Configuration::default(), None)?;
    let versions = [version(&host, first)?, version(&host, second)?];
    let folder = tempfile::tempdir()?;
    let job = start(
        &versions[0],
        Settings::with_checkpoints(folder.path(), NEVER_MS),
    )?;
    std::thread::sleep(WARM_UP);
    let (mut pauses, mut gaps, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
    for upgrade in 0..UPGRADES {
        quiet.push(longest_gap_ms(&job, |_| {
            std::thread::sleep(APART);
            Ok(())
        })?);
        let (spec, plugin) = versions[(upgrade + 1) % 2].clone();
        gaps.push(longest_gap_ms(&job, |remote| {
            let upgraded = remote.upgrade(spec, vec![plugin])?;
            ensure!(upgraded.in_place, "the job was started anew");
            pauses.push(upgraded.pause.as_secs_f64() * 1e3);
            Ok(())
        })?);
    }
    job.remote().cancel();
    // It ends with the error that it was cancelled.
    job.wait().err();
    report.spread(
        "upgrade in place: the longest pause of a task",
        spread(pauses),
        "ms",
        Goal::AtMost(50.0),
    );
    report.spread(
        "upgrade in place: the longest time without a record at the sink",
        spread(gaps),
        "ms",
        Goal::AtMost(50.0),
    );
    report.spread(
        "the same time without an upgrade",
        spread(quiet),
        "ms",
        Goal::None,
    );
    Ok(())
}

/// The job with a component of the functions.
fn version(host: &Arc<PluginHost>, bytes: Vec<u8>) -> Result<(JobSpec, LoadedPlugin)> {
    let plugin = host.load(&bytes)?;
    let functions = Arc::new(plugin.describe(&[])?);
    let number = functions
        .functions
        .iter()
        .find(|function| function.name == "keyed-sum")
        .context("the guest has no keyed-sum")?
        .number;
    let job = Job::Keyed { keys: MANY_KEYS };
    let schema: serde_json::Value = job
        .columns()
        .iter()
        .map(|(name, data_type)| json!({"name": name, "type": data_type}))
        .collect();
    let plan = json!({"version": 1, "functions": functions.functions, "nodes": [
        {"id": 0, "uid": "bids", "body": {"kind": "source", "connector": "nexmark", "options": job.options(ENDLESS), "schema": schema}},
        {"id": 1, "uid": "sums", "inputs": [{"node": 0, "partitioning": {"kind": "hash", "columns": ["auction"]}}],
            "body": {"kind": "function", "function": number}},
        {"id": 2, "uid": "out", "inputs": [{"node": 1}], "body": {"kind": "sink", "connector": "blackhole"}}]});
    let nodes = Plan::from_json(&plan.to_string())
        .map_err(anyhow::Error::msg)?
        .nodes;
    let numbers = 0..functions.functions.len() as u32;
    let functions = numbers
        .map(|number| FunctionRef {
            plugin: 0,
            plan: functions.clone(),
            number,
        })
        .collect();
    let loaded = LoadedPlugin {
        name: "bench".into(),
        plugin,
        args: Vec::new(),
        replaces: None,
        approvals: None,
    };
    Ok((
        JobSpec {
            name: "bench".into(),
            nodes,
            functions,
        },
        loaded,
    ))
}

fn start((job, plugin): &(JobSpec, LoadedPlugin), settings: Settings) -> Result<JobHandle> {
    let (job, plugins, configuration) = (job.clone(), vec![plugin.clone()], settings.configuration);
    let (grants, state) = Default::default();
    match MiniCluster::default().submit(JobToRun {
        job,
        plugins,
        configuration,
        parallelism: 1,
        from: None,
        grants,
        state,
        before: None,
    })? {
        Submission::Started(job) => Ok(job),
        Submission::Finished => bail!("a job in a new folder cannot have finished before"),
    }
}

/// The longest time in which no record reached the sink while `work` ran.
fn longest_gap_ms(job: &JobHandle, work: impl FnOnce(&JobRemote) -> Result<()>) -> Result<f64> {
    let (remote, done) = (job.remote(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut seen, mut since, mut longest) =
                (job.progress().records_out, Instant::now(), Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(POLL);
                let now = job.progress().records_out;
                longest = longest.max(since.elapsed());
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
            }
            longest
        });
        let worked = work(&remote);
        done.store(true, Ordering::Relaxed);
        let longest = watch
            .join()
            .map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        worked.map(|()| longest.as_secs_f64() * 1e3)
    })
}
