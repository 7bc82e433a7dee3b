//! Chooses the code for an aggregate of a type, and runs its loop over a batch. One dynamic call
//! per batch, none per row.

use super::cell::{Cell, Item};
use super::fold::{AverageExact, AverageFloat, Count, Edge, Extreme, Fold, Sum};
use super::text::Text;
use super::{Aggregator, Input, Packed};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{DataType, Field};
use std::marker::PhantomData;
use streamrt_state::{EntryId, KeyTable};
use streamrt_wit::AggregateFunction;

/// The aggregator of `function` over `source`; `None` if there is none for the type.
pub(super) fn aggregator(
    function: AggregateFunction,
    source: Option<&Field>,
) -> Option<Box<dyn Aggregator>> {
    if function == AggregateFunction::Count {
        return Some(fold::<Count>());
    }
    let source = source?;
    match source.data_type() {
        DataType::Int32 => integer::<i32, i64>(function, source.is_nullable()),
        DataType::Int64 => integer::<i64, i64>(function, source.is_nullable()),
        DataType::UInt32 => integer::<u32, u64>(function, source.is_nullable()),
        DataType::UInt64 => integer::<u64, u64>(function, source.is_nullable()),
        DataType::Float32 => float::<f32>(function, source.is_nullable()),
        DataType::Float64 => float::<f64>(function, source.is_nullable()),
        DataType::Boolean => pick::<bool>(function),
        data_type @ (DataType::Utf8 | DataType::Binary) => {
            Text::aggregator(function, data_type == &DataType::Binary)
        }
        _ => None,
    }
}

fn fold<F: Fold>() -> Box<dyn Aggregator> {
    Box::new(Typed::<F>(PhantomData))
}

fn sum<T: Cell + Into<S>, S: super::fold::Total>(nullable: bool) -> Box<dyn Aggregator> {
    if nullable {
        fold::<Sum<T, S, true>>()
    } else {
        fold::<Sum<T, S, false>>()
    }
}

fn integer<T: Cell + Into<S> + Into<i128>, S: super::fold::Total>(
    function: AggregateFunction,
    nullable: bool,
) -> Option<Box<dyn Aggregator>> {
    match function {
        AggregateFunction::Sum => Some(sum::<T, S>(nullable)),
        AggregateFunction::Avg => Some(fold::<AverageExact<T>>()),
        _ => pick::<T>(function),
    }
}

fn float<T: Cell + Into<f64>>(
    function: AggregateFunction,
    nullable: bool,
) -> Option<Box<dyn Aggregator>> {
    match function {
        AggregateFunction::Sum => Some(sum::<T, f64>(nullable)),
        AggregateFunction::Avg => Some(fold::<AverageFloat<T>>()),
        _ => pick::<T>(function),
    }
}

/// The aggregates that choose one of the values.
fn pick<T: Cell>(function: AggregateFunction) -> Option<Box<dyn Aggregator>> {
    match function {
        AggregateFunction::Min => Some(fold::<Extreme<T, false>>()),
        AggregateFunction::Max => Some(fold::<Extreme<T, true>>()),
        AggregateFunction::First => Some(fold::<Edge<T, false>>()),
        AggregateFunction::Last => Some(fold::<Edge<T, true>>()),
        AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg => None,
    }
}

/// Runs the loop of a [`Fold`].
struct Typed<F>(PhantomData<F>);

/// Results as they come. Nulls are rare, so they are recorded only from the first one on.
struct Results<T> {
    values: Vec<T>,
    nulls: Option<NullBufferBuilder>,
}

impl<T: Cell> Results<T> {
    fn with_capacity(n: usize) -> Results<T> {
        Results {
            values: Vec::with_capacity(n),
            nulls: None,
        }
    }

    #[inline]
    fn push(&mut self, result: Option<T>) {
        if result.is_none() || self.nulls.is_some() {
            self.push_validity(result.is_some());
        }
        self.values.push(result.unwrap_or_default());
    }

    fn push_validity(&mut self, is_valid: bool) {
        let n_before = self.values.len();
        let all_valid = || {
            let mut nulls = NullBufferBuilder::new(n_before);
            nulls.append_n_non_nulls(n_before);
            nulls
        };
        self.nulls.get_or_insert_with(all_valid).append(is_valid);
    }

    fn finish(self) -> ArrayRef {
        T::column(self.values, self.nulls.and_then(|mut nulls| nulls.finish()))
    }
}

/// Adds every row, and shows `seen` the accumulator after it.
#[inline]
fn add_rows<F: Fold>(
    table: &mut KeyTable,
    entries: &[EntryId],
    offset: usize,
    input: &Input<'_>,
    mut seen: impl FnMut(&[u8]),
) -> Result<(), usize> {
    let item = F::Item::reader(input);
    let nulls = input
        .column
        .and_then(|column| column.nulls())
        .filter(|nulls| nulls.null_count() > 0);
    let time = |row: usize| {
        if F::TIMED {
            input.times.map_or(0, |times| times[row])
        } else {
            0
        }
    };
    for (position, &entry) in entries.iter().enumerate() {
        let row = input.first_row + position;
        let accumulator = &mut table.value_mut(entry)[offset..offset + F::BYTES];
        if nulls.is_none_or(|nulls| nulls.is_valid(row))
            && !F::add(accumulator, item(row), time(row))
        {
            return Err(position);
        }
        seen(accumulator);
    }
    Ok(())
}

impl<F: Fold> Aggregator for Typed<F> {
    fn bytes(&self) -> usize {
        F::BYTES
    }

    fn output(&self) -> DataType {
        F::Output::TYPE
    }

    fn update(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        offset: usize,
        input: &Input<'_>,
    ) -> Result<(), usize> {
        add_rows::<F>(table, entries, offset, input, |_| {})
    }

    fn update_running(
        &mut self,
        table: &mut KeyTable,
        entries: &[EntryId],
        offset: usize,
        input: &Input<'_>,
    ) -> Result<ArrayRef, usize> {
        let mut results = Results::with_capacity(entries.len());
        add_rows::<F>(table, entries, offset, input, |accumulator| {
            results.push(F::result(accumulator))
        })?;
        Ok(results.finish())
    }

    fn merge(&mut self, into: &mut [u8], from: &[u8]) -> bool {
        F::merge(into, from)
    }

    fn finish(&self, values: &Packed<'_>) -> ArrayRef {
        let mut results = Results::with_capacity(values.len());
        values
            .accumulators(F::BYTES)
            .for_each(|accumulator| results.push(F::result(accumulator)));
        results.finish()
    }
}

impl<'a> Packed<'a> {
    pub(super) fn len(&self) -> usize {
        self.values.len() / self.stride
    }

    pub(super) fn accumulators(&self, bytes: usize) -> impl Iterator<Item = &'a [u8]> {
        let offset = self.offset;
        self.values
            .chunks_exact(self.stride)
            .map(move |value| &value[offset..offset + bytes])
    }
}
