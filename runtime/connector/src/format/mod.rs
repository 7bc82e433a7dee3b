//! From records to columns: what all formats share. Called by the readers of files and sockets.
//!
//! A block of records is decoded in one call of its format. A record that the format refuses
//! becomes a [`PoisonLine`], and its neighbours are not lost.
//!
//! Invariant: whether a record is refused depends on the record alone, not on its block.

mod columns;
mod csv;
mod json;
mod lines;

use crate::options;
use crate::record_buffer::{Block, Framing};
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use serde::Deserialize;
use std::sync::Arc;
use streamrt_operator::PoisonLine;
use streamrt_types::{Batch, Error, Origin, Result, Rows, code};

/// How the bytes of a file or socket become rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatName {
    /// Comma-separated values, one column for each of the schema. Quotes may enclose a field, which
    /// may then contain delimiters and line ends. An empty field is null in a nullable column, the
    /// empty string in a string column, and otherwise refused; `""` is the empty string. Binary
    /// columns are hexadecimal. Empty lines are skipped, except with a single column, where they
    /// are an empty field.
    Csv,
    /// One object per line; the order of its fields does not matter, unknown ones are skipped,
    /// binary columns are hexadecimal. Numbers may also be quoted, and `NaN`, `Infinity` and
    /// `-Infinity` must be. Blank lines are skipped.
    Json,
    /// The line as it is, without its line end (`\n` or `\r\n`), in the one column of the schema: a
    /// string, or a binary, which may contain anything. An empty line is a row.
    #[default]
    Lines,
}

/// A format as the options give it, checked against the schema.
#[derive(Debug, Clone)]
pub struct FormatSpec {
    name: FormatName,
    delimiter: u8,
    schema: SchemaRef,
}

impl FormatSpec {
    /// # Errors
    /// `Invalid` if an option does not belong to the format, or the format cannot give the schema.
    pub fn new(
        connector: &str,
        name: FormatName,
        delimiter: Option<&str>,
        schema: SchemaRef,
    ) -> Result<FormatSpec> {
        if delimiter.is_some() && name != FormatName::Csv {
            return Err(options::refuse(connector, "`delimiter` is for csv"));
        }
        let spec = FormatSpec {
            name,
            delimiter: options::delimiter(connector, delimiter.unwrap_or(","))?,
            schema,
        };
        spec.check_schema(connector)?;
        Ok(spec)
    }

    fn check_schema(&self, connector: &str) -> Result<()> {
        let fields = self.schema.fields();
        let refuse = |reason: &str| {
            Err(Error::new(
                code::SCHEMA_MISMATCH,
                format!("connector `{connector}`: {reason}"),
            ))
        };
        match self.name {
            _ if fields.is_empty() => refuse("the schema has no columns"),
            FormatName::Lines
                if fields.len() != 1
                    || !matches!(fields[0].data_type(), DataType::Utf8 | DataType::Binary) =>
            {
                refuse("format `lines` gives one column, of type string or binary")
            }
            _ => Ok(()),
        }
    }

    /// How records without a header are separated.
    pub fn framing(&self) -> Framing {
        self.framing_of(self.schema.fields().len())
    }

    /// How the header of a CSV file is separated from what follows.
    pub fn header_framing(&self) -> Framing {
        self.framing_of(0)
    }

    /// How the records after `header` are separated.
    pub fn framing_under(&self, header: &[u8]) -> Framing {
        self.framing_of(csv::names(&String::from_utf8_lossy(header), self.delimiter).len())
    }

    /// The separation for a file with `n_columns` columns. If there is only one, an empty line is
    /// an empty field: a null, an empty string, or refused.
    fn framing_of(&self, n_columns: usize) -> Framing {
        match self.name {
            FormatName::Csv => Framing::Csv {
                delimiter: self.delimiter,
                blank_lines: n_columns == 1,
            },
            FormatName::Json => Framing::Json,
            FormatName::Lines => Framing::Lines,
        }
    }

    pub fn is_csv(&self) -> bool {
        self.name == FormatName::Csv
    }

    /// A decoder for one split. `header` is the first record of a CSV file that has column names.
    ///
    /// # Errors
    /// `Invalid` if the header lacks a column of the schema.
    pub fn decoder(
        &self,
        header: Option<&[u8]>,
        split: Arc<str>,
        split_number: u64,
    ) -> Result<BlockDecoder> {
        let schema = self.schema.clone();
        let format: Box<dyn Format> = match self.name {
            FormatName::Csv => match header {
                Some(header) => Box::new(
                    csv::CsvFormat::with_header(schema, self.delimiter, header)
                        .map_err(|e| e.at(&split))?,
                ),
                None => Box::new(csv::CsvFormat::new(schema, self.delimiter)),
            },
            FormatName::Json => Box::new(json::JsonFormat::new(schema)),
            FormatName::Lines => Box::new(lines::LinesFormat::new(schema)),
        };
        Ok(BlockDecoder {
            format,
            split,
            split_number,
            poison: Vec::new(),
        })
    }
}

/// A record that a format refused: its place in the block, and why, as a clause without full stop.
struct Refusal {
    record: usize,
    reason: String,
}

/// Decodes the records of one format.
trait Format: Send {
    /// One row per record, in order, except for those that it adds to `refused`.
    ///
    /// # Errors
    /// If columns do not match one another, which is a mistake of the format.
    fn decode(
        &mut self,
        block: Block<'_>,
        refused: &mut Vec<Refusal>,
    ) -> Result<RecordBatch, ArrowError>;
}

/// Hands each record over as text, or why it is not text, and records those that are refused.
fn take_texts(
    block: Block<'_>,
    refused: &mut Vec<Refusal>,
    mut take: impl FnMut(Result<&str, String>) -> Result<(), String>,
) {
    // Checking all bytes at once is faster than record by record; cuts at line ends cut no
    // character.
    let whole = std::str::from_utf8(block.span()).ok();
    let begin = block.records.first().map_or(0, |record| record.start);
    for (record, place) in block.records.iter().map(|record| record.text()).enumerate() {
        let text = match whole {
            Some(whole) => Ok(&whole[place.start - begin..place.end - begin]),
            None => {
                std::str::from_utf8(&block.bytes[place]).map_err(|_| "it is not UTF-8".to_owned())
            }
        };
        if let Err(reason) = take(text) {
            refused.push(Refusal { record, reason });
        }
    }
}

/// Turns the blocks of one split into batches, and keeps what was refused.
pub struct BlockDecoder {
    format: Box<dyn Format>,
    split: Arc<str>,
    split_number: u64,
    poison: Vec<PoisonLine>,
}

impl BlockDecoder {
    /// The rows of a block, or `None` if there are none.
    ///
    /// # Errors
    /// `Internal` if columns of one format do not match one another.
    pub fn decode(&mut self, block: Block<'_>) -> Result<Option<Batch>> {
        if block.records.is_empty() {
            return Ok(None);
        }
        let mut refused = Vec::new();
        let columns = self.format.decode(block, &mut refused);
        let columns = columns
            .map_err(|e| Error::internal("decoded columns do not go together").with_source(e))?;
        let rows = positions(block, &refused);
        self.poison
            .extend(refused.into_iter().map(|Refusal { record, reason }| {
                let record = block.records[record];
                PoisonLine::refused(record.line, block.bytes[record.text()].to_vec(), reason)
            }));
        if columns.num_rows() == 0 {
            return Ok(None);
        }
        let origin = Origin {
            split: self.split.clone(),
            split_number: self.split_number,
            rows,
        };
        Ok(Some(Batch {
            origin: Some(origin),
            ..Batch::new(columns)
        }))
    }

    /// What was refused since the last call, with the records that the buffer skipped in between.
    pub fn take_poison(&mut self, skipped: Vec<PoisonLine>) -> Vec<PoisonLine> {
        let mut poison = std::mem::take(&mut self.poison);
        poison.extend(skipped);
        poison.sort_by_key(|line| line.position);
        poison
    }
}

/// The line numbers of the rows: those of the records without the refused ones.
fn positions(block: Block<'_>, refused: &[Refusal]) -> Rows {
    let (first, last) = (
        block.records[0].line,
        block.records[block.records.len() - 1].line,
    );
    if refused.is_empty() && last - first + 1 == block.records.len() as u64 {
        return Rows::Range { first };
    }
    let mut refused = refused.iter().map(|refusal| refusal.record).peekable();
    let kept = block
        .records
        .iter()
        .enumerate()
        .filter(|(record, _)| refused.next_if_eq(record).is_none());
    Rows::Array(kept.map(|(_, record)| record.line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_buffer::RecordBuffer;
    use arrow_array::cast::AsArray;
    use streamrt_wit::{DataType as Plan, Field as PlanField};

    fn schema() -> SchemaRef {
        let place = PlanField {
            nullable: true,
            ..PlanField::new("place", Plan::String)
        };
        let level = PlanField {
            nullable: true,
            ..PlanField::new("level", Plan::I32)
        };
        streamrt_types::arrow_schema(&vec![
            PlanField::new("sensor", Plan::String),
            PlanField::new("temperature", Plan::F64),
            place,
            level,
        ])
    }

    /// Decodes `input` with blocks of `rows` rows into JSON lines with their positions, and the
    /// poison.
    fn decode(
        spec: &FormatSpec,
        input: &[u8],
        rows: usize,
    ) -> (Vec<(u64, String)>, Vec<PoisonLine>) {
        let mut buffer = RecordBuffer::new(spec.framing());
        let mut decoder = spec.decoder(None, Arc::from("test"), 0).unwrap();
        let mut input = input;
        while buffer.fill(&mut input).unwrap() > 0 {}
        buffer.end_input();
        let (mut found, mut full) = (Vec::new(), true);
        while full {
            full = buffer.frame(rows).unwrap();
            if let Some(batch) = decoder.decode(buffer.block()).unwrap() {
                batch.check().unwrap();
                let mut text = Vec::new();
                crate::encoder::RowEncoder::JSON.encode(&batch.columns, false, &mut text);
                let origin = batch.origin.unwrap();
                let text = String::from_utf8(text).unwrap();
                found.extend(
                    text.lines()
                        .enumerate()
                        .map(|(row, line)| (origin.position(row), line.to_owned())),
                );
            }
            buffer.consume();
        }
        (found, decoder.take_poison(Vec::new()))
    }

    fn check(name: FormatName, input: &[u8], rows: &[(u64, &str)], poison: &[(u64, &str)]) {
        let schema = match name {
            FormatName::Lines => {
                streamrt_types::arrow_schema(&vec![PlanField::new("value", Plan::String)])
            }
            _ => schema(),
        };
        let spec = FormatSpec::new("file", name, None, schema).unwrap();
        for batch_rows in [1, 2, 3, 1024] {
            let (found, refused) = decode(&spec, input, batch_rows);
            let found: Vec<(u64, &str)> = found
                .iter()
                .map(|(line, text)| (*line, text.as_str()))
                .collect();
            let refused: Vec<(u64, &str)> = refused
                .iter()
                .map(|p| (p.position, p.reason.as_str()))
                .collect();
            assert_eq!(
                (found.as_slice(), refused.as_slice()),
                (rows, poison),
                "{batch_rows} rows a batch"
            );
        }
    }

    #[test]
    fn csv_is_decoded_around_bad_lines() {
        let input = b"a,1.5,x,3\n\nb,warm,,\nc,-2,,\r\nd,4\n\"e,\n\"\"\",1e3,\"\",-1\nf,,x,1\ng,1,x,2,y\n,0,x,99999999999\n\xff,1,,\nh,1,\"x,\n,7,y,\n";
        let rows: &[(u64, &str)] = &[
            (
                1,
                r#"{"sensor":"a","temperature":1.5,"place":"x","level":3}"#,
            ),
            (
                4,
                r#"{"sensor":"c","temperature":-2.0,"place":null,"level":null}"#,
            ),
            (
                6,
                r#"{"sensor":"e,\n\"","temperature":1000.0,"place":"","level":-1}"#,
            ),
        ];
        let poison = &[
            (3, "column `temperature` is `warm`, but it must be a number"),
            (5, "has 2 columns, but 4 are needed"),
            (8, "column `temperature` is empty, but it must be a number"),
            (9, "has 5 columns, but 4 are needed"),
            (
                10,
                "column `level` is `99999999999`, but it must be a whole number of 32 bits",
            ),
            (11, "it is not UTF-8"),
            (12, "a quote is not closed"),
        ];
        check(FormatName::Csv, input, rows, poison);
    }

    #[test]
    fn csv_takes_no_return_inside_a_line_and_no_character_cut_in_two() {
        let poison = &[
            (1, "a carriage return stands in the line"),
            (2, "it is not UTF-8"),
        ];
        check(
            FormatName::Csv,
            b"a,1,x,\rb,1,x,\na\xC3,1,\xA9b,\n",
            &[],
            poison,
        );
    }

    #[test]
    fn json_is_decoded_around_bad_lines() {
        let input = br#"{"temperature":1.5,"sensor":"a","other":[1,{"a":2}],"level":3}
{"sensor":"b","temperature":"warm"}

{"sensor":"c"}
{"sensor":"d","temperature":2}{"sensor":"e","temperature":2}
{"sensor":"f",
"temperature":2}
[1]
{"sensor":7,"temperature":1}
{"sensor":"g","temperature":-1,"place":null}
{"sensor":"h","temperature":1,"level":1.5}
{"sensor":"h","temperature":1,"level":15e-1}
{"sensor":"h","temperature":"2.5","level":-2e0,"x":[1.5]}
{"sensor":"h","temperature":1,"level":3000000000}"#;
        let rows: &[(u64, &str)] = &[
            (
                1,
                r#"{"sensor":"a","temperature":1.5,"place":null,"level":3}"#,
            ),
            (
                10,
                r#"{"sensor":"g","temperature":-1.0,"place":null,"level":null}"#,
            ),
            (
                13,
                r#"{"sensor":"h","temperature":2.5,"place":null,"level":-2}"#,
            ),
        ];
        let poison = &[
            (
                2,
                "column `temperature` is `\"warm\"`, but it must be a number",
            ),
            (
                4,
                "column `temperature` is missing, but it must be a number",
            ),
            (
                5,
                "it is not one JSON object: something follows it at column 31",
            ),
            (
                6,
                "it is not one JSON object: it ends where a name in quotes should stand at column 15",
            ),
            (
                7,
                "it is not one JSON object: something follows it at column 14",
            ),
            (8, "it is not one JSON object"),
            (9, "column `sensor` is `7`, but it must be a string"),
            (
                11,
                "column `level` is `1.5`, but it must be a whole number of 32 bits",
            ),
            (
                12,
                "column `level` is `15e-1`, but it must be a whole number of 32 bits",
            ),
            (
                14,
                "column `level` is `3000000000`, but it must be a whole number of 32 bits",
            ),
        ];
        check(FormatName::Json, input, rows, poison);
    }

    #[test]
    fn deep_json_is_refused_and_not_followed() {
        let deep = format!(
            "{{\"sensor\":{}1{}}}\n",
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        let spec = FormatSpec::new("file", FormatName::Json, None, schema()).unwrap();
        let (rows, poison) = decode(&spec, deep.as_bytes(), 10);
        assert_eq!((rows.len(), poison.len()), (0, 1));
        assert_eq!(poison[0].record, deep.trim_end().as_bytes());
    }

    #[test]
    fn lines_come_as_they_are() {
        let rows: &[(u64, &str)] = &[
            (1, r#"{"value":"a, b"}"#),
            (2, r#"{"value":""}"#),
            (4, r#"{"value":"c"}"#),
        ];
        check(
            FormatName::Lines,
            b"a, b\n\r\n\xC3\nc",
            rows,
            &[(3, "it is not UTF-8")],
        );
    }

    #[test]
    fn a_binary_column_takes_any_line() {
        let schema = streamrt_types::arrow_schema(&vec![PlanField::new("value", Plan::Binary)]);
        let spec = FormatSpec::new("file", FormatName::Lines, None, schema).unwrap();
        let mut buffer = RecordBuffer::new(spec.framing());
        buffer.fill(&mut &b"\xff\x00\nb\n"[..]).unwrap();
        buffer.frame(10).unwrap();
        let batch = spec
            .decoder(None, Arc::from("test"), 0)
            .unwrap()
            .decode(buffer.block())
            .unwrap()
            .unwrap();
        assert_eq!(
            batch.columns.column(0).as_binary::<i32>().value(0),
            b"\xff\x00"
        );
    }

    #[test]
    fn lines_need_a_single_column() {
        let error = FormatSpec::new("file", FormatName::Lines, None, schema()).unwrap_err();
        assert_eq!(
            error.message(),
            "connector `file`: format `lines` gives one column, of type string or binary"
        );
    }
}
