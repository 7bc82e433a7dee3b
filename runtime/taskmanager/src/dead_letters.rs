//! Where skipped records go: a file of JSON lines, or, where no folder is configured, the log, shortly.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use streamrt_operator::DeadLetter;
use streamrt_types::{Error, Result, code};

/// Dead letters that are shown in full in the log; the rest is only counted.
const SHOWN_MAX: u32 = 10;

/// The dead letters of one job. Poison is rare, so one lock for all tasks is enough.
pub struct DeadLetters {
    path: Option<PathBuf>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    file: Option<File>,
    n_shown: u32,
}

impl DeadLetters {
    /// `folder` is made when the first letter comes.
    pub fn new(folder: Option<&str>) -> DeadLetters {
        DeadLetters { path: folder.map(|folder| PathBuf::from(folder).join("dead-letters.jsonl")), open: Mutex::default() }
    }

    /// Keeps a letter; it is on its way to the disk when this returns.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be written: a record must not vanish unseen.
    pub fn put(&self, letter: &DeadLetter) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.path {
            None => {
                open.show(letter);
                Ok(())
            }
            Some(path) => {
                let failed = |e| Error::new(code::FILE_IO, format!("{} cannot be written", path.display())).with_source(e);
                open.write(path, letter).map_err(failed)
            }
        }
    }
}

impl Open {
    fn show(&mut self, letter: &DeadLetter) {
        self.n_shown = self.n_shown.saturating_add(1);
        if self.n_shown <= SHOWN_MAX {
            eprintln!("skipped [{}] {}: {} ({}) {}", letter.code, letter.uid, letter.message, letter.position, letter.record);
        } else if self.n_shown == SHOWN_MAX + 1 {
            eprintln!("skipped more; the summary counts them, and `-D poison.dead-letters=DIR` keeps them");
        }
    }

    fn write(&mut self, path: &PathBuf, letter: &DeadLetter) -> std::io::Result<()> {
        if self.file.is_none() {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            self.file = Some(OpenOptions::new().create(true).append(true).open(path)?);
        }
        let line = serde_json::json!({
            "uid": letter.uid, "code": letter.code, "message": letter.message, "backtrace": letter.backtrace,
            "position": letter.position, "key": letter.key, "record": letter.record, "time_ms": letter.time_ms,
        });
        match &mut self.file {
            Some(file) => writeln!(file, "{line}"),
            None => Ok(()),
        }
    }
}
