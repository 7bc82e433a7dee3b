//! The types that a field of a record can have, each with its input form (a decoded column) and its
//! output form (a builder).
//!
//! Everything is resolved at compile time: the loop over the rows of a batch is one monomorphic
//! function without dispatch.

use crate::builder::{BoolBuilder, BytesBuilder, ColumnBuilder, FixedBuilder, OptionBuilder};
use crate::column::{RawColumn, bit, fixed};
use crate::error::{Error, Result};
use streamrt_wit::DataType;

/// A type that a field of a [`Record`](crate::Record) can have: `bool`, `i32`, `i64`, `u32`, `u64`,
/// `f32`, `f64`, `String`, `Vec<u8>`, and `Option` of one of these.
///
/// It is implemented for these and not meant for others: they are what the edges of a job carry.
#[diagnostic::on_unimplemented(
    message = "a field of a record cannot have the type `{Self}`",
    label = "not a column type",
    note = "bool, i32, i64, u32, u64, f32, f64, String, Vec<u8> and Option of one of these are column types"
)]
pub trait Value: Sized + 'static {
    /// The column's type.
    const DATA_TYPE: DataType;
    /// Whether the column may hold nulls.
    const NULLABLE: bool;
    /// A decoded column.
    type Column<'a>: Copy;
    /// A value in a column: itself, or for strings and bytes a slice.
    type Ref<'a>: Copy;
    /// Makes a column.
    type Builder: ColumnBuilder;

    /// Decodes a column of `n_rows` rows.
    ///
    /// # Errors
    /// If the host sent too few bytes, or a string that is not UTF-8.
    fn column(raw: RawColumn<'_>, n_rows: usize) -> Result<Self::Column<'_>>;
    /// The value at `row`, which is less than the number of rows.
    fn get<'a>(column: &Self::Column<'a>, row: usize) -> Self::Ref<'a>;
    /// Zero, the empty string, or none.
    fn empty() -> Self;
    /// Overwrites the value, keeping its capacity.
    fn assign(&mut self, value: Self::Ref<'_>);
    /// Views the value as if it stood in a column.
    fn borrowed(&self) -> Self::Ref<'_>;
    /// Appends a value to a column.
    fn push(builder: &mut Self::Builder, value: Self::Ref<'_>);
}

macro_rules! number {
    ($type:ty, $data_type:ident, $width:literal) => {
        impl Value for $type {
            const DATA_TYPE: DataType = DataType::$data_type;
            const NULLABLE: bool = false;
            type Column<'a> = &'a [[u8; $width]];
            type Ref<'a> = $type;
            type Builder = FixedBuilder<$width>;

            fn column(raw: RawColumn<'_>, n_rows: usize) -> Result<Self::Column<'_>> {
                fixed(raw.data, n_rows)
            }
            #[inline]
            fn get<'a>(column: &Self::Column<'a>, row: usize) -> Self::Ref<'a> {
                <$type>::from_le_bytes(column[row])
            }
            fn empty() -> $type {
                Default::default()
            }
            #[inline]
            fn assign(&mut self, value: $type) {
                *self = value;
            }
            #[inline]
            fn borrowed(&self) -> $type {
                *self
            }
            #[inline]
            fn push(builder: &mut Self::Builder, value: $type) {
                builder.push(value.to_le_bytes());
            }
        }
    };
}

number!(i32, I32, 4);
number!(i64, I64, 8);
number!(u32, U32, 4);
number!(u64, U64, 8);
number!(f32, F32, 4);
number!(f64, F64, 8);

impl Value for bool {
    const DATA_TYPE: DataType = DataType::Bool;
    const NULLABLE: bool = false;
    type Column<'a> = &'a [u8];
    type Ref<'a> = bool;
    type Builder = BoolBuilder;

    fn column(raw: RawColumn<'_>, n_rows: usize) -> Result<&[u8]> {
        fixed::<1>(raw.data, n_rows.div_ceil(8)).map(<[[u8; 1]]>::as_flattened)
    }
    #[inline]
    fn get<'a>(column: &Self::Column<'a>, row: usize) -> Self::Ref<'a> {
        bit(column, row)
    }
    fn empty() -> bool {
        false
    }
    #[inline]
    fn assign(&mut self, value: bool) {
        *self = value;
    }
    #[inline]
    fn borrowed(&self) -> bool {
        *self
    }
    #[inline]
    fn push(builder: &mut BoolBuilder, value: bool) {
        builder.push(value);
    }
}

/// Values of varying length: where each ends, and all of them one after the other.
pub struct Spans<'a, D: ?Sized> {
    ends: &'a [[u8; 4]],
    data: &'a D,
}

impl<D: ?Sized> Clone for Spans<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: ?Sized> Copy for Spans<'_, D> {}

impl<D: ?Sized> Spans<'_, D> {
    #[inline]
    fn span(&self, row: usize) -> std::ops::Range<usize> {
        let end = |i: usize| i32::from_le_bytes(self.ends[i]) as usize;
        end(row)..end(row + 1)
    }
}

/// Offsets of a column of `n_rows`; the host may leave them out if there are no rows.
fn ends(raw: RawColumn<'_>, n_rows: usize) -> Result<&[[u8; 4]]> {
    match n_rows {
        0 => Ok(&[]),
        n => fixed(raw.offsets, n + 1),
    }
}

impl Value for String {
    const DATA_TYPE: DataType = DataType::String;
    const NULLABLE: bool = false;
    type Column<'a> = Spans<'a, str>;
    type Ref<'a> = &'a str;
    type Builder = BytesBuilder;

    fn column(raw: RawColumn<'_>, n_rows: usize) -> Result<Spans<'_, str>> {
        let data = std::str::from_utf8(raw.data)
            .map_err(|_| Error::host("the host sent a string column that is not UTF-8"))?;
        Ok(Spans {
            ends: ends(raw, n_rows)?,
            data,
        })
    }
    #[inline]
    fn get<'a>(column: &Self::Column<'a>, row: usize) -> Self::Ref<'a> {
        column.data.get(column.span(row)).unwrap_or_default()
    }
    fn empty() -> String {
        String::new()
    }
    #[inline]
    fn assign(&mut self, value: &str) {
        self.clear();
        self.push_str(value);
    }
    #[inline]
    fn borrowed(&self) -> &str {
        self
    }
    #[inline]
    fn push(builder: &mut BytesBuilder, value: &str) {
        builder.push(value.as_bytes());
    }
}

impl Value for Vec<u8> {
    const DATA_TYPE: DataType = DataType::Binary;
    const NULLABLE: bool = false;
    type Column<'a> = Spans<'a, [u8]>;
    type Ref<'a> = &'a [u8];
    type Builder = BytesBuilder;

    fn column(raw: RawColumn<'_>, n_rows: usize) -> Result<Spans<'_, [u8]>> {
        Ok(Spans {
            ends: ends(raw, n_rows)?,
            data: raw.data,
        })
    }
    #[inline]
    fn get<'a>(column: &Self::Column<'a>, row: usize) -> Self::Ref<'a> {
        column.data.get(column.span(row)).unwrap_or_default()
    }
    fn empty() -> Vec<u8> {
        Vec::new()
    }
    #[inline]
    fn assign(&mut self, value: &[u8]) {
        self.clear();
        self.extend_from_slice(value);
    }
    #[inline]
    fn borrowed(&self) -> &[u8] {
        self
    }
    #[inline]
    fn push(builder: &mut BytesBuilder, value: &[u8]) {
        builder.push(value);
    }
}

/// Keeps `Option<Option<T>>` from being a column type.
pub trait NotNull: Value {}
macro_rules! not_null {
    ($($type:ty),*) => { $(impl NotNull for $type {})* };
}
not_null!(bool, i32, i64, u32, u64, f32, f64, String, Vec<u8>);

impl<V: NotNull> Value for Option<V> {
    const DATA_TYPE: DataType = V::DATA_TYPE;
    const NULLABLE: bool = true;
    type Column<'a> = (Option<&'a [u8]>, V::Column<'a>);
    type Ref<'a> = Option<V::Ref<'a>>;
    type Builder = OptionBuilder<V>;

    fn column(raw: RawColumn<'_>, n_rows: usize) -> Result<Self::Column<'_>> {
        let validity = raw
            .validity
            .map(|bits| fixed::<1>(bits, n_rows.div_ceil(8)).map(<[[u8; 1]]>::as_flattened))
            .transpose()?;
        Ok((validity, V::column(raw, n_rows)?))
    }
    #[inline]
    fn get<'a>(column: &Self::Column<'a>, row: usize) -> Self::Ref<'a> {
        match column.0 {
            Some(bits) if !bit(bits, row) => None,
            _ => Some(V::get(&column.1, row)),
        }
    }
    fn empty() -> Self {
        None
    }
    #[inline]
    fn assign(&mut self, value: Self::Ref<'_>) {
        match value {
            None => *self = None,
            Some(value) => self.get_or_insert_with(V::empty).assign(value),
        }
    }
    #[inline]
    fn borrowed(&self) -> Self::Ref<'_> {
        self.as_ref().map(V::borrowed)
    }
    #[inline]
    fn push(builder: &mut Self::Builder, value: Self::Ref<'_>) {
        builder.push(value);
    }
}
