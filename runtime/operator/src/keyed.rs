//! The keys of a batch as state wants them: hashes, and eight bytes or encoded bytes per row.
//! Buffers are kept from batch to batch.

use crate::json;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use streamrt_state::{KeyBuffer, KeyKind, Keys, RowCodec};
use streamrt_types::state_types::key_types;
use streamrt_types::{Error, KeyEncoder, Result, code, plan_schema};

/// Reads the keys of batches of one schema.
pub struct BatchKeys {
    encoder: KeyEncoder,
    kind: KeyKind,
    /// Canonical key bytes are rows of the key columns, none of them nullable; so this decodes
    /// them.
    codec: RowCodec,
    hashes: Vec<u32>,
    bytes: Vec<u8>,
    offsets: Vec<u32>,
}

impl BatchKeys {
    /// `columns` are the key's columns in `schema`, in the order of the key.
    ///
    /// # Errors
    /// `Invalid` if a column has a type that no stream carries.
    pub fn new(schema: &SchemaRef, columns: Vec<usize>) -> Result<BatchKeys> {
        let fields: Vec<Field> = columns
            .iter()
            .map(|&column| schema.field(column).clone().with_nullable(false))
            .collect();
        let kind = match &fields[..] {
            [field] if matches!(field.data_type(), DataType::Int64 | DataType::UInt64) => {
                KeyKind::Fixed
            }
            _ => KeyKind::Bytes,
        };
        let codec = RowCodec::new(&plan_schema(&Schema::new(fields))?);
        let encoder = KeyEncoder::new(columns);
        Ok(BatchKeys {
            encoder,
            kind,
            codec,
            hashes: Vec::new(),
            bytes: Vec::new(),
            offsets: Vec::new(),
        })
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The key columns, in the order of the key.
    pub fn schema(&self) -> &SchemaRef {
        self.codec.schema()
    }

    /// What the bytes of keys in a snapshot mean: the types of the key columns.
    pub fn types(&self) -> serde_json::Value {
        key_types(
            self.schema(),
            &(0..self.schema().fields().len()).collect::<Vec<_>>(),
        )
    }

    /// The murmur3 hashes and the keys of all rows.
    ///
    /// # Errors
    /// `Data` if a key is null.
    pub fn read<'a>(&'a mut self, batch: &'a RecordBatch) -> Result<(&'a [u32], Keys<'a>)> {
        self.load(batch)?;
        Ok(self.view(batch))
    }

    /// Reads the keys of `batch` for [`BatchKeys::view`].
    ///
    /// # Errors
    /// `Data` if a key is null.
    pub(crate) fn load(&mut self, batch: &RecordBatch) -> Result<()> {
        self.hashes.clear();
        if self.kind == KeyKind::Fixed {
            return self.encoder.hash(batch, &mut self.hashes);
        }
        self.encoder
            .encode(batch, &mut self.bytes, &mut self.offsets)?;
        let key = |range: &[u32]| {
            streamrt_types::murmur3_32(&self.bytes[range[0] as usize..range[1] as usize])
        };
        self.hashes.extend(self.offsets.windows(2).map(key));
        Ok(())
    }

    /// What the last [`BatchKeys::load`] read; `batch` must be the same.
    pub(crate) fn view<'a>(&'a self, batch: &'a RecordBatch) -> (&'a [u32], Keys<'a>) {
        match self.encoder.fixed(batch) {
            Ok(Some(keys)) => (&self.hashes, Keys::Fixed(keys)),
            // A null would have been found when the batch was loaded.
            Ok(None) | Err(_) => (
                &self.hashes,
                Keys::Bytes {
                    bytes: &self.bytes,
                    offsets: &self.offsets,
                },
            ),
        }
    }

    /// Some of the key columns of collected keys, by their places in the key.
    ///
    /// # Errors
    /// `Internal` if the bytes are not keys of this kind.
    pub fn columns(&self, keys: &KeyBuffer, wanted: &[usize]) -> Result<RecordBatch> {
        let columns = match keys.keys() {
            Keys::Fixed(words) => {
                let column: ArrayRef = match self.schema().field(0).data_type() {
                    DataType::UInt64 => Arc::new(UInt64Array::from(words.to_vec())),
                    _ => Arc::new(
                        words
                            .iter()
                            .map(|&word| word as i64)
                            .collect::<Int64Array>(),
                    ),
                };
                RecordBatch::try_new(self.schema().clone(), vec![column])
            }
            Keys::Bytes { bytes, offsets } => {
                let key = |range: &[u32]| &bytes[range[0] as usize..range[1] as usize];
                Ok(self.decode(&offsets.windows(2).map(key).collect::<Vec<_>>())?)
            }
        };
        columns
            .and_then(|columns| columns.project(wanted))
            .map_err(|e| Error::internal("keys do not make columns").with_source(e))
    }

    /// The key columns of keys that are given by their canonical bytes.
    ///
    /// # Errors
    /// `Data` (S7001) if the bytes are not keys of this kind: then they came from a snapshot, since
    /// no row has such a key.
    pub fn decode(&self, keys: &[&[u8]]) -> Result<RecordBatch> {
        let damaged = |cause| {
            Error::new(
                code::SNAPSHOT_DAMAGED,
                "a key of the state is none of its columns",
            )
            .with_source(cause)
        };
        self.codec.decode(keys).map_err(damaged)
    }

    /// The key of a row of the batch as JSON, for reports.
    pub fn describe(&self, batch: &RecordBatch, row: usize) -> String {
        json::object(batch, self.encoder.columns().iter().copied(), row)
    }

    /// A key as JSON, for reports.
    pub fn describe_bytes(&self, key: &[u8]) -> String {
        self.decode(&[key]).map_or_else(
            |_| crate::values::hexadecimal(key),
            |columns| json::row(&columns, 0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, BooleanArray, Int64Array, StringArray};
    use std::sync::Arc;

    fn check(columns: Vec<usize>, kind: KeyKind, described: &str) {
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("name", Arc::new(StringArray::from(vec!["a", "bc"]))),
            ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
        ])
        .unwrap();
        let mut keys = BatchKeys::new(batch.schema_ref(), columns).unwrap();
        assert_eq!(keys.kind(), kind);
        let (hashes, read) = keys.read(&batch).unwrap();
        assert_eq!((hashes.len(), read.len()), (2, 2));
        let mut buffer = KeyBuffer::new(kind);
        buffer.push(hashes[1], read, 1);
        assert_eq!(buffer.with_key(0, streamrt_types::murmur3_32), hashes[1]);
        assert_eq!(
            json::row(&keys.columns(&buffer, &[0]).unwrap(), 0),
            format!("{}}}", described.split([',', '}']).next().unwrap())
        );
        assert_eq!(keys.describe(&batch, 1), described);
        assert_eq!(
            buffer.with_key(0, |key| keys.describe_bytes(key)),
            described
        );
    }

    #[test]
    fn keys_are_read_and_described() {
        check(vec![0], KeyKind::Fixed, r#"{"id":2}"#);
        check(vec![1], KeyKind::Bytes, r#"{"name":"bc"}"#);
        check(
            vec![2, 1, 0],
            KeyKind::Bytes,
            r#"{"flag":false,"name":"bc","id":2}"#,
        );
    }
}
