//! Where things lie in a store. What a leader writes carries its generation, so that no two leaders
//! ever write the same name, and so that an old one can be told from what the newest writes.
//!
//! - `log/<20 digits>`: the job's log.
//! - `plugins/<digest>.wasm`: the components.
//! - `chk-<number>/manifest-<generation>.json` and `chk-<number>/<vertex>-<subtask>-<generation>`:
//!   a checkpoint.
//! - `chk-<number>/<vertex>-<subtask>-<operator>-<file>-<generation>`: a file of a state on disk,
//!   which later checkpoints share.
//! - `manifest.json` and `<vertex>-<subtask>-<generation>`: a savepoint, which has a folder of its
//!   own.

use crate::SnapshotKind;
use streamrt_types::{Error, Result, code};

/// Where a plugin's component lies, by its digest.
pub fn component_path(digest: &str) -> String {
    format!("plugins/{digest}.wasm")
}

/// Where the states of one subtask lie: in the checkpoint's folder, or at the top of a savepoint's
/// store.
pub fn object_path(
    kind: SnapshotKind,
    checkpoint: u64,
    generation: u64,
    vertex: u32,
    subtask: u32,
) -> String {
    join(
        &folder(kind, checkpoint),
        &format!("{vertex}-{subtask}-{generation}"),
    )
}

/// Where a file of a state on disk lies that a checkpoint is the first to have. `number` is that of
/// the operator in its chain.
pub fn file_path(
    checkpoint: u64,
    generation: u64,
    (vertex, subtask): (u32, u32),
    number: usize,
    file: &str,
) -> String {
    join(
        &folder(SnapshotKind::Checkpoint, checkpoint),
        &format!("{vertex}-{subtask}-{number}-{file}-{generation}"),
    )
}

pub(crate) fn manifest_path(kind: SnapshotKind, checkpoint: u64, generation: u64) -> String {
    match kind {
        SnapshotKind::Checkpoint => {
            format!("{}/manifest-{generation}.json", folder(kind, checkpoint))
        }
        SnapshotKind::Savepoint => SAVEPOINT_MANIFEST.to_owned(),
    }
}

/// The limit of file systems.
const NAME_BYTES_MAX: usize = 255;

pub(crate) const SAVEPOINT_MANIFEST: &str = "manifest.json";
pub(crate) const LOG_FOLDER: &str = "log";
pub(crate) const PLUGIN_FOLDER: &str = "plugins";

pub(crate) fn log_path(number: u64) -> String {
    format!("{LOG_FOLDER}/{number:020}")
}

pub(crate) fn log_number(path: &str) -> Option<u64> {
    let digits = path.strip_prefix(LOG_FOLDER)?.strip_prefix('/')?;
    let whole = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole.then(|| digits.parse().ok()).flatten()
}

fn folder(kind: SnapshotKind, checkpoint: u64) -> String {
    match kind {
        SnapshotKind::Checkpoint => format!("chk-{checkpoint}"),
        SnapshotKind::Savepoint => String::new(),
    }
}

/// The number of a checkpoint's folder.
pub(crate) fn checkpoint_of(folder: &str) -> Option<u64> {
    folder.strip_prefix("chk-")?.parse().ok()
}

/// Checkpoint and generation of an object or manifest below `chk-*/`; none if the name is not one
/// that streamrt gives.
pub(crate) fn origin_of(path: &str) -> Option<(u64, u64)> {
    let (folder, name) = path.split_once('/')?;
    let generation = name
        .strip_suffix(".json")
        .unwrap_or(name)
        .rsplit_once('-')?
        .1;
    Some((checkpoint_of(folder)?, generation.parse().ok()?))
}

/// Whether a name is that of one entry of a folder, and leads nowhere else.
pub fn is_plain(name: &str) -> bool {
    let is_long = name.is_empty() || name.len() > NAME_BYTES_MAX;
    !is_long && ![".", ".."].contains(&name) && !name.contains(['/', '\\', '\0'])
}

/// The folder that a path lies in; empty at the top.
pub(crate) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

pub(crate) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// `path` as seen from `folder`, both in the same store.
pub(crate) fn relative(folder: &str, path: &str) -> String {
    let from: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    let to: Vec<&str> = path.split('/').collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..", from.len() - common);
    up.chain(to[common..].iter().copied())
        .collect::<Vec<_>>()
        .join("/")
}

/// The opposite of [`relative`].
///
/// # Errors
/// `Data` if the path leads out of the store.
pub(crate) fn resolve(folder: &str, path: &str) -> Result<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        let known = match part {
            ".." => parts.pop().is_some(),
            "" | "." => false,
            _ => {
                parts.push(part);
                true
            }
        };
        if !known {
            return Err(Error::new(
                code::SNAPSHOT_DAMAGED,
                format!("the manifest in `{folder}` names `{path}`, which leads nowhere"),
            ));
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, path: &str, expected: &str) {
        assert_eq!(relative(folder, path), expected);
        assert_eq!(resolve(folder, expected).unwrap(), path);
    }

    #[test]
    fn paths_are_relative_to_the_manifest() {
        check("chk-7", "chk-7/0-1-3", "0-1-3");
        check("chk-7", "chk-5/0-1-3", "../chk-5/0-1-3");
        check("chk-7", "plugins/d.wasm", "../plugins/d.wasm");
        check("", "plugins/d.wasm", "plugins/d.wasm");
        for path in ["../../x", "", "/x", "a//b", "./x", ".."] {
            let leaves = resolve("chk-7", path).map(|resolved| resolved.is_empty());
            assert!(leaves.is_err() || leaves.unwrap(), "{path}");
        }
    }

    #[test]
    fn names_tell_their_origin() {
        assert_eq!(
            origin_of(&object_path(SnapshotKind::Checkpoint, 7, 3, 0, 1)),
            Some((7, 3))
        );
        assert_eq!(
            origin_of(&file_path(7, 3, (0, 1), 2, "000012.sst")),
            Some((7, 3))
        );
        assert_eq!(
            origin_of(&manifest_path(SnapshotKind::Checkpoint, 7, 3)),
            Some((7, 3))
        );
        for foreign in [
            "chk-7",
            "chk-x/0-0-1",
            "chk-7/notes.txt",
            "log/00000000000000000001",
            "manifest.json",
            "plugins/a-1.wasm",
        ] {
            assert_eq!(origin_of(foreign), None, "{foreign}");
        }
        assert_eq!(log_number(&log_path(12)), Some(12));
        assert_eq!(log_number("log/12"), None);
        assert_eq!(log_number("log/+0000000000000000012"), None);
    }
}
