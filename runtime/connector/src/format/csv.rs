//! CSV, one block at a time. Called by [`super::BlockDecoder`].
//!
//! Without a header the columns of the file are those of the schema, in order. With one they are
//! found by name, may come in any order, and those that the schema does not have are skipped.
//!
//! A field that begins with a quote extends to the next quote that is not doubled, and what follows
//! up to the delimiter belongs to it; two quotes inside mean one. Elsewhere a quote is a character.
//! By the rule of PostgreSQL, an empty field is null if the column takes null, and `""` is the
//! empty string; a string column that takes no null has the empty string for both.

use super::columns::Columns;
use super::{Format, Refusal, take_texts};
use crate::record_buffer::Block;
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use streamrt_types::{Error, Result, code};

pub struct CsvFormat {
    columns: Columns,
    delimiter: u8,
    /// For each column of the file, which of the schema's it is.
    places: Vec<Option<usize>>,
    /// A field without its quotes.
    unquoted: String,
}

impl CsvFormat {
    pub fn new(schema: SchemaRef, delimiter: u8) -> CsvFormat {
        let places = (0..schema.fields().len()).map(Some).collect();
        CsvFormat {
            columns: Columns::new(schema),
            delimiter,
            places,
            unquoted: String::new(),
        }
    }

    /// # Errors
    /// `Invalid` if a column of the schema is not in the header, or is there twice.
    pub fn with_header(schema: SchemaRef, delimiter: u8, header: &[u8]) -> Result<CsvFormat> {
        let names = names(&String::from_utf8_lossy(header), delimiter);
        for field in schema.fields() {
            let refuse = |what: String| {
                Err(Error::new(
                    code::SCHEMA_MISMATCH,
                    format!("{what}; the header names {}", names.join(", ")),
                ))
            };
            match names.iter().filter(|name| *name == field.name()).count() {
                0 => refuse(format!("no column is named `{}`", field.name()))?,
                1 => {}
                _ => refuse(format!("several columns are named `{}`", field.name()))?,
            }
        }
        let places = names
            .iter()
            .map(|name| schema.index_of(name).ok())
            .collect();
        Ok(CsvFormat {
            places,
            ..CsvFormat::new(schema, delimiter)
        })
    }

    fn take(&mut self, text: &str) -> Result<(), String> {
        let mut fields = Fields {
            text,
            at: Some(0),
            delimiter: self.delimiter,
        };
        let mut n_fields = 0;
        while let Some(field) = fields.next(&mut self.unquoted)? {
            if let Some(Some(column)) = self.places.get(n_fields) {
                push(&mut self.columns, *column, field)?;
            }
            n_fields += 1;
        }
        let n_columns = self.places.len();
        if n_fields == n_columns {
            Ok(())
        } else {
            Err(format!(
                "has {n_fields} columns, but {n_columns} are needed"
            ))
        }
    }
}

fn push(columns: &mut Columns, column: usize, field: CsvField<'_>) -> Result<(), String> {
    let may_be_null = |field: &Field| field.is_nullable() || *field.data_type() != DataType::Utf8;
    if field.text.is_empty() && !field.is_quoted && may_be_null(columns.field(column)) {
        return columns.push_null(column, "empty");
    }
    columns.push(column, field.text)
}

/// The fields of a header, as far as they can be recognised.
pub fn names(header: &str, delimiter: u8) -> Vec<String> {
    let mut fields = Fields {
        text: header,
        at: Some(0),
        delimiter,
    };
    let (mut names, mut unquoted) = (Vec::new(), String::new());
    while let Ok(Some(field)) = fields.next(&mut unquoted) {
        names.push(field.text.to_owned());
    }
    names
}

impl Format for CsvFormat {
    fn decode(
        &mut self,
        block: Block<'_>,
        refused: &mut Vec<Refusal>,
    ) -> Result<RecordBatch, ArrowError> {
        take_texts(block, refused, |text| {
            let taken = text.and_then(|text| self.take(text));
            self.columns.end_row(taken.is_ok());
            taken
        });
        self.columns.finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CsvField<'a> {
    text: &'a str,
    is_quoted: bool,
}

/// Walks over the fields of one record.
struct Fields<'a> {
    text: &'a str,
    /// Where the next one begins; `None` after the last.
    at: Option<usize>,
    delimiter: u8,
}

impl<'a> Fields<'a> {
    /// The next field. One with more than plain text between two quotes is assembled in `unquoted`.
    fn next<'b>(&mut self, unquoted: &'b mut String) -> Result<Option<CsvField<'b>>, String>
    where
        'a: 'b,
    {
        let Some(begin) = self.at else {
            return Ok(None);
        };
        if self.text.as_bytes().get(begin) == Some(&b'"') {
            return self.quoted(begin + 1, unquoted).map(Some);
        }
        self.rest(begin).map(|text| {
            Some(CsvField {
                text,
                is_quoted: false,
            })
        })
    }

    /// The text from `begin` to the next delimiter, or to the end.
    fn rest(&mut self, begin: usize) -> Result<&'a str, String> {
        let rest = &self.text[begin..];
        let end = match memchr::memchr2(self.delimiter, b'\r', rest.as_bytes()) {
            Some(end) if rest.as_bytes()[end] == self.delimiter => Some(end),
            // A file of such line ends would be one record, or the field a wrong one.
            Some(_) => return Err("a carriage return stands in the line".to_owned()),
            None => None,
        };
        self.at = end.map(|end| begin + end + 1);
        Ok(&rest[..end.unwrap_or(rest.len())])
    }

    /// A field whose first quote is before `begin`.
    fn quoted<'b>(&mut self, begin: usize, unquoted: &'b mut String) -> Result<CsvField<'b>, String>
    where
        'a: 'b,
    {
        unquoted.clear();
        let mut begin = begin;
        loop {
            let length = memchr::memchr(b'"', &self.text.as_bytes()[begin..])
                .ok_or("a quote is not closed")?;
            let end = begin + length + 1;
            if self.text.as_bytes().get(end) != Some(&b'"') {
                let text: &'a str = self.text;
                return self.closed(&text[begin..end - 1], end, unquoted);
            }
            unquoted.push_str(&self.text[begin..end]);
            begin = end + 1;
        }
    }

    /// The field whose last quote is before `end`: what was assembled of it, `inside`, and what
    /// follows.
    fn closed<'b>(
        &mut self,
        inside: &'b str,
        end: usize,
        unquoted: &'b mut String,
    ) -> Result<CsvField<'b>, String>
    where
        'a: 'b,
    {
        let rest = self.rest(end)?;
        if unquoted.is_empty() && rest.is_empty() {
            return Ok(CsvField {
                text: inside,
                is_quoted: true,
            });
        }
        unquoted.push_str(inside);
        unquoted.push_str(rest);
        Ok(CsvField {
            text: unquoted,
            is_quoted: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_buffer::{Framing, RecordBuffer};
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use streamrt_wit::{DataType as Plan, Field as PlanField};

    fn decode(header: &str, line: &str) -> Result<RecordBatch> {
        let schema = streamrt_types::arrow_schema(&vec![
            PlanField::new("a", Plan::I64),
            PlanField::new("b", Plan::String),
        ]);
        let mut format = CsvFormat::with_header(schema, b';', header.as_bytes())?;
        let mut buffer = RecordBuffer::new(Framing::Csv {
            delimiter: b';',
            blank_lines: false,
        });
        buffer.fill(&mut line.as_bytes()).unwrap();
        buffer.frame(10).unwrap();
        Ok(format.decode(buffer.block(), &mut Vec::new()).unwrap())
    }

    #[test]
    fn a_header_gives_the_order() {
        let batch = decode("x;b;\"a\"", "1;two;-3\n4;;6\n").unwrap();
        assert_eq!(
            batch.column(0).as_primitive::<Int64Type>().values(),
            &[-3, 6]
        );
        assert_eq!(
            batch
                .column(1)
                .as_string::<i32>()
                .iter()
                .collect::<Vec<_>>(),
            [Some("two"), Some("")]
        );
    }

    #[test]
    fn a_header_without_a_column_or_with_two_is_refused() {
        let check = |header: &str, expected: &str| {
            let error = decode(header, "").unwrap_err();
            assert_eq!((error.code().id, error.message()), ("S2005", expected));
        };
        check("a;c", "no column is named `b`; the header names a, c");
        check(
            "a;b;a",
            "several columns are named `a`; the header names a, b, a",
        );
    }

    /// (text, in quotes), or why not.
    fn fields(record: &str) -> Result<Vec<(String, bool)>, String> {
        let mut fields = Fields {
            text: record,
            at: Some(0),
            delimiter: b',',
        };
        let (mut found, mut unquoted) = (Vec::new(), String::new());
        while let Some(field) = fields.next(&mut unquoted)? {
            found.push((field.text.to_owned(), field.is_quoted));
        }
        Ok(found)
    }

    #[test]
    fn a_record_is_cut_into_fields() {
        let check = |record: &str, expected: &[(&str, bool)]| {
            let expected: Vec<(String, bool)> = expected
                .iter()
                .map(|(text, is_quoted)| ((*text).to_owned(), *is_quoted))
                .collect();
            assert_eq!(fields(record).unwrap(), expected, "{record:?}");
        };
        check("", &[("", false)]);
        check("a,,\"\"", &[("a", false), ("", false), ("", true)]);
        check(
            "\"a,b\r\n\"\"\"\"\",\"c\"",
            &[("a,b\r\n\"\"", true), ("c", true)],
        );
        check(
            "5\" disk,\"x\"y\"z,",
            &[("5\" disk", false), ("xy\"z", true), ("", false)],
        );
        check("\"\"\"\"", &[("\"", true)]);
        for (record, reason) in [
            ("a,\"b", "a quote is not closed"),
            ("\"\"\"", "a quote is not closed"),
            ("a\rb,c", "a carriage return stands in the line"),
        ] {
            assert_eq!(fields(record).unwrap_err(), reason);
        }
    }
}
