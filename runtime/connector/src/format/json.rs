//! JSON lines by arrow-json, a block at a time. Called by [`super::BlockDecoder`].

use super::{Format, check_utf8, refused, requirement};
use crate::record_buffer::Block;
use arrow_array::RecordBatch;
use arrow_json::reader::{Decoder, ReaderBuilder};
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Opening brackets that a line may have before its depth is looked at; serde_json follows as many.
const BRACKETS_MAX: usize = 128;

pub struct JsonFormat {
    schema: SchemaRef,
    /// Names of the columns of whole numbers.
    whole: Vec<String>,
    /// With the number of rows it can take; `None` after an error, which leaves a decoder in the middle of a value.
    decoder: Option<(usize, Decoder)>,
}

impl JsonFormat {
    pub fn new(schema: SchemaRef) -> JsonFormat {
        let whole = schema.fields().iter().filter(|field| field.data_type().is_integer()).map(|field| field.name().clone()).collect();
        JsonFormat { schema, whole, decoder: None }
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

/// Refuses a fraction in a column of whole numbers, which arrow-json would drop without a word. Only records with a point or a
/// negative exponent can have one, so the others cost one look.
fn check_whole(record: &[u8], whole: &[String]) -> Result<(), ArrowError> {
    let suspicious = memchr::memchr(b'.', record).is_some() || record.windows(2).any(|pair| pair == b"e-" || pair == b"E-");
    if whole.is_empty() || !suspicious {
        return Ok(());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(record);
    deserializer.deserialize_map(WholeNumbers { names: whole }).map_err(|e| refused(&e.to_string()))
}

/// Looks at the fields of these names and passes over all others.
struct WholeNumbers<'a> {
    names: &'a [String],
}

impl<'de> Visitor<'de> for WholeNumbers<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if !self.names.contains(&name) {
                map.next_value::<IgnoredAny>()?;
            } else if map.next_value::<Value>()?.as_f64().is_some_and(|number| number.fract() != 0.0) {
                return Err(serde::de::Error::custom("a whole number has a fraction"));
            }
        }
        Ok(())
    }
}

/// Takes one record, which must be one value: else rows and lines would not go together.
fn decode_record(decoder: &mut Decoder, record: &[u8], n_before: usize) -> Result<(), ArrowError> {
    let n_read = decoder.decode(record)?;
    let complete = decoder.len() == n_before + 1 && !decoder.has_partial_record();
    if complete && record[n_read..].iter().all(u8::is_ascii_whitespace) { Ok(()) } else { Err(refused("it is not one value")) }
}

impl Format for JsonFormat {
    fn decode(&mut self, block: Block<'_>) -> Result<RecordBatch, ArrowError> {
        check_utf8(block)?;
        let (capacity, mut decoder) = self.take_decoder(block.records.len())?;
        for (n_before, record) in block.texts().enumerate() {
            check_depth(record)?;
            check_whole(record, &self.whole)?;
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
    if data_type.is_integer() && number.fract() != 0.0 {
        return false;
    }
    let exact = text.parse::<i128>().unwrap_or(number as i128);
    match data_type {
        DataType::Int32 => i32::try_from(exact).is_ok(),
        DataType::UInt32 => u32::try_from(exact).is_ok(),
        DataType::Int64 => i64::try_from(exact).is_ok(),
        DataType::UInt64 => u64::try_from(exact).is_ok(),
        _ => true,
    }
}
