//! Keyed state in memory: the paged table, and value, list and map state over it.
//!
//! All requests are for a whole batch: hashes and keys of many rows go in, entry numbers come out,
//! and values are read and written by number. Keys are the canonical bytes of
//! [`streamrt_types::KeyEncoder`]; a namespace (a window, a pane) is a table of its own, so
//! retiring it is one step, even on a disk: see [`Namespaces`]. Entries may have a time to live:
//! see [`Ttl`]. No I/O, no threads: one task owns its state.
//!
//! ```
//! use streamrt_state::{KeyKind, KeyTable, Keys};
//! use streamrt_types::{KeyGroupRange, murmur3_32};
//!
//! let mut table = KeyTable::new(KeyKind::Fixed, 8, KeyGroupRange::all(128), 128);
//! let keys = [7u64, 9, 7];
//! let hashes = keys.map(|key| murmur3_32(&key.to_le_bytes()));
//! let (mut entries, mut created) = (Vec::new(), Vec::new());
//! table.upsert(&hashes, Keys::Fixed(&keys), &mut entries, &mut created);
//! assert_eq!((entries[0] == entries[2], created), (true, vec![0, 1]));
//! ```

mod arena;
mod budget;
mod disk;
mod disk_snapshot;
mod expiry;
mod flight;
mod index;
mod index_check;
mod keys;
mod list;
mod map;
mod namespaces;
mod operator_state;
mod page;
mod restamp;
mod row;
mod slab;
mod snapshot;
mod state_disk;
mod table;
mod tier;
mod ttl;
mod value;

pub use arena::{Address, Arena, ArenaSnapshot, NO_ADDRESS};
pub use budget::MemoryBudget;
pub use disk::{
    Backend, Changes, DISK_KEY_PREFIX_BYTES, Disk, DiskFile, DiskPart, EachPair, KeyRange,
};
pub use disk_snapshot::{DiskFiles, DiskIndex, each_pair, push_pair};
pub use index::{EntryId, NO_ENTRY};
pub use index_check::check_indexes;
pub use keys::{KeyBuffer, KeyKind, Keys};
pub use list::{ListState, list_elements};
pub use map::{MapPage, MapState};
pub use namespaces::{EachRun, Namespace, Namespaces};
pub use operator_state::{OperatorState, Share};
pub use row::{EncodedRows, RowCodec};
pub use snapshot::{
    EachEntry, Frozen, FrozenEntries, GroupSpan, KeyedIndex, KeyedSnapshot, ListIndex, ListMode,
    ListSnapshot, OperatorIndex, OperatorSnapshot, Part, StateEntry,
};
pub use state_disk::{DiskState, StateDisk};
pub use table::{KeyTable, TableSnapshot};
pub use tier::{Changed, DiskChanges, Resident, Tier};
pub use ttl::Ttl;
pub use value::ValueState;
