//! The values of a column as text, for every format that writes rows: JSON and CSV in the sinks,
//! JSON in reports.
//!
//! Whole numbers keep all digits; floating point numbers have the shortest form that reads back the
//! same. NaN (of either sign) and the infinities are `NaN`, `Infinity` and `-Infinity`; bytes are
//! hexadecimal digits. What is written here, the sources read back unchanged.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, StringArray};
use arrow_buffer::NullBuffer;
use arrow_schema::DataType;
use serde_json::ser::{CompactFormatter, Formatter};
use std::borrow::Cow;

/// A column whose type was looked up once.
pub struct Values<'a> {
    nulls: Option<&'a NullBuffer>,
    typed: Typed<'a>,
}

enum Typed<'a> {
    Boolean(&'a BooleanArray),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Utf8(&'a StringArray),
    Binary(&'a BinaryArray),
    /// A type that no edge carries.
    Other(&'a DataType),
}

/// What a value is to a format.
pub enum Kind<'a> {
    Null,
    /// A number, `true` or `false`: [`Values::put`] writes it.
    Number,
    /// Everything else, as it is without quotes.
    Text(Cow<'a, str>),
}

impl<'a> Values<'a> {
    pub fn of(column: &'a ArrayRef) -> Values<'a> {
        let typed = match column.data_type() {
            DataType::Boolean => Typed::Boolean(column.as_boolean()),
            DataType::Int32 => Typed::Int32(column.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Typed::Int64(column.as_primitive::<Int64Type>().values()),
            DataType::UInt32 => Typed::UInt32(column.as_primitive::<UInt32Type>().values()),
            DataType::UInt64 => Typed::UInt64(column.as_primitive::<UInt64Type>().values()),
            DataType::Float32 => Typed::Float32(column.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Typed::Float64(column.as_primitive::<Float64Type>().values()),
            DataType::Utf8 => Typed::Utf8(column.as_string()),
            DataType::Binary => Typed::Binary(column.as_binary()),
            other => Typed::Other(other),
        };
        Values {
            nulls: column.nulls(),
            typed,
        }
    }

    pub fn kind(&self, row: usize) -> Kind<'a> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return Kind::Null;
        }
        match &self.typed {
            Typed::Float32(values) if !values[row].is_finite() => {
                Kind::Text(no_number(values[row].into()).into())
            }
            Typed::Float64(values) if !values[row].is_finite() => {
                Kind::Text(no_number(values[row]).into())
            }
            Typed::Utf8(values) => Kind::Text(values.value(row).into()),
            Typed::Binary(values) => Kind::Text(hexadecimal(values.value(row)).into()),
            Typed::Other(other) => Kind::Text(format!("a value of type {other}").into()),
            _ => Kind::Number,
        }
    }

    /// Appends a value of [`Kind::Number`], and nothing for others.
    pub fn put(&self, row: usize, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        match &self.typed {
            Typed::Boolean(values) => CompactFormatter.write_bool(out, values.value(row)).ok(),
            Typed::Int32(values) => CompactFormatter.write_i32(out, values[row]).ok(),
            Typed::Int64(values) => CompactFormatter.write_i64(out, values[row]).ok(),
            Typed::UInt32(values) => CompactFormatter.write_u32(out, values[row]).ok(),
            Typed::UInt64(values) => CompactFormatter.write_u64(out, values[row]).ok(),
            Typed::Float32(values) => CompactFormatter.write_f32(out, values[row]).ok(),
            Typed::Float64(values) => CompactFormatter.write_f64(out, values[row]).ok(),
            Typed::Utf8(_) | Typed::Binary(_) | Typed::Other(_) => None,
        };
    }
}

/// What represents a floating point number that has no digits.
fn no_number(value: f64) -> &'static str {
    match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// Two digits per byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}
