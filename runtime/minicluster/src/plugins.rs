//! The components of a job in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use streamrt_checkpoint::ApprovalKey;
use streamrt_plugin::Plugin;
use streamrt_rpc::Component;
use streamrt_types::{Error, Result};

/// A component, ready to make instances, with the arguments of this job.
#[derive(Clone)]
pub struct LoadedPlugin {
    /// For people: the name of the component's file, without its extension.
    pub name: String,
    pub plugin: Arc<Plugin>,
    pub args: Vec<String>,
    /// The digest of the component that the job was started with, where an upgrade has put this one
    /// in its place.
    pub replaces: Option<String>,
    /// Approves of it in manifests, for the restarts that come; None: each of them has to be told.
    pub approvals: Option<Arc<ApprovalKey>>,
}

impl LoadedPlugin {
    /// How plans name it.
    pub fn named(&self) -> Component {
        Component {
            name: self.name.clone(),
            digest: self.plugin.digest().to_owned(),
            args: self.args.clone(),
            replaces: self.replaces.clone(),
        }
    }
}

/// The components that versions of a job name, by digest.
#[derive(Clone, Default)]
pub(crate) struct KnownPlugins(Arc<Mutex<BTreeMap<String, LoadedPlugin>>>);

impl KnownPlugins {
    /// Adds components, and returns how plans name them.
    pub fn add(&self, plugins: Vec<LoadedPlugin>) -> Vec<Component> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut add = |plugin: LoadedPlugin| {
            let named = plugin.named();
            known.insert(named.digest.clone(), plugin);
            named
        };
        plugins.into_iter().map(&mut add).collect()
    }

    pub fn plugin(&self, digest: &str) -> Result<LoadedPlugin> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || Error::internal(format!("nobody has loaded the component {digest}"));
        known.get(digest).cloned().ok_or_else(none)
    }
}
