//! Rows as bytes: the form of state values in entries and arenas.
//!
//! A row is a bitmap of the columns that are not null (only if a column is nullable; bit i of it is
//! column i), then the columns in order. Fixed types take their width, little endian, a boolean one
//! byte; strings and binaries a length (u32) and their bytes. A null keeps its place as zero or
//! empty. Invariant: the bytes of a row depend only on its values, and zeroed bytes of a fixed row
//! are zeros (nulls, where a column may be null).

use arrow_array::builder::{BinaryBuilder, BooleanBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::{NullBuffer, ToByteSlice};
use arrow_schema::SchemaRef;
use std::sync::Arc;
use streamrt_types::{Error, Result, arrow_schema, canonical_f32, canonical_f64, code};
use streamrt_wit::DataType;

/// Encodes and decodes rows of one schema.
#[derive(Debug, Clone)]
pub struct RowCodec {
    schema: SchemaRef,
    types: Vec<DataType>,
    bitmap_bytes: usize,
    /// Where each column starts, and the bytes of a row; `None` if a column has no fixed width.
    fixed: Option<(Vec<usize>, usize)>,
    /// Whether rows are keys: then both zeros are equal, and so are all NaNs.
    of_keys: bool,
}

fn width(data_type: DataType) -> Option<usize> {
    match data_type {
        DataType::Bool => Some(1),
        DataType::I32 | DataType::U32 | DataType::F32 => Some(4),
        DataType::I64 | DataType::U64 | DataType::F64 => Some(8),
        DataType::String | DataType::Binary => None,
    }
}

fn fixed_places(types: &[DataType], bitmap_bytes: usize) -> Option<(Vec<usize>, usize)> {
    let mut end = bitmap_bytes;
    let mut places = Vec::with_capacity(types.len());
    for &data_type in types {
        places.push(end);
        end += width(data_type)?;
    }
    Some((places, end))
}

impl RowCodec {
    pub fn new(schema: &streamrt_wit::Schema) -> RowCodec {
        let types: Vec<DataType> = schema.iter().map(|field| field.data_type).collect();
        let bitmap_bytes = if schema.iter().any(|field| field.nullable) {
            schema.len().div_ceil(8)
        } else {
            0
        };
        let fixed = fixed_places(&types, bitmap_bytes);
        RowCodec {
            schema: arrow_schema(schema),
            types,
            bitmap_bytes,
            fixed,
            of_keys: false,
        }
    }

    /// Like [`RowCodec::new`], for rows that are found by their bytes: floats that are the same key
    /// have the same bytes, as in [`streamrt_types::KeyEncoder`].
    pub fn of_keys(schema: &streamrt_wit::Schema) -> RowCodec {
        RowCodec {
            of_keys: true,
            ..RowCodec::new(schema)
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The bytes of every row, if all columns have a fixed width.
    pub fn fixed_bytes(&self) -> Option<usize> {
        self.fixed.as_ref().map(|(_, bytes)| *bytes)
    }

    /// Appends row `row` of `columns`, which have this codec's types, to `bytes`.
    pub fn encode(&self, columns: &[ArrayRef], row: usize, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + self.bitmap_bytes, 0);
        for (i, (column, &data_type)) in columns.iter().zip(&self.types).enumerate() {
            if self.bitmap_bytes > 0 && column.is_valid(row) {
                bytes[start + i / 8] |= 1 << (i % 8);
            }
            match data_type {
                DataType::F32 if self.of_keys => {
                    bytes.extend(canonical_f32(number::<Float32Type>(column, row)).to_le_bytes())
                }
                DataType::F64 if self.of_keys => {
                    bytes.extend(canonical_f64(number::<Float64Type>(column, row)).to_le_bytes())
                }
                _ => encode_value(column, data_type, row, bytes),
            }
        }
    }

    /// Checks that bytes from outside are a row of this codec.
    ///
    /// # Errors
    /// `Data` if they are not.
    pub fn check(&self, row: &[u8]) -> Result<()> {
        let mut rest = row.get(self.bitmap_bytes..).unwrap_or(&[]);
        let whole = match self.fixed_bytes() {
            Some(bytes) => row.len() == bytes,
            None => {
                self.types
                    .iter()
                    .all(|&data_type| !rest.is_empty() && cut(&mut rest, data_type).is_some())
                    && rest.is_empty()
            }
        };
        let texts = || self.decode(&[row]).is_ok();
        if whole && texts() {
            Ok(())
        } else {
            Err(Error::new(
                code::SNAPSHOT_DAMAGED,
                "bytes in the snapshot are no row of their state",
            ))
        }
    }

    /// Decodes rows into columns. An empty slice is an absent row: zeros and empty strings, nulls
    /// where a column may be null.
    ///
    /// # Errors
    /// `Internal` if the bytes are not those of this codec.
    pub fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch> {
        let mut cursors: Vec<&[u8]> = rows
            .iter()
            .map(|row| row.get(self.bitmap_bytes..).unwrap_or(&[]))
            .collect();
        let mut columns = Vec::with_capacity(self.types.len());
        for (i, &data_type) in self.types.iter().enumerate() {
            let nulls = self
                .schema
                .field(i)
                .is_nullable()
                .then(|| validity(rows, i));
            let column = match &self.fixed {
                Some((places, _)) => decode_column(data_type, nulls, rows.len(), |row| {
                    Some(rows[row].get(places[i]..).unwrap_or(&[]))
                }),
                None => decode_column(data_type, nulls, rows.len(), |row| {
                    cut(&mut cursors[row], data_type)
                }),
            };
            columns.push(column.ok_or_else(|| {
                Error::internal("a row of state does not end where its columns end")
            })?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| Error::internal("rows of state do not make columns").with_source(e))
    }
}

/// Any number of encoded rows side by side, in two allocations.
#[derive(Debug, Clone, Default)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl EncodedRows {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }

    /// Encodes row `row` of some columns.
    pub fn encode(&mut self, codec: &RowCodec, columns: &[ArrayRef], row: usize) {
        codec.encode(columns, row, &mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }
}

fn validity(rows: &[&[u8]], column: usize) -> NullBuffer {
    rows.iter()
        .map(|row| {
            row.get(column / 8)
                .is_some_and(|byte| byte >> (column % 8) & 1 == 1)
        })
        .collect()
}

/// Takes one value off a row of variable width; the bytes of a string come without their length.
/// Absent rows stay empty.
fn cut<'a>(cursor: &mut &'a [u8], data_type: DataType) -> Option<&'a [u8]> {
    if cursor.is_empty() {
        return Some(&[]);
    }
    let length = match width(data_type) {
        Some(width) => width,
        None => {
            let (length, rest) = cursor.split_first_chunk::<4>()?;
            *cursor = rest;
            u32::from_le_bytes(*length) as usize
        }
    };
    let (value, rest) = cursor.split_at_checked(length)?;
    *cursor = rest;
    Some(value)
}

/// A value of a column; zero for a null.
fn number<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize) -> T::Native {
    let array = column.as_primitive::<T>();
    if array.is_valid(row) {
        array.value(row)
    } else {
        T::default_value()
    }
}

fn encode_value(column: &ArrayRef, data_type: DataType, row: usize, bytes: &mut Vec<u8>) {
    fn put<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(number::<T>(column, row).to_byte_slice());
    }
    fn put_bytes(value: &[u8], bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(value);
    }
    match data_type {
        DataType::Bool => bytes.push(u8::from(
            column.is_valid(row) && column.as_boolean().value(row),
        )),
        DataType::I32 => put::<Int32Type>(column, row, bytes),
        DataType::I64 => put::<Int64Type>(column, row, bytes),
        DataType::U32 => put::<UInt32Type>(column, row, bytes),
        DataType::U64 => put::<UInt64Type>(column, row, bytes),
        DataType::F32 => put::<Float32Type>(column, row, bytes),
        DataType::F64 => put::<Float64Type>(column, row, bytes),
        DataType::String if column.is_valid(row) => {
            put_bytes(column.as_string::<i32>().value(row).as_bytes(), bytes)
        }
        DataType::Binary if column.is_valid(row) => {
            put_bytes(column.as_binary::<i32>().value(row), bytes)
        }
        DataType::String | DataType::Binary => put_bytes(&[], bytes),
    }
}

/// Reads `n_rows` values, each at the front of what `value` returns.
fn decode_column<'a>(
    data_type: DataType,
    nulls: Option<NullBuffer>,
    n_rows: usize,
    mut value: impl FnMut(usize) -> Option<&'a [u8]>,
) -> Option<ArrayRef> {
    macro_rules! numbers {
        ($arrow:ty, $native:ty) => {{
            let number = |bytes: &[u8]| {
                bytes
                    .first_chunk()
                    .map_or(Default::default(), |bytes| <$native>::from_le_bytes(*bytes))
            };
            let values: Vec<$native> = (0..n_rows)
                .map(|row| value(row).map(number))
                .collect::<Option<_>>()?;
            Some(Arc::new(PrimitiveArray::<$arrow>::new(values.into(), nulls)) as ArrayRef)
        }};
    }
    let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    match data_type {
        DataType::I32 => numbers!(Int32Type, i32),
        DataType::I64 => numbers!(Int64Type, i64),
        DataType::U32 => numbers!(UInt32Type, u32),
        DataType::U64 => numbers!(UInt64Type, u64),
        DataType::F32 => numbers!(Float32Type, f32),
        DataType::F64 => numbers!(Float64Type, f64),
        DataType::Bool => {
            let mut builder = BooleanBuilder::with_capacity(n_rows);
            for row in 0..n_rows {
                let bit = value(row)?.first().is_some_and(|&byte| byte != 0);
                builder.append_option((!is_null(row)).then_some(bit));
            }
            Some(Arc::new(builder.finish()))
        }
        DataType::String => {
            let mut builder = StringBuilder::with_capacity(n_rows, 0);
            for row in 0..n_rows {
                let text = std::str::from_utf8(value(row)?).ok()?;
                builder.append_option((!is_null(row)).then_some(text));
            }
            Some(Arc::new(builder.finish()))
        }
        DataType::Binary => {
            let mut builder = BinaryBuilder::with_capacity(n_rows, 0);
            for row in 0..n_rows {
                let bytes = value(row)?;
                builder.append_option((!is_null(row)).then_some(bytes));
            }
            Some(Arc::new(builder.finish()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, UInt64Array,
    };
    use streamrt_wit::Field;

    fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
        Field {
            name: name.into(),
            data_type,
            nullable,
        }
    }

    fn check(fields: Vec<Field>, columns: Vec<ArrayRef>, fixed_bytes: Option<usize>) {
        let codec = RowCodec::new(&fields);
        assert_eq!(codec.fixed_bytes(), fixed_bytes);
        let batch = RecordBatch::try_new(codec.schema().clone(), columns).unwrap();
        let mut rows = Vec::new();
        for row in 0..batch.num_rows() {
            let mut bytes = Vec::new();
            codec.encode(batch.columns(), row, &mut bytes);
            rows.push(bytes);
        }
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        assert_eq!(codec.decode(&rows).unwrap(), batch);
        assert_eq!(codec.decode(&[&[], &[]]).unwrap().num_rows(), 2);
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, -2, i64::MAX]));
        let maybe: ArrayRef = Arc::new(Int32Array::from(vec![Some(5), None, Some(0)]));
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("")]));
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"\xff", b"", b"xyz"]));
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.5, -0.0, 1e300]));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1]));
        use DataType::*;
        check(
            vec![field("n", I64, false), field("f", F64, false)],
            vec![numbers.clone(), floats.clone()],
            Some(16),
        );
        check(
            vec![field("m", I32, true), field("b", Bool, true)],
            vec![maybe.clone(), flags.clone()],
            Some(6),
        );
        check(
            vec![
                field("t", String, true),
                field("u", U64, false),
                field("y", Binary, false),
                field("m", I32, true),
            ],
            vec![texts, unsigned, bytes, maybe],
            None,
        );
    }

    #[test]
    fn floats_that_are_one_key_have_the_same_bytes_in_a_key_and_their_own_in_a_value() {
        let schema = vec![
            field("x", DataType::F64, true),
            field("y", DataType::F32, false),
        ];
        let columns: [ArrayRef; 2] = [
            Arc::new(Float64Array::from(vec![-0.0, 0.0, f64::NAN, -f64::NAN])),
            Arc::new(arrow_array::Float32Array::from(vec![
                f32::NAN,
                -f32::NAN,
                -0.0,
                0.0,
            ])),
        ];
        let rows = |codec: RowCodec| {
            let row = |row| {
                let mut bytes = Vec::new();
                codec.encode(&columns, row, &mut bytes);
                bytes
            };
            (0..4).map(row).collect::<Vec<_>>()
        };
        let keys = rows(RowCodec::of_keys(&schema));
        assert_eq!((&keys[0], &keys[2]), (&keys[1], &keys[3]));
        assert_ne!(keys[0], keys[2]);
        let values = rows(RowCodec::new(&schema));
        assert!(values[0] != values[1] && values[2] != values[3]);
    }

    #[test]
    fn damaged_rows_are_an_error() {
        let codec = RowCodec::new(&vec![field("t", DataType::String, false)]);
        for bytes in [&[1u8, 0, 0][..], &[9, 0, 0, 0, b'a'], &[1, 0, 0, 0, 0xff]] {
            assert!(codec.decode(&[bytes]).is_err(), "{bytes:?}");
        }
    }
}
