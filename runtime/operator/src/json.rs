//! Rows as JSON, for reports: dead letters and errors that name a key. Never on the path of a record that works.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use std::fmt::Write;

/// A row as an object, in the order of the columns.
pub fn row(batch: &RecordBatch, row: usize) -> String {
    object(batch, 0..batch.num_columns(), row)
}

/// Some columns of a row as an object.
pub fn object(batch: &RecordBatch, columns: impl IntoIterator<Item = usize>, row: usize) -> String {
    let member = |column: usize| format!("{}:{}", quoted(batch.schema_ref().field(column).name()), value(batch.column(column), row));
    format!("{{{}}}", columns.into_iter().map(member).collect::<Vec<_>>().join(","))
}

/// One value. Bytes stand as hexadecimal digits, and what JSON has no number for as a string.
pub fn value(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".into();
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).to_string(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Float32 => float(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => quoted(column.as_string::<i32>().value(row)),
        DataType::Binary => quoted(&hexadecimal(column.as_binary::<i32>().value(row))),
        other => quoted(&format!("a value of type {other}")),
    }
}

fn float(value: f64) -> String {
    if value.is_finite() { format!("{value:?}") } else { quoted(&value.to_string()) }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            c if c < ' ' => write!(json, "\\u{:04x}", c as u32).expect("a string takes all that is written"),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{BinaryArray, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn a_row_is_an_object() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![Some(-1), None]))),
            ("say \"hi\"", Arc::new(StringArray::from(vec!["a\nb\\", "\u{1}"]))),
            ("f", Arc::new(Float64Array::from(vec![1.0, f64::NAN]))),
            ("b", Arc::new(BinaryArray::from_vec(vec![b"\x00\xff", b""]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(row(&batch, 0), r#"{"id":-1,"say \"hi\"":"a\nb\\","f":1.0,"b":"00ff"}"#);
        assert_eq!(row(&batch, 1), r#"{"id":null,"say \"hi\"":"\u0001","f":"NaN","b":""}"#);
        assert_eq!(object(&batch, [0], 0), r#"{"id":-1}"#);
    }
}
