//! What a checkpoint keeps of watermark generators: one item per generator in the list
//! `generators`, and the combined watermark of the subtask in the list `watermark`. Every new
//! subtask reads the items of all, and takes those of its splits.
//!
//! Invariant: with the same parallelism, a subtask continues exactly where it was; with another
//! one, no watermark is higher than that of any subtask that still had splits.

use crate::snapshot_bytes::{Fields, damaged};
use std::collections::BTreeMap;
use streamrt_operator::OperatorContext;
use streamrt_state::{ListMode, ListSnapshot, OperatorState};
use streamrt_types::{Result, WATERMARK_MIN, Watermark};

const GENERATORS: &str = "generators";
const WATERMARK: &str = "watermark";

/// What precedes the number of a split. Numbers had 32 bits when they were unique only in a source.
const NO_SHORT_SPLIT: u8 = 0;
const SHORT_SPLIT: u8 = 1;
const NO_SPLIT: u8 = 2;
const SPLIT: u8 = 3;

/// The generator of one split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// `None` stands for all rows without an origin.
    pub split: Option<u64>,
    pub greatest: i64,
    pub watermark: Watermark,
    pub idle: bool,
}

/// Generators that wait for their splits, each with whether it is this subtask's own.
#[derive(Default)]
pub(crate) struct Restored(BTreeMap<Option<u64>, (Kept, bool)>);

impl Restored {
    /// # Errors
    /// `Data` if the items are damaged.
    pub(crate) fn read(state: &mut OperatorState, context: &OperatorContext) -> Result<Restored> {
        let mut restored = Restored::default();
        for item in state.list(GENERATORS) {
            let mut fields = Fields::new(&item, "a watermark generator");
            let own = read_subtask(&mut fields)? == place(context);
            let kept = read_generator(&mut fields)?;
            fields.end()?;
            restored.offer(kept, own);
        }
        Ok(restored)
    }

    /// Rows of one split may have come to several subtasks: the subtask's own generator takes
    /// precedence, otherwise the one that is furthest behind.
    fn offer(&mut self, kept: Kept, own: bool) {
        let rank = |(kept, own): &(Kept, bool)| (!own, kept.watermark, kept.greatest);
        let found = self.0.entry(kept.split).or_insert((kept, own));
        if rank(&(kept, own)) < rank(found) {
            *found = (kept, own);
        }
    }

    /// The generator of a split, if there is one.
    pub(crate) fn take(&mut self, split: Option<u64>) -> Option<Kept> {
        self.0.remove(&split).map(|(kept, _)| kept)
    }

    /// The generators that ran on this subtask.
    pub(crate) fn own(&self) -> impl Iterator<Item = Kept> {
        self.0
            .values()
            .filter(|(_, own)| *own)
            .map(|(kept, _)| *kept)
    }

    pub(crate) fn take_own(&mut self) -> Vec<Kept> {
        let own = self.own().collect();
        self.0.retain(|_, (_, own)| !*own);
        own
    }
}

/// The lists of one subtask. `has_splits` says whether a split of it may still give rows.
pub(crate) fn lists(
    context: &OperatorContext,
    generators: impl Iterator<Item = Kept>,
    watermark: Watermark,
    has_splits: bool,
) -> Vec<ListSnapshot> {
    let list = |name: &str, items| ListSnapshot {
        name: name.into(),
        mode: ListMode::Union,
        types: serde_json::Value::Null,
        items,
    };
    let (subtask, parallelism) = place(context);
    let head = [subtask.to_le_bytes(), parallelism.to_le_bytes()].concat();
    let combined = [&head[..], &watermark.to_le_bytes(), &[u8::from(has_splits)]].concat();
    let generators = generators
        .map(|kept| [&head[..], &write_generator(&kept)].concat())
        .collect();
    vec![
        list(GENERATORS, generators),
        list(WATERMARK, vec![combined]),
    ]
}

/// The combined watermark from which to start: the subtask's own; after a change of parallelism the
/// least of those that had splits, or, if all were idle, the greatest.
///
/// # Errors
/// `Data` if the items are damaged.
pub(crate) fn combined_watermark(
    state: &mut OperatorState,
    context: &OperatorContext,
) -> Result<Watermark> {
    let (mut own, mut least, mut greatest) = (None, None::<Watermark>, WATERMARK_MIN);
    for item in state.list(WATERMARK) {
        let mut fields = Fields::new(&item, "a combined watermark");
        let (subtask, watermark, has_splits) =
            (read_subtask(&mut fields)?, fields.i64()?, fields.flag()?);
        fields.end()?;
        greatest = greatest.max(watermark);
        least = least
            .into_iter()
            .chain(has_splits.then_some(watermark))
            .min();
        if subtask == place(context) {
            own = Some(watermark);
        }
    }
    Ok(own.or(least).unwrap_or(greatest))
}

/// Subtask and parallelism.
fn place(context: &OperatorContext) -> (u32, u32) {
    (context.subtask, context.parallelism)
}

fn read_subtask(fields: &mut Fields<'_>) -> Result<(u32, u32)> {
    Ok((fields.u32()?, fields.u32()?))
}

fn write_generator(kept: &Kept) -> Vec<u8> {
    let tag = if kept.split.is_some() {
        SPLIT
    } else {
        NO_SPLIT
    };
    let split = kept.split.unwrap_or(0).to_le_bytes();
    [
        &[tag][..],
        &split,
        &kept.greatest.to_le_bytes(),
        &kept.watermark.to_le_bytes(),
        &[u8::from(kept.idle)],
    ]
    .concat()
}

fn read_generator(fields: &mut Fields<'_>) -> Result<Kept> {
    let split = match fields.u8()? {
        SPLIT => Some(fields.u64()?),
        NO_SPLIT if fields.u64()? == 0 => None,
        SHORT_SPLIT => Some(fields.u32()?.into()),
        NO_SHORT_SPLIT if fields.u32()? == 0 => None,
        _ => return Err(damaged("a watermark generator")),
    };
    let (greatest, watermark, idle) = (fields.i64()?, fields.i64()?, fields.flag()?);
    Ok(Kept {
        split,
        greatest,
        watermark,
        idle,
    })
}
