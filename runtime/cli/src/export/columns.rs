//! Entries of a snapshot as columns.

use crate::snapshot::{KeyedState, codec};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use streamrt_connector::ParquetExport;
use streamrt_state::{RowCodec, list_elements};
use streamrt_types::{Error, Result, code, key_group};

/// How many rows become columns at once.
const BATCH_ROWS: usize = 8192;

/// The times among the columns, which the file has as timestamps.
const TIMES: &[&str] = &["last_access", "window_start", "window_end", "time"];

/// Writes every entry of the state into a file, and says how many there were.
///
/// # Errors
/// If the state is damaged, or the file cannot be made.
pub fn write(state: &mut KeyedState, path: &Path) -> Result<u64> {
    let layout = Layout::new(&state.types);
    let timestamps: Vec<String> = TIMES.iter().map(|&name| name.to_owned()).collect();
    let mut file = ParquetExport::create(path, &layout.columns(&[])?.schema(), &timestamps)?;
    let (mut rows, mut n_rows, max_parallelism) = (Vec::new(), 0, state.max_parallelism);
    state.each(|hash, key, sub, value| {
        layout.push(key_group(hash, max_parallelism), key, sub, value, &mut rows)?;
        if rows.len() >= BATCH_ROWS {
            n_rows += rows.len() as u64;
            file.write(&layout.columns(&rows)?)?;
            rows.clear();
        }
        Ok(())
    })?;
    file.write(&layout.columns(&rows)?)?;
    file.finish()?;
    Ok(n_rows + rows.len() as u64)
}

/// One row of the file.
struct Row {
    key_group: u32,
    key: Vec<u8>,
    sub: Vec<u8>,
    /// In a list.
    position: u32,
    last_access: Option<i64>,
    value: Vec<u8>,
}

/// What the bytes of a state mean.
struct Layout {
    key: Option<RowCodec>,
    sub: Sub,
    value: Option<RowCodec>,
    stamped: bool,
}

/// What tells the entries of a key apart.
enum Sub {
    None,
    MapKey(RowCodec),
    Position,
    Window,
    Timer,
}

fn damaged() -> Error {
    Error::new(
        code::SNAPSHOT_DAMAGED,
        "the snapshot holds an entry that does not fit the types of its state",
    )
}

impl Layout {
    fn new(types: &Value) -> Layout {
        let sub = match (types["kind"].as_str(), codec("map_key", &types["map-key"])) {
            (_, Some(codec)) => Sub::MapKey(codec),
            (Some("list"), _) => Sub::Position,
            (Some("windows"), _) => Sub::Window,
            (Some("timers"), _) => Sub::Timer,
            _ => Sub::None,
        };
        let stamped = types["time-to-live"] == json!(true);
        Layout {
            key: codec("key", &types["key"]),
            sub,
            value: codec("value", &types["value"]),
            stamped,
        }
    }

    fn push(
        &self,
        key_group: u32,
        key: &[u8],
        sub: &[u8],
        value: &[u8],
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let values = if matches!(self.sub, Sub::Position) {
            list_elements(value)?
        } else {
            vec![value]
        };
        for (position, value) in values.into_iter().enumerate() {
            let (last_access, value) = self.split_stamp(value)?;
            rows.push(Row {
                key_group,
                key: key.to_vec(),
                sub: sub.to_vec(),
                position: position as u32,
                last_access,
                value: value.to_vec(),
            });
        }
        Ok(())
    }

    fn split_stamp<'a>(&self, value: &'a [u8]) -> Result<(Option<i64>, &'a [u8])> {
        if !self.stamped {
            return Ok((None, value));
        }
        let (stamp, value) = value.split_first_chunk().ok_or_else(damaged)?;
        Ok((Some(i64::from_le_bytes(*stamp)), value))
    }

    /// The columns of some rows; of none, those that every file of this state has.
    fn columns(&self, rows: &[Row]) -> Result<RecordBatch> {
        let groups: ArrayRef = Arc::new(UInt32Array::from_iter_values(
            rows.iter().map(|row| row.key_group),
        ));
        let mut columns = vec![(Field::new("key_group", DataType::UInt32, false), groups)];
        columns.extend(decoded("key", self.key.as_ref(), rows, |row| &row.key)?);
        columns.extend(self.sub.columns(rows)?);
        if self.stamped {
            columns.push(times("last_access", rows.iter().map(|row| row.last_access)));
        }
        if !matches!(self.sub, Sub::Timer) {
            columns.extend(decoded("value", self.value.as_ref(), rows, |row| {
                &row.value
            })?);
        }
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        RecordBatch::try_new(schema, arrays).map_err(|e| damaged().with_source(e))
    }
}

impl Sub {
    fn columns(&self, rows: &[Row]) -> Result<Vec<(Field, ArrayRef)>> {
        match self {
            Sub::None => Ok(Vec::new()),
            Sub::MapKey(codec) => decoded("map_key", Some(codec), rows, |row| &row.sub),
            Sub::Position => {
                let positions: ArrayRef = Arc::new(UInt32Array::from_iter_values(
                    rows.iter().map(|row| row.position),
                ));
                Ok(vec![(
                    Field::new("position", DataType::UInt32, false),
                    positions,
                )])
            }
            Sub::Window => {
                let bound = |at| rows.iter().map(move |row| ordered_time(&row.sub, at));
                Ok(vec![
                    times("window_start", bound(0)),
                    times("window_end", bound(8)),
                ])
            }
            Sub::Timer => {
                let domains: ArrayRef = Arc::new(
                    rows.iter()
                        .map(|row| row.sub.first().map(domain))
                        .collect::<StringArray>(),
                );
                let time = |row: &Row| {
                    row.sub
                        .get(1..9)
                        .and_then(|bytes| bytes.try_into().ok())
                        .map(i64::from_be_bytes)
                };
                Ok(vec![
                    (Field::new("domain", DataType::Utf8, true), domains),
                    times("time", rows.iter().map(time)),
                ])
            }
        }
    }
}

fn domain(byte: &u8) -> &'static str {
    if *byte == 0 {
        "event-time"
    } else {
        "processing-time"
    }
}

/// A time as windows write it: big endian, with the sign turned, so that bytes order as times do. A
/// pane has no end of its own.
fn ordered_time(sub: &[u8], at: usize) -> Option<i64> {
    let bytes = sub.get(at..at + 8)?.try_into().ok()?;
    Some((u64::from_be_bytes(bytes) ^ (1 << 63)) as i64)
}

fn times(name: &str, times: impl Iterator<Item = Option<i64>>) -> (Field, ArrayRef) {
    (
        Field::new(name, DataType::Int64, true),
        Arc::new(times.collect::<Int64Array>()),
    )
}

/// The columns of a part of the rows, or its bytes where nobody knows what they mean.
fn decoded(
    name: &str,
    codec: Option<&RowCodec>,
    rows: &[Row],
    part: impl Fn(&Row) -> &Vec<u8>,
) -> Result<Vec<(Field, ArrayRef)>> {
    let parts: Vec<&[u8]> = rows.iter().map(|row| part(row).as_slice()).collect();
    let Some(codec) = codec else {
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(&parts));
        return Ok(vec![(Field::new(name, DataType::Binary, false), bytes)]);
    };
    parts.iter().try_for_each(|part| codec.check(part))?;
    let columns = codec.decode(&parts)?;
    Ok(columns
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .zip(columns.columns().iter().cloned())
        .collect())
}
