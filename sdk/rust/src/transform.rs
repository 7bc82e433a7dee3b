//! Map, filter, flat-map and key projection: each is one loop over the rows, generic over the
//! user's closure.

use crate::builder::ColumnBuilder;
use crate::chain::{PortRows, Stage, StageInput, StageOutput};
use crate::column::OwnedColumn;
use crate::error::{Error, Outcome, Result};
use crate::key::Key;
use crate::record::{Record, decode};
use crate::value::Value;
use std::borrow::Borrow;
use std::marker::PhantomData;
use streamrt_wit::OutputColumns;
use streamrt_wit::codes::ORIGIN_TIMER;

/// What a function gives for its main output: a [`Record`] that replaces the input row, or
/// [`Forward`].
pub trait Output: 'static {
    /// The record of the stream after a function that reads `T`.
    type Of<T: Record>: Record;
    /// Makes the columns that are sent.
    type Builder: Default;
    /// What the columns of the output are, seen from the input.
    fn output_columns() -> OutputColumns;
    /// Hands the columns over.
    fn finish(builder: &mut Self::Builder, out: &mut Vec<OwnedColumn>);
}

impl<R: Record> Output for R {
    type Of<T: Record> = R;
    type Builder = R::Builder;
    fn output_columns() -> OutputColumns {
        OutputColumns::Replace {
            schema: R::schema(),
        }
    }
    fn finish(builder: &mut R::Builder, out: &mut Vec<OwnedColumn>) {
        R::finish(builder, out);
    }
}

/// The output of a function that lets input rows pass as they are. No column travels back: see
/// [`Collector::forward`].
#[derive(Debug, Clone, Copy)]
pub enum Forward {}

impl Output for Forward {
    type Of<T: Record> = T;
    type Builder = ();
    fn output_columns() -> OutputColumns {
        OutputColumns::Forward
    }
    fn finish(_: &mut (), _: &mut Vec<OwnedColumn>) {}
}

/// Collects what a function makes.
pub struct Collector<O: Output> {
    builder: O::Builder,
    origins: Origins,
    /// The input row or fired timer at work.
    event: u32,
}

impl<O: Record> Collector<O> {
    /// Sends a record. It gets the event time and the place in the order of the row or timer at
    /// work.
    #[inline]
    pub fn collect(&mut self, record: impl Borrow<O>) {
        O::push(record.borrow(), &mut self.builder);
        self.origins.push(self.event);
    }
}

impl Collector<Forward> {
    /// Lets the row at work pass.
    ///
    /// # Errors
    /// In `on_timer`, where there is no row.
    #[inline]
    pub fn forward(&mut self) -> Result<()> {
        if self.event >= ORIGIN_TIMER {
            return Err(Error::job("a timer has no row that could be forwarded"));
        }
        self.origins.push(self.event);
        Ok(())
    }
}

impl<O: Output> Collector<O> {
    pub(crate) fn new() -> Self {
        Collector {
            builder: O::Builder::default(),
            origins: Origins::default(),
            event: 0,
        }
    }

    #[inline]
    pub(crate) fn begin(&mut self, event: u32) {
        self.event = event;
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.origins.n_rows()
    }

    /// Discards what a failed call has left.
    pub(crate) fn reset(&mut self) {
        if self.n_rows() > 0 {
            *self = Collector::new();
        }
    }

    /// The rows of a call with `n_input_rows` input rows.
    pub(crate) fn finish(&mut self, n_input_rows: usize) -> PortRows {
        let n_rows = self.n_rows();
        let origin = self.origins.finish(n_input_rows);
        let mut columns = Vec::new();
        O::finish(&mut self.builder, &mut columns);
        PortRows {
            n_rows,
            columns,
            origin,
        }
    }
}

/// Which event each output row comes from. As long as row n comes from event n, which is all that
/// most functions do, it only counts.
#[derive(Default)]
struct Origins {
    n_same: u32,
    /// The origins of the rows after those.
    others: Vec<u32>,
}

impl Origins {
    #[inline]
    fn push(&mut self, event: u32) {
        match self.others.is_empty() && event == self.n_same {
            true => self.n_same += 1,
            false => self.others.push(event),
        }
    }

    fn n_rows(&self) -> usize {
        self.n_same as usize + self.others.len()
    }

    /// `None` if all rows of the input come out once and in order.
    fn finish(&mut self, n_input_rows: usize) -> Option<Vec<u32>> {
        let Origins { n_same, others } = std::mem::take(self);
        let is_identity = others.is_empty() && n_same as usize == n_input_rows;
        (!is_identity).then(|| (0..n_same).chain(others).collect())
    }
}

pub(crate) struct Filter<T, F> {
    row: T,
    keep: F,
}

impl<T: Record, F: FnMut(&T) -> bool> Filter<T, F> {
    pub(crate) fn new(keep: F) -> Self {
        Filter {
            row: T::empty(),
            keep,
        }
    }
}

impl<T: Record, F: FnMut(&T) -> bool> Stage for Filter<T, F> {
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let columns = T::columns(&input.table)?;
        let mut kept = Vec::with_capacity(input.n_rows);
        input.try_each(|row, place| {
            T::load(&mut self.row, &columns, place);
            if (self.keep)(&self.row) {
                kept.push(row as u32);
            }
            Ok(())
        })?;
        out.main = kept_rows(kept, input.n_rows);
        Ok(())
    }
}

fn kept_rows(kept: Vec<u32>, n_rows: usize) -> PortRows {
    let n_kept = kept.len();
    PortRows {
        n_rows: n_kept,
        columns: Vec::new(),
        origin: (n_kept < n_rows).then_some(kept),
    }
}

pub(crate) struct FilterColumn<V, F> {
    keep: F,
    value: PhantomData<V>,
}

impl<V: Value, F: for<'a> FnMut(V::Ref<'a>) -> bool> FilterColumn<V, F> {
    pub(crate) fn new(keep: F) -> Self {
        FilterColumn {
            keep,
            value: PhantomData,
        }
    }
}

impl<V: Value, F: for<'a> FnMut(V::Ref<'a>) -> bool> Stage for FilterColumn<V, F> {
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let column = decode::<V>(&input.table, 0)?;
        let mut kept = Vec::with_capacity(input.n_rows);
        input.try_each(|row, place| {
            if (self.keep)(V::get(&column, place)) {
                kept.push(row as u32);
            }
            Ok(())
        })?;
        out.main = kept_rows(kept, input.n_rows);
        Ok(())
    }
}

/// What the closure of a map may return: a record, or a `Result` of one.
pub trait MapResult: 'static {
    /// The record.
    type Record: Record;
    /// As a result.
    ///
    /// # Errors
    /// The error in the result.
    fn into_record(self) -> Result<Self::Record>;
}

impl<R: Record> MapResult for R {
    type Record = R;
    #[inline]
    fn into_record(self) -> Result<R> {
        Ok(self)
    }
}

impl<R: Record> MapResult for Result<R> {
    type Record = R;
    #[inline]
    fn into_record(self) -> Result<R> {
        self
    }
}

pub(crate) struct Map<T, M: MapResult, F> {
    row: T,
    map: F,
    builder: <M::Record as Record>::Builder,
}

impl<T: Record, M: MapResult, F: FnMut(&T) -> M> Map<T, M, F> {
    pub(crate) fn new(map: F) -> Self {
        Map {
            row: T::empty(),
            map,
            builder: Default::default(),
        }
    }
}

impl<T: Record, M: MapResult, F: FnMut(&T) -> M> Stage for Map<T, M, F> {
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let columns = T::columns(&input.table)?;
        let mapped = input.try_each(|_, place| {
            T::load(&mut self.row, &columns, place);
            Record::push(&(self.map)(&self.row).into_record()?, &mut self.builder);
            Ok(())
        });
        out.main.n_rows = input.n_rows;
        <M::Record as Record>::finish(&mut self.builder, &mut out.main.columns);
        mapped
    }
}

pub(crate) struct FlatMap<T, O: Record, F> {
    row: T,
    map: F,
    out: Collector<O>,
}

impl<T: Record, O: Record, R: Outcome, F: FnMut(&T, &mut Collector<O>) -> R> FlatMap<T, O, F> {
    pub(crate) fn new(map: F) -> Self {
        FlatMap {
            row: T::empty(),
            map,
            out: Collector::new(),
        }
    }
}

impl<T: Record, O: Record, R: Outcome, F: FnMut(&T, &mut Collector<O>) -> R> Stage
    for FlatMap<T, O, F>
{
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        self.out.reset();
        let columns = T::columns(&input.table)?;
        input.try_each(|row, place| {
            T::load(&mut self.row, &columns, place);
            self.out.begin(row as u32);
            (self.map)(&self.row, &mut self.out).into_result()
        })?;
        out.main = self.out.finish(input.n_rows);
        Ok(())
    }
}

pub(crate) struct KeyProjection<T, K: Key, F> {
    row: T,
    key: F,
    builder: K::Builder,
}

impl<T: Record, K: Key, F: FnMut(&T) -> K> KeyProjection<T, K, F> {
    pub(crate) fn new(key: F) -> Self {
        KeyProjection {
            row: T::empty(),
            key,
            builder: K::Builder::default(),
        }
    }
}

impl<T: Record, K: Key, F: FnMut(&T) -> K> Stage for KeyProjection<T, K, F> {
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let columns = T::columns(&input.table)?;
        input.try_each(|_, place| {
            T::load(&mut self.row, &columns, place);
            K::push(&(self.key)(&self.row), &mut self.builder);
            Ok(())
        })?;
        out.main.n_rows = input.n_rows;
        K::finish(&mut self.builder, &mut out.main.columns);
        Ok(())
    }
}

/// Times, and for a punctuated generator watermarks, by a closure.
pub(crate) struct Timestamps<T, F> {
    row: T,
    extract: F,
    punctuated: bool,
    times: <i64 as Value>::Builder,
    watermarks: <Option<i64> as Value>::Builder,
}

impl<T: Record, F: FnMut(&T) -> (i64, Option<i64>)> Timestamps<T, F> {
    pub(crate) fn new(extract: F, punctuated: bool) -> Self {
        Timestamps {
            row: T::empty(),
            extract,
            punctuated,
            times: Default::default(),
            watermarks: Default::default(),
        }
    }
}

impl<T: Record, F: FnMut(&T) -> (i64, Option<i64>)> Stage for Timestamps<T, F> {
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let columns = T::columns(&input.table)?;
        input.try_each(|_, place| {
            T::load(&mut self.row, &columns, place);
            let (time, watermark) = (self.extract)(&self.row);
            <i64 as Value>::push(&mut self.times, time);
            if self.punctuated {
                <Option<i64> as Value>::push(&mut self.watermarks, watermark);
            }
            Ok(())
        })?;
        out.main.n_rows = input.n_rows;
        out.main.columns.push(self.times.finish());
        if self.punctuated {
            out.main.columns.push(self.watermarks.finish());
        }
        Ok(())
    }
}
