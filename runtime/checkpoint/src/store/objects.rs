//! What holds the bytes of a store. It is a seam: a simulation brings its own, and so owns every
//! fault and every moment.

use crate::Stored;
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long an object may be: nothing is held in memory because somebody says that there is so much
/// of it.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// As it was written.
    Exactly(u64),
    AtMost(u64),
}

/// What stands under a name.
#[derive(Debug)]
pub enum Found {
    Bytes(Vec<u8>),
    /// It is not read, for this is wrong with it.
    Unusable(String),
}

/// Why an operation was given up.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    pub cause: Box<dyn Error + Send + Sync>,
    /// How often it was tried.
    pub attempts: u32,
    /// It may have been done nevertheless, or may still be done.
    pub unknown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing has this name.
    Missing,
    /// Something has this name that may not be replaced.
    Exists,
    /// A folder has this name, or something else that of its folder: no attempt gets past it.
    NoFile,
    /// Anything else: the disk, the network, the rights.
    Other,
}

/// What holds the bytes of a store, by name, with parts divided by `/`. Calls block until they are
/// done or given up. A name is seen whole or not at all, and what was written is durable.
pub trait Objects: Send + Sync {
    /// Reads an object; one of another length than is allowed is not read.
    ///
    /// # Errors
    /// `Missing` if there is none.
    fn read(&self, object: &str, length: Length) -> Result<Found, Failure>;

    /// As [`Objects::read`], several at a time where that is faster, in the order of `objects`.
    fn read_all(&self, objects: &[String], length: Length) -> Vec<Result<Found, Failure>> {
        let read = |object: &String| self.read(object, length);
        objects.iter().map(read).collect()
    }

    /// Writes an object. With `replace`, whatever has its name goes; of several who write one
    /// without, one succeeds.
    ///
    /// # Errors
    /// `Exists` if it is there and may not be replaced.
    fn write(&self, object: &str, bytes: Vec<u8>, replace: bool) -> Result<(), Failure>;

    /// All objects below a folder, with their lengths, in any order; all that there are if `folder`
    /// is empty.
    ///
    /// # Errors
    /// A listing is whole or an error.
    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Failure>;

    /// The names of the folders at the top, in order.
    ///
    /// # Errors
    /// As [`Objects::list`].
    fn folders(&self) -> Result<Vec<String>, Failure>;

    /// Deletes an object.
    ///
    /// # Errors
    /// `Missing` if there is none.
    fn delete(&self, object: &str) -> Result<(), Failure>;

    /// What stands there, if that can be told without holding it in memory.
    ///
    /// # Errors
    /// What the disk says.
    fn examine(&self, _object: &str) -> Option<io::Result<Stored>> {
        None
    }

    /// Makes an object durable that an attempt left behind which was reported as failed.
    ///
    /// # Errors
    /// What the disk says.
    fn sync(&self, _object: &str) -> io::Result<()> {
        Ok(())
    }

    /// Removes what a killed process may have left in a folder.
    ///
    /// # Errors
    /// What the disk says.
    fn remove_unfinished(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }
}

impl Length {
    /// What is wrong with an object of `bytes`, if anything is.
    pub fn refusal(self, bytes: u64) -> Option<String> {
        match self {
            Length::Exactly(written) if written != bytes => Some(format!(
                "{written} bytes were written, but {bytes} bytes are there"
            )),
            Length::AtMost(most) if bytes > most => Some(format!(
                "{bytes} bytes are there, and nothing of its kind has more than {most}"
            )),
            _ => None,
        }
    }
}

/// Objects in memory, which are gone with it.
#[derive(Default)]
pub(super) struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(kind: FailureKind, object: &str) -> Failure {
    Failure {
        kind,
        cause: object.into(),
        attempts: 1,
        unknown: false,
    }
}

impl Objects for Memory {
    fn read(&self, object: &str, length: Length) -> Result<Found, Failure> {
        let objects = self.lock();
        let bytes = objects
            .get(object)
            .ok_or_else(|| failure(FailureKind::Missing, object))?;
        Ok(match length.refusal(bytes.len() as u64) {
            Some(why) => Found::Unusable(why),
            None => Found::Bytes(bytes.clone()),
        })
    }

    fn write(&self, object: &str, bytes: Vec<u8>, replace: bool) -> Result<(), Failure> {
        let mut objects = self.lock();
        if !replace && objects.contains_key(object) {
            return Err(failure(FailureKind::Exists, object));
        }
        objects.insert(object.to_owned(), bytes);
        Ok(())
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Failure> {
        let is_below = |object: &str| {
            let rest = object.strip_prefix(folder);
            folder.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let objects = self.lock();
        let below = objects.iter().filter(|(object, _)| is_below(object));
        Ok(below
            .map(|(object, bytes)| (object.clone(), bytes.len() as u64))
            .collect())
    }

    fn folders(&self) -> Result<Vec<String>, Failure> {
        let objects = self.lock();
        let mut folders: Vec<String> = objects
            .keys()
            .filter_map(|object| Some(object.split_once('/')?.0.to_owned()))
            .collect();
        folders.dedup();
        Ok(folders)
    }

    fn delete(&self, object: &str) -> Result<(), Failure> {
        let removed = self.lock().remove(object).map(drop);
        removed.ok_or_else(|| failure(FailureKind::Missing, object))
    }
}
