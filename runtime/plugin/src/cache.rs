//! Compiled code on disk, by the digest of the component, so that a job starts without compiling.
//!
//! Invariant: a file is loaded only if it carries the checksum that this program wrote under its
//! name, with a key that only its user has, in a folder to which nobody else can have written:
//! compiled code is trusted. Whatever is wrong with a file, the component is compiled again;
//! nothing here fails a job.

use std::hash::{Hash, Hasher};
use std::io;
use std::time::SystemTime;
use streamrt_folders::Folder;
use wasmtime::Engine;
use wasmtime::component::Component;

/// The most files that are kept, some hundred MiB; beyond it the oldest are removed.
const FILES_MAX: usize = 64;

/// More compiled code than any loadable component has.
const FILE_BYTES_MAX: u64 = 1 << 30;

const CHECKSUM_BYTES: usize = 32;

/// Distinguishes the key for this purpose from all others that are derived from the same secret.
const PURPOSE: &str = "streamrt compiled code";

/// See the module.
pub struct CompiledCode {
    folder: Folder,
    key: [u8; blake3::KEY_LEN],
}

impl CompiledCode {
    /// `folder` must be guarded: see [`Folder::guarded`]. `secret` is the user's, and kept
    /// elsewhere.
    pub fn new(folder: Folder, secret: &[u8; 32]) -> CompiledCode {
        CompiledCode {
            folder,
            key: blake3::derive_key(PURPOSE, secret),
        }
    }

    /// A file with another name, put under this one, would be other code.
    fn checksum(&self, name: &str, code: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher
            .update(&(name.len() as u64).to_le_bytes())
            .update(name.as_bytes())
            .update(code);
        hasher.finalize()
    }

    /// The compiled component, if it is there and sound.
    pub(crate) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let name = file_name(engine, digest);
        let file = self.folder.read(&name, FILE_BYTES_MAX).ok()??;
        let (checksum, code) = file.split_at_checked(CHECKSUM_BYTES)?;
        if self.checksum(&name, code) != *<&[u8; CHECKSUM_BYTES]>::try_from(checksum).ok()? {
            return None;
        }
        trusted(engine, code).ok()
    }

    /// Keeps a compiled component.
    pub(crate) fn store(&self, engine: &Engine, digest: &str, code: &[u8]) -> io::Result<()> {
        let name = file_name(engine, digest);
        self.folder
            .write(&name, &[self.checksum(&name, code).as_bytes(), code])?;
        self.trim()
    }

    /// Removes the oldest files beyond the limit.
    fn trim(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, String)> = Vec::new();
        for name in self.folder.names()? {
            if let Some(file) = self.folder.file(&name)? {
                files.push((file.metadata()?.modified()?, name));
            }
        }
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        files
            .iter()
            .take(surplus)
            .try_for_each(|(_, name)| self.folder.remove(name))
    }
}

/// Loads code that this program compiled: from the cache, or from the process that it compiles in.
///
/// # Errors
/// wasmtime's error, if the code has another version or other settings.
pub(crate) fn trusted(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` demands bytes that `serialize` made. They come from `store` above,
    // which is the only writer of the files of the cache: nobody else can compute their checksum,
    // nor write into the folder; or straight from the same program (`compiler.rs`), through a pipe
    // that nobody else holds. That they were made for this version of wasmtime and these settings
    // is in the name of the file, and wasmtime checks it again.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize(engine, code)
    }
}

fn file_name(engine: &Engine, digest: &str) -> String {
    let mut settings = Fingerprint(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    format!("{digest}-{:016x}.cwasm", settings.finish())
}

/// A hasher whose result does not change from one build of this program to the next.
struct Fingerprint(blake3::Hasher);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes()
            .iter()
            .take(8)
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
