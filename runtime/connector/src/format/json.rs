//! JSON lines by arrow-json, a block at a time. Called by [`super::BlockDecoder`].

use super::{Format, check_utf8, refused, requirement};
use crate::record_buffer::Block;
use arrow_array::RecordBatch;
use arrow_json::reader::{Decoder, ReaderBuilder};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use serde_json::Value;

/// Opening brackets that a line may have before its depth is looked at; serde_json follows as many.
const BRACKETS_MAX: usize = 128;

pub struct JsonFormat {
    schema: SchemaRef,
    /// With the number of rows it can take; `None` after an error, which leaves a decoder in the middle of a value.
    decoder: Option<(usize, Decoder)>,
}

impl JsonFormat {
    pub fn new(schema: SchemaRef) -> JsonFormat {
        JsonFormat { schema, decoder: None }
    }

    fn take_decoder(&mut self, rows: usize) -> Result<(usize, Decoder), ArrowError> {
        match self.decoder.take().filter(|(capacity, _)| *capacity >= rows) {
            Some(decoder) => Ok(decoder),
            None => Ok((rows, ReaderBuilder::new(self.schema.clone()).with_batch_size(rows).build_decoder()?)),
        }
    }
}

/// Refuses deep nesting, which arrow-json would follow by recursion when it reports an error.
fn check_depth(record: &[u8]) -> Result<(), ArrowError> {
    let n_brackets = record.iter().filter(|&&byte| byte == b'[' || byte == b'{').count();
    if n_brackets <= BRACKETS_MAX || serde_json::from_slice::<Value>(record).is_ok() {
        return Ok(());
    }
    Err(refused("it is nested too deeply"))
}

/// Takes one record, which must be one value: else rows and lines would not go together.
fn decode_record(decoder: &mut Decoder, record: &[u8], n_before: usize) -> Result<(), ArrowError> {
    check_depth(record)?;
    let n_read = decoder.decode(record)?;
    let complete = decoder.len() == n_before + 1 && !decoder.has_partial_record();
    if complete && record[n_read..].iter().all(u8::is_ascii_whitespace) { Ok(()) } else { Err(refused("it is not one value")) }
}

impl Format for JsonFormat {
    fn decode(&mut self, block: Block<'_>) -> Result<RecordBatch, ArrowError> {
        check_utf8(block)?;
        let (capacity, mut decoder) = self.take_decoder(block.records.len())?;
        for (n_before, record) in block.texts().enumerate() {
            decode_record(&mut decoder, record, n_before)?;
        }
        let batch = decoder.flush()?.ok_or_else(|| refused("there is no row"))?;
        self.decoder = Some((capacity, decoder));
        Ok(batch)
    }

    fn reason(&self, record: &[u8], error: &ArrowError) -> String {
        match serde_json::from_slice::<Value>(record) {
            _ if std::str::from_utf8(record).is_err() => "it is not UTF-8".to_owned(),
            Err(e) => format!("it is not one JSON object: {}", e.to_string().replace(" line 1", "")),
            Ok(Value::Object(object)) => {
                let reason = |field| field_reason(object.get(Field::name(field)), field);
                self.schema.fields().iter().find_map(|field| reason(field)).unwrap_or_else(|| error.to_string())
            }
            Ok(_) => "it is not one JSON object".to_owned(),
        }
    }
}

/// Why this value was refused, if it was.
fn field_reason(value: Option<&Value>, field: &Field) -> Option<String> {
    let what = match value {
        None | Some(Value::Null) if field.is_nullable() => return None,
        None => "missing".to_owned(),
        Some(value) if is_valid(value, field.data_type()) => return None,
        Some(value) => format!("`{value}`"),
    };
    Some(format!("column `{}` is {what}, but it must be {}", field.name(), requirement(field)))
}

/// Whether arrow-json takes a value of this kind for the type. It reads numbers from strings too.
fn is_valid(value: &Value, data_type: &DataType) -> bool {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (data_type, value) {
        (DataType::Boolean, value) => value.is_boolean(),
        (DataType::Utf8, value) => value.is_string(),
        (DataType::Binary, Value::String(text)) => text.len() % 2 == 0 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        (DataType::Binary, _) => false,
        (_, Value::Number(_) | Value::String(_)) => in_range(&text, data_type),
        _ => false,
    }
}

fn in_range(text: &str, data_type: &DataType) -> bool {
    let Ok(number) = text.parse::<f64>() else { return false };
    let exact = text.parse::<i128>().unwrap_or(number as i128);
    match data_type {
        DataType::Int32 => i32::try_from(exact).is_ok(),
        DataType::UInt32 => u32::try_from(exact).is_ok(),
        DataType::Int64 => i64::try_from(exact).is_ok(),
        DataType::UInt64 => u64::try_from(exact).is_ok(),
        _ => true,
    }
}
