//! Rows to text, by whole batches: JSON lines or CSV. Called by the sinks `file` and `print`.
//!
//! Values are those of [`streamrt_operator::values`], and JSON is that of
//! [`streamrt_operator::json`]. In CSV, by the rule of PostgreSQL, null is an empty field and the
//! empty string is `""`; other values are quoted if they contain a delimiter, a quote or a line
//! end. The sources read all of it back unchanged.

use arrow_array::RecordBatch;
use streamrt_operator::json::JsonRows;
use streamrt_operator::values::{Kind, Values};

/// `json`: JSON lines. `csv`: comma-separated values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    Json,
    Csv,
}

/// Writes rows in one format.
#[derive(Debug, Clone, Copy)]
pub struct RowEncoder {
    pub format: RowFormat,
    /// What separates two fields of CSV.
    pub delimiter: u8,
}

impl RowEncoder {
    pub const JSON: RowEncoder = RowEncoder {
        format: RowFormat::Json,
        delimiter: b',',
    };

    /// Appends the rows of `batch` to `out`, each with a line end, preceded by the column names if
    /// `header` is set (CSV only).
    pub fn encode(self, batch: &RecordBatch, header: bool, out: &mut Vec<u8>) {
        match self.format {
            RowFormat::Json => encode_json(batch, out),
            RowFormat::Csv => self.encode_csv(batch, header, out),
        }
    }

    fn encode_csv(self, batch: &RecordBatch, header: bool, out: &mut Vec<u8>) {
        if header {
            let names = batch.schema_ref().fields().iter();
            self.line(names, |field, out| self.put_text(field.name(), out), out);
        }
        let columns: Vec<Values<'_>> = batch.columns().iter().map(Values::of).collect();
        for row in 0..batch.num_rows() {
            self.line(&columns, |column, out| self.put(column, row, out), out);
        }
    }

    fn line<T>(
        self,
        fields: impl IntoIterator<Item = T>,
        put: impl Fn(T, &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        for (number, field) in fields.into_iter().enumerate() {
            if number > 0 {
                out.push(self.delimiter);
            }
            put(field, out);
        }
        out.push(b'\n');
    }

    fn put(self, column: &Values<'_>, row: usize, out: &mut Vec<u8>) {
        match column.kind(row) {
            Kind::Null => {}
            Kind::Number if !is_in_numbers(self.delimiter) => column.put(row, out),
            Kind::Number => {
                out.push(b'"');
                column.put(row, out);
                out.push(b'"');
            }
            Kind::Text(text) => self.put_text(&text, out),
        }
    }

    /// Whether a text needs no quotes. At the beginning of a file, U+FEFF would be taken for a byte
    /// order mark.
    fn is_plain(self, text: &str) -> bool {
        let needs_quotes =
            |&byte: &u8| byte == self.delimiter || matches!(byte, b'"' | b'\n' | b'\r');
        !text.is_empty()
            && !text.starts_with('\u{feff}')
            && !text.as_bytes().iter().any(needs_quotes)
    }

    fn put_text(self, text: &str, out: &mut Vec<u8>) {
        if self.is_plain(text) {
            out.extend_from_slice(text.as_bytes());
            return;
        }
        out.push(b'"');
        for (number, piece) in text.split('"').enumerate() {
            // A quote inside is doubled.
            out.extend_from_slice(if number > 0 { b"\"\"" } else { b"" });
            out.extend_from_slice(piece.as_bytes());
        }
        out.push(b'"');
    }
}

/// Whether a delimiter may stand in a number, `true` or `false`.
fn is_in_numbers(delimiter: u8) -> bool {
    delimiter.is_ascii_alphanumeric() || matches!(delimiter, b'-' | b'+' | b'.')
}

fn encode_json(batch: &RecordBatch, out: &mut Vec<u8>) {
    let rows = JsonRows::new(batch);
    for row in 0..batch.num_rows() {
        rows.write(row, out);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::{RowEncoder, RowFormat};
    use arrow_array::{ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
    use std::sync::Arc;

    fn check(encoder: RowEncoder, columns: Vec<(&str, ArrayRef)>, expected: &str) {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, array)| (name, array, true)),
        )
        .unwrap();
        let mut out = Vec::new();
        encoder.encode(&batch, encoder.format == RowFormat::Csv, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    const CSV: RowEncoder = RowEncoder {
        format: RowFormat::Csv,
        delimiter: b';',
    };

    #[test]
    fn json_keeps_order_digits_and_nulls() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a\"\n"), None]));
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN]));
        let expected = "{\"word\":\"a\\\"\\n\",\"count\":9223372036854775807}\n{\"word\":null,\"count\":-9223372036854775808}\n";
        check(
            RowEncoder::JSON,
            vec![("word", words), ("count", counts)],
            expected,
        );
    }

    #[test]
    fn csv_quotes_where_needed_and_tells_nothing_from_empty() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![
            Some("a;b"),
            None,
            Some(""),
            Some("5\" disk"),
            Some("a\rb"),
            Some("a,b"),
        ]));
        let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![
            Some(b"\x00\xff"),
            Some(b""),
            None,
            None,
            None,
            None,
        ]));
        let expected =
            "\"the;word\";raw\n\"a;b\";00ff\n;\"\"\n\"\";\n\"5\"\" disk\";\n\"a\rb\";\na,b;\n";
        check(CSV, vec![("the;word", words), ("raw", bytes)], expected);
    }

    #[test]
    fn csv_quotes_numbers_where_the_delimiter_is_one_of_their_characters() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN, f64::NEG_INFINITY]));
        check(CSV, vec![("x", floats.clone())], "x\n1.5\nNaN\n-Infinity\n");
        check(
            RowEncoder {
                delimiter: b'-',
                ..CSV
            },
            vec![("x", floats)],
            "x\n\"1.5\"\nNaN\n\"-Infinity\"\n",
        );
    }
}
