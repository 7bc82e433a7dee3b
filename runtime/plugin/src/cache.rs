//! Compiled code on disk, by the digest of the component, so that a job starts without compiling.
//!
//! Invariant: a file is loaded only if it carries the checksum that this program wrote, from a folder that nobody else may write to: compiled
//! code is trusted. Whatever is wrong with a file or with the folder, the component is compiled again; nothing here fails a job.

use std::fs::{self, DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::Engine;
use wasmtime::component::Component;

/// More files than this, and the oldest go; some hundred MiB at most.
const FILES_MAX: usize = 64;

const CHECKSUM_BYTES: usize = 32;

/// Gives temporary files of one process different names.
static N_WRITES: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// A sentence that says why the folder cannot be used.
    pub fn open(folder: &Path) -> Result<Cache, String> {
        let fault = |e: io::Error| format!("compiled plugins are not kept: the folder {} cannot be used: {e}", folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fault)?;
        let metadata = fs::symlink_metadata(folder).map_err(fault)?;
        let own = own_user(folder).map_err(fault)?;
        if !metadata.is_dir() || metadata.mode() & 0o077 != 0 || metadata.uid() != own {
            let folder = folder.display();
            return Err(format!("compiled plugins are not kept: {folder} must be a folder that belongs to you alone (mode 0700)"));
        }
        Ok(Cache { folder: folder.to_owned() })
    }

    fn path(&self, engine: &Engine, digest: &str) -> PathBuf {
        let mut settings = Fingerprint(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut settings);
        self.folder.join(format!("{digest}-{:016x}.cwasm", settings.finish()))
    }

    /// The compiled component, if it is there and sound.
    pub fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let file = fs::read(self.path(engine, digest)).ok()?;
        let (checksum, code) = file.split_at_checked(CHECKSUM_BYTES)?;
        if blake3::hash(code) != *<&[u8; CHECKSUM_BYTES]>::try_from(checksum).ok()? {
            return None;
        }
        trusted(engine, code).ok()
    }

    /// Keeps a compiled component, under a temporary name first, so that no half of it is ever seen.
    pub fn store(&self, engine: &Engine, digest: &str, code: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(format!(".{}-{}", std::process::id(), N_WRITES.fetch_add(1, Ordering::Relaxed)));
        let written = write(&temporary, code).and_then(|()| fs::rename(&temporary, self.path(engine, digest)));
        if written.is_err() {
            // What is left of a full disk is of no use.
            let _ = fs::remove_file(&temporary);
        }
        written.and_then(|()| self.trim())
    }

    /// Removes the oldest files beyond the limit.
    fn trim(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        files.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// Loads code that this program compiled: from the cache, or from the process that it compiles in.
///
/// # Errors
/// wasmtime's, if the code is of another version or other settings.
pub(crate) fn trusted(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` demands bytes that `serialize` made. They come from `store` above, which is the only writer of the files of the
    // cache; the folder is the user's own and closed to others (checked in `open`), and the checksum shows that the file is whole and
    // unchanged; or straight from the same program (`compiler.rs`), through a pipe that nobody else holds. That they were made for this
    // version of wasmtime and these settings is in the name of the file, and wasmtime checks it again.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize(engine, code)
    }
}

fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(blake3::hash(code).as_bytes())?;
    file.write_all(code)
}

/// The id of the user that this process runs as, seen on a file that it makes: the standard library has no call for it.
fn own_user(folder: &Path) -> io::Result<u32> {
    let path = folder.join(format!(".user-{}-{}", std::process::id(), N_WRITES.fetch_add(1, Ordering::Relaxed)));
    let user = File::options().write(true).create_new(true).mode(0o600).open(&path)?.metadata()?.uid();
    fs::remove_file(&path)?;
    Ok(user)
}

/// A hasher whose result does not change from one build of this program to the next.
struct Fingerprint(blake3::Hasher);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
