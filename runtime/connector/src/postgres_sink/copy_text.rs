//! Rows in the text format of COPY: a line for each, columns divided by tabulators, null as `\N`.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::ArrowError;
use std::fmt::Write;
use std::sync::Arc;
use streamrt_types::{Error, Result, code};

/// How the values of a column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnText {
    /// Numbers and booleans, as anybody writes them.
    Value,
    /// Characters, some of them escaped.
    Text,
    /// Hexadecimal.
    Bytes,
    /// Ms since 1970, as a time in UTC.
    Time,
}

/// The columns of a batch.
pub struct CopyText {
    columns: Vec<(ColumnText, ArrayRef)>,
    n_rows: usize,
}

impl CopyText {
    /// # Errors
    /// `Internal` if the batch has not as many columns as the table gets.
    pub fn new(rows: &RecordBatch, texts: &[ColumnText]) -> Result<CopyText> {
        if rows.num_columns() != texts.len() {
            return Err(Error::internal("rows have the columns of their schema"));
        }
        let columns = texts
            .iter()
            .zip(rows.columns())
            .map(|(&text, column)| (text, if text == ColumnText::Time { times(column) } else { column.clone() }));
        Ok(CopyText { columns: columns.collect(), n_rows: rows.num_rows() })
    }

    /// Appends all rows.
    ///
    /// # Errors
    /// `Data` if a time is none that a calendar has.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        let options = FormatOptions::new().with_display_error(false);
        let formatters =
            self.columns.iter().map(|(_, column)| ArrayFormatter::try_new(column, &options)).collect::<Result<Vec<_>, ArrowError>>();
        let formatters = formatters.map_err(|e| Error::internal("a column cannot be written as text").with_source(e))?;
        let mut value = String::new();
        for row in 0..self.n_rows {
            for (number, (formatter, (text, column))) in formatters.iter().zip(&self.columns).enumerate() {
                if number > 0 {
                    out.push(b'\t');
                }
                match text {
                    _ if column.is_null(row) => out.extend_from_slice(b"\\N"),
                    ColumnText::Text => escape(column.as_string::<i32>().value(row), out),
                    ColumnText::Bytes => hexadecimal(column.as_binary::<i32>().value(row), out),
                    ColumnText::Value | ColumnText::Time => {
                        value.clear();
                        write!(value, "{}", formatter.value(row)).map_err(|e| no_time().with_source(e))?;
                        out.extend_from_slice(value.as_bytes());
                    }
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

fn no_time() -> Error {
    Error::new(code::ROW_REFUSED, "a column of times in ms holds a number that is no time of the calendar")
}

/// The zone by its offset: names of zones need a table that is not built in.
fn times(column: &ArrayRef) -> ArrayRef {
    Arc::new(column.as_primitive::<Int64Type>().reinterpret_cast::<TimestampMillisecondType>().with_timezone("+00:00"))
}

fn escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => out.push(byte),
        }
    }
}

fn hexadecimal(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\\\x");
    for byte in bytes {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray, UInt64Array};

    fn check(text: ColumnText, column: ArrayRef, expected: &str) {
        let rows = RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap();
        let mut out = Vec::new();
        CopyText::new(&rows, &[text]).unwrap().write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn values_are_written_as_the_server_reads_them() {
        check(ColumnText::Value, Arc::new(BooleanArray::from(vec![Some(true), None])), "true\n\\N\n");
        check(ColumnText::Value, Arc::new(UInt64Array::from(vec![u64::MAX])), "18446744073709551615\n");
        check(
            ColumnText::Value,
            Arc::new(Float64Array::from(vec![0.1, -0.0, 1e300, f64::NAN, f64::INFINITY])),
            "0.1\n-0.0\n1e300\nNaN\ninf\n",
        );
        check(ColumnText::Text, Arc::new(StringArray::from(vec!["a\tb\\N\r\n", "", "\\."])), "a\\tb\\\\N\\r\\n\n\n\\\\.\n");
        check(ColumnText::Bytes, Arc::new(BinaryArray::from_vec(vec![b"\x00\xff", b""])), "\\\\x00ff\n\\\\x\n");
        check(
            ColumnText::Time,
            Arc::new(Int64Array::from(vec![1_511_658_000_123, -1])),
            "2017-11-26T01:00:00.123Z\n1969-12-31T23:59:59.999Z\n",
        );
    }

    #[test]
    fn a_number_that_is_no_time_is_an_error() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
        let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let error = CopyText::new(&rows, &[ColumnText::Time]).unwrap().write(&mut Vec::new()).unwrap_err();
        assert_eq!(error.code(), code::ROW_REFUSED);
    }
}
