//! Rows to text, by whole batches: JSON lines or CSV. Called by the sinks `file` and `print`.
//!
//! JSON: one object for each row, its fields in the order of the schema and nulls written out. Whole numbers keep all digits, floating
//! point numbers have the shortest form that reads back the same (`1.0`, `0.1`, `1e21`); NaN and infinities, which JSON does not
//! know, become `null`. CSV: quotes only where needed, null is an empty field. In both, binary columns are hexadecimal.

use arrow_array::RecordBatch;
use streamrt_types::{Error, Result};

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
    /// Between two fields of CSV.
    pub delimiter: u8,
}

impl RowEncoder {
    pub const JSON: RowEncoder = RowEncoder { format: RowFormat::Json, delimiter: b',' };

    /// Appends the rows of `batch` to `out`, each with a line end; in front of them the column names if `header` is set (CSV alone).
    ///
    /// # Errors
    /// `Internal` if a column has a type that edges do not carry.
    pub fn encode(self, batch: &RecordBatch, header: bool, out: &mut Vec<u8>) -> Result<()> {
        let written = match self.format {
            RowFormat::Json => encode_json(batch, out),
            RowFormat::Csv => arrow_csv::WriterBuilder::new().with_header(header).with_delimiter(self.delimiter).build(out).write(batch),
        };
        written.map_err(|e| Error::internal("a batch could not be written as text").with_source(e))
    }
}

fn encode_json(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), arrow_schema::ArrowError> {
    let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, arrow_json::writer::LineDelimited>(out);
    writer.write(batch)?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::{RowEncoder, RowFormat};
    use arrow_array::{ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
    use std::sync::Arc;

    fn check(format: RowFormat, columns: Vec<(&str, ArrayRef)>, expected: &str) {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
        let mut out = Vec::new();
        RowEncoder { format, delimiter: b';' }.encode(&batch, format == RowFormat::Csv, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_keeps_order_digits_and_nulls() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a\"\n"), None]));
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN]));
        let expected = "{\"word\":\"a\\\"\\n\",\"count\":9223372036854775807}\n{\"word\":null,\"count\":-9223372036854775808}\n";
        check(RowFormat::Json, vec![("word", words), ("count", counts)], expected);
    }

    #[test]
    fn json_writes_floats_in_their_shortest_form() {
        let values = vec![1.0, 0.1, -0.0, 1e21, 5e-324, f64::NAN, f64::INFINITY];
        let floats: ArrayRef = Arc::new(Float64Array::from(values.clone()));
        let batch = RecordBatch::try_from_iter([("x", floats)]).unwrap();
        let mut out = Vec::new();
        RowEncoder::JSON.encode(&batch, false, &mut out).unwrap();
        let lines: Vec<serde_json::Value> = String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        for (line, value) in lines.iter().zip(values) {
            assert_eq!(line["x"].as_f64(), value.is_finite().then_some(value), "{line}");
        }
    }

    #[test]
    fn csv_quotes_where_needed() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a;b"), None]));
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"\x00\xff", b""]));
        check(RowFormat::Csv, vec![("word", words), ("raw", bytes)], "word;raw\n\"a;b\";00ff\n;\n");
    }
}
