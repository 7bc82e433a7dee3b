//! Rows in the text format of COPY: one line each, columns separated by tabs, null as `\N`.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::ArrowError;
use std::fmt::Write;
use streamrt_types::{Error, Result};

/// How the values of a column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnText {
    /// Numbers and booleans, in their usual form.
    Value,
    /// Characters, some of them escaped.
    Text,
    /// Hexadecimal.
    Bytes,
    /// Milliseconds since 1970, as a time in UTC.
    Time,
}

/// A row that no server would accept.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub row: usize,
    pub column: usize,
    pub why: &'static str,
}

/// The times that a `timestamptz` can hold: from the 24th of November of 4714 BC to the end of
/// 294276.
const TIMES_MS: std::ops::Range<i64> = -210_866_803_200_000..9_224_318_016_000_000;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Appends the rows of a batch, except those that are returned.
///
/// # Errors
/// `Internal` if the batch does not have as many columns as the table gets.
pub fn write(rows: &RecordBatch, texts: &[ColumnText], out: &mut Vec<u8>) -> Result<Vec<Refused>> {
    if rows.num_columns() != texts.len() {
        return Err(Error::internal("rows have the columns of their schema"));
    }
    let options = FormatOptions::new().with_display_error(false);
    let formatters = rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options))
        .collect::<Result<Vec<_>, ArrowError>>();
    let formatters = formatters
        .map_err(|e| Error::internal("a column cannot be written as text").with_source(e))?;
    let mut writer = Writer {
        rows,
        texts,
        formatters,
        value: String::new(),
    };
    Ok((0..rows.num_rows())
        .filter_map(|row| writer.row(row, out).err())
        .collect())
}

/// Writes the rows of a batch.
struct Writer<'a> {
    rows: &'a RecordBatch,
    texts: &'a [ColumnText],
    formatters: Vec<ArrayFormatter<'a>>,
    /// Room for a value.
    value: String,
}

impl Writer<'_> {
    /// Appends a row, or nothing of it.
    fn row(&mut self, row: usize, out: &mut Vec<u8>) -> Result<(), Refused> {
        let start = out.len();
        for column in 0..self.texts.len() {
            if column > 0 {
                out.push(b'\t');
            }
            self.value(row, column, out).map_err(|why| {
                out.truncate(start);
                Refused { row, column, why }
            })?;
        }
        out.push(b'\n');
        Ok(())
    }

    fn value(&mut self, row: usize, column: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let values = self.rows.column(column);
        if values.is_null(row) {
            out.extend_from_slice(b"\\N");
            return Ok(());
        }
        self.value.clear();
        match self.texts[column] {
            ColumnText::Text => escape(values.as_string::<i32>().value(row), out)?,
            ColumnText::Bytes => hexadecimal(values.as_binary::<i32>().value(row), out),
            ColumnText::Time => time(
                values.as_primitive::<Int64Type>().value(row),
                &mut self.value,
            )?,
            ColumnText::Value => write!(self.value, "{}", self.formatters[column].value(row))
                .map_err(|_| "holds a value that has no text")?,
        }
        out.extend_from_slice(self.value.as_bytes());
        Ok(())
    }
}

/// Year, month and day of a day since 1970, in the present calendar, extended in both directions.
///
/// # Source
/// `civil_from_days`, in H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (
        year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day_of_month,
    )
}

/// As the server writes it: years have four digits or more, and there is no year 0.
fn time(ms: i64, value: &mut String) -> Result<(), &'static str> {
    if !TIMES_MS.contains(&ms) {
        return Err(
            "holds a number of ms since 1970 that is no time of the server, whose calendar is from 4714 BC to 294276",
        );
    }
    let ((year, month, day), rest) = (civil(ms.div_euclid(DAY_MS)), ms.rem_euclid(DAY_MS));
    let (hour, minute, second, ms) = (
        rest / 3_600_000,
        rest / 60_000 % 60,
        rest / 1000 % 60,
        rest % 1000,
    );
    let (year, era) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    let written = write!(
        value,
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}+00{era}"
    );
    written.map_err(|_| "holds a time that has no text")
}

fn escape(text: &str, out: &mut Vec<u8>) -> Result<(), &'static str> {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0 => {
                return Err(
                    "holds a text with the character NUL, which no text of the server can have",
                );
            }
            byte => out.push(byte),
        }
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\\\x");
    for byte in bytes {
        out.extend([
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray, UInt64Array,
    };
    use std::sync::Arc;

    fn written(text: ColumnText, column: ArrayRef) -> (String, Vec<Refused>) {
        let rows = RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap();
        let mut out = Vec::new();
        let refused = write(&rows, &[text], &mut out).unwrap();
        (String::from_utf8(out).unwrap(), refused)
    }

    fn check(text: ColumnText, column: ArrayRef, expected: &str) {
        assert_eq!(written(text, column), (expected.to_owned(), Vec::new()));
    }

    #[test]
    fn values_are_written_as_the_server_reads_them() {
        check(
            ColumnText::Value,
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            "true\n\\N\n",
        );
        check(
            ColumnText::Value,
            Arc::new(UInt64Array::from(vec![u64::MAX])),
            "18446744073709551615\n",
        );
        check(
            ColumnText::Value,
            Arc::new(Float64Array::from(vec![
                0.1,
                -0.0,
                1e300,
                f64::NAN,
                f64::INFINITY,
            ])),
            "0.1\n-0.0\n1e300\nNaN\ninf\n",
        );
        check(
            ColumnText::Text,
            Arc::new(StringArray::from(vec!["a\tb\\N\r\n", "", "\\."])),
            "a\\tb\\\\N\\r\\n\n\n\\\\.\n",
        );
        check(
            ColumnText::Bytes,
            Arc::new(BinaryArray::from_vec(vec![b"\x00\xff", b""])),
            "\\\\x00ff\n\\\\x\n",
        );
    }

    #[test]
    fn times_are_written_over_the_whole_calendar_of_the_server() {
        let times = [
            (1_511_658_000_123, "2017-11-26 01:00:00.123+00\n"),
            (-1, "1969-12-31 23:59:59.999+00\n"),
            (253_402_300_800_000, "10000-01-01 00:00:00.000+00\n"),
            (951_782_400_000, "2000-02-29 00:00:00.000+00\n"),
            (-62_135_596_800_000, "0001-01-01 00:00:00.000+00\n"),
            (-62_135_596_800_001, "0001-12-31 23:59:59.999+00 BC\n"),
            (TIMES_MS.start, "4714-11-24 00:00:00.000+00 BC\n"),
            (TIMES_MS.end - 1, "294276-12-31 23:59:59.999+00\n"),
        ];
        for (ms, expected) in times {
            check(
                ColumnText::Time,
                Arc::new(Int64Array::from(vec![ms])),
                expected,
            );
        }
    }

    #[test]
    fn a_row_that_no_server_takes_is_left_out_and_named() {
        let (out, refused) = written(
            ColumnText::Text,
            Arc::new(StringArray::from(vec!["a", "b\0c", "d", "\0"])),
        );
        assert_eq!(
            (
                out.as_str(),
                refused
                    .iter()
                    .map(|refused| refused.row)
                    .collect::<Vec<_>>()
            ),
            ("a\nd\n", vec![1, 3])
        );
        assert_eq!(
            refused[0].why,
            "holds a text with the character NUL, which no text of the server can have"
        );
        for ms in [i64::MIN, TIMES_MS.start - 1, TIMES_MS.end, i64::MAX] {
            let (out, refused) = written(ColumnText::Time, Arc::new(Int64Array::from(vec![0, ms])));
            assert_eq!(
                (out.as_str(), refused.len(), refused[0].row),
                ("1970-01-01 00:00:00.000+00\n", 1, 1),
                "{ms}"
            );
        }
    }
}
