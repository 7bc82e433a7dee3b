//! Columns on their way into a guest: an invocation as the sections and buffers of the WIT.
//!
//! Buffers borrow the columns, so that the only copy is the one into the guest's memory. A copy is
//! made before that in two cases only: offsets that do not start at 0 and bitmaps that do not start
//! at a byte, which result from slicing.

use crate::abi::{Buffer, BufferIn, SectionIn};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, OffsetBuffer, ToByteSlice};
use arrow_schema::DataType;
use std::borrow::Cow;
use std::ops::Range;
use streamrt_operator::{Call, ClockIn, Invocation, RowsIn, SlotsIn, StateIn, TimerIn};
use streamrt_types::{Error, Mark, Result};
use streamrt_wit::codes::{buffer, part, section};

/// Sections under construction.
#[derive(Default)]
pub(crate) struct Sections<'a> {
    heads: Vec<Head>,
    pieces: Pieces<'a>,
}

struct Head {
    role: u16,
    port: u16,
    rows: usize,
    pieces: Range<usize>,
}

/// Buffers under construction.
#[derive(Default)]
pub(crate) struct Pieces<'a>(Vec<Piece<'a>>);

struct Piece<'a> {
    role: u16,
    node: u16,
    part: u8,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Sections<'a> {
    /// Everything that a call gets.
    ///
    /// # Errors
    /// `Internal` for a column of a type that no edge carries.
    pub fn of(invocation: &'a Invocation<'_>) -> Result<Sections<'a>> {
        let mut sections = Sections {
            heads: Vec::with_capacity(8),
            pieces: Pieces(Vec::with_capacity(24)),
        };
        if let Some(rows) = &invocation.rows {
            let port = u16::from(invocation.call == Call::SecondInput);
            sections.add(section::ROWS, port, rows.columns.num_rows(), |pieces| {
                pieces.rows(rows)
            })?;
        }
        if let Some(slots) = &invocation.slots {
            sections.add(section::SLOTS, 0, slots.n_slots, |pieces| {
                pieces.slots(slots)
            })?;
        }
        for state in &invocation.states {
            sections.add(
                section::STATE,
                state.number,
                state.present.len(),
                |pieces| pieces.state(state),
            )?;
        }
        if !invocation.timers.is_empty() {
            sections.add(section::TIMERS, 0, invocation.timers.len(), |pieces| {
                pieces.timers(invocation.timers)
            })?;
        }
        if let Some(clock) = &invocation.clock {
            sections.add(section::CLOCK, 0, 1, |pieces| pieces.clock(clock))?;
        }
        Ok(sections)
    }

    /// The rows that a sink gets.
    ///
    /// # Errors
    /// The same as for [`Sections::of`].
    pub fn of_rows(rows: &'a RecordBatch) -> Result<Sections<'a>> {
        let mut sections = Sections::default();
        sections.add(section::ROWS, 0, rows.num_rows(), |pieces| {
            pieces.columns(0, rows)
        })?;
        Ok(sections)
    }

    fn add(
        &mut self,
        role: u16,
        port: u16,
        rows: usize,
        fill: impl FnOnce(&mut Pieces<'a>) -> Result<()>,
    ) -> Result<()> {
        let first = self.pieces.0.len();
        fill(&mut self.pieces)?;
        self.heads.push(Head {
            role,
            port,
            rows,
            pieces: first..self.pieces.0.len(),
        });
        Ok(())
    }

    /// All buffers, for [`Sections::sections`].
    pub fn buffers<'b>(&'b self) -> Vec<BufferIn<'b>> {
        let buffer = |piece: &'b Piece<'a>| BufferIn {
            role: piece.role,
            node: piece.node,
            part: piece.part,
            bytes: &piece.bytes,
        };
        self.pieces.0.iter().map(buffer).collect()
    }

    pub fn sections<'b>(&self, buffers: &'b [BufferIn<'b>]) -> Vec<SectionIn<'b>> {
        let section = |head: &Head| SectionIn {
            role: head.role,
            port: head.port,
            rows: head.rows as u32,
            buffers: &buffers[head.pieces.clone()],
        };
        self.heads.iter().map(section).collect()
    }
}

impl<'a> Pieces<'a> {
    fn rows(&mut self, rows: &RowsIn<'a>) -> Result<()> {
        self.columns(0, rows.columns)?;
        if let Some(times) = rows.times {
            self.numbers(buffer::TIME, times);
        }
        if !rows.marks.is_empty() {
            self.owned(
                buffer::MARK_ROW,
                rows.marks.iter().map(|mark: &Mark| mark.row),
            );
            self.owned(
                buffer::MARK_WATERMARK,
                rows.marks.iter().map(|mark| mark.watermark),
            );
        }
        if let Some(slots) = rows.slots {
            self.numbers(buffer::SLOT, slots);
        }
        Ok(())
    }

    fn slots(&mut self, slots: &'a SlotsIn<'_>) -> Result<()> {
        if let Some(keys) = &slots.keys {
            self.columns(0, keys)?;
        }
        if let Some((starts, ends)) = slots.windows {
            self.numbers(buffer::WINDOW_START, starts);
            self.numbers(buffer::WINDOW_END, ends);
        }
        if let Some(offsets) = slots.offsets {
            self.numbers(buffer::OFFSETS, offsets);
        }
        Ok(())
    }

    fn state(&mut self, state: &'a StateIn) -> Result<()> {
        self.columns(0, &state.values)?;
        self.numbers(buffer::ACTION, &state.present);
        if let Some(slots) = &state.slots {
            self.numbers(buffer::SLOT, slots);
        }
        Ok(())
    }

    fn timers(&mut self, timers: &[TimerIn]) -> Result<()> {
        self.owned(buffer::TIME, timers.iter().map(|timer| timer.time));
        self.owned(buffer::SLOT, timers.iter().map(|timer| timer.slot));
        self.owned(buffer::DOMAIN, timers.iter().map(|timer| timer.domain));
        Ok(())
    }

    fn clock(&mut self, clock: &ClockIn) -> Result<()> {
        self.owned(
            buffer::CLOCK,
            [clock.watermark, clock.bound, clock.processing_time].into_iter(),
        );
        Ok(())
    }

    /// All columns of a table, numbered from `first_node`.
    ///
    /// # Errors
    /// `Internal` for a column of a type that no edge carries.
    pub fn columns(&mut self, first_node: u16, columns: &'a RecordBatch) -> Result<()> {
        columns
            .columns()
            .iter()
            .zip(first_node..)
            .try_for_each(|(column, node)| self.column(node, column.as_ref()))
    }

    fn column(&mut self, node: u16, array: &'a dyn Array) -> Result<()> {
        if let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) {
            self.push(node, part::VALIDITY, bitmap(nulls.inner()));
        }
        match array.data_type() {
            DataType::Boolean => self.push(node, part::DATA, bitmap(array.as_boolean().values())),
            DataType::Int32 => self.primitive::<Int32Type>(node, array),
            DataType::Int64 => self.primitive::<Int64Type>(node, array),
            DataType::UInt32 => self.primitive::<UInt32Type>(node, array),
            DataType::UInt64 => self.primitive::<UInt64Type>(node, array),
            DataType::Float32 => self.primitive::<Float32Type>(node, array),
            DataType::Float64 => self.primitive::<Float64Type>(node, array),
            DataType::Utf8 => {
                let text = array.as_string::<i32>();
                self.bytes(node, text.offsets(), text.values());
            }
            DataType::Binary => {
                let binary = array.as_binary::<i32>();
                self.bytes(node, binary.offsets(), binary.values());
            }
            other => {
                return Err(Error::internal(format!(
                    "a column of type {other} cannot enter a plugin"
                )));
            }
        }
        Ok(())
    }

    fn primitive<T: ArrowPrimitiveType>(&mut self, node: u16, array: &'a dyn Array) {
        self.push(
            node,
            part::DATA,
            Cow::Borrowed(array.as_primitive::<T>().values().to_byte_slice()),
        );
    }

    fn bytes(&mut self, node: u16, offsets: &'a OffsetBuffer<i32>, data: &'a [u8]) {
        let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
        let from_zero = if first == 0 {
            Cow::Borrowed(offsets.to_byte_slice())
        } else {
            Cow::Owned(
                offsets
                    .iter()
                    .flat_map(|offset| (offset - first).to_le_bytes())
                    .collect(),
            )
        };
        self.push(node, part::OFFSETS, from_zero);
        self.push(
            node,
            part::DATA,
            Cow::Borrowed(&data[first as usize..last as usize]),
        );
    }

    fn push(&mut self, node: u16, part: u8, bytes: Cow<'a, [u8]>) {
        self.0.push(Piece {
            role: buffer::COLUMN,
            node,
            part,
            bytes,
        });
    }

    fn numbers<T: ArrowNativeType>(&mut self, role: u16, numbers: &'a [T]) {
        self.0.push(Piece {
            role,
            node: 0,
            part: part::DATA,
            bytes: Cow::Borrowed(numbers.to_byte_slice()),
        });
    }

    /// Numbers that are not contiguous yet.
    pub fn owned<T: ArrowNativeType>(&mut self, role: u16, numbers: impl Iterator<Item = T>) {
        let numbers: Vec<T> = numbers.collect();
        self.0.push(Piece {
            role,
            node: 0,
            part: part::DATA,
            bytes: Cow::Owned(numbers.to_byte_slice().to_vec()),
        });
    }

    /// The form for the answer of an import, which has to be owned.
    pub fn into_buffers(self) -> Vec<Buffer> {
        let buffer = |piece: Piece<'a>| Buffer {
            role: piece.role,
            node: piece.node,
            part: piece.part,
            bytes: piece.bytes.into_owned(),
        };
        self.0.into_iter().map(buffer).collect()
    }
}

/// The bits from bit 0 on.
fn bitmap(bits: &BooleanBuffer) -> Cow<'_, [u8]> {
    let n_bytes = bits.len().div_ceil(8);
    if bits.offset().is_multiple_of(8) {
        let first = bits.offset() / 8;
        return Cow::Borrowed(&bits.values()[first..first + n_bytes]);
    }
    Cow::Owned(bits.sliced().as_slice()[..n_bytes].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, BooleanArray, Int64Array, StringArray};
    use std::sync::Arc;

    /// Lowers rows 1 to 4 of a column of five rows.
    fn check(array: ArrayRef, expected: &[(u8, &[u8])]) {
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array, true)])
            .unwrap()
            .slice(1, 3);
        let mut pieces = Pieces::default();
        pieces.columns(3, &batch).unwrap();
        let found: Vec<(u8, &[u8])> = pieces
            .0
            .iter()
            .map(|piece| (piece.part, &*piece.bytes))
            .collect();
        assert_eq!(found, expected);
        assert!(pieces.0.iter().all(|piece| piece.node == 3));
    }

    #[test]
    fn sliced_columns_start_at_zero() {
        let numbers = [2i64.to_le_bytes(), 3i64.to_le_bytes(), 4i64.to_le_bytes()].concat();
        check(
            Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])),
            &[(2, &numbers)],
        );
        let offsets = [
            0i32.to_le_bytes(),
            2i32.to_le_bytes(),
            2i32.to_le_bytes(),
            3i32.to_le_bytes(),
        ]
        .concat();
        check(
            Arc::new(StringArray::from(vec!["a", "bc", "", "d", "e"])),
            &[(1, &offsets), (2, b"bcd")],
        );
        check(
            Arc::new(BooleanArray::from(vec![false, true, false, true, true])),
            &[(2, &[0b101])],
        );
    }

    #[test]
    fn validity_is_sent_only_where_something_is_null() {
        let offsets = [
            0i32.to_le_bytes(),
            0i32.to_le_bytes(),
            1i32.to_le_bytes(),
            2i32.to_le_bytes(),
        ]
        .concat();
        check(
            Arc::new(StringArray::from(vec![
                Some("a"),
                None,
                Some("b"),
                Some("c"),
                None,
            ])),
            &[(0, &[0b110]), (1, &offsets), (2, b"bc")],
        );
        let offsets = [
            0i32.to_le_bytes(),
            1i32.to_le_bytes(),
            2i32.to_le_bytes(),
            3i32.to_le_bytes(),
        ]
        .concat();
        check(
            Arc::new(StringArray::from(vec![
                None,
                Some("a"),
                Some("b"),
                Some("c"),
                None,
            ])),
            &[(1, &offsets), (2, b"abc")],
        );
    }
}
