//! Rows as JSON: what the sinks write, and what dead letters and errors show of a record.
//!
//! One object per row, its fields in the order of the schema and nulls written out. Values are
//! those of [`Values`]; texts, bytes, and what JSON has no number for, NaN and the infinities, are
//! quoted.

use crate::values::{Kind, Values};
use arrow_array::{ArrayRef, RecordBatch};

/// The rows of a batch, looked up by column once.
pub struct JsonRows<'a> {
    columns: Vec<Column<'a>>,
}

struct Column<'a> {
    /// What precedes each value: a brace or a comma, the name in quotes, a colon.
    name: Vec<u8>,
    values: Values<'a>,
}

impl<'a> JsonRows<'a> {
    /// Takes all columns.
    pub fn new(batch: &'a RecordBatch) -> JsonRows<'a> {
        JsonRows::of(batch, 0..batch.num_columns())
    }

    /// Takes some columns, by their numbers.
    pub fn of(batch: &'a RecordBatch, columns: impl IntoIterator<Item = usize>) -> JsonRows<'a> {
        let column = |(place, number): (usize, usize)| {
            let mut name = vec![if place == 0 { b'{' } else { b',' }];
            put_text(batch.schema_ref().field(number).name(), &mut name);
            name.push(b':');
            Column {
                name,
                values: Values::of(batch.column(number)),
            }
        };
        JsonRows {
            columns: columns.into_iter().enumerate().map(column).collect(),
        }
    }

    /// Appends a row as an object, without a line end.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.columns.is_empty() {
            out.push(b'{');
        }
        for column in &self.columns {
            out.extend_from_slice(&column.name);
            put_json(&column.values, row, out);
        }
        out.push(b'}');
    }
}

fn put_json(values: &Values<'_>, row: usize, out: &mut Vec<u8>) {
    match values.kind(row) {
        Kind::Null => out.extend_from_slice(b"null"),
        Kind::Number => values.put(row, out),
        Kind::Text(text) => put_text(&text, out),
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    serde_json::to_writer(out, text).ok();
}

/// A row as an object, in the order of the columns.
pub fn row(batch: &RecordBatch, row: usize) -> String {
    object(batch, 0..batch.num_columns(), row)
}

/// Some columns of a row as an object.
pub fn object(batch: &RecordBatch, columns: impl IntoIterator<Item = usize>, row: usize) -> String {
    text(|out| JsonRows::of(batch, columns).write(row, out))
}

/// One value.
pub fn value(column: &ArrayRef, row: usize) -> String {
    text(|out| put_json(&Values::of(column), row, out))
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Array, BinaryArray, Float32Array, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn a_row_is_an_object() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![Some(i64::MIN), None]))),
            (
                "say \"hi\"",
                Arc::new(StringArray::from(vec!["a\nb\\", "\u{1}"])),
            ),
            ("f", Arc::new(Float64Array::from(vec![1.0, f64::NAN]))),
            ("b", Arc::new(BinaryArray::from_vec(vec![b"\x00\xff", b""]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(
            row(&batch, 0),
            r#"{"id":-9223372036854775808,"say \"hi\"":"a\nb\\","f":1.0,"b":"00ff"}"#
        );
        assert_eq!(
            row(&batch, 1),
            r#"{"id":null,"say \"hi\"":"\u0001","f":"NaN","b":""}"#
        );
        assert_eq!(
            (object(&batch, [0], 1), object(&batch, [], 1)),
            (r#"{"id":null}"#.to_owned(), "{}".to_owned())
        );
        assert_eq!(
            (value(batch.column(0), 1), value(batch.column(3), 0)),
            ("null".to_owned(), "\"00ff\"".to_owned())
        );
    }

    #[test]
    fn floats_have_their_shortest_form() {
        let texts = |column: ArrayRef| {
            (0..column.len())
                .map(|row| value(&column, row))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let wide = vec![
            1.0,
            0.1,
            -0.0,
            1e21,
            5e-324,
            f64::MAX,
            -f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        let expected =
            r#"1.0 0.1 -0.0 1e+21 5e-324 1.7976931348623157e+308 "NaN" "Infinity" "-Infinity""#;
        assert_eq!(texts(Arc::new(Float64Array::from(wide))), expected);
        let narrow = Float32Array::from(vec![
            0.1,
            16_777_216.0,
            f32::MIN_POSITIVE,
            f32::NAN,
            f32::NEG_INFINITY,
        ]);
        assert_eq!(
            texts(Arc::new(narrow)),
            r#"0.1 16777216.0 1.1754944e-38 "NaN" "-Infinity""#
        );
    }
}
