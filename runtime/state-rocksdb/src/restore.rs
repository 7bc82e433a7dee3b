//! A database from the checkpoints of others, redistributed by key groups.
//!
//! 1. Each checkpoint is opened where nothing can change it, in the order of the key groups that
//!    are wanted from it.
//! 2. Its pairs are walked in order and written to sorted files; key groups do not overlap, so the
//!    files of all parts are one run.
//! 3. The new database takes the run over in one step, at its lowest level.

use crate::disk::{RocksDisk, scan};
use crate::run::{Run, remove};
use crate::{error, files};
use rocksdb::{DB, Options};
use std::path::Path;
use streamrt_state::DiskPart;
use streamrt_types::Result;

/// Brings the wanted key groups of all parts into an empty disk.
///
/// # Errors
/// `Data` if a part is damaged, `Unavailable` if the disk fails.
pub fn fill(disk: &RocksDisk, parts: &[DiskPart]) -> Result<()> {
    let mut parts: Vec<&DiskPart> = parts
        .iter()
        .filter(|part| !part.key_groups.is_empty())
        .collect();
    parts.sort_by_key(|part| part.key_groups.start);
    let mut run = disk.new_run()?;
    for part in parts {
        let unpacked = disk.folder().part();
        files::unpack(&part.folder, &unpacked)?;
        copy(disk.options(), &unpacked, part, &mut run)?;
        remove(&unpacked)?;
    }
    run.ingest(disk.database())
}

fn copy(options: &Options, unpacked: &Path, part: &DiskPart, run: &mut Run<'_>) -> Result<()> {
    let damaged = |cause| error::damaged(&part.folder, cause);
    let database = DB::open_for_read_only(options, unpacked, false).map_err(damaged)?;
    let (from, to) = (
        first_key(part.key_groups.start),
        first_key(part.key_groups.end),
    );
    scan(
        &database,
        &from,
        &to,
        &mut |key, value| run.add(key, Some(value)),
        damaged,
    )
}

/// The beginning of the keys of a group, which is greater than that of earlier groups. Groups end
/// at 32,768, so each fits two bytes.
fn first_key(group: u32) -> [u8; 2] {
    u16::try_from(group).unwrap_or(u16::MAX).to_be_bytes()
}
