//! Reading components from files. Used by `inspect` and `run`; it is where the command line meets the host of plugins.

use crate::{cache, report};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_checkpoint::ApprovalKey;
use streamrt_plugin::{Plugin, PluginHost};
use streamrt_taskmanager::LoadedPlugin;
use streamrt_types::{Configuration, Error, Result, code};

/// Loads components, each file once.
pub struct Loader {
    host: Arc<PluginHost>,
    /// By which the user approves of upgrades.
    approvals: Option<Arc<ApprovalKey>>,
    loaded: BTreeMap<PathBuf, (Arc<Plugin>, Arc<Vec<u8>>)>,
}

impl Loader {
    /// # Errors
    /// `Internal` if the host cannot be made on this machine.
    pub fn new(configuration: &Configuration) -> Result<Loader> {
        let compiled = cache::compiled().map_err(|fault| report::status(&format!("compiled plugins are not kept: {fault}")));
        let host = PluginHost::new(configuration, compiled.ok())?;
        let approvals = cache::secret().ok().map(|secret| Arc::new(ApprovalKey::new(&secret)));
        Ok(Loader { host, approvals, loaded: BTreeMap::new() })
    }

    /// By which the user approves of upgrades; None: nobody can tell later whose they were.
    pub fn approvals(&self) -> Option<&ApprovalKey> {
        self.approvals.as_deref()
    }

    /// The component of a file, for a job with these arguments.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_for_job(&mut self, path: &Path, args: &[String]) -> Result<LoadedPlugin> {
        let (plugin, component) = self.load(path)?;
        Ok(LoadedPlugin { plugin, component, args: args.to_vec(), replaces: None, approvals: self.approvals.clone() })
    }

    /// The plugin, and the bytes of its file.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be read, `Invalid` if it is no component of ours; the message begins with the path.
    pub fn load(&mut self, path: &Path) -> Result<(Arc<Plugin>, Arc<Vec<u8>>)> {
        if let Some(loaded) = self.loaded.get(path) {
            return Ok(loaded.clone());
        }
        let bytes = Arc::new(read(path)?);
        let plugin = self.host.load(&bytes).map_err(|e| e.at(path.display()))?;
        self.loaded.insert(path.to_path_buf(), (plugin.clone(), bytes.clone()));
        Ok((plugin, bytes))
    }

    /// A component that lies in no file of its own.
    ///
    /// # Errors
    /// `Invalid` if it is no component of ours.
    pub fn load_bytes(&mut self, bytes: &[u8]) -> Result<Arc<Plugin>> {
        self.host.load(bytes)
    }
}

/// Reads a whole file.
///
/// # Errors
/// `Unavailable`, with the path.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| {
        let (code, what) = match e.kind() {
            io::ErrorKind::NotFound => (code::FILE_MISSING, "there is no file"),
            _ => (code::FILE_IO, "cannot read the file"),
        };
        Error::new(code, format!("{what} {}", path.display())).with_source(e)
    })
}
