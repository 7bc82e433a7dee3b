//! The columns of a block under construction, and how a text becomes a value: what CSV and JSON
//! share.
//!
//! A record goes in field by field. One that is refused on the way leaves a row that does not
//! count: its columns are filled up, and `finish` drops it. So bad records cost the good ones
//! nothing.
//!
//! Invariant: a number is read exactly as its digits say, or is refused. Whole numbers are exact;
//! floating point numbers are the nearest that there is, and never an infinity that nobody wrote.

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringBuilder,
};
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

/// The number of characters of a value that a report shows.
const SHOWN_MAX: usize = 200;

pub struct Columns {
    schema: SchemaRef,
    builders: Vec<Builder>,
    n_rows: usize,
    /// Rows that were refused, ascending.
    refused: Vec<usize>,
}

enum Builder {
    Boolean(BooleanBuilder),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    UInt32(PrimitiveBuilder<UInt32Type>),
    UInt64(PrimitiveBuilder<UInt64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Utf8(StringBuilder),
    Binary(BinaryBuilder),
}

/// Runs an expression with the builder of whichever type.
macro_rules! with_builder {
    ($builder:expr, $name:ident => $do:expr) => {
        match $builder {
            Builder::Boolean($name) => $do,
            Builder::Int32($name) => $do,
            Builder::Int64($name) => $do,
            Builder::UInt32($name) => $do,
            Builder::UInt64($name) => $do,
            Builder::Float32($name) => $do,
            Builder::Float64($name) => $do,
            Builder::Utf8($name) => $do,
            Builder::Binary($name) => $do,
        }
    };
}

impl Columns {
    pub fn new(schema: SchemaRef) -> Columns {
        let builders = schema
            .fields()
            .iter()
            .map(|field| Builder::new(field.data_type()))
            .collect();
        Columns {
            schema,
            builders,
            n_rows: 0,
            refused: Vec::new(),
        }
    }

    pub fn field(&self, column: usize) -> &Field {
        self.schema.field(column)
    }

    /// Ends a row. `taken` says whether all of its columns were pushed; otherwise it is dropped.
    pub fn end_row(&mut self, taken: bool) {
        self.n_rows += 1;
        if taken {
            return;
        }
        self.refused.push(self.n_rows - 1);
        for builder in &mut self.builders {
            builder.fill(self.n_rows);
        }
    }

    /// # Errors
    /// A clause that says what is wrong, if the column must have a value.
    pub fn push_null(&mut self, column: usize, what: &str) -> Result<(), String> {
        let field = self.schema.field(column);
        if !field.is_nullable() {
            return Err(wrong(field, what));
        }
        with_builder!(&mut self.builders[column], builder => builder.append_null());
        Ok(())
    }

    /// Pushes a text as it is, if the column is one of strings; otherwise the value that it means.
    ///
    /// # Errors
    /// A clause that says what is wrong, if it means none.
    pub fn push(&mut self, column: usize, text: &str) -> Result<(), String> {
        let pushed = match &mut self.builders[column] {
            Builder::Utf8(builder) => {
                builder.append_value(text);
                Some(())
            }
            Builder::Binary(builder) => bytes(text).map(|value| builder.append_value(value)),
            Builder::Boolean(builder) => boolean(text).map(|value| builder.append_value(value)),
            Builder::Int32(builder) => whole(text).map(|value| builder.append_value(value)),
            Builder::Int64(builder) => whole(text).map(|value| builder.append_value(value)),
            Builder::UInt32(builder) => whole(text).map(|value| builder.append_value(value)),
            Builder::UInt64(builder) => whole(text).map(|value| builder.append_value(value)),
            Builder::Float32(builder) => float32(text).map(|value| builder.append_value(value)),
            Builder::Float64(builder) => float64(text).map(|value| builder.append_value(value)),
        };
        pushed.ok_or_else(|| {
            if text.is_empty() {
                wrong(self.field(column), "empty")
            } else {
                self.wrong_value(column, text)
            }
        })
    }

    /// The clause that the column does not take this value.
    pub fn wrong_value(&self, column: usize, text: &str) -> String {
        let field = self.field(column);
        if let Some(limit) = limit(field.data_type())
            .filter(|_| text.trim_matches('"').parse().is_ok_and(f64::is_infinite))
        {
            return format!(
                "column `{}` is `{}`, which is beyond {limit}",
                field.name(),
                shown(text)
            );
        }
        wrong(field, &format!("`{}`", shown(text)))
    }

    /// The rows that were taken.
    ///
    /// # Errors
    /// If a column does not have as many values as there were rows.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let columns = self.builders.iter_mut().map(Builder::finish);
        let (n_rows, refused) = (
            std::mem::take(&mut self.n_rows),
            std::mem::take(&mut self.refused),
        );
        if refused.is_empty() {
            return RecordBatch::try_new(self.schema.clone(), columns.collect());
        }
        let kept: BooleanArray = (0..n_rows)
            .map(|row| Some(refused.binary_search(&row).is_err()))
            .collect();
        let columns = columns
            .map(|column| arrow_select::filter::filter(&column, &kept))
            .collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}

impl Builder {
    fn new(data_type: &DataType) -> Builder {
        match data_type {
            DataType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            DataType::Int32 => Builder::Int32(PrimitiveBuilder::new()),
            DataType::Int64 => Builder::Int64(PrimitiveBuilder::new()),
            DataType::UInt32 => Builder::UInt32(PrimitiveBuilder::new()),
            DataType::UInt64 => Builder::UInt64(PrimitiveBuilder::new()),
            DataType::Float32 => Builder::Float32(PrimitiveBuilder::new()),
            DataType::Float64 => Builder::Float64(PrimitiveBuilder::new()),
            DataType::Binary => Builder::Binary(BinaryBuilder::new()),
            // No edge carries another type.
            _ => Builder::Utf8(StringBuilder::new()),
        }
    }

    /// Fills up a dropped row, until there are `n_rows`.
    fn fill(&mut self, n_rows: usize) {
        with_builder!(self, builder => builder.append_nulls(n_rows - builder.len()));
    }

    fn finish(&mut self) -> ArrayRef {
        with_builder!(self, builder => Arc::new(builder.finish()))
    }
}

fn wrong(field: &Field, what: &str) -> String {
    format!(
        "column `{}` is {what}, but it must be {}",
        field.name(),
        requirement(field.data_type())
    )
}

/// What a value of the column must be, for people.
fn requirement(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "true or false",
        DataType::Int32 => "a whole number of 32 bits",
        DataType::UInt32 => "a whole number of 32 bits without sign",
        DataType::Int64 => "a whole number of 64 bits",
        DataType::UInt64 => "a whole number of 64 bits without sign",
        DataType::Float32 | DataType::Float64 => "a number",
        DataType::Binary => "hexadecimal",
        _ => "a string",
    }
}

/// The greatest floating point number of a type.
fn limit(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Float32 => Some("3.4e38, the greatest number of 32 bits"),
        DataType::Float64 => Some("1.8e308, the greatest number of 64 bits"),
        _ => None,
    }
}

fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]).into(),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Reads hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |&digit: &u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let byte = |pair: &[u8]| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?);
    text.as_bytes().chunks(2).map(byte).collect()
}

/// Reads a whole number exactly. It may be written as `9007199254740993.0` or `25e1`.
fn whole<T: FromStr + TryFrom<i128>>(text: &str) -> Option<T> {
    text.parse()
        .ok()
        .or_else(|| decimal(text).and_then(|value| T::try_from(value).ok()))
}

/// Reads a number with a point or an exponent, if it is whole and fits into 128 bits.
fn decimal(text: &str) -> Option<i128> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (units, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{units}{fraction}");
    let significant = digits.trim_end_matches('0');
    let exponent: i64 = exponent
        .parse()
        .ok()
        .filter(|_| is_digits(&digits, mantissa))?;
    if significant.trim_start_matches(['-', '+', '0']).is_empty() {
        return Some(0);
    }
    // How many zeros follow the last nonzero digit.
    let n_zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let zeros = exponent
        .checked_add(n_zeros)?
        .checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let value: i128 = significant.parse().ok()?;
    value.checked_mul(10_i128.checked_pow(u32::try_from(zeros).ok()?)?)
}

/// Whether everything after a sign is digits, with at least one in the mantissa.
fn is_digits(digits: &str, mantissa: &str) -> bool {
    let without_sign = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    mantissa.bytes().any(|byte| byte.is_ascii_digit())
        && without_sign.bytes().all(|byte| byte.is_ascii_digit())
}

/// Refuses what is an infinity only because its digits exceed the type's range.
macro_rules! float {
    ($name:ident, $type:ty) => {
        fn $name(text: &str) -> Option<$type> {
            let value: $type = text.parse().ok()?;
            (value.is_finite() || !text.bytes().any(|byte| byte.is_ascii_digit())).then_some(value)
        }
    };
}
float!(float32, f32);
float!(float64, f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_exact_or_refused() {
        let check =
            |text: &str, expected: Option<i64>| assert_eq!(whole::<i64>(text), expected, "{text}");
        check("9007199254740993.0", Some(9_007_199_254_740_993));
        check("9.223372036854775807e18", Some(i64::MAX));
        check("-9223372036854775808", Some(i64::MIN));
        check("9223372036854775808", None);
        check("92233720368547758.08e2", None);
        check("-0.0", Some(0));
        check("0e999999999999", Some(0));
        check("0e99999999999999999999", None);
        check("1e3", Some(1000));
        check("+25E-1", None);
        check("250e-1", Some(25));
        check("1.5", None);
        check("1.50e1", Some(15));
        check("1e400", None);
        for text in [
            "", "-", ".", "e1", "1e", "1-2", "--1", "0x10", "1_0", " 1", "1.-5", "+-0", "NaN",
        ] {
            check(text, None);
        }
        assert_eq!(
            (
                whole::<u32>("4294967295.0"),
                whole::<u32>("-1"),
                whole::<u64>("18446744073709551615.0")
            ),
            (Some(u32::MAX), None, Some(u64::MAX))
        );
    }

    #[test]
    fn a_float_is_an_infinity_only_where_one_is_written() {
        assert_eq!(
            (float64("1e400"), float64("-1e400"), float32("1e39")),
            (None, None, None)
        );
        assert_eq!(
            (float64("Infinity"), float64("-inf"), float32("-Infinity")),
            (
                Some(f64::INFINITY),
                Some(f64::NEG_INFINITY),
                Some(f32::NEG_INFINITY)
            )
        );
        assert!(float64("NaN").is_some_and(f64::is_nan));
        assert_eq!(
            (
                float64("1e-400"),
                float32("0.1"),
                float64("1.7976931348623157e308")
            ),
            (Some(0.0), Some(0.1), Some(f64::MAX))
        );
        let digits = "9".repeat(100_000);
        assert_eq!(
            (float64(&digits), float64(&format!("0.{digits}"))),
            (None, Some(1.0))
        );
    }

    #[test]
    fn a_value_that_is_refused_leaves_no_trace() {
        let fields = vec![
            Field::new("n", DataType::Int64, false),
            Field::new("raw", DataType::Binary, true),
        ];
        let mut columns = Columns::new(Arc::new(arrow_schema::Schema::new(fields)));
        for (number, raw, expected) in [
            ("1", "00ff", ""),
            ("2", "0", "column `raw` is `0`, but it must be hexadecimal"),
            (
                "",
                "",
                "column `n` is empty, but it must be a whole number of 64 bits",
            ),
            ("4", "", ""),
        ] {
            let taken = columns.push(0, number).and_then(|()| columns.push(1, raw));
            columns.end_row(taken.is_ok());
            assert_eq!(taken.err().unwrap_or_default(), expected);
        }
        let batch = columns.finish().unwrap();
        assert_eq!(
            streamrt_operator::json::row(&batch, 0),
            r#"{"n":1,"raw":"00ff"}"#
        );
        assert_eq!(
            (batch.num_rows(), streamrt_operator::json::row(&batch, 1)),
            (2, r#"{"n":4,"raw":""}"#.to_owned())
        );
        assert_eq!(columns.finish().unwrap().num_rows(), 0);
    }
}
