//! The canonical encoding of keys, and the hash over it. Frozen: key groups in snapshots depend on
//! every bit of it.
//!
//! A key is the concatenation of its columns. bool: one byte, 0 or 1. Integers: little endian,
//! their own width. Floats: the bits of the value, little endian, with -0 written as 0 and every
//! NaN as the quiet one. Strings and binaries: the length as u32, little endian, then the bytes. A
//! null is an error. The hash is murmur3 (x86, 32 bit, seed 0).

use crate::code;
use crate::error::{Error, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;

/// The murmur3 hash, 32 bit variant, seed 0.
pub fn murmur3_32(bytes: &[u8]) -> u32 {
    if let Ok(word) = bytes.try_into() {
        return murmur3_u64(u64::from_le_bytes(word));
    }
    let mut hash = 0u32;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        hash = mix(
            hash,
            u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]),
        );
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        let word = tail
            .iter()
            .rev()
            .fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        hash ^= scramble(word);
    }
    finish(hash, bytes.len() as u32)
}

#[inline]
fn scramble(word: u32) -> u32 {
    word.wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593)
}

#[inline]
fn mix(hash: u32, word: u32) -> u32 {
    (hash ^ scramble(word))
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

#[inline]
fn finish(hash: u32, length: u32) -> u32 {
    let mut h = hash ^ length;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// The hash of a key that is one 64-bit column: the same as that of its eight bytes.
#[inline]
fn murmur3_u64(key: u64) -> u32 {
    finish(mix(mix(0, key as u32), (key >> 32) as u32), 8)
}

/// Encodes the key columns of batches.
#[derive(Debug, Clone)]
pub struct KeyEncoder {
    columns: Vec<usize>,
}

impl KeyEncoder {
    /// `columns` are indices into the batch, in the order of the key.
    pub fn new(columns: Vec<usize>) -> KeyEncoder {
        KeyEncoder { columns }
    }

    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The key as eight bytes per row, if it is one column of type i64 or u64: the fast path of
    /// hashing and of tables.
    ///
    /// # Errors
    /// `Data` if a key is null.
    pub fn fixed<'a>(&self, batch: &'a RecordBatch) -> Result<Option<&'a [u64]>> {
        let [column] = self.columns[..] else {
            return Ok(None);
        };
        let array = batch.column(column);
        let values: &[u64] = match array.data_type() {
            DataType::Int64 => signed_as_unsigned(array.as_primitive::<Int64Type>().values()),
            DataType::UInt64 => array.as_primitive::<UInt64Type>().values(),
            _ => return Ok(None),
        };
        self.check(batch)?;
        Ok(Some(values))
    }

    /// Appends the murmur3 hash of the key of every row to `hashes`.
    ///
    /// # Errors
    /// `Data` if a key is null.
    pub fn hash(&self, batch: &RecordBatch, hashes: &mut Vec<u32>) -> Result<()> {
        if let Some(values) = self.fixed(batch)? {
            hashes.extend(values.iter().map(|&value| murmur3_u64(value)));
            return Ok(());
        }
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        self.encode(batch, &mut bytes, &mut offsets)?;
        hashes.extend(
            offsets
                .windows(2)
                .map(|w| murmur3_32(&bytes[w[0] as usize..w[1] as usize])),
        );
        Ok(())
    }

    /// Writes the key of every row to `bytes`; key i stands at `offsets[i]..offsets[i + 1]`. Both
    /// are cleared first.
    ///
    /// # Errors
    /// `Data` if a key is null.
    pub fn encode(
        &self,
        batch: &RecordBatch,
        bytes: &mut Vec<u8>,
        offsets: &mut Vec<u32>,
    ) -> Result<()> {
        self.check(batch)?;
        bytes.clear();
        offsets.clear();
        offsets.push(0);
        for row in 0..batch.num_rows() {
            for &column in &self.columns {
                encode_value(batch.column(column), row, bytes);
            }
            offsets.push(u32::try_from(bytes.len()).map_err(|_| {
                Error::new(
                    code::BATCH_LIMIT,
                    "the keys of a batch are larger than 4 GiB",
                )
            })?);
        }
        Ok(())
    }

    /// Refuses null keys.
    ///
    /// # Errors
    /// `Data`, naming the column; [`KeyEncoder::null_at`] looks at one row.
    pub fn check(&self, batch: &RecordBatch) -> Result<()> {
        match self
            .columns
            .iter()
            .find(|&&column| batch.column(column).null_count() > 0)
        {
            None => Ok(()),
            Some(&column) => Err(null_key(batch, column)),
        }
    }

    /// What is wrong with the key of a row, if it is null.
    pub fn null_at(&self, batch: &RecordBatch, row: usize) -> Option<Error> {
        self.columns
            .iter()
            .find(|&&column| batch.column(column).is_null(row))
            .map(|&column| null_key(batch, column))
    }
}

fn null_key(batch: &RecordBatch, column: usize) -> Error {
    Error::new(
        code::NULL_KEY,
        format!(
            "key column `{}` is null",
            batch.schema_ref().field(column).name()
        ),
    )
}

/// The same eight bytes, seen as unsigned.
fn signed_as_unsigned(values: &arrow_buffer::ScalarBuffer<i64>) -> &[u64] {
    values.inner().typed_data::<u64>()
}

fn encode_value(array: &ArrayRef, row: usize, bytes: &mut Vec<u8>) {
    match array.data_type() {
        DataType::Boolean => bytes.push(u8::from(array.as_boolean().value(row))),
        DataType::Int32 => bytes.extend(array.as_primitive::<Int32Type>().value(row).to_le_bytes()),
        DataType::Int64 => bytes.extend(array.as_primitive::<Int64Type>().value(row).to_le_bytes()),
        DataType::UInt32 => {
            bytes.extend(array.as_primitive::<UInt32Type>().value(row).to_le_bytes())
        }
        DataType::UInt64 => {
            bytes.extend(array.as_primitive::<UInt64Type>().value(row).to_le_bytes())
        }
        DataType::Float32 => bytes
            .extend(canonical_f32(array.as_primitive::<Float32Type>().value(row)).to_le_bytes()),
        DataType::Float64 => bytes
            .extend(canonical_f64(array.as_primitive::<Float64Type>().value(row)).to_le_bytes()),
        DataType::Utf8 => encode_bytes(array.as_string::<i32>().value(row).as_bytes(), bytes),
        DataType::Binary => encode_bytes(array.as_binary::<i32>().value(row), bytes),
        other => unreachable!("edges have no columns of type {other}"),
    }
}

fn encode_bytes(value: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend(value);
}

/// The value that represents all that are the same key: 0 for both zeros, the quiet NaN for every
/// NaN.
pub fn canonical_f64(value: f64) -> f64 {
    if value.is_nan() {
        f64::NAN
    } else {
        value + 0.0
    }
}

/// The same as [`canonical_f64`], for 32 bits.
pub fn canonical_f32(value: f32) -> f32 {
    if value.is_nan() {
        f32::NAN
    } else {
        value + 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn murmur3_agrees_with_the_published_vectors() {
        for (input, expected) in [
            ("", 0u32),
            ("a", 0x3c25_69b2),
            ("abc", 0xb3dd_93fa),
            ("abcd", 0x43ed_676a),
            ("Hello, world!", 0xc036_3e43),
        ] {
            assert_eq!(murmur3_32(input.as_bytes()), expected, "{input:?}");
        }
    }

    #[test]
    fn keys_are_frozen() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![-2]))),
            ("name", Arc::new(StringArray::from(vec!["ab"]))),
            ("zero", Arc::new(Float64Array::from(vec![-0.0]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        KeyEncoder::new(vec![0, 1, 2])
            .encode(&batch, &mut bytes, &mut offsets)
            .unwrap();
        assert_eq!(
            bytes,
            [
                254, 255, 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 0, 0,
                0, 0
            ]
        );
        let mut hashes = Vec::new();
        KeyEncoder::new(vec![0]).hash(&batch, &mut hashes).unwrap();
        assert_eq!(hashes, [murmur3_32(&(-2i64).to_le_bytes())]);
    }

    #[test]
    fn both_zeros_are_one_key_and_every_nan_is() {
        let encoded = |column: ArrayRef| {
            let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
            let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
            KeyEncoder::new(vec![0])
                .encode(&batch, &mut bytes, &mut offsets)
                .unwrap();
            bytes
        };
        let nans = [
            f64::NAN,
            -f64::NAN,
            f64::from_bits(0x7ff0_0000_0000_0001),
            f64::from_bits(0xffff_ffff_ffff_ffff),
        ];
        let quiet = [0, 0, 0, 0, 0, 0, 0xf8, 0x7f];
        assert_eq!(
            encoded(Arc::new(Float64Array::from(nans.to_vec()))),
            quiet.repeat(4)
        );
        assert_eq!(
            encoded(Arc::new(Float64Array::from(vec![-0.0, 0.0]))),
            [0; 16]
        );
        let nans = [f32::NAN, -f32::NAN, f32::from_bits(0xff80_0001)];
        assert_eq!(
            encoded(Arc::new(arrow_array::Float32Array::from(nans.to_vec()))),
            [0, 0, 0xc0, 0x7f].repeat(3)
        );
        assert_eq!(
            encoded(Arc::new(arrow_array::Float32Array::from(vec![
                -0.0f32, 0.0
            ]))),
            [0; 8]
        );
    }

    #[test]
    fn a_null_key_is_refused_by_name() {
        let columns: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(Int64Array::from(vec![Some(1), None])))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let error = KeyEncoder::new(vec![0])
            .hash(&batch, &mut Vec::new())
            .unwrap_err();
        assert_eq!(error.message(), "key column `id` is null");
    }
}
