//! The built-in aggregates: accumulators of fixed size in the entries of a [`KeyTable`], updated
//! one column at a time.
//!
//! The running aggregate keeps one set of accumulators per key, the window operator one per key and
//! pane. Invariant: zeroed bytes are the empty accumulator, so a new entry needs no preparation,
//! and merging into it copies.
//!
//! # Source
//! SQL's aggregates as Flink computes them: nulls do not take part, and an aggregate over nothing
//! but nulls is null (count: 0).

mod cell;
mod fold;
mod running;
mod snapshot;
mod state;
mod text;
mod typed;

pub use running::RunningAggregateOperator;
pub use snapshot::FrozenTable;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use serde_json::Value;
use std::ops::Range;
use streamrt_state::{EntryId, KeyTable};
use streamrt_types::state_types::aggregate_types;
use streamrt_types::{Error, Result, code};
use streamrt_wit::{AggregateFunction, BuiltinAggregate};

/// The accumulators of one node's aggregates.
pub struct Accumulators {
    parts: Vec<Part>,
    bytes: usize,
    /// What exported bytes mean.
    types: Value,
}

struct Part {
    aggregator: Box<dyn Aggregator>,
    /// Where its accumulator is in the value.
    offset: usize,
    /// Index of the input column; `None` for the count of rows.
    column: Option<usize>,
    field: Field,
    /// Whether accumulators refer to anything outside of their own bytes.
    refers: bool,
}

/// A sum left the range of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow {
    /// Position in the entries or values that were given.
    pub position: usize,
    /// The number of the aggregate.
    pub aggregate: usize,
}

/// The rows of one update.
struct Input<'a> {
    column: Option<&'a ArrayRef>,
    times: Option<&'a [i64]>,
    /// The row of the first entry.
    first_row: usize,
}

/// Accumulators side by side, `stride` bytes each.
struct Packed<'a> {
    values: &'a [u8],
    stride: usize,
    offset: usize,
}

/// One aggregate for one type. The table's values hold its accumulator at `offset`. Errors are
/// positions.
trait Aggregator: Send {
    fn bytes(&self) -> usize;
    fn output(&self) -> DataType;
    fn update(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        offset: usize,
        input: &Input<'_>,
    ) -> Result<(), usize>;
    fn update_running(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        offset: usize,
        input: &Input<'_>,
    ) -> Result<ArrayRef, usize>;
    /// False if the result left its range.
    fn merge(&mut self, into: &mut [u8], from: &[u8]) -> bool;
    fn finish(&self, values: &Packed<'_>) -> ArrayRef;
    /// Frees what the accumulator refers to.
    fn release(&mut self, _accumulator: &[u8]) {}
    /// Whether an accumulator refers to anything outside of its own bytes.
    fn refers(&self) -> bool {
        false
    }
    /// Bytes of that to which an accumulator refers.
    fn referred_bytes(&self, _accumulator: &[u8]) -> usize {
        0
    }
    /// Bytes of everything to which accumulators refer.
    fn used_bytes(&self) -> usize {
        0
    }
    /// Appends the accumulator's contents, in bytes that refer to nothing.
    fn export(&self, accumulator: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(accumulator);
    }
    /// Takes what `export` wrote off the front of `bytes`, into an empty accumulator; `None` if
    /// `bytes` do not begin with that.
    fn import(&mut self, bytes: &mut &[u8], accumulator: &mut [u8]) -> Option<()> {
        let (front, rest) = bytes.split_at_checked(accumulator.len())?;
        accumulator.copy_from_slice(front);
        *bytes = rest;
        Some(())
    }
}

impl Accumulators {
    /// Lays out the accumulators of `aggregates` over rows of the schema `input`.
    ///
    /// # Errors
    /// `Invalid` if a column is not there, or its type cannot be aggregated in this way.
    pub fn new(aggregates: &[BuiltinAggregate], input: &Schema) -> Result<Accumulators> {
        let mut accumulators = Accumulators {
            parts: Vec::with_capacity(aggregates.len()),
            bytes: 0,
            types: Value::Null,
        };
        for aggregate in aggregates {
            accumulators.push(aggregate, input)?;
        }
        accumulators.types = aggregate_types(aggregates, input)?;
        match accumulators.bytes <= KeyTable::VALUE_BYTES_MAX {
            true => Ok(accumulators),
            false => Err(Error::new(
                code::INVALID_JOB,
                format!(
                    "{} aggregates are too many for one operator",
                    aggregates.len()
                ),
            )),
        }
    }

    fn push(&mut self, aggregate: &BuiltinAggregate, input: &Schema) -> Result<()> {
        let name = describe(aggregate);
        let (column, source) = match &aggregate.column {
            None => (None, None),
            Some(column) => {
                let found = input.column_with_name(column);
                let (index, field) = found.ok_or_else(|| {
                    Error::new(
                        code::SCHEMA_MISMATCH,
                        format!("{name}: the input has no such column"),
                    )
                })?;
                (Some(index), Some(field))
            }
        };
        let aggregator = typed::aggregator(aggregate.function, source).ok_or_else(|| {
            Error::new(
                code::SCHEMA_MISMATCH,
                format!("{name}: {}", refusal(source)),
            )
        })?;
        let nullable = aggregate.function != AggregateFunction::Count
            && source.is_some_and(Field::is_nullable);
        let field = Field::new(name, aggregator.output(), nullable);
        let offset = self.bytes;
        self.bytes += aggregator.bytes();
        let refers = aggregator.refers();
        self.parts.push(Part {
            aggregator,
            offset,
            column,
            field,
            refers,
        });
        Ok(())
    }

    /// Bytes of value that a table needs for these accumulators, which come first in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Type and nullability of each aggregate's result; the names are descriptions such as ``sum of
    /// `amount` ``.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = &Field> {
        self.parts.iter().map(|part| &part.field)
    }

    /// Adds row `rows.start + i` of `columns` to the accumulators of `entries[i]`, for every i.
    ///
    /// `times` are the event times of all rows of `columns`; without them, first and last go by
    /// arrival.
    ///
    /// # Errors
    /// An [`Overflow`] with the position of the first row whose sum left its range; some rows have
    /// been added by then.
    pub fn update(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        columns: &RecordBatch,
        times: Option<&[i64]>,
        rows: Range<usize>,
    ) -> Result<(), Overflow> {
        for (aggregate, part) in self.parts.iter_mut().enumerate() {
            let input = part.input(columns, times, rows.start);
            let updated = part.aggregator.update(table, entries, part.offset, &input);
            updated.map_err(|position| Overflow {
                position,
                aggregate,
            })?;
        }
        Ok(())
    }

    /// Like [`Accumulators::update`] with all rows; returns each aggregate's result after each row.
    ///
    /// # Errors
    /// The same as for [`Accumulators::update`].
    pub fn update_running(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        columns: &RecordBatch,
        times: Option<&[i64]>,
    ) -> Result<Vec<ArrayRef>, Overflow> {
        let mut results = Vec::with_capacity(self.parts.len());
        for (aggregate, part) in self.parts.iter_mut().enumerate() {
            let input = part.input(columns, times, 0);
            let column = part
                .aggregator
                .update_running(table, entries, part.offset, &input);
            results.push(column.map_err(|position| Overflow {
                position,
                aggregate,
            })?);
        }
        Ok(results)
    }

    /// Merges one value into another; rows of `into` came before those of `from` if their times are
    /// equal.
    ///
    /// # Errors
    /// An [`Overflow`] at position 0.
    pub fn merge(&mut self, into: &mut [u8], from: &[u8]) -> Result<(), Overflow> {
        for (aggregate, part) in self.parts.iter_mut().enumerate() {
            let range = part.range();
            if !part
                .aggregator
                .merge(&mut into[range.clone()], &from[range])
            {
                return Err(Overflow {
                    position: 0,
                    aggregate,
                });
            }
        }
        Ok(())
    }

    /// Merges the value of `entries[i]` into the `slots[i]`-th of the values that stand side by
    /// side in `into`, for every i in order.
    ///
    /// # Errors
    /// An [`Overflow`] with its i.
    pub fn merge_entries(
        &mut self,
        table: &KeyTable,
        entries: &[EntryId],
        slots: &[u32],
        into: &mut [u8],
    ) -> Result<(), Overflow> {
        let stride = self.bytes;
        for (aggregate, part) in self.parts.iter_mut().enumerate() {
            let range = part.range();
            for (position, (&entry, &slot)) in entries.iter().zip(slots).enumerate() {
                let into = &mut into[slot as usize * stride..][range.clone()];
                if !part
                    .aggregator
                    .merge(into, &table.value(entry)[range.clone()])
                {
                    return Err(Overflow {
                        position,
                        aggregate,
                    });
                }
            }
        }
        Ok(())
    }

    /// The results of values that stand side by side, [`Accumulators::bytes`] each: one column per
    /// aggregate.
    pub fn finish(&self, values: &[u8]) -> Vec<ArrayRef> {
        let packed = |part: &Part| Packed {
            values,
            stride: self.bytes,
            offset: part.offset,
        };
        self.parts
            .iter()
            .map(|part| part.aggregator.finish(&packed(part)))
            .collect()
    }

    /// Frees what values that stand side by side refer to (strings); needed before they are dropped
    /// or removed from a table.
    pub fn release(&mut self, values: &[u8]) {
        for value in values.chunks_exact(self.bytes.max(1)) {
            for part in &mut self.parts {
                let range = part.range();
                part.aggregator.release(&value[range]);
            }
        }
    }

    /// The approximate number of bytes that the results of one value take.
    pub fn result_bytes(&self, value: &[u8]) -> usize {
        let referring = self.parts.iter().filter(|part| part.refers);
        self.bytes
            + referring
                .map(|part| part.aggregator.referred_bytes(&value[part.range()]))
                .sum::<usize>()
    }

    /// Bytes of everything to which accumulators refer outside their table.
    pub fn used_bytes(&self) -> usize {
        self.parts
            .iter()
            .map(|part| part.aggregator.used_bytes())
            .sum()
    }

    /// The error of an overflow, for the operator `uid` and a key as JSON.
    pub fn overflow(&self, overflow: Overflow, uid: &str, key: &str) -> Error {
        let name = self.parts[overflow.aggregate].field.name();
        Error::new(
            code::OVERFLOW,
            format!("operator `{uid}`: the {name} of key {key} leaves the range of its type"),
        )
    }
}

impl Part {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.aggregator.bytes()
    }

    fn input<'a>(
        &self,
        columns: &'a RecordBatch,
        times: Option<&'a [i64]>,
        first_row: usize,
    ) -> Input<'a> {
        Input {
            column: self.column.map(|index| columns.column(index)),
            times,
            first_row,
        }
    }
}

fn describe(aggregate: &BuiltinAggregate) -> String {
    let function = match aggregate.function {
        AggregateFunction::Count => "count",
        AggregateFunction::Sum => "sum",
        AggregateFunction::Min => "minimum",
        AggregateFunction::Max => "maximum",
        AggregateFunction::Avg => "average",
        AggregateFunction::First => "first",
        AggregateFunction::Last => "last",
    };
    match &aggregate.column {
        Some(column) => format!("{function} of `{column}`"),
        None => format!("{function} of rows"),
    }
}

fn refusal(source: Option<&Field>) -> String {
    match source {
        Some(field) => format!(
            "a column of type {} cannot be aggregated so",
            field.data_type()
        ),
        None => "the aggregate needs a column".into(),
    }
}

#[cfg(test)]
mod tests;
