//! Whether checkpoints are those of the job that is to go on from them, or that has finished with
//! them.

use super::version::Version;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use streamrt_checkpoint::{Manifest, PluginEntry};
use streamrt_graph::JobGraph;
use streamrt_rpc::Component;
use streamrt_types::{Error, Result, code, without_passwords};
use streamrt_wit::Body;

/// Refuses a job that differs from that of `kept`: what the newest checkpoint in `folder` says, and
/// the components that go on from it.
///
/// # Errors
/// `Invalid` (S7005), with the difference.
pub(crate) fn check_same(
    kept: (&Manifest, &[PluginEntry]),
    version: &Version,
    folder: &str,
) -> Result<()> {
    match difference(kept, version) {
        None => Ok(()),
        Some(what) => Err(Error::new(
            code::OTHER_JOB,
            format!("{folder} holds checkpoints of a job that differs: {what}"),
        )),
    }
}

/// The same as [`check_same`], where the job of `kept` has finished. A job file may be changed between two
/// starts of a job, but what has finished does not run once more because of it.
///
/// # Errors
/// The same as for [`check_same`].
pub(crate) fn check_finished(
    kept: (&Manifest, &[PluginEntry]),
    version: &Version,
    folder: &str,
) -> Result<()> {
    match difference(kept, version).or_else(|| other_node(kept.0, version)) {
        None => Ok(()),
        Some(what) => {
            let message = format!(
                "the job in {folder} has finished, and this is another one: {what}; nothing is changed"
            );
            Err(Error::new(code::OTHER_JOB, message))
        }
    }
}

/// A node that only one of both has, or that differs.
fn other_node(manifest: &Manifest, version: &Version) -> Option<String> {
    let (kept, now) = (nodes(&manifest.plan)?, nodes(&version.stored_plan)?);
    let gone = kept
        .keys()
        .find(|uid| !now.contains_key(*uid))
        .map(|uid| format!("it has a node `{uid}`"));
    let other = || {
        now.iter()
            .find(|(uid, body)| kept.get(*uid).is_some_and(|kept| kept != *body))
    };
    let new = || {
        now.keys()
            .find(|uid| !kept.contains_key(*uid))
            .map(|uid| format!("it has no node `{uid}`"))
    };
    gone.or_else(new)
        .or_else(|| other().map(|(uid, _)| format!("its node `{uid}` is a different one")))
}

/// By uid. None if one is of another version of this program, which nothing can be held against.
fn nodes(plan: &Value) -> Option<BTreeMap<String, Body>> {
    let node = |node: &Value| {
        Some((
            node["uid"].as_str()?.to_owned(),
            serde_json::from_value(node["body"].clone()).ok()?,
        ))
    };
    plan.as_array()?.iter().map(node).collect()
}

/// The job as the user wrote it, for manifests.
pub(crate) fn plan_of(graph: &JobGraph) -> Value {
    let node = |node: &streamrt_graph::StreamNode| json!({"uid": node.uid, "body": node.body});
    let mut plan = graph.stream.nodes.iter().map(node).collect();
    hide_passwords(&mut plan);
    plan
}

/// Others may read a checkpoint: backups, other machines, other programs.
fn hide_passwords(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_passwords(text),
        Value::Array(values) => values.iter_mut().for_each(hide_passwords),
        Value::Object(members) => members.values_mut().for_each(hide_passwords),
        _ => {}
    }
}

fn difference((manifest, kept): (&Manifest, &[PluginEntry]), version: &Version) -> Option<String> {
    let (name, n, max) = (
        &version.plan.spec.name,
        version.plan.components.len(),
        version.plan.max_parallelism,
    );
    if manifest.job != *name {
        return Some(format!("its name is `{}`, not `{name}`", manifest.job));
    }
    if kept.len() != n {
        return Some(format!("it has {} components, not {n}", kept.len()));
    }
    let of_plugins = kept
        .iter()
        .zip(&version.plan.components)
        .find_map(|(kept, plugin)| {
            let (old, new) = (short(&kept.digest), short(&plugin.digest));
            let (before, now) = (kept_args(&kept.args), kept_args(&plugin.args));
            match () {
                () if kept.digest != plugin.digest => Some(format!(
                    "its component `{}` has the digest {old}, not {new}",
                    kept.name
                )),
                () if before != now => Some(format!(
                    "its arguments are `{}`, not `{}`",
                    before.join(" "),
                    now.join(" ")
                )),
                () => None,
            }
        });
    let kept = manifest.max_parallelism;
    of_plugins.or_else(|| {
        (kept != max).then(|| {
            format!(
                "its max parallelism is {kept}, not {max}; `-D max-parallelism={kept}` keeps it"
            )
        })
    })
}

/// The arguments of a component as a manifest has them.
pub(crate) fn kept_args(args: &[String]) -> Vec<String> {
    args.iter().map(|arg| without_passwords(arg)).collect()
}

/// Whether these are the components of a version, with its arguments.
pub(crate) fn are_of(entries: &[PluginEntry], version: &Version) -> bool {
    let components = &version.plan.components;
    let is_same = |(entry, component): (&PluginEntry, &Component)| {
        entry.digest == component.digest && entry.args == kept_args(&component.args)
    };
    entries.len() == components.len() && entries.iter().zip(components).all(is_same)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
