//! Values of columns as 64-bit words of an accumulator, and back. The bits of a float are kept as
//! they are.

use super::Input;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, BooleanArray, PrimitiveArray};
use arrow_buffer::NullBuffer;
use arrow_schema::DataType;
use std::cmp::Ordering;
use std::sync::Arc;

/// A value of a column.
pub(super) trait Cell: Copy + Default + Send + 'static {
    const TYPE: DataType;
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Self;
    /// A total order. Every NaN is the greatest, whatever its sign and payload, as in SQL; -0.0
    /// comes before 0.0.
    fn order(self, other: Self) -> Ordering;
    /// The value that represents all that are equal in [`Cell::order`].
    fn canonical(self) -> Self;
    /// Reads a row of the input's column, which has this type and was there when the job was built.
    fn reader<'a>(input: &Input<'a>) -> impl Fn(usize) -> Self + 'a;
    fn column(values: Vec<Self>, nulls: Option<NullBuffer>) -> ArrayRef;
}

const COLUMN_IS_THERE: &str = "an aggregate without a column counts rows, which reads no values";

macro_rules! number {
    ($native:ty, $arrow:ty, $data_type:ident, $to:expr, $from:expr, $order:expr, $canonical:expr) => {
        impl Cell for $native {
            const TYPE: DataType = DataType::$data_type;
            #[inline]
            fn to_word(self) -> u64 {
                $to(self)
            }
            #[inline]
            fn from_word(word: u64) -> Self {
                $from(word)
            }
            #[inline]
            fn order(self, other: Self) -> Ordering {
                $order(&self, &other)
            }
            #[inline]
            fn canonical(self) -> Self {
                $canonical(self)
            }
            fn reader<'a>(input: &Input<'a>) -> impl Fn(usize) -> Self + 'a {
                let values = input
                    .column
                    .expect(COLUMN_IS_THERE)
                    .as_primitive::<$arrow>()
                    .values();
                move |row| values[row]
            }
            fn column(values: Vec<Self>, nulls: Option<NullBuffer>) -> ArrayRef {
                Arc::new(PrimitiveArray::<$arrow>::new(values.into(), nulls))
            }
        }
    };
}

macro_rules! float {
    ($native:ty, $arrow:ty, $data_type:ident, $to:expr, $from:expr) => {
        number!(
            $native,
            $arrow,
            $data_type,
            $to,
            $from,
            |a: &$native, b: &$native| a.canonical().total_cmp(&b.canonical()),
            |v: $native| if v.is_nan() { <$native>::NAN } else { v }
        );
    };
}

number!(
    i32,
    Int32Type,
    Int32,
    |v| v as i64 as u64,
    |w| w as i32,
    Ord::cmp,
    |v| v
);
number!(
    i64,
    Int64Type,
    Int64,
    |v| v as u64,
    |w| w as i64,
    Ord::cmp,
    |v| v
);
number!(
    u32,
    UInt32Type,
    UInt32,
    u64::from,
    |w| w as u32,
    Ord::cmp,
    |v| v
);
number!(u64, UInt64Type, UInt64, |v| v, |w| w, Ord::cmp, |v| v);
float!(
    f32,
    Float32Type,
    Float32,
    |v: f32| u64::from(v.to_bits()),
    |w| f32::from_bits(w as u32)
);
float!(
    f64,
    Float64Type,
    Float64,
    |v: f64| v.to_bits(),
    f64::from_bits
);

impl Cell for bool {
    const TYPE: DataType = DataType::Boolean;
    fn to_word(self) -> u64 {
        u64::from(self)
    }
    fn from_word(word: u64) -> Self {
        word != 0
    }
    fn order(self, other: Self) -> Ordering {
        self.cmp(&other)
    }
    fn canonical(self) -> Self {
        self
    }
    fn reader<'a>(input: &Input<'a>) -> impl Fn(usize) -> Self + 'a {
        let values = input.column.expect(COLUMN_IS_THERE).as_boolean().values();
        move |row| values.value(row)
    }
    fn column(values: Vec<Self>, nulls: Option<NullBuffer>) -> ArrayRef {
        Arc::new(BooleanArray::new(values.into(), nulls))
    }
}

/// The mere presence of a row, which is all that a count reads.
#[derive(Clone, Copy, Default)]
pub(super) struct Presence;

/// What a fold reads of each row.
pub(super) trait Item: Copy {
    fn reader<'a>(input: &Input<'a>) -> impl Fn(usize) -> Self + 'a;
}

impl Item for Presence {
    fn reader<'a>(_: &Input<'a>) -> impl Fn(usize) -> Self + 'a {
        |_| Presence
    }
}

impl<T: Cell> Item for T {
    fn reader<'a>(input: &Input<'a>) -> impl Fn(usize) -> Self + 'a {
        <T as Cell>::reader(input)
    }
}
