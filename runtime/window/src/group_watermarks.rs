//! The watermarks under which a snapshot was taken, by key groups: what windows know of what has fired.
//!
//! Each subtask writes its own into the list `watermark`, with its key groups, and a new subtask goes by those of its groups. As a rule they
//! are one and the same, since all subtasks had the same marks before the barrier. Where key groups of several subtasks meet after a change
//! of parallelism, one may have been ahead (it saw a moment in which all channels were idle, or read its clock later): the windows that it
//! has fired must not fire again, and those of the others must not be lost.
//!
//! Invariant: windows start from the least of the watermarks, and rise to the greatest before they take a row; so no key sees time go back.

use crate::snapshot_bytes::{Fields, damaged};
use streamrt_operator::OperatorContext;
use streamrt_state::{ListMode, ListSnapshot, OperatorState};
use streamrt_types::{KeyGroupRange, Result, Watermark, key_group};

const LIST: &str = "watermark";

/// Ranges of key groups, with the watermark of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupWatermarks {
    ranges: Vec<(KeyGroupRange, Watermark)>,
    max_parallelism: u32,
}

impl GroupWatermarks {
    /// One watermark for all groups.
    pub(crate) fn one(key_groups: KeyGroupRange, max_parallelism: u32, watermark: Watermark) -> GroupWatermarks {
        GroupWatermarks { ranges: vec![(key_groups, watermark)], max_parallelism }
    }

    pub(crate) fn list(&self) -> ListSnapshot {
        let item = |(range, watermark): &(KeyGroupRange, Watermark)| {
            [&range.start.to_le_bytes()[..], &range.end.to_le_bytes(), &watermark.to_le_bytes()].concat()
        };
        ListSnapshot {
            name: LIST.into(),
            mode: ListMode::Union,
            types: serde_json::Value::Null,
            items: self.ranges.iter().map(item).collect(),
        }
    }

    /// The part for the key groups of a subtask; `None` if the snapshot has nothing of them.
    ///
    /// # Errors
    /// `Data` if the items are damaged.
    pub(crate) fn restore(state: &mut OperatorState, context: &OperatorContext) -> Result<Option<GroupWatermarks>> {
        let own = context.key_groups;
        let cut = |(range, watermark): (KeyGroupRange, Watermark)| {
            (KeyGroupRange { start: range.start.max(own.start), end: range.end.min(own.end) }, watermark)
        };
        let items = state.list(LIST).iter().map(|item| read(item).map(cut)).collect::<Result<Vec<_>>>()?;
        let ranges: Vec<_> = items.into_iter().filter(|(range, _)| range.start < range.end).collect();
        Ok((!ranges.is_empty()).then_some(GroupWatermarks { ranges, max_parallelism: context.max_parallelism }))
    }

    fn each(&self) -> impl Iterator<Item = Watermark> {
        self.ranges.iter().map(|(_, watermark)| *watermark)
    }

    pub(crate) fn least(&self) -> Watermark {
        self.each().min().unwrap_or(Watermark::MIN)
    }

    pub(crate) fn greatest(&self) -> Watermark {
        self.each().max().unwrap_or(Watermark::MIN)
    }

    /// Whether `time` had passed for a key. `hash` is that of the key.
    pub(crate) fn had_passed(&self, hash: u32, time: i64) -> bool {
        let group = key_group(hash, self.max_parallelism);
        self.ranges.iter().any(|(range, watermark)| range.contains(group) && time <= *watermark)
    }
}

fn read(item: &[u8]) -> Result<(KeyGroupRange, Watermark)> {
    let mut fields = Fields::new(item, "a watermark");
    let (range, watermark) = (KeyGroupRange { start: fields.u32()?, end: fields.u32()? }, fields.i64()?);
    fields.end()?;
    if range.start < range.end { Ok((range, watermark)) } else { Err(damaged("a watermark")) }
}
