//! Keys: the columns that say which rows share state, a window and a timer service. The host
//! encodes and hashes them; the SDK only reads them back for user code, so a key is a record like
//! any other, of types that have an equality.

use crate::builder::ColumnBuilder;
use crate::column::{OwnedColumn, Table};
use crate::error::Result;
use crate::record::{Column, Record, decode, field};
use crate::value::Value;
use streamrt_wit::{Field, Schema};

/// A type that keys can have: `bool`, integers, `String`, `Vec<u8>`, and tuples of up to four of
/// them. `()` is the key of a function that does not look at its key, which saves sending it.
///
/// A column of floating point numbers, or one that may be null, cannot be a key:
///
/// ```compile_fail,E0277
/// # use streamrt_sdk::prelude::*;
/// #[derive(Record)]
/// struct Reading { celsius: f64 }
///
/// fn job(env: &mut Env) {
///     env.source("readings", File::csv::<Reading>("readings.csv")).key_by(Reading::CELSIUS);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key",
    note = "keys are bool, integers, String, Vec<u8>, and tuples of them"
)]
pub trait Key: Record {}

impl Key for () {}

/// The key types that are one column.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key, nor a part of one",
    label = "not a type of keys",
    note = "keys are bool, integers, String, Vec<u8>, and tuples of them: floats have no equality that could be relied on, and nulls belong nowhere",
    note = "a tuple is a key; what a stream carries is a struct with `#[derive(Record)]`",
    note = "a key that is computed of the row is written `key_by_fn(\"uid\", |row: &Click| row.price.to_bits())`"
)]
pub trait SingleKey: Key + Value {}

macro_rules! single_key {
    ($($type:ty),*) => { $(
        impl Key for $type {}
        impl SingleKey for $type {}
    )* };
}
single_key!(bool, i32, i64, u32, u64, String, Vec<u8>);

macro_rules! tuple_key {
    ($($type:ident $index:tt),*) => {
        impl<$($type: SingleKey),*> Record for ($($type,)*) {
            type Columns<'a> = ($(<$type as Value>::Column<'a>,)*);
            type Builder = ($(<$type as Value>::Builder,)*);

            fn schema() -> Schema {
                vec![$(field::<$type>(concat!("value", stringify!($index)))),*]
            }
            fn empty() -> Self {
                ($(<$type as Value>::empty(),)*)
            }
            fn columns<'a>(table: &Table<'a>) -> Result<Self::Columns<'a>> {
                Ok(($(decode::<$type>(table, $index)?,)*))
            }
            fn load(record: &mut Self, columns: &Self::Columns<'_>, row: usize) {
                $(record.$index.assign(<$type as Value>::get(&columns.$index, row));)*
            }
            fn push(record: &Self, builder: &mut Self::Builder) {
                $(<$type as Value>::push(&mut builder.$index, record.$index.borrowed());)*
            }
            fn finish(builder: &mut Self::Builder, out: &mut Vec<OwnedColumn>) {
                $(out.push(builder.$index.finish());)*
            }
        }
        impl<$($type: SingleKey),*> Key for ($($type,)*) {}

        impl<T: Record, $($type: SingleKey),*> KeySelector<T> for ($(Column<T, $type>,)*) {
            type Key = ($($type,)*);
            fn fields(&self) -> Vec<Field> {
                vec![$(self.$index.field()),*]
            }
        }
    };
}
tuple_key!(A 0, B 1);
tuple_key!(A 0, B 1, C 2);
tuple_key!(A 0, B 1, C 2, D 3);

/// What `key_by` takes: a column, or a tuple of columns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name key columns of `{T}`",
    label = "not a column of this stream, nor a tuple of columns",
    note = "`key_by` takes columns by their constants, which the derive makes, as in `key_by(Click::USER)` or `key_by((Click::USER, Click::ITEM))`",
    note = "a key that a closure computes is written `key_by_fn(\"uid\", |row: &Click| row.user % 10)`"
)]
pub trait KeySelector<T> {
    /// The type of the key.
    type Key: Key;
    /// The key columns, in order.
    fn fields(&self) -> Vec<Field>;
}

impl<T: Record, V: SingleKey> KeySelector<T> for Column<T, V> {
    type Key = V;
    fn fields(&self) -> Vec<Field> {
        vec![self.field()]
    }
}
