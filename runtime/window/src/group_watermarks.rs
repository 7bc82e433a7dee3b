//! The watermarks up to which windows have fired, by key groups: what a snapshot knows of what has
//! been sent.
//!
//! Each subtask writes its own into the list `watermark`, with its key groups, and a new subtask
//! uses those of its groups. As a rule they are all equal, since all subtasks had the same marks
//! before the barrier. They differ if a snapshot was taken in the middle of a large window, which
//! fires one key group after the other; and if key groups of several subtasks meet after a change
//! of parallelism, one of which was ahead (it saw a moment in which all channels were idle, or read
//! its clock later). The windows that a group has fired must not fire again, and those of the
//! others must not be lost.
//!
//! Invariant: windows start from the least of the watermarks, and rise to the greatest before they
//! take a row; so no key sees time move backwards.

use crate::snapshot_bytes::{Fields, damaged};
use streamrt_operator::OperatorContext;
use streamrt_state::{ListMode, ListSnapshot, OperatorState};
use streamrt_types::{KeyGroupRange, Result, Watermark};

const LIST: &str = "watermark";

/// Ranges of key groups, with the watermark of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupWatermarks {
    ranges: Vec<(KeyGroupRange, Watermark)>,
}

impl GroupWatermarks {
    /// One watermark for all groups.
    pub(crate) fn one(key_groups: KeyGroupRange, watermark: Watermark) -> GroupWatermarks {
        GroupWatermarks {
            ranges: vec![(key_groups, watermark)],
        }
    }

    pub(crate) fn list(&self) -> ListSnapshot {
        let item = |(range, watermark): &(KeyGroupRange, Watermark)| {
            [
                &range.start.to_le_bytes()[..],
                &range.end.to_le_bytes(),
                &watermark.to_le_bytes(),
            ]
            .concat()
        };
        ListSnapshot {
            name: LIST.into(),
            mode: ListMode::Union,
            types: serde_json::Value::Null,
            items: self.ranges.iter().map(item).collect(),
        }
    }

    /// The part for the key groups of a subtask; `None` if the snapshot has nothing about them.
    ///
    /// # Errors
    /// `Data` if the items are damaged.
    pub(crate) fn restore(
        state: &mut OperatorState,
        context: &OperatorContext,
    ) -> Result<Option<GroupWatermarks>> {
        let own = context.key_groups;
        let cut = |(range, watermark): (KeyGroupRange, Watermark)| {
            (
                KeyGroupRange {
                    start: range.start.max(own.start),
                    end: range.end.min(own.end),
                },
                watermark,
            )
        };
        let items = state
            .list(LIST)
            .iter()
            .map(|item| read(item).map(cut))
            .collect::<Result<Vec<_>>>()?;
        let ranges: Vec<_> = items
            .into_iter()
            .filter(|(range, _)| range.start < range.end)
            .collect();
        Ok((!ranges.is_empty()).then_some(GroupWatermarks { ranges }))
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

    /// Whether all groups have one watermark.
    pub(crate) fn is_one(&self) -> bool {
        self.least() == self.greatest()
    }

    /// Whether `time` has passed for a key group.
    pub(crate) fn has_passed(&self, group: u32, time: i64) -> bool {
        self.ranges
            .iter()
            .any(|(range, watermark)| range.contains(group) && time <= *watermark)
    }

    /// Raises the watermarks of the groups before `end` to `watermark`.
    pub(crate) fn raise(&mut self, end: u32, watermark: Watermark) {
        let parts = |(range, at): (KeyGroupRange, Watermark)| {
            let cut = end.clamp(range.start, range.end);
            [
                (KeyGroupRange { end: cut, ..range }, at.max(watermark)),
                (
                    KeyGroupRange {
                        start: cut,
                        ..range
                    },
                    at,
                ),
            ]
        };
        self.ranges = self
            .ranges
            .drain(..)
            .flat_map(parts)
            .filter(|(range, _)| range.start < range.end)
            .collect();
        self.ranges.dedup_by(|next, range| {
            let joins = next.1 == range.1 && next.0.start == range.0.end;
            range.0.end = if joins { next.0.end } else { range.0.end };
            joins
        });
    }
}

fn read(item: &[u8]) -> Result<(KeyGroupRange, Watermark)> {
    let mut fields = Fields::new(item, "a watermark");
    let (range, watermark) = (
        KeyGroupRange {
            start: fields.u32()?,
            end: fields.u32()?,
        },
        fields.i64()?,
    );
    fields.end()?;
    if range.start < range.end {
        Ok((range, watermark))
    } else {
        Err(damaged("a watermark"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_before_an_end_are_raised() {
        let range = |start, end| KeyGroupRange { start, end };
        let mut watermarks = GroupWatermarks::one(range(2, 16), 10);
        watermarks.raise(5, 20);
        assert_eq!(watermarks.ranges, [(range(2, 5), 20), (range(5, 16), 10)]);
        watermarks.raise(7, 15);
        assert_eq!(
            watermarks.ranges,
            [(range(2, 5), 20), (range(5, 7), 15), (range(7, 16), 10)]
        );
        assert!(
            watermarks.has_passed(4, 20) && !watermarks.has_passed(5, 16) && !watermarks.is_one()
        );
        watermarks.raise(16, 20);
        assert_eq!(watermarks.ranges, [(range(2, 16), 20)]);
    }
}
