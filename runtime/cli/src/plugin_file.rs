//! Reading components from files. Used by `inspect` and `run`; it is where the command line meets
//! the host of plugins.
//!
//! Components come from anywhere: no more of a file is read than a component may have, and this
//! program compiles it in a process of its own.

use crate::{cache, report};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_checkpoint::ApprovalKey;
use streamrt_minicluster::LoadedPlugin;
use streamrt_plugin::{Compiler, Engines, Plugin, PluginHost};
use streamrt_types::{Configuration, Error, Result, code};

/// This program, also after its file was replaced.
const SELF: &str = "/proc/self/exe";

/// The command that compiles.
const COMPILE: &str = "compile-component";

/// Where the files of a job are read from.
pub trait Files: Send + Sync {
    /// Reads a file, but no more than so many bytes of it.
    ///
    /// # Errors
    /// `Unavailable`, with the path.
    fn read(&self, path: &Path, bytes_max: usize) -> Result<Vec<u8>>;
}

/// Those of this machine.
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
        read(path, bytes_max)
    }
}

/// Those that were handed over, by their paths.
pub struct Given(pub BTreeMap<PathBuf, Vec<u8>>);

impl Files for Given {
    fn read(&self, path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
        let bytes = self.0.get(path).ok_or_else(|| {
            let message = format!("the job names {}, which was not uploaded", path.display());
            Error::new(code::NO_COMPONENT, message)
        })?;
        Ok(bytes[..bytes.len().min(bytes_max)].to_vec())
    }
}

/// Loads components, each file once.
pub struct Loader {
    files: Arc<dyn Files>,
    host: Arc<PluginHost>,
    /// By which the user approves of upgrades.
    approvals: Option<Arc<ApprovalKey>>,
    size_bytes: usize,
    loaded: BTreeMap<PathBuf, Arc<Plugin>>,
}

impl Loader {
    /// # Errors
    /// `Internal` if the host cannot be made on this machine.
    pub fn new(
        configuration: &Configuration,
        files: Arc<dyn Files>,
        engines: &Engines,
    ) -> Result<Loader> {
        let compiled = cache::compiled()
            .map_err(|fault| report::status(&format!("compiled plugins are not kept: {fault}")));
        let compiler = Compiler {
            program: SELF.into(),
            args: vec![COMPILE.to_owned()],
        };
        let host = PluginHost::for_strangers(configuration, engines, compiled.ok(), compiler)?;
        let approvals = cache::secret()
            .ok()
            .map(|secret| Arc::new(ApprovalKey::new(&secret)));
        Ok(Loader {
            files,
            host,
            approvals,
            size_bytes: configuration.plugin_size_bytes,
            loaded: BTreeMap::new(),
        })
    }

    /// By which the user approves of upgrades; None: nobody can tell later whose they were.
    pub fn approvals(&self) -> Option<&Arc<ApprovalKey>> {
        self.approvals.as_ref()
    }

    /// The component of a file, for a job with these arguments.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_for_job(&mut self, path: &Path, args: &[String]) -> Result<LoadedPlugin> {
        let plugin = self.load(path)?;
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(LoadedPlugin {
            name,
            plugin,
            args: args.to_vec(),
            replaces: None,
            approvals: self.approvals.clone(),
        })
    }

    /// The component of a file.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be read, `Invalid` if it is no component of ours; the
    /// message begins with the path.
    pub fn load(&mut self, path: &Path) -> Result<Arc<Plugin>> {
        if let Some(loaded) = self.loaded.get(path) {
            return Ok(loaded.clone());
        }
        // One byte more shows that there are too many.
        let bytes = self.files.read(path, self.size_bytes.saturating_add(1))?;
        let plugin = self.host.load(&bytes).map_err(|e| e.at(path.display()))?;
        self.loaded.insert(path.to_path_buf(), plugin.clone());
        Ok(plugin)
    }

    /// A component that lies in no file of its own.
    ///
    /// # Errors
    /// `Invalid` if it is no component of ours.
    pub fn load_bytes(&mut self, bytes: &[u8]) -> Result<Arc<Plugin>> {
        self.host.load(bytes)
    }
}

/// Reads a regular file, but no more than so many bytes of it. What is no file, such as a pipe,
/// might never end, or never begin.
///
/// # Errors
/// `Unavailable`, with the path.
pub fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if !metadata.is_file() {
        return Err(Error::new(
            code::NOT_A_FILE,
            format!("{} is no regular file", path.display()),
        ));
    }
    let mut bytes =
        Vec::with_capacity(bytes_max.min(usize::try_from(metadata.len()).unwrap_or(usize::MAX)));
    File::open(path)
        .and_then(|file| file.take(bytes_max as u64).read_to_end(&mut bytes))
        .map_err(|e| unreadable(path, e))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let (code, what) = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            (code::FILE_MISSING, "there is no file")
        }
        _ => (code::FILE_IO, "cannot read the file"),
    };
    Error::new(code, format!("{what} {}", path.display())).with_source(error)
}
