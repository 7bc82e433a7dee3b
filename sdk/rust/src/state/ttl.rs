//! Time to live of state.

use crate::watermarks::millis;
use std::time::Duration;
use streamrt_wit::{StateDescriptor, TtlUpdate, TtlVisibility};

/// How long an entry of state lives after its last access: a value, an element of a list, or an
/// entry of a map, each on its own.
///
/// Time is the clock of the host, in ms; an entry is expired when `last access + ttl <= now`. A
/// call of the plugin is one moment. By default only writes restart the time, and what is expired
/// is never seen again. Expired entries are removed when they are read, in snapshots, and in the
/// background. A later version of the job may change the duration, or add or remove a time to live:
/// existing entries then count as accessed at the restore.
///
/// ```
/// use streamrt_sdk::prelude::*;
///
/// #[derive(Default)]
/// struct Visits { last: ValueState<i64>, pages: ListState<String> }
///
/// impl ProcessFunction for Visits {
///     type In = String;
///     type Key = ();
///     type Out = Forward;
///
///     fn open(&mut self, setup: &mut Setup) {
///         self.last = setup.value("last").ttl(hours(1));
///         self.pages = setup.list("pages").ttl(Ttl::of(minutes(30)).on_read_and_write());
///     }
///     fn on_element(&mut self, page: &String, _: &mut Context<'_, ()>, out: &mut Collector<Forward>) -> Result<()> {
///         self.pages.add(page.clone());
///         out.forward()
///     }
/// }
/// ```
///
/// # Source
/// Flink's `StateTtlConfig`: the same defaults, the same rules. Ours: time stands still within a
/// call, so a value that may be returned although it is expired can be read several times in the
/// call that reads it first, and is gone afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl {
    after: Duration,
    update: TtlUpdate,
    visibility: TtlVisibility,
}

impl Ttl {
    /// Entries expire this long after they were last written. Whole milliseconds, at least one.
    pub fn of(after: Duration) -> Ttl {
        Ttl {
            after,
            update: TtlUpdate::default(),
            visibility: TtlVisibility::default(),
        }
    }

    /// Reading an entry restarts its time as well. A list is then fetched for one key at a time,
    /// and not for all keys of a call.
    pub fn on_read_and_write(self) -> Ttl {
        Ttl {
            update: TtlUpdate::OnReadAndWrite,
            ..self
        }
    }

    /// A read that comes before an expired entry was cleaned up still gets it; that read removes
    /// it.
    pub fn return_expired_if_not_cleaned_up(self) -> Ttl {
        Ttl {
            visibility: TtlVisibility::ReturnExpiredIfNotCleanedUp,
            ..self
        }
    }

    /// Whether the host has to know what was read.
    pub(super) fn counts_reads(self) -> bool {
        self.update == TtlUpdate::OnReadAndWrite
            || self.visibility == TtlVisibility::ReturnExpiredIfNotCleanedUp
    }

    pub(super) fn declare(self, descriptor: &mut StateDescriptor) {
        descriptor.ttl_ms = Some(millis(self.after));
        descriptor.ttl_update = self.update;
        descriptor.ttl_visibility = self.visibility;
    }
}

impl From<Duration> for Ttl {
    fn from(after: Duration) -> Ttl {
        Ttl::of(after)
    }
}
