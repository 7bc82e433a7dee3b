//! The files of a checkpoint and their names.
//!
//! RocksDB numbers its files, and a database that resumes from a checkpoint continues the numbers:
//! two databases with one origin give the same number to different files. So a checkpoint names a
//! file `NUMBER-IDENTITY.sst`, after the database that made it. Invariant: a name means the same
//! bytes in all checkpoints, of whatever database.
//!
//! A list of all files with their lengths is one of them: RocksDB takes a truncated manifest for a
//! shorter one, and would open an empty database. The list is a line with the number of files, then
//! a line `BYTES NAME` for each.

use crate::error;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use streamrt_state::DiskFile;
use streamrt_types::{Error, Result, code};

/// Points to the manifest.
const CURRENT: &str = "CURRENT";
/// The list.
const FILES: &str = "FILES";

/// The names in checkpoints of one database's files.
#[derive(Debug)]
pub struct FileNames {
    identity: String,
    /// Those that came from a checkpoint, by their names in the database.
    inherited: HashMap<String, String>,
}

impl FileNames {
    pub fn new(identity: String, inherited: HashMap<String, String>) -> FileNames {
        FileNames {
            identity,
            inherited,
        }
    }

    /// Gives the files in a checkpoint that RocksDB made their names, and removes what a restore
    /// does not need.
    ///
    /// # Errors
    /// `Unavailable` if the folder fails.
    pub fn apply(&self, folder: &Path) -> Result<Vec<DiskFile>> {
        let mut files = Vec::new();
        for (file, bytes) in list(folder)? {
            let path = folder.join(&file);
            match kind(&file) {
                Kind::Sorted => {
                    let name = self.shared_name(&file);
                    fs::rename(&path, folder.join(&name))
                        .map_err(|cause| error::io("cannot be renamed", &path, cause))?;
                    files.push(DiskFile {
                        name,
                        bytes,
                        shared: true,
                    });
                }
                Kind::Own => files.push(DiskFile {
                    name: file,
                    bytes,
                    shared: false,
                }),
                Kind::Needless => fs::remove_file(&path)
                    .map_err(|cause| error::io("cannot be removed", &path, cause))?,
            }
        }
        files.push(write_list(folder, &files)?);
        Ok(files)
    }

    fn shared_name(&self, file: &str) -> String {
        let own = || match file.rsplit_once('.') {
            Some((number, extension)) => format!("{number}-{}.{extension}", self.identity),
            None => file.to_owned(),
        };
        self.inherited.get(file).cloned().unwrap_or_else(own)
    }
}

/// Puts the files of the checkpoint `part` into the new folder `to` under RocksDB's names, and
/// returns the name of each shared one in checkpoints. Sorted files are linked; the few others are
/// copied, since a database may go on writing them.
///
/// # Errors
/// `Data` if this is not a checkpoint of a database or files of it are damaged, `Unavailable` if a
/// folder fails.
pub fn unpack(part: &Path, to: &Path) -> Result<HashMap<String, String>> {
    let listed = verified(part)?;
    fs::create_dir(to).map_err(|cause| error::io("cannot be made", to, cause))?;
    let mut inherited = HashMap::new();
    for name in listed {
        let sorted = kind(&name) == Kind::Sorted;
        let file = if sorted {
            database_name(&name)
        } else {
            name.clone()
        };
        place(&part.join(&name), &to.join(&file), sorted)?;
        if sorted {
            inherited.insert(file, name);
        }
    }
    Ok(inherited)
}

/// Writes the list of a checkpoint's files.
fn write_list(folder: &Path, files: &[DiskFile]) -> Result<DiskFile> {
    let lines: String = files
        .iter()
        .map(|file| format!("{} {}\n", file.bytes, file.name))
        .collect();
    let text = format!("{}\n{lines}", files.len());
    let path = folder.join(FILES);
    fs::write(&path, &text).map_err(|cause| error::io("cannot be written", &path, cause))?;
    Ok(DiskFile {
        name: FILES.to_owned(),
        bytes: text.len() as u64,
        shared: false,
    })
}

/// The names of a checkpoint's files, all of which are there with their full length.
fn verified(folder: &Path) -> Result<Vec<String>> {
    let present: HashMap<String, u64> = list(folder)?.into_iter().collect();
    let no_checkpoint = |why: &str| {
        damaged(format!(
            "{} holds no checkpoint of a database: {why}",
            folder.display()
        ))
    };
    if !present.contains_key(FILES) {
        return Err(no_checkpoint("the file FILES is missing"));
    }
    let path = folder.join(FILES);
    let text = fs::read(&path).map_err(|cause| error::io("cannot be read", &path, cause))?;
    let listed = read_list(&String::from_utf8_lossy(&text))
        .ok_or_else(|| no_checkpoint("the file FILES is no whole list"))?;
    let in_part = |why| {
        damaged(format!(
            "the checkpoint of a database in {} is damaged: {why}",
            folder.display()
        ))
    };
    for (name, bytes) in &listed {
        match present.get(name) {
            None => return Err(in_part(format!("{name} is missing"))),
            Some(present) if present != bytes => {
                return Err(in_part(format!(
                    "{name} has {present} bytes, but {bytes} were written"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(listed.into_iter().map(|(name, _)| name).collect())
}

fn damaged(sentence: String) -> Error {
    Error::new(code::SNAPSHOT_DAMAGED, sentence)
}

fn read_list(text: &str) -> Option<Vec<(String, u64)>> {
    let (n_files, lines) = text.strip_suffix('\n')?.split_once('\n')?;
    let file = |line: &str| {
        line.split_once(' ')
            .and_then(|(bytes, name)| Some((name.to_owned(), bytes.parse().ok()?)))
    };
    // A name is not a path: it must not lead out of the folder.
    let files: Vec<(String, u64)> = lines.split('\n').map(file).collect::<Option<_>>()?;
    (n_files.parse() == Ok(files.len()) && files.iter().all(|(name, _)| !name.contains('/')))
        .then_some(files)
}

fn place(from: &Path, to: &Path, link: bool) -> Result<()> {
    // Links do not work across file systems.
    if link && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(|_| ()).map_err(|cause| {
        error::io(
            format_args!("cannot be copied to {}", to.display()),
            from,
            cause,
        )
    })
}

/// `000012.sst` of `000012-IDENTITY.sst`.
fn database_name(name: &str) -> String {
    match (name.split_once('-'), name.rsplit_once('.')) {
        (Some((number, _)), Some((_, extension))) => format!("{number}.{extension}"),
        _ => name.to_owned(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sorted entries, never changed.
    Sorted,
    /// Files of this checkpoint only.
    Own,
    /// Options, which we set ourselves; the identity, which every opened database has of its own;
    /// logs, which are empty.
    Needless,
}

fn kind(file: &str) -> Kind {
    match file {
        _ if file.ends_with(".sst") || file.ends_with(".blob") => Kind::Sorted,
        CURRENT => Kind::Own,
        _ if file.starts_with("MANIFEST-") => Kind::Own,
        _ => Kind::Needless,
    }
}

/// Names and lengths of the files in a folder, in the order of their names.
fn list(folder: &Path) -> Result<Vec<(String, u64)>> {
    let read = || {
        let entry = |entry: fs::DirEntry| {
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.metadata()?.len(),
            ))
        };
        let mut files = fs::read_dir(folder)?
            .map(|each| each.and_then(entry))
            .collect::<std::io::Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    };
    read().map_err(|cause| error::io("cannot be listed", folder, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_number_and_carry_the_maker() {
        let inherited = HashMap::from([("000007.sst".to_owned(), "000007-old-id.sst".to_owned())]);
        let names = FileNames::new("new-id".to_owned(), inherited);
        for (file, name) in [
            ("000007.sst", "000007-old-id.sst"),
            ("000009.sst", "000009-new-id.sst"),
            ("000010.blob", "000010-new-id.blob"),
        ] {
            assert_eq!(names.shared_name(file), name);
            assert_eq!(database_name(name), file);
        }
    }

    #[test]
    fn a_list_that_is_cut_off_or_leads_away_is_none() {
        let text = "2\n16 CURRENT\n120 000007-id.sst\n";
        assert_eq!(
            read_list(text),
            Some(vec![
                ("CURRENT".to_owned(), 16),
                ("000007-id.sst".to_owned(), 120)
            ])
        );
        for end in 0..text.len() {
            assert_eq!(read_list(&text[..end]), None, "{end} bytes");
        }
        assert_eq!(read_list("1\n16 ../CURRENT\n"), None);
    }
}
