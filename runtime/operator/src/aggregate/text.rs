//! Minimum, maximum, first and last of strings and binaries: the accumulator is an address in an
//! arena, and for first and last also a time.
//!
//! Invariant: an address is in one accumulator only; merging copies.

use super::fold::{displaces, set_word, word};
use super::{Aggregator, Input, Packed};
use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use std::sync::Arc;
use streamrt_state::{Arena, EntryId, KeyTable, NO_ADDRESS};
use streamrt_wit::AggregateFunction;

#[derive(Clone, Copy)]
enum Pick {
    Min,
    Max,
    First,
    Last,
}

pub(super) struct Text {
    pick: Pick,
    binary: bool,
    arena: Arena,
}

/// Whether `new`, which came later, takes the place of `old`.
fn wins(pick: Pick, new: (&[u8], i64), old: (&[u8], i64)) -> bool {
    match pick {
        Pick::Min => new.0 < old.0,
        Pick::Max => new.0 > old.0,
        Pick::First => displaces(false, new.1, old.1),
        Pick::Last => displaces(true, new.1, old.1),
    }
}

impl Text {
    pub(super) fn aggregator(
        function: AggregateFunction,
        binary: bool,
    ) -> Option<Box<dyn Aggregator>> {
        let pick = match function {
            AggregateFunction::Min => Pick::Min,
            AggregateFunction::Max => Pick::Max,
            AggregateFunction::First => Pick::First,
            AggregateFunction::Last => Pick::Last,
            AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg => {
                return None;
            }
        };
        Some(Box::new(Text {
            pick,
            binary,
            arena: Arena::new(),
        }))
    }

    fn timed(&self) -> bool {
        matches!(self.pick, Pick::First | Pick::Last)
    }

    fn time(&self, accumulator: &[u8]) -> i64 {
        if self.timed() {
            word(accumulator, 1) as i64
        } else {
            0
        }
    }

    fn add(&mut self, accumulator: &mut [u8], value: &[u8], time: i64) {
        let old = word(accumulator, 0);
        if old != NO_ADDRESS
            && !wins(
                self.pick,
                (value, time),
                (self.arena.get(old), self.time(accumulator)),
            )
        {
            return;
        }
        set_word(accumulator, 0, self.arena.replace(old, value));
        if self.timed() {
            set_word(accumulator, 1, time as u64);
        }
    }

    fn add_rows(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        offset: usize,
        input: &Input<'_>,
        mut seen: impl FnMut(&Arena, u64),
    ) {
        let Some(column) = input.column else { return };
        let bytes = self.bytes();
        for (position, &entry) in entries.iter().enumerate() {
            let row = input.first_row + position;
            let accumulator = &mut table.value_mut(entry)[offset..offset + bytes];
            if column.is_valid(row) {
                let value = if self.binary {
                    column.as_binary::<i32>().value(row)
                } else {
                    column.as_string::<i32>().value(row).as_bytes()
                };
                self.add(
                    accumulator,
                    value,
                    input.times.map_or(0, |times| times[row]),
                );
            }
            seen(&self.arena, word(accumulator, 0));
        }
    }
}

/// Takes bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*front)
}

/// A column of strings or binaries.
enum Builder {
    String(StringBuilder),
    Binary(BinaryBuilder),
}

impl Builder {
    fn new(binary: bool) -> Builder {
        if binary {
            Builder::Binary(BinaryBuilder::new())
        } else {
            Builder::String(StringBuilder::new())
        }
    }

    fn push(&mut self, arena: &Arena, address: u64) {
        let value = (address != NO_ADDRESS).then(|| arena.get(address));
        match self {
            Builder::Binary(builder) => builder.append_option(value),
            Builder::String(builder) => builder.append_option(
                value.map(|v| std::str::from_utf8(v).expect("it came out of a string column")),
            ),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Builder::Binary(mut builder) => Arc::new(builder.finish()),
            Builder::String(mut builder) => Arc::new(builder.finish()),
        }
    }
}

impl Aggregator for Text {
    fn bytes(&self) -> usize {
        if self.timed() { 16 } else { 8 }
    }

    fn output(&self) -> DataType {
        if self.binary {
            DataType::Binary
        } else {
            DataType::Utf8
        }
    }

    fn update(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        offset: usize,
        input: &Input<'_>,
    ) -> Result<(), usize> {
        self.add_rows(table, entries, offset, input, |_, _| {});
        Ok(())
    }

    fn update_running(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        offset: usize,
        input: &Input<'_>,
    ) -> Result<ArrayRef, usize> {
        let mut builder = Builder::new(self.binary);
        self.add_rows(table, entries, offset, input, |arena, address| {
            builder.push(arena, address)
        });
        Ok(builder.finish())
    }

    fn merge(&mut self, into: &mut [u8], from: &[u8]) -> bool {
        let address = word(from, 0);
        if address != NO_ADDRESS {
            // The copy is needed because adding may move what the arena holds.
            let value = self.arena.get(address).to_vec();
            self.add(into, &value, self.time(from));
        }
        true
    }

    fn finish(&self, values: &Packed<'_>) -> ArrayRef {
        let mut builder = Builder::new(self.binary);
        values
            .accumulators(self.bytes())
            .for_each(|accumulator| builder.push(&self.arena, word(accumulator, 0)));
        builder.finish()
    }

    fn release(&mut self, accumulator: &[u8]) {
        self.arena.remove(word(accumulator, 0));
    }

    fn refers(&self) -> bool {
        true
    }

    fn referred_bytes(&self, accumulator: &[u8]) -> usize {
        self.arena.get(word(accumulator, 0)).len()
    }

    fn used_bytes(&self) -> usize {
        self.arena.used_bytes()
    }

    /// A byte that says whether there is a value; then for first and last its time, its length
    /// (u32) and its bytes.
    fn export(&self, accumulator: &[u8], out: &mut Vec<u8>) {
        let address = word(accumulator, 0);
        out.push(u8::from(address != NO_ADDRESS));
        if address == NO_ADDRESS {
            return;
        }
        if self.timed() {
            out.extend_from_slice(&self.time(accumulator).to_le_bytes());
        }
        let value = self.arena.get(address);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }

    fn import(&mut self, bytes: &mut &[u8], accumulator: &mut [u8]) -> Option<()> {
        let [present] = take(bytes)?;
        if present == 0 {
            return Some(());
        }
        let time = if self.timed() {
            u64::from_le_bytes(take(bytes)?)
        } else {
            0
        };
        let length = u32::from_le_bytes(take(bytes)?) as usize;
        let (value, rest) = bytes.split_at_checked(length)?;
        if present != 1 || !self.binary && std::str::from_utf8(value).is_err() {
            return None;
        }
        *bytes = rest;
        set_word(accumulator, 0, self.arena.insert(value));
        if self.timed() {
            set_word(accumulator, 1, time);
        }
        Some(())
    }
}
