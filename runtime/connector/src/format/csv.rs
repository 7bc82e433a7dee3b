//! CSV by arrow-csv, a block at a time. Called by [`super::BlockDecoder`].
//!
//! Without a header the columns of the file are those of the schema, in order. With one they are found by name, may stand in any
//! order, and those that the schema does not have are left out.

use super::{Format, check_utf8, refused, requirement};
use crate::record_buffer::Block;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow_cast::parse::Parser;
use arrow_csv::reader::{Decoder, ReaderBuilder};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use streamrt_types::{Error, Result, code};

pub struct CsvFormat {
    schema: SchemaRef,
    delimiter: u8,
    /// The columns of the file, all nullable: the decoder takes an empty field for a null.
    file_schema: SchemaRef,
    /// For each column of the schema, where it is in the file.
    projection: Vec<usize>,
    /// With the number of rows it can take; `None` after an error, which leaves a decoder in the middle of a record.
    decoder: Option<(usize, Decoder)>,
}

impl CsvFormat {
    pub fn new(schema: SchemaRef, delimiter: u8) -> CsvFormat {
        let file_schema = Arc::new(Schema::new(schema.fields().iter().map(|f| file_field(f)).collect::<Vec<_>>()));
        let projection = (0..schema.fields().len()).collect();
        CsvFormat { schema, delimiter, file_schema, projection, decoder: None }
    }

    /// # Errors
    /// `Invalid` if a column of the schema is not in the header.
    pub fn with_header(schema: SchemaRef, delimiter: u8, header: &[u8]) -> Result<CsvFormat> {
        let names: Vec<String> = split(header, delimiter).0.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let column = |name: &String| schema.field_with_name(name).map_or_else(|_| Field::new(name, DataType::Utf8, true), file_field);
        let find = |field: &Arc<Field>| {
            names.iter().position(|name| name == field.name()).ok_or_else(|| {
                Error::new(code::SCHEMA_MISMATCH, format!("no column is named `{}`; the header names {}", field.name(), names.join(", ")))
            })
        };
        let projection = schema.fields().iter().map(find).collect::<Result<Vec<usize>>>()?;
        let file_schema = Arc::new(Schema::new(names.iter().map(column).collect::<Vec<_>>()));
        Ok(CsvFormat { schema, delimiter, file_schema, projection, decoder: None })
    }

    /// A decoder that takes `rows` rows: the one of the last block, if it is large enough.
    fn take_decoder(&mut self, rows: usize) -> (usize, Decoder) {
        self.decoder.take().filter(|(capacity, _)| *capacity >= rows).unwrap_or_else(|| {
            let builder = ReaderBuilder::new(self.file_schema.clone()).with_delimiter(self.delimiter);
            (rows, builder.with_projection(self.projection.clone()).with_batch_size(rows).build_decoder())
        })
    }

    fn to_schema(&self, decoded: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let (_, columns, _) = decoded.into_parts();
        let fields = self.schema.fields();
        let columns = columns.into_iter().zip(fields).map(|(column, field)| to_column(column, field)).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}

/// Refuses a block with a carriage return that ends a record inside a line. Else a line could give two records and another one none: then
/// their number is right, but not the rows, and the decoder is left in the middle of a record.
fn check_returns(block: Block<'_>, delimiter: u8) -> Result<(), ArrowError> {
    let span = block.span();
    let is_inside = |at: usize| span.get(at + 1).is_some_and(|next| !matches!(next, b'\r' | b'\n'));
    if !memchr::memchr_iter(b'\r', span).any(is_inside) {
        return Ok(());
    }
    // Inside quotes it is a character as any other, and at the end of a line it makes no record.
    let without_last = |text: &[u8]| text.iter().rposition(|&byte| byte != b'\r').map_or(0, |at| at + 1);
    let is_one = |text: &[u8]| split(&text[..without_last(text)], delimiter).1 == End::Complete;
    if block.texts().all(is_one) { Ok(()) } else { Err(refused("a carriage return stands in a line")) }
}

/// The column as arrow-csv can read it.
fn file_field(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Binary => DataType::Utf8,
        other => other.clone(),
    };
    Field::new(field.name(), data_type, true)
}

/// Gives a decoded column the type and the nullability of the schema.
fn to_column(column: ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    match (field.data_type(), field.is_nullable()) {
        (DataType::Utf8 | DataType::Binary, nullable) => Ok(to_string_column(&column, field.data_type(), nullable)),
        (_, false) if column.null_count() > 0 => Err(refused("a field is empty")),
        _ => Ok(column),
    }
}

/// A null is an empty field, and its text is empty as well: where there are no nulls, that text is the value.
fn to_string_column(column: &ArrayRef, data_type: &DataType, nullable: bool) -> ArrayRef {
    let (offsets, values, nulls) = column.as_string::<i32>().clone().into_parts();
    let strings = StringArray::new(offsets, values, nulls.filter(|_| nullable));
    match data_type {
        DataType::Binary => Arc::new(BinaryArray::from(strings)),
        _ => Arc::new(strings),
    }
}

impl Format for CsvFormat {
    fn decode(&mut self, block: Block<'_>) -> Result<RecordBatch, ArrowError> {
        // arrow-csv checks the fields put together, not each: a character cut in two by a delimiter would get past it.
        check_utf8(block)?;
        check_returns(block, self.delimiter)?;
        let rows = block.records.len();
        let (capacity, mut decoder) = self.take_decoder(rows);
        let span = block.span();
        if decoder.decode(span)? != span.len() {
            return Err(refused("there are more records than lines"));
        }
        let decoded = decoder.flush()?.filter(|batch| batch.num_rows() == rows).ok_or_else(|| refused("records and lines differ"))?;
        self.decoder = Some((capacity, decoder));
        self.to_schema(decoded)
    }

    fn reason(&self, record: &[u8], error: &ArrowError) -> String {
        if std::str::from_utf8(record).is_err() {
            return "it is not UTF-8".to_owned();
        }
        let (fields, end) = split(record, self.delimiter);
        let n_columns = self.file_schema.fields().len();
        match end {
            End::InQuotes => "a quote is not closed".to_owned(),
            End::Early => "a carriage return stands in the line".to_owned(),
            End::Complete if fields.len() != n_columns => format!("has {} columns, but {n_columns} are needed", fields.len()),
            End::Complete => {
                let columns = self.projection.iter().map(|&i| &fields[i]).zip(self.schema.fields());
                columns.into_iter().find_map(|(text, field)| field_reason(text, field)).unwrap_or_else(|| error.to_string())
            }
        }
    }
}

/// Why this field was refused, if it was.
fn field_reason(text: &[u8], field: &Field) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let value = match (text.is_empty(), field.is_nullable()) {
        _ if is_valid(&text, field.data_type()) => return None,
        (true, true) => return None,
        (true, false) => "empty".to_owned(),
        (false, _) => format!("`{text}`"),
    };
    Some(format!("column `{}` is {value}, but it must be {}", field.name(), requirement(field)))
}

/// Whether arrow-csv takes the text for the type: the same parsers, by value.
fn is_valid(text: &str, data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean => text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false"),
        DataType::Int32 => Int32Type::parse(text).is_some(),
        DataType::Int64 => Int64Type::parse(text).is_some(),
        DataType::UInt32 => UInt32Type::parse(text).is_some(),
        DataType::UInt64 => UInt64Type::parse(text).is_some(),
        DataType::Float32 => Float32Type::parse(text).is_some(),
        DataType::Float64 => Float64Type::parse(text).is_some(),
        _ => true,
    }
}

/// How a record ended that was split into fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    /// At a line end that csv knows and we do not: a lone carriage return.
    Early,
    InQuotes,
}

/// The fields of one record, by the rules of the parser that arrow-csv uses too.
fn split(record: &[u8], delimiter: u8) -> (Vec<Vec<u8>>, End) {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    let mut text = record.to_vec();
    text.push(b'\n');
    let (mut input, mut fields, mut room) = (text.as_slice(), Vec::new(), vec![0; text.len()]);
    loop {
        let (result, n_read, n_written) = reader.read_field(input, &mut room);
        input = &input[n_read..];
        match result {
            csv_core::ReadFieldResult::Field { record_end } => {
                fields.push(room[..n_written].to_vec());
                if record_end {
                    return (fields, if input.is_empty() { End::Complete } else { End::Early });
                }
            }
            _ => return (fields, End::InQuotes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_buffer::{Framing, RecordBuffer};
    use streamrt_wit::{DataType as Plan, Field as PlanField};

    fn decode(header: &str, line: &str) -> Result<RecordBatch> {
        let schema = streamrt_types::arrow_schema(&vec![PlanField::new("a", Plan::I64), PlanField::new("b", Plan::Binary)]);
        let mut format = CsvFormat::with_header(schema, b';', header.as_bytes())?;
        let mut buffer = RecordBuffer::new(Framing::Csv { delimiter: b';' });
        buffer.fill(&mut line.as_bytes()).unwrap();
        buffer.frame(10).unwrap();
        Ok(format.decode(buffer.block()).unwrap())
    }

    #[test]
    fn a_header_gives_the_order() {
        let batch = decode("x;b;\"a\"", "1;two;-3\n4;;6\n").unwrap();
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[-3, 6]);
        assert_eq!(batch.column(1).as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&b"two"[..]), Some(b"")]);
    }

    #[test]
    fn a_return_inside_a_line_harms_no_other_line() {
        let schema = streamrt_types::arrow_schema(&vec![PlanField { nullable: true, ..PlanField::new("a", Plan::String) }]);
        let mut format = CsvFormat::new(schema, b',');
        let mut check = |text: &str, expected: Option<usize>| {
            let mut buffer = RecordBuffer::new(Framing::Csv { delimiter: b',' });
            buffer.fill(&mut text.as_bytes()).unwrap();
            buffer.frame(10).unwrap();
            assert_eq!(format.decode(buffer.block()).ok().map(|rows| rows.num_rows()), expected, "{text:?}");
        };
        // Two records, as there are lines, and a quote that stays open.
        check("a\nb\r\"c\n", None);
        check("d\ne\n", Some(2));
        check("\"a\rb\"\n\"c\r\nd\"\n", Some(2));
        check("\rf\r\r\n", Some(1));
    }

    #[test]
    fn a_header_without_a_column_is_refused() {
        let error = decode("a;c", "").unwrap_err();
        assert_eq!((error.code().id, error.message()), ("S2005", "no column is named `b`; the header names a, c"));
    }
}
