//! One step of each aggregate over values of fixed width. Accumulators are words of eight bytes,
//! all zero when empty.

use super::cell::{Cell, Item, Presence};
use std::cmp::Ordering;
use std::marker::PhantomData;

/// How rows go into an accumulator of `BYTES` bytes, and what its result is.
pub(super) trait Fold: Send + 'static {
    type Item: Item;
    type Output: Cell;
    const BYTES: usize;
    /// Whether `add` looks at the time.
    const TIMED: bool = false;
    /// False if the result left its range.
    fn add(accumulator: &mut [u8], item: Self::Item, time: i64) -> bool;
    fn merge(into: &mut [u8], from: &[u8]) -> bool;
    /// `None` if no value has taken part.
    fn result(accumulator: &[u8]) -> Option<Self::Output>;
}

#[inline]
pub(super) fn word(accumulator: &[u8], i: usize) -> u64 {
    u64::from_le_bytes(
        *accumulator[i * 8..]
            .first_chunk()
            .expect("an accumulator has all of its words"),
    )
}

#[inline]
pub(super) fn set_word(accumulator: &mut [u8], i: usize, word: u64) {
    accumulator[i * 8..i * 8 + 8].copy_from_slice(&word.to_le_bytes());
}

/// Number of rows or of values: one word. It wraps, and so do the sums of 128 bits below: only a
/// damaged snapshot leads there.
pub(super) struct Count;

impl Fold for Count {
    type Item = Presence;
    type Output = i64;
    const BYTES: usize = 8;
    #[inline]
    fn add(accumulator: &mut [u8], _: Presence, _: i64) -> bool {
        set_word(accumulator, 0, word(accumulator, 0).wrapping_add(1));
        true
    }
    fn merge(into: &mut [u8], from: &[u8]) -> bool {
        set_word(into, 0, word(into, 0).wrapping_add(word(from, 0)));
        true
    }
    #[inline]
    fn result(accumulator: &[u8]) -> Option<i64> {
        Some(word(accumulator, 0) as i64)
    }
}

/// A type in which sums are kept.
pub(super) trait Total: Cell {
    /// The sum, and whether it left the range.
    fn plus(self, other: Self) -> (Self, bool);
}

impl Total for i64 {
    #[inline]
    fn plus(self, other: i64) -> (i64, bool) {
        self.overflowing_add(other)
    }
}

impl Total for u64 {
    #[inline]
    fn plus(self, other: u64) -> (u64, bool) {
        self.overflowing_add(other)
    }
}

impl Total for f64 {
    #[inline]
    fn plus(self, other: f64) -> (f64, bool) {
        (self + other, false)
    }
}

/// Sum of `T` in `S`: the total, and if the column may be null, whether there is one.
pub(super) struct Sum<T, S, const NULLABLE: bool>(PhantomData<(T, S)>);

impl<T: Cell + Into<S>, S: Total, const NULLABLE: bool> Fold for Sum<T, S, NULLABLE> {
    type Item = T;
    type Output = S;
    const BYTES: usize = if NULLABLE { 16 } else { 8 };
    #[inline]
    fn add(accumulator: &mut [u8], item: T, _: i64) -> bool {
        let (total, overflow) = S::from_word(word(accumulator, 0)).plus(item.into());
        set_word(accumulator, 0, total.to_word());
        if NULLABLE {
            set_word(accumulator, 1, 1);
        }
        !overflow
    }
    fn merge(into: &mut [u8], from: &[u8]) -> bool {
        let (total, overflow) = S::from_word(word(into, 0)).plus(S::from_word(word(from, 0)));
        set_word(into, 0, total.to_word());
        if NULLABLE {
            set_word(into, 1, word(into, 1) | word(from, 1));
        }
        !overflow
    }
    #[inline]
    fn result(accumulator: &[u8]) -> Option<S> {
        (!NULLABLE || word(accumulator, 1) != 0).then(|| S::from_word(word(accumulator, 0)))
    }
}

/// Minimum or maximum: the value, and whether there is one.
pub(super) struct Extreme<T, const MAX: bool>(PhantomData<T>);

impl<T: Cell, const MAX: bool> Extreme<T, MAX> {
    const BETTER: Ordering = if MAX {
        Ordering::Greater
    } else {
        Ordering::Less
    };
}

impl<T: Cell, const MAX: bool> Fold for Extreme<T, MAX> {
    type Item = T;
    type Output = T;
    const BYTES: usize = 16;
    #[inline]
    fn add(accumulator: &mut [u8], item: T, _: i64) -> bool {
        if Self::result(accumulator).is_none_or(|best| item.order(best) == Self::BETTER) {
            set_word(accumulator, 0, item.canonical().to_word());
            set_word(accumulator, 1, 1);
        }
        true
    }
    fn merge(into: &mut [u8], from: &[u8]) -> bool {
        Self::result(from).is_none_or(|item| Self::add(into, item, 0))
    }
    #[inline]
    fn result(accumulator: &[u8]) -> Option<T> {
        (word(accumulator, 1) != 0).then(|| T::from_word(word(accumulator, 0)))
    }
}

/// First or last by event time, then by arrival: the value, its time, and whether there is one.
pub(super) struct Edge<T, const LAST: bool>(PhantomData<T>);

/// Whether a row of time `new`, which came later, takes the place of one of time `old`.
#[inline]
pub(super) fn displaces(last: bool, new: i64, old: i64) -> bool {
    if last { new >= old } else { new < old }
}

impl<T: Cell, const LAST: bool> Fold for Edge<T, LAST> {
    type Item = T;
    type Output = T;
    const BYTES: usize = 24;
    const TIMED: bool = true;
    #[inline]
    fn add(accumulator: &mut [u8], item: T, time: i64) -> bool {
        if word(accumulator, 2) == 0 || displaces(LAST, time, word(accumulator, 1) as i64) {
            set_word(accumulator, 0, item.to_word());
            set_word(accumulator, 1, time as u64);
            set_word(accumulator, 2, 1);
        }
        true
    }
    fn merge(into: &mut [u8], from: &[u8]) -> bool {
        Self::result(from).is_none_or(|item| Self::add(into, item, word(from, 1) as i64))
    }
    #[inline]
    fn result(accumulator: &[u8]) -> Option<T> {
        (word(accumulator, 2) != 0).then(|| T::from_word(word(accumulator, 0)))
    }
}

/// Average of integers: an exact sum of 128 bits, which cannot overflow, then the count. It is
/// exact, so it does not depend on the order.
pub(super) struct AverageExact<T>(PhantomData<T>);

#[inline]
fn wide(accumulator: &[u8]) -> i128 {
    i128::from_le_bytes(
        *accumulator
            .first_chunk()
            .expect("an exact average begins with its sum"),
    )
}

impl<T: Cell + Into<i128>> Fold for AverageExact<T> {
    type Item = T;
    type Output = f64;
    const BYTES: usize = 24;
    #[inline]
    fn add(accumulator: &mut [u8], item: T, _: i64) -> bool {
        let sum = wide(accumulator).wrapping_add(item.into());
        accumulator[..16].copy_from_slice(&sum.to_le_bytes());
        set_word(accumulator, 2, word(accumulator, 2).wrapping_add(1));
        true
    }
    fn merge(into: &mut [u8], from: &[u8]) -> bool {
        let sum = wide(into).wrapping_add(wide(from));
        into[..16].copy_from_slice(&sum.to_le_bytes());
        set_word(into, 2, word(into, 2).wrapping_add(word(from, 2)));
        true
    }
    #[inline]
    fn result(accumulator: &[u8]) -> Option<f64> {
        let count = word(accumulator, 2);
        (count != 0).then(|| wide(accumulator) as f64 / count as f64)
    }
}

/// Average of floats: the sum, then the count.
pub(super) struct AverageFloat<T>(PhantomData<T>);

impl<T: Cell + Into<f64>> Fold for AverageFloat<T> {
    type Item = T;
    type Output = f64;
    const BYTES: usize = 16;
    #[inline]
    fn add(accumulator: &mut [u8], item: T, _: i64) -> bool {
        set_word(
            accumulator,
            0,
            (f64::from_word(word(accumulator, 0)) + item.into()).to_bits(),
        );
        set_word(accumulator, 1, word(accumulator, 1).wrapping_add(1));
        true
    }
    fn merge(into: &mut [u8], from: &[u8]) -> bool {
        set_word(
            into,
            0,
            (f64::from_word(word(into, 0)) + f64::from_word(word(from, 0))).to_bits(),
        );
        set_word(into, 1, word(into, 1).wrapping_add(word(from, 1)));
        true
    }
    #[inline]
    fn result(accumulator: &[u8]) -> Option<f64> {
        let count = word(accumulator, 1);
        (count != 0).then(|| f64::from_word(word(accumulator, 0)) / count as f64)
    }
}
