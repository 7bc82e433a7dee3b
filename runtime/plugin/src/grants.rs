//! The folders that a job was granted, and the interface `files` by which a guest reaches those
//! that its function asks for.
//!
//! A guest receives only the grants of its own function; without any, every call of `files` is
//! refused.

use crate::abi::{Answer, GuestError};
use crate::folder::Folder;
use crate::guest::Guest;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use streamrt_types::{Error, Result, code};
use streamrt_wit::FILES_INTERFACE;
use streamrt_wit::codes::error;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// Folders by the names under which they were granted.
#[derive(Debug, Clone, Default)]
pub struct Grants(BTreeMap<String, Arc<Folder>>);

impl Grants {
    /// Opens each folder, creating those that are not there. A later name replaces an equal one.
    ///
    /// # Errors
    /// `Unavailable` if a folder cannot be used.
    pub fn open(
        folders: impl IntoIterator<Item = (impl Into<String>, impl AsRef<Path>)>,
    ) -> Result<Grants> {
        let open = |(name, path): (_, _)| {
            let name: String = Into::into(name);
            let folder = Folder::open(AsRef::as_ref(&path))
                .map_err(|e| e.at(format_args!("grant `{name}`")))?;
            Ok((name, Arc::new(folder)))
        };
        folders
            .into_iter()
            .map(open)
            .collect::<Result<_>>()
            .map(Grants)
    }

    /// The grants that a function asks for.
    ///
    /// # Errors
    /// `Invalid` (S1012) if one was not granted.
    pub fn only(&self, names: &[String]) -> Result<Grants> {
        let find = |name: &String| match self.0.get(name) {
            Some(folder) => Ok((name.clone(), folder.clone())),
            None => Err(Error::new(
                code::NOT_GRANTED,
                format!("it asks for a folder under the name `{name}`, which was not granted"),
            )),
        };
        names.iter().map(find).collect::<Result<_>>().map(Grants)
    }

    /// Where the folders are, by name.
    pub fn places(&self) -> BTreeMap<String, String> {
        self.0
            .iter()
            .map(|(name, folder)| (name.clone(), folder.place().to_string_lossy().into_owned()))
            .collect()
    }

    fn folder(&self, name: &str) -> Answer<&Arc<Folder>> {
        let refuse = || GuestError {
            code: error::REFUSED,
            message: format!("no folder is granted to this function under the name `{name}`"),
        };
        self.0.get(name).ok_or_else(refuse)
    }
}

type Context<'a> = StoreContextMut<'a, Guest>;

/// Does the work in the folder; the time does not count as the guest's, but has a limit of its own.
fn on_disk<T: Send + 'static>(
    mut context: Context<'_>,
    grant: &str,
    work: impl FnOnce(&Folder) -> Answer<T> + Send + 'static,
) -> wasmtime::Result<(Answer<T>,)> {
    let guest = context.data_mut();
    guest.n_imported += 1;
    let folder = match guest.grants.folder(grant) {
        Ok(folder) => folder.clone(),
        Err(refused) => return Ok((Err(refused),)),
    };
    let Guest {
        deadline,
        files,
        cancel,
        ..
    } = guest;
    let answer = deadline.pause(|| files.run(cancel, move || work(&folder)))?;
    Ok((answer,))
}

/// Like [`on_disk`], for bytes that the guest writes.
fn written(
    mut context: Context<'_>,
    grant: &str,
    bytes: Vec<u8>,
    work: impl FnOnce(&Folder, &[u8]) -> Answer<()> + Send + 'static,
) -> wasmtime::Result<(Answer<()>,)> {
    context.data_mut().files.spend(bytes.len())?;
    on_disk(context, grant, move |folder| work(folder, &bytes))
}

/// Adds the interface to a linker.
pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut files = linker.instance(FILES_INTERFACE)?;
    files.func_wrap(
        "list",
        |context: Context<'_>, (grant, path): (String, String)| {
            on_disk(context, &grant, move |folder| folder.list(&path))
        },
    )?;
    files.func_wrap(
        "look",
        |context: Context<'_>, (grant, path): (String, String)| {
            on_disk(context, &grant, move |folder| folder.look(&path))
        },
    )?;
    files.func_wrap(
        "read",
        |context: Context<'_>, (grant, path, offset, length): (String, String, u64, u32)| {
            on_disk(context, &grant, move |folder| {
                folder.read(&path, offset, length)
            })
        },
    )?;
    files.func_wrap(
        "write",
        |context: Context<'_>, (grant, path, bytes): (String, String, Vec<u8>)| {
            written(context, &grant, bytes, move |folder, bytes| {
                folder.write(&path, bytes)
            })
        },
    )?;
    files.func_wrap(
        "append",
        |context: Context<'_>, (grant, path, bytes): (String, String, Vec<u8>)| {
            written(context, &grant, bytes, move |folder, bytes| {
                folder.append(&path, bytes)
            })
        },
    )?;
    files.func_wrap(
        "rename",
        |context: Context<'_>, (grant, old, new): (String, String, String)| {
            on_disk(context, &grant, move |folder| folder.rename(&old, &new))
        },
    )?;
    files.func_wrap(
        "remove",
        |context: Context<'_>, (grant, path): (String, String)| {
            on_disk(context, &grant, move |folder| folder.remove(&path))
        },
    )?;
    files.func_wrap(
        "make-folder",
        |context: Context<'_>, (grant, path): (String, String)| {
            on_disk(context, &grant, move |folder| folder.make_folder(&path))
        },
    )?;
    files.func_wrap(
        "sync",
        |context: Context<'_>, (grant, path): (String, String)| {
            on_disk(context, &grant, move |folder| folder.sync(&path))
        },
    )
}
