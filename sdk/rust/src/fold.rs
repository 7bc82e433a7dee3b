//! Aggregate and reduce functions of the plugin, which the window operator calls by column:
//! accumulate, merge, result.
//!
//! Accumulators are the host's. They come as a column with one entry per slot of the call, and go
//! back as one.

use crate::bindings::streamrt::plugin::types::Section;
use crate::chain::Whole;
use crate::column::{OwnedColumn, Table, find, fixed, section};
use crate::error::{Error, Result};
use crate::record::Record;
use streamrt_wit::codes::{self, action, buffer, call};

/// User code that folds the rows of a window into an accumulator.
///
/// # Source
/// Flink's AggregateFunction. Accumulators of panes are merged, so `merge` must agree with adding
/// row by row.
pub trait AggregateFunction: 'static {
    /// What comes in.
    type In: Record;
    /// What is kept for a window.
    type Accumulator: Record;
    /// What a window gives.
    type Out: Record;

    /// The accumulator of no rows.
    fn create(&mut self) -> Self::Accumulator;
    /// Adds a row.
    ///
    /// # Errors
    /// An error is a poison record.
    fn add(&mut self, row: &Self::In, accumulator: &mut Self::Accumulator) -> Result<()>;
    /// Adds the contents of `other`, whose rows are later ones.
    ///
    /// # Errors
    /// An error fails the window.
    fn merge(
        &mut self,
        accumulator: &mut Self::Accumulator,
        other: &Self::Accumulator,
    ) -> Result<()>;
    /// The result of a window.
    ///
    /// # Errors
    /// An error fails the window.
    fn result(&mut self, accumulator: &Self::Accumulator) -> Result<Self::Out>;
}

/// The running form of an aggregate function.
pub(crate) struct Fold<A: AggregateFunction> {
    function: A,
    row: A::In,
}

impl<A: AggregateFunction> Fold<A> {
    pub(crate) fn new(function: A) -> Self {
        Fold {
            function,
            row: A::In::empty(),
        }
    }

    fn accumulate(&mut self, input: &[Section]) -> Result<Vec<Section>> {
        let rows = find_section(input, codes::section::ROWS)?;
        let state = find_section(input, codes::section::STATE)?;
        let table = Table::of(rows, A::In::schema().len());
        let (columns, slots) = (A::In::columns(&table)?, slots(rows)?);
        let mut accumulators = self.accumulators(state)?;
        for (row, slot) in slots.iter().enumerate() {
            A::In::load(&mut self.row, &columns, row);
            let accumulator = at(&mut accumulators, u32::from_le_bytes(*slot))?;
            let accumulator = accumulator.get_or_insert_with(|| self.function.create());
            self.function.add(&self.row, accumulator)?;
        }
        Ok(vec![self.state(accumulators)])
    }

    fn merge(&mut self, input: &[Section]) -> Result<Vec<Section>> {
        let state = find_section(input, codes::section::STATE)?;
        let slots = slots(state)?;
        let n_slots = slots
            .last()
            .map_or(0, |slot| u32::from_le_bytes(*slot) as usize + 1);
        let mut merged: Vec<Option<A::Accumulator>> = (0..n_slots).map(|_| None).collect();
        for (other, slot) in self.accumulators(state)?.into_iter().zip(slots) {
            match (at(&mut merged, u32::from_le_bytes(*slot))?, other) {
                (Some(accumulator), Some(other)) => self.function.merge(accumulator, &other)?,
                (empty, other) => *empty = other.or_else(|| empty.take()),
            }
        }
        Ok(vec![self.state(merged)])
    }

    fn result(&mut self, input: &[Section]) -> Result<Vec<Section>> {
        let accumulators = self.accumulators(find_section(input, codes::section::STATE)?)?;
        let (n, mut builder) = (accumulators.len(), <A::Out as Record>::Builder::default());
        for accumulator in accumulators {
            let accumulator = accumulator.unwrap_or_else(|| self.function.create());
            A::Out::push(&self.function.result(&accumulator)?, &mut builder);
        }
        let mut columns = Vec::new();
        A::Out::finish(&mut builder, &mut columns);
        Ok(vec![section(
            codes::section::ROWS,
            0,
            n,
            Vec::new(),
            columns,
        )])
    }

    /// Accumulators as they came; without the buffer `action` all are there.
    fn accumulators(&self, state: &Section) -> Result<Vec<Option<A::Accumulator>>> {
        let columns = A::Accumulator::columns(&Table::of(state, A::Accumulator::schema().len()))?;
        let there = find(state, buffer::ACTION);
        let accumulator = |row: usize| {
            let mut accumulator = A::Accumulator::empty();
            A::Accumulator::load(&mut accumulator, &columns, row);
            accumulator
        };
        let is_there = |row: usize| there.is_none_or(|there| there.get(row) == Some(&action::SET));
        Ok((0..state.rows as usize)
            .map(|row| is_there(row).then(|| accumulator(row)))
            .collect())
    }

    fn state(&mut self, accumulators: Vec<Option<A::Accumulator>>) -> Section {
        let (n, mut builder) = (
            accumulators.len(),
            <A::Accumulator as Record>::Builder::default(),
        );
        for accumulator in accumulators {
            let accumulator = accumulator.unwrap_or_else(|| self.function.create());
            A::Accumulator::push(&accumulator, &mut builder);
        }
        let mut columns: Vec<OwnedColumn> = Vec::new();
        A::Accumulator::finish(&mut builder, &mut columns);
        section(codes::section::STATE, 0, n, Vec::new(), columns)
    }
}

impl<A: AggregateFunction> Whole for Fold<A> {
    fn invoke(&mut self, call: u16, input: &[Section]) -> Result<Vec<Section>> {
        match call {
            call::ACCUMULATE => self.accumulate(input),
            call::MERGE => self.merge(input),
            call::RESULT => self.result(input),
            _ => Err(Error::unknown(format!(
                "an aggregate function does not know call {call}"
            ))),
        }
    }
}

pub(crate) fn find_section(input: &[Section], role: u16) -> Result<&Section> {
    let found = input.iter().find(|section| section.role == role);
    found.ok_or_else(|| Error::host(format!("the host did not send a section of role {role}")))
}

fn slots(section: &Section) -> Result<&[[u8; 4]]> {
    fixed(
        find(section, buffer::SLOT).unwrap_or_default(),
        section.rows as usize,
    )
}

fn at<T>(values: &mut [T], slot: u32) -> Result<&mut T> {
    values.get_mut(slot as usize).ok_or_else(|| {
        Error::host(format!(
            "the host named the slot {slot}, which it did not send"
        ))
    })
}

/// A reduce function: an aggregate whose accumulator is a row, and which has none before the first
/// row.
pub(crate) struct Reduce<T, F> {
    row: T,
    reduce: F,
}

impl<T: Record, F: FnMut(&T, &T) -> T> Reduce<T, F> {
    pub(crate) fn new(reduce: F) -> Self {
        Reduce {
            row: T::empty(),
            reduce,
        }
    }

    /// Folds rows into the records of their slots, in order.
    fn fold(&mut self, rows: &Section, records: &mut [Option<T>]) -> Result<()> {
        let columns = T::columns(&Table::of(rows, T::schema().len()))?;
        for (row, slot) in slots(rows)?.iter().enumerate() {
            T::load(&mut self.row, &columns, row);
            let record = at(records, u32::from_le_bytes(*slot))?;
            *record = Some(match record {
                Some(record) => (self.reduce)(record, &self.row),
                None => std::mem::replace(&mut self.row, T::empty()),
            });
        }
        Ok(())
    }
}

impl<T: Record, F: FnMut(&T, &T) -> T> Whole for Reduce<T, F> {
    fn invoke(&mut self, call: u16, input: &[Section]) -> Result<Vec<Section>> {
        let state = find_section(input, codes::section::STATE)?;
        let mut records: Vec<Option<T>> = Vec::new();
        match call {
            call::ACCUMULATE => {
                let columns = T::columns(&Table::of(state, T::schema().len()))?;
                let there = find(state, buffer::ACTION);
                records.extend((0..state.rows as usize).map(|row| {
                    let is_there = there.is_none_or(|there| there.get(row) == Some(&action::SET));
                    is_there.then(|| crate::state::loaded(&columns, row))
                }));
                self.fold(find_section(input, codes::section::ROWS)?, &mut records)?;
            }
            call::MERGE => {
                let n_slots = slots(state)?
                    .last()
                    .map_or(0, |slot| u32::from_le_bytes(*slot) as usize + 1);
                records.resize_with(n_slots, || None);
                self.fold(state, &mut records)?;
            }
            _ => {
                return Err(Error::unknown(format!(
                    "a reduce function does not know call {call}"
                )));
            }
        }
        Ok(vec![rows_of(records)])
    }
}

fn rows_of<T: Record>(records: Vec<Option<T>>) -> Section {
    let (n, mut builder, mut columns) = (records.len(), T::Builder::default(), Vec::new());
    records
        .into_iter()
        .for_each(|record| T::push(&record.unwrap_or_else(T::empty), &mut builder));
    T::finish(&mut builder, &mut columns);
    section(codes::section::STATE, 0, n, Vec::new(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::{i64_bytes, plain, u32_bytes};

    /// Keeps the sum and the count.
    struct Mean;

    impl AggregateFunction for Mean {
        type In = i64;
        type Accumulator = (i64, i64);
        type Out = i64;

        fn create(&mut self) -> (i64, i64) {
            (0, 0)
        }
        fn add(&mut self, row: &i64, accumulator: &mut (i64, i64)) -> Result<()> {
            *accumulator = (accumulator.0 + row, accumulator.1 + 1);
            Ok(())
        }
        fn merge(&mut self, accumulator: &mut (i64, i64), other: &(i64, i64)) -> Result<()> {
            *accumulator = (accumulator.0 + other.0, accumulator.1 + other.1);
            Ok(())
        }
        fn result(&mut self, accumulator: &(i64, i64)) -> Result<i64> {
            Ok(accumulator.0 / accumulator.1.max(1))
        }
    }

    fn numbers(values: &[i64]) -> OwnedColumn {
        OwnedColumn {
            validity: None,
            offsets: None,
            data: i64_bytes(values),
        }
    }

    fn state(slots: Option<&[u32]>, there: &[u8], columns: &[&[i64]]) -> Section {
        let slots = slots.map(|slots| plain(buffer::SLOT, u32_bytes(slots)));
        let buffers = slots
            .into_iter()
            .chain([plain(buffer::ACTION, there.to_vec())])
            .collect();
        section(
            codes::section::STATE,
            0,
            there.len(),
            buffers,
            columns.iter().map(|column| numbers(column)).collect(),
        )
    }

    fn rows(slots: &[u32], values: &[i64]) -> Section {
        section(
            codes::section::ROWS,
            0,
            values.len(),
            vec![plain(buffer::SLOT, u32_bytes(slots))],
            vec![numbers(values)],
        )
    }

    /// The answer to a call, column by column.
    fn check(whole: &mut dyn Whole, call: u16, input: &[Section], columns: &[&[i64]]) {
        let answer = whole.invoke(call, input).unwrap();
        let sent: Vec<_> = answer[0]
            .buffers
            .iter()
            .map(|buffer| buffer.bytes.clone())
            .collect();
        assert_eq!(
            sent,
            columns
                .iter()
                .map(|column| i64_bytes(column))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_aggregate_accumulates_merges_and_gives_results() {
        let mut mean = Fold::new(Mean);
        let before = state(None, &[1, 0], &[&[5, 77], &[1, 77]]);
        check(
            &mut mean,
            call::ACCUMULATE,
            &[rows(&[0, 1, 0], &[1, 2, 3]), before],
            &[&[9, 2], &[3, 1]],
        );
        check(
            &mut mean,
            call::MERGE,
            &[state(
                Some(&[0, 0, 1]),
                &[1, 1, 1],
                &[&[1, 2, 3], &[1, 1, 1]],
            )],
            &[&[3, 3], &[2, 1]],
        );
        check(
            &mut mean,
            call::RESULT,
            &[state(None, &[1, 1], &[&[9, 4], &[3, 2]])],
            &[&[3, 2]],
        );
    }

    #[test]
    fn a_reduce_folds_from_left_to_right() {
        let mut reduce = Reduce::new(|a: &i64, b: &i64| 10 * a + b);
        check(
            &mut reduce,
            call::ACCUMULATE,
            &[
                rows(&[0, 1, 0], &[1, 2, 3]),
                state(None, &[1, 0], &[&[5, 77]]),
            ],
            &[&[513, 2]],
        );
        check(
            &mut reduce,
            call::MERGE,
            &[state(Some(&[0, 0, 1]), &[1, 1, 1], &[&[1, 2, 3]])],
            &[&[12, 3]],
        );
    }

    #[test]
    fn other_calls_are_refused() {
        let refused = Fold::new(Mean).invoke(call::WINDOW, &[]).unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (
                codes::error::UNKNOWN,
                "an aggregate function does not know call 5"
            )
        );
    }
}
