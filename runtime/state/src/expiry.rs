//! State with a time to live on a disk: savepoints omit what is expired, and each checkpoint
//! deletes it from one more key group.
//!
//! Changes go to the disk including what is expired among them, or the disk would keep the earlier
//! values. Rejected: a filter in the compactions of the database, which would have to know the
//! formats of states, and nobody knows when it runs.
//!
//! Invariant: keys are deleted between the changes of a checkpoint and its files, while nothing
//! leaves memory. What memory has is newer or the same, and is written again if it was renewed.

use crate::disk_snapshot::each_pair;
use crate::list::live_elements;
use crate::state_disk::StateDisk;
use crate::tier::Pairs;
use crate::ttl::Ttl;
use std::borrow::Cow;
use std::collections::BTreeMap;
use streamrt_types::Result;

/// How the values of a state on disk expire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expiry {
    /// Values expire as a whole.
    OfValues(Ttl),
    /// Lists expire element by element.
    OfElements(Ttl),
}

/// How states expire, by their numbers.
pub(crate) type Expiries = BTreeMap<u8, Expiry>;

impl Expiry {
    /// The unexpired part of a value; `None` if nothing is left.
    pub fn live<'a>(&self, value: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        match self {
            Expiry::OfValues(ttl) => (!ttl.is_expired(value)).then_some(Cow::Borrowed(value)),
            Expiry::OfElements(ttl) => Some(live_elements(value, *ttl))
                .filter(|live| !live.is_empty())
                .map(Cow::Owned),
        }
    }

    fn is_over(&self, run: &[u8]) -> Result<bool> {
        let mut is_over = true;
        each_pair(run, |_, value| {
            is_over &= self.live(value).is_none();
            Ok(())
        })?;
        Ok(is_over)
    }
}

/// Deletes the keys that are expired as a whole in the next key group.
///
/// # Errors
/// Those of the disk.
pub(crate) fn sweep(disk: &StateDisk, expiries: &Expiries) -> Result<()> {
    let group = if expiries.is_empty() {
        None
    } else {
        disk.next_group()?
    };
    let Some((from, to)) = group else {
        return Ok(());
    };
    let mut deleted = Pairs::default();
    disk.disk().scan(&from, &to, &mut |disk_key, run| {
        // After the two bytes of the key group.
        let expiry = disk_key.get(2).and_then(|number| expiries.get(number));
        if expiry.map_or(Ok(false), |expiry| expiry.is_over(run))? {
            deleted.delete(|bytes| bytes.extend_from_slice(disk_key));
        }
        Ok(())
    })?;
    deleted.write(disk.disk())
}
