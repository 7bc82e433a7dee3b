//! Reducing and aggregating state: one accumulator per key, into which what is added is folded
//! here. To the host it is value state, so it comes with the call and goes back with its result.

use super::{Ttl, UNBOUND, ValueState};
use crate::error::Result;
use crate::fold::AggregateFunction;
use crate::record::Record;
use std::cell::{RefCell, RefMut};

/// One value per key, into which others of the same type are folded. Made by
/// [`Setup::reducing`](super::Setup::reducing).
pub struct ReducingState<T: Record> {
    value: ValueState<T>,
    reduce: Option<Reduce<T>>,
}

/// Folds the second into the first.
type Reduce<T> = Box<dyn Fn(&mut T, &T)>;

impl<T: Record> Default for ReducingState<T> {
    fn default() -> Self {
        ReducingState {
            value: ValueState::default(),
            reduce: None,
        }
    }
}

impl<T: Record> ReducingState<T> {
    pub(super) fn new(value: ValueState<T>, reduce: impl Fn(&mut T, &T) + 'static) -> Self {
        ReducingState {
            value,
            reduce: Some(Box::new(reduce)),
        }
    }

    /// Lets the result expire: see [`Ttl`]. Adding is a write.
    pub fn ttl(self, ttl: impl Into<Ttl>) -> Self {
        ReducingState {
            value: self.value.ttl(ttl),
            ..self
        }
    }

    /// Folds a value in; the first one is taken as it is.
    pub fn add(&self, value: T) {
        let reduce = self.reduce.as_ref().expect(UNBOUND);
        if self.value.is_set() {
            self.value.update(|sum| reduce(sum, &value));
        } else {
            self.value.set(value);
        }
    }

    /// The result so far, if anything was added.
    pub fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.value.get()
    }

    /// Starts over with nothing.
    pub fn clear(&self) {
        self.value.clear();
    }
}

/// One accumulator per key, into which rows of another type may be folded. Made by
/// [`Setup::aggregating`](super::Setup::aggregating).
///
/// # Source
/// Flink's `AggregatingState`.
pub struct AggregatingState<A: AggregateFunction> {
    accumulator: ValueState<A::Accumulator>,
    function: Option<RefCell<A>>,
}

impl<A: AggregateFunction> Default for AggregatingState<A> {
    fn default() -> Self {
        AggregatingState {
            accumulator: ValueState::default(),
            function: None,
        }
    }
}

impl<A: AggregateFunction> AggregatingState<A> {
    pub(super) fn new(accumulator: ValueState<A::Accumulator>, function: A) -> Self {
        AggregatingState {
            accumulator,
            function: Some(RefCell::new(function)),
        }
    }

    /// Lets the accumulator expire: see [`Ttl`]. Adding is a write.
    pub fn ttl(self, ttl: impl Into<Ttl>) -> Self {
        AggregatingState {
            accumulator: self.accumulator.ttl(ttl),
            ..self
        }
    }

    fn function(&self) -> RefMut<'_, A> {
        self.function.as_ref().expect(UNBOUND).borrow_mut()
    }

    /// Folds a row in; the first one into what the function creates.
    ///
    /// # Errors
    /// The function's own error.
    pub fn add(&self, row: &A::In) -> Result<()> {
        let mut function = self.function();
        if !self.accumulator.is_set() {
            self.accumulator.set(function.create());
        }
        self.accumulator
            .update(|accumulator| function.add(row, accumulator))
    }

    /// The result so far, if anything was added.
    ///
    /// # Errors
    /// The function's own error.
    pub fn get(&self) -> Result<Option<A::Out>> {
        let mut function = self.function();
        self.accumulator.with(|accumulator| {
            accumulator
                .map(|accumulator| function.result(accumulator))
                .transpose()
        })
    }

    /// Starts over with nothing.
    pub fn clear(&self) {
        self.accumulator.clear();
    }
}
