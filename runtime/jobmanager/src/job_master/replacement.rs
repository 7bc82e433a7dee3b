//! Which component a start of an upgraded job runs: what the newest checkpoint names, if the user
//! has approved of it.

use super::kept::newest;
use streamrt_checkpoint::{ApprovalKey, History, PluginEntry, Published, Snapshot, Store};
use streamrt_types::{Configuration, Error, Result, code};

/// What an upgrade has put in the place of a component.
pub struct Replacing {
    pub name: String,
    pub component: Vec<u8>,
    /// While it is in its probation, the one before it: its name and its bytes.
    pub before: Option<(String, Vec<u8>)>,
}

/// By what a component of a manifest is known for one that the user wants.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// The user's, for upgrades; None: there are none.
    pub approvals: Option<&'a ApprovalKey>,
    /// The digest that the user names beside.
    pub accepted: Option<&'a str>,
}

impl Trust<'_> {
    /// `named` is the digest of the component that the user names.
    fn check(&self, store: &Store, job: &str, named: &str, plugin: &PluginEntry) -> Result<()> {
        let is_approved = self
            .approvals
            .is_some_and(|approvals| approvals.approves(job, plugin))
            && plugin.replaces.as_deref() == Some(named);
        if is_approved || [Some(named), self.accepted].contains(&Some(plugin.digest.as_str())) {
            return Ok(());
        }
        let (place, digest) = (store.location(), &plugin.digest);
        let message = format!(
            "{place} says that the job was upgraded to the component {digest}, and on this machine you have not done that: `--accept {digest}` \
             says that it may run, also after a move from another machine"
        );
        Err(Error::new(code::NOT_ACCEPTED, message))
    }
}

/// What an upgrade has put in the place of the component with this digest, according to the newest
/// checkpoint in `checkpoint.dir`. A snapshot `from` that the user names counts as the start of the
/// job, unless it is the newest: then the user says what runs on it. It has to be one that is
/// trusted: others may be able to write into that folder.
///
/// # Errors
/// S7012 if it is not, S7001 and S7002 if what stands there cannot be used, S7007 if the store does
/// not answer.
pub fn replacement(
    configuration: &Configuration,
    from: Option<&str>,
    digest: &str,
    trust: Trust<'_>,
) -> Result<Option<Replacing>> {
    let Some(store) = configuration
        .checkpoint_dir
        .as_deref()
        .map(Store::open)
        .transpose()?
    else {
        return Ok(None);
    };
    let history = History::read(&store)?;
    if let Some(from) = from {
        let named = Snapshot::open(from)?;
        let is_named = |published: &Published| {
            published.manifest.checksum == named.published().manifest.checksum
        };
        if history.newest().is_some_and(is_named) || !history.published.iter().any(is_named) {
            return Ok(None);
        }
    }
    let Some(snapshot) = newest(&store, &history)? else {
        return Ok(None);
    };
    let manifest = snapshot.manifest();
    let running = history.components(manifest);
    let Some((at, entry)) = running
        .iter()
        .enumerate()
        .find(|(_, entry)| entry.replaces.as_deref() == Some(digest))
    else {
        return Ok(None);
    };
    // After an upgrade that was withdrawn the component before runs, and is in no probation.
    let before = manifest
        .before
        .get(at)
        .filter(|before| before.digest != entry.digest);
    [Some(entry), before]
        .into_iter()
        .flatten()
        .try_for_each(|plugin| trust.check(&store, &history.job, digest, plugin))?;
    let before = before
        .map(|before| {
            snapshot
                .component(before)
                .map(|bytes| (before.name.clone(), bytes))
        })
        .transpose()?;
    Ok(Some(Replacing {
        name: entry.name.clone(),
        component: snapshot.component(entry)?,
        before,
    }))
}
