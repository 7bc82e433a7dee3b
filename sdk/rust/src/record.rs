//! Records: what a row of a stream looks like to user code. `#[derive(Record)]` implements it for
//! structs; a single value is a record with one column, `value`, and `()` one with none.

use crate::builder::ColumnBuilder;
use crate::column::{OwnedColumn, Table};
use crate::error::Result;
use crate::value::Value;
use std::marker::PhantomData;
use streamrt_wit::{DataType, Field, Schema};

/// A row with named, typed columns. Derive it.
///
/// Closures and functions get `&T`: the SDK keeps one `T` for each input and loads row after row
/// into it, so that strings keep their capacity and nothing is allocated per row.
///
/// It has no methods, so it never hides a type's own.
///
/// ```
/// use streamrt_sdk::prelude::*;
///
/// #[derive(Record)]
/// struct Click { item: i64, referrer: Option<String> }
///
/// assert_eq!(Click::ITEM.name(), "item");
/// assert!(<Click as Record>::schema()[1].nullable);
/// ```
///
/// Fields of other types, enums, tuples and generic structs are refused when the program is
/// compiled:
///
/// ```compile_fail,E0277
/// # use streamrt_sdk::prelude::*;
/// #[derive(Record)]
/// struct Click { item: u8 }
/// ```
///
/// ```compile_fail,E0277
/// # use streamrt_sdk::prelude::*;
/// #[derive(Record)]
/// struct Click { item: Option<Option<i64>> }
/// ```
///
/// ```compile_fail
/// # use streamrt_sdk::prelude::*;
/// #[derive(Record)]
/// enum Click { Item(i64) }
/// ```
///
/// ```compile_fail
/// # use streamrt_sdk::prelude::*;
/// #[derive(Record)]
/// struct Click<T> { item: T }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a record",
    note = "add `#[derive(Record)]` to the struct"
)]
pub trait Record: Sized + 'static {
    /// Decoded columns.
    type Columns<'a>;
    /// Makes columns.
    type Builder: Default;

    /// The columns, in the order of the fields.
    fn schema() -> Schema;
    /// A record of zeros, empty strings and nulls.
    fn empty() -> Self;
    /// Decodes columns that stand in the order of [`Record::schema`].
    ///
    /// # Errors
    /// If the host sent bytes that do not fit.
    fn columns<'a>(table: &Table<'a>) -> Result<Self::Columns<'a>>;
    /// Overwrites the record with a row.
    fn load(record: &mut Self, columns: &Self::Columns<'_>, row: usize);
    /// Appends the record to columns.
    fn push(record: &Self, builder: &mut Self::Builder);
    /// Hands the columns over, in the order of the fields.
    fn finish(builder: &mut Self::Builder, out: &mut Vec<OwnedColumn>);
}

/// The field that a column of values has: used by the derive.
#[doc(hidden)]
pub fn field<V: Value>(name: &str) -> Field {
    Field {
        name: name.to_owned(),
        data_type: V::DATA_TYPE,
        nullable: V::NULLABLE,
    }
}

/// Decodes the column at `index`: used by the derive.
#[doc(hidden)]
pub fn decode<'a, V: Value>(table: &Table<'a>, index: usize) -> Result<V::Column<'a>> {
    V::column(table.column(index), table.n_rows)
}

impl Record for () {
    type Columns<'a> = ();
    type Builder = ();

    fn schema() -> Schema {
        Schema::new()
    }
    fn empty() {}
    fn columns(_: &Table<'_>) -> Result<()> {
        Ok(())
    }
    fn load(_: &mut (), _: &(), _: usize) {}
    fn push(_: &(), _: &mut ()) {}
    fn finish(_: &mut (), _: &mut Vec<OwnedColumn>) {}
}

macro_rules! single {
    ($($type:ty),*) => { $(
        impl Record for $type {
            type Columns<'a> = <$type as Value>::Column<'a>;
            type Builder = <$type as Value>::Builder;

            fn schema() -> Schema {
                vec![field::<$type>("value")]
            }
            fn empty() -> $type {
                Value::empty()
            }
            fn columns<'a>(table: &Table<'a>) -> Result<Self::Columns<'a>> {
                decode::<$type>(table, 0)
            }
            #[inline]
            fn load(record: &mut Self, columns: &Self::Columns<'_>, row: usize) {
                record.assign(<$type as Value>::get(columns, row));
            }
            #[inline]
            fn push(record: &Self, builder: &mut Self::Builder) {
                <$type as Value>::push(builder, record.borrowed());
            }
            fn finish(builder: &mut Self::Builder, out: &mut Vec<OwnedColumn>) {
                out.push(builder.finish());
            }
        }
    )* };
}
single!(bool, i32, i64, u32, u64, f32, f64, String, Vec<u8>);

/// Names a column of records of type `T` whose values have type `V`; the derive makes one for each
/// field.
pub struct Column<T, V> {
    name: &'static str,
    /// Its type in the stream; `V` says how the guest reads it.
    data_type: DataType,
    types: PhantomData<fn() -> (T, V)>,
}

impl<T, V> Clone for Column<T, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V> Copy for Column<T, V> {}

impl<T, V> Column<T, V> {
    /// The column's name.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl<T, V: Value> Column<T, V> {
    /// Used by the derive.
    #[doc(hidden)]
    pub const fn new(name: &'static str) -> Self {
        Column {
            name,
            data_type: V::DATA_TYPE,
            types: PhantomData,
        }
    }

    pub(crate) fn field(self) -> Field {
        Field {
            data_type: self.data_type,
            ..field::<V>(self.name)
        }
    }
}

impl<T> Column<T, String> {
    /// The same column, read as its UTF-8 bytes: code that only compares them saves the check of
    /// every byte that `&str` needs.
    pub const fn bytes(self) -> Column<T, Vec<u8>> {
        Column {
            name: self.name,
            data_type: self.data_type,
            types: PhantomData,
        }
    }
}

impl<T> Column<T, Option<String>> {
    /// The same column, read as its UTF-8 bytes: see `bytes` of a column without nulls.
    pub const fn bytes(self) -> Column<T, Option<Vec<u8>>> {
        Column {
            name: self.name,
            data_type: self.data_type,
            types: PhantomData,
        }
    }
}
