//! Time to live: entries that carry the time of their last access, and are gone when it is too long
//! ago.
//!
//! The time precedes an encoded row: eight bytes, ms since the epoch, little endian, in memory and
//! in snapshots alike, and for each element of a list and each entry of a map on its own. State
//! without a time to live has no such bytes.
//!
//! An expired entry is removed in three ways: when it is read; in snapshots, which omit it; and by
//! [`Sweep`], which looks at a number of entries after each batch, or, on a disk, with a checkpoint
//! (`expiry.rs`). Invariant: no read sees which of them comes first, unless reads may show what is
//! expired.
//!
//! # Source
//! Flink's `StateTtlConfig`, `AbstractTtlDecorator` and `TtlIncrementalCleanup`.

use crate::index::EntryId;
use crate::table::KeyTable;
use streamrt_types::{Error, Result, code};
use streamrt_wit::{StateDescriptor, TtlUpdate, TtlVisibility};

/// Bytes of the time before a row.
pub(crate) const STAMP_BYTES: usize = size_of::<i64>();

/// How long the entries of a state live, and what time it is.
#[derive(Debug, Clone, Copy)]
pub struct Ttl {
    ttl_ms: i64,
    /// Whether a read restarts the time.
    renewed_by_reads: bool,
    /// Whether a read may return what is expired and still there.
    shows_expired: bool,
    /// The clock's ms since the epoch, as of the last [`Ttl::set_time`].
    now_ms: i64,
}

impl Ttl {
    /// `None` for state that lives for ever.
    pub fn of(descriptor: &StateDescriptor) -> Option<Ttl> {
        descriptor.ttl_ms.map(|ttl_ms| Ttl {
            ttl_ms: i64::try_from(ttl_ms).unwrap_or(i64::MAX),
            renewed_by_reads: descriptor.ttl_update == TtlUpdate::OnReadAndWrite,
            shows_expired: descriptor.ttl_visibility == TtlVisibility::ReturnExpiredIfNotCleanedUp,
            now_ms: 0,
        })
    }

    pub(crate) fn set_time(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    /// What precedes a row that is written now.
    pub(crate) fn stamp(&self) -> [u8; STAMP_BYTES] {
        self.now_ms.to_le_bytes()
    }

    /// `row` as it is stored when it is written now.
    pub(crate) fn stamped(&self, row: &[u8]) -> Box<[u8]> {
        [&self.stamp(), row].concat().into()
    }

    /// Whether `last access + ttl <= now`. `stored` begins with the time.
    pub(crate) fn is_expired(&self, stored: &[u8]) -> bool {
        let last_access = stored
            .first_chunk()
            .map_or(i64::MIN, |stamp| i64::from_le_bytes(*stamp));
        last_access.saturating_add(self.ttl_ms) <= self.now_ms
    }

    /// The row in `stored`, if a read may see it.
    pub(crate) fn visible<'a>(&self, stored: &'a [u8]) -> Option<&'a [u8]> {
        (self.shows_expired || !self.is_expired(stored)).then(|| row_of(stored))
    }

    /// Whether reads return only what is not expired, so that the rest can be dropped before it is
    /// read.
    pub(crate) fn hides_expired(&self) -> bool {
        !self.shows_expired
    }

    pub(crate) fn renewed_by_reads(&self) -> bool {
        self.renewed_by_reads
    }

    /// The same for access that does not count as a read.
    pub(crate) fn without_renewal(self) -> Ttl {
        Ttl {
            renewed_by_reads: false,
            ..self
        }
    }
}

/// The row after the time.
pub(crate) fn row_of(stored: &[u8]) -> &[u8] {
    stored.get(STAMP_BYTES..).unwrap_or(&[])
}

/// Where the row begins in an entry of a snapshot; `stamped` says whether a time precedes it.
///
/// # Errors
/// `Data` if the time is not there.
pub(crate) fn restored_row(stamped: bool, stored: &[u8]) -> Result<usize> {
    match stamped {
        false => Ok(0),
        true if stored.len() >= STAMP_BYTES => Ok(STAMP_BYTES),
        true => Err(Error::new(
            code::SNAPSHOT_DAMAGED,
            "an entry in the snapshot has no time of last access",
        )),
    }
}

/// The position of background cleaning in a table. It cycles for ever, a few entries at a time, and
/// never looks at all of them at once.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    next: EntryId,
}

impl Sweep {
    /// The next entry to look at; `None` at the end of the table, or when the `budget` of entry
    /// numbers is used up.
    pub(crate) fn next(&mut self, table: &KeyTable, budget: &mut usize) -> Option<EntryId> {
        while *budget > 0 {
            if self.next >= table.numbers_end() {
                (self.next, *budget) = (0, 0);
                return None;
            }
            *budget -= 1;
            let entry = self.next;
            self.next += 1;
            if table.is_live(entry) {
                return Some(entry);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
