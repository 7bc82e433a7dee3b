//! A job's code as it travels: a component, or a job file and the components that it names.

use crate::job::{JOB_FILE_BYTES_MAX, is_job_file};
use crate::plugin_file::read;
use crate::report;
use std::collections::BTreeMap;
use std::path::Path;
use streamrt_checkpoint::Stored;
use streamrt_graph::JobFile;
use streamrt_jobmanager::{Component, Version};
use streamrt_types::{Error, Result, code};
use streamrt_web::Client;

/// See the module.
pub struct Bundle {
    pub version: Version,
    /// What the job is called unless the user says otherwise.
    pub name: String,
    /// Bytes by digest.
    components: BTreeMap<String, Vec<u8>>,
}

/// Reads what a file holds or names.
///
/// # Errors
/// `Unavailable` if a file cannot be read, S1020 if a component has more than `bytes_max` bytes,
/// S2006 if the job file is wrong.
pub fn bundle(file: &Path, bytes_max: usize) -> Result<Bundle> {
    let shown = file.to_string_lossy().into_owned();
    let mut components = BTreeMap::new();
    let mut add = |path: &Path, named: String| -> Result<Component> {
        let bytes = component(path, bytes_max)?;
        let digest = Stored::of("", &bytes).checksum;
        components.insert(digest.clone(), bytes);
        let path = named;
        Ok(Component { path, digest })
    };
    let (version, name) = if is_job_file(file) {
        let text = job_file(file)?;
        let parsed = JobFile::parse(&text).map_err(|e| e.at(file.display()))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut named: BTreeMap<String, Component> = BTreeMap::new();
        for used in parsed.plugins() {
            if !named.contains_key(&used.component) {
                let found = add(&folder.join(&used.component), used.component.clone())?;
                named.insert(used.component, found);
            }
        }
        let version = Version {
            file: shown,
            job_file: Some(text),
            components: named.into_values().collect(),
        };
        (version, parsed.name().to_owned())
    } else {
        let version = Version {
            file: shown.clone(),
            job_file: None,
            components: vec![add(file, shown)?],
        };
        let stem = file.file_stem().unwrap_or_default();
        (version, stem.to_string_lossy().into_owned())
    };
    Ok(Bundle {
        version,
        name,
        components,
    })
}

fn job_file(file: &Path) -> Result<String> {
    let text = read(file, JOB_FILE_BYTES_MAX + 1)?;
    if text.len() > JOB_FILE_BYTES_MAX {
        let message = format!(
            "{}: a job file has at most {JOB_FILE_BYTES_MAX} bytes",
            file.display()
        );
        return Err(Error::new(code::PLAN_LIMIT, message));
    }
    String::from_utf8(text).map_err(|e| {
        let message = format!("{}: the file is no text", file.display());
        Error::new(code::INVALID_JOB, message).with_source(e)
    })
}

fn component(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let bytes = read(path, bytes_max.saturating_add(1))?;
    if bytes.len() > bytes_max {
        let message = format!(
            "{}: a component has at most {bytes_max} bytes there",
            path.display()
        );
        return Err(Error::new(code::COMPONENT_LIMIT, message));
    }
    Ok(bytes)
}

impl Bundle {
    /// Uploads what is not there yet, and says so.
    ///
    /// # Errors
    /// What the cluster says against it.
    pub fn upload(&self, client: &mut Client, quiet: bool) -> Result<()> {
        for Component { path, digest } in &self.version.components {
            let bytes = &self.components[digest];
            let how = match client.put_component(digest, bytes)? {
                true => format!("uploaded {path}: {} bytes", bytes.len()),
                false => format!("{path} is there already"),
            };
            if !quiet {
                report::status(&how);
            }
        }
        Ok(())
    }
}
