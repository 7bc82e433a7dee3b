//! Buffers that came out of a guest, checked and turned into columns.
//!
//! Invariant: nothing of a guest is used before it is checked: lengths, offsets, bitmaps, UTF-8,
//! nulls. An array that leaves this file is consistent, whatever the guest sent. Errors are
//! `BAD_OUTPUT` and name the column and the row; the caller adds the place.

use crate::abi::Section;
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
    StringArray,
};
use arrow_buffer::{
    ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer,
};
use arrow_schema::{DataType, Field, SchemaRef};
use std::sync::Arc;
use streamrt_types::{Error, Result, code};
use streamrt_wit::codes::{buffer, part};

/// A guest broke the interface.
pub(crate) fn bad(message: impl Into<String>) -> Error {
    Error::new(code::BAD_OUTPUT, message)
}

/// The most buffers of one section: three for each column that a stream may have, and some more.
/// Each column searches for its own among them.
const BUFFERS_MAX: usize = 12_500;

/// The buffers of one section, taken out one after the other.
pub(crate) struct Reader {
    rows: usize,
    buffers: Vec<crate::abi::Buffer>,
}

impl Reader {
    pub fn new(section: Section) -> Reader {
        Reader {
            rows: section.rows as usize,
            buffers: section.buffers,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    fn take(&mut self, role: u16, node: u16, part: u8) -> Option<Vec<u8>> {
        let is_it = |b: &crate::abi::Buffer| {
            b.role == role && (role != buffer::COLUMN || (b.node == node && b.part == part))
        };
        let index = self.buffers.iter().position(is_it)?;
        Some(self.buffers.swap_remove(index).bytes)
    }

    /// The buffer of a role other than `column`.
    pub fn bytes(&mut self, role: u16) -> Option<Vec<u8>> {
        self.take(role, 0, part::DATA)
    }

    /// A buffer of one number per row.
    ///
    /// # Errors
    /// `UserCode` if its length does not fit.
    pub fn numbers<T: ArrowNativeType>(
        &mut self,
        role: u16,
        name: &str,
    ) -> Result<Option<ScalarBuffer<T>>> {
        let Some(bytes) = self.bytes(role) else {
            return Ok(None);
        };
        let rows = self.rows;
        numbers(bytes, rows).map(Some).map_err(|n_bytes| {
            bad(format!(
                "buffer `{name}` holds {n_bytes} bytes, which is not {rows} numbers"
            ))
        })
    }

    /// The columns of `schema`, numbered from `first_node`.
    ///
    /// # Errors
    /// `UserCode` for the first column that is inconsistent.
    pub fn columns(&mut self, schema: &SchemaRef, first_node: u16) -> Result<RecordBatch> {
        if self.buffers.len() > BUFFERS_MAX {
            return Err(bad(format!(
                "a section has {} buffers, and may have {BUFFERS_MAX}",
                self.buffers.len()
            )));
        }
        let columns = schema
            .fields()
            .iter()
            .zip(first_node..)
            .map(|(field, node)| self.column(field, node))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options);
        batch.map_err(|e| Error::internal("checked columns do not make a batch").with_source(e))
    }

    /// Refuses what was not taken.
    ///
    /// # Errors
    /// `UserCode`, naming the first buffer that is left over.
    pub fn finish(self) -> Result<()> {
        match self.buffers.first() {
            None => Ok(()),
            Some(left) if left.role == buffer::COLUMN => Err(bad(format!(
                "there is a buffer for column {} (part {}), which the plan does not have, or has already",
                left.node, left.part
            ))),
            Some(left) => Err(bad(format!(
                "there is a buffer of role {}, which does not belong there",
                left.role
            ))),
        }
    }

    fn column(&mut self, field: &Field, node: u16) -> Result<ArrayRef> {
        let nulls = self.nulls(field, node)?;
        match field.data_type() {
            DataType::Boolean => self.boolean(field, node, nulls),
            DataType::Int32 => self.primitive::<Int32Type>(field, node, nulls),
            DataType::Int64 => self.primitive::<Int64Type>(field, node, nulls),
            DataType::UInt32 => self.primitive::<UInt32Type>(field, node, nulls),
            DataType::UInt64 => self.primitive::<UInt64Type>(field, node, nulls),
            DataType::Float32 => self.primitive::<Float32Type>(field, node, nulls),
            DataType::Float64 => self.primitive::<Float64Type>(field, node, nulls),
            DataType::Utf8 => self.text(field, node, nulls),
            DataType::Binary => {
                let (offsets, data) = self.offsets_and_data(field, node)?;
                Ok(Arc::new(
                    BinaryArray::try_new(offsets, data, nulls).map_err(unexpected)?,
                ))
            }
            other => Err(Error::internal(format!(
                "a column of type {other} cannot leave a plugin"
            ))),
        }
    }

    fn data(&mut self, field: &Field, node: u16) -> Result<Vec<u8>> {
        self.take(buffer::COLUMN, node, part::DATA)
            .ok_or_else(|| bad(format!("column `{}` is missing", field.name())))
    }

    fn nulls(&mut self, field: &Field, node: u16) -> Result<Option<NullBuffer>> {
        let Some(bytes) = self.take(buffer::COLUMN, node, part::VALIDITY) else {
            return Ok(None);
        };
        let nulls = NullBuffer::new(self.bits(bytes, "validity", field)?);
        if nulls.null_count() == 0 {
            return Ok(None);
        }
        if !field.is_nullable() {
            let row = (0..self.rows).find(|&row| nulls.is_null(row)).unwrap_or(0);
            return Err(bad(format!(
                "column `{}` is null in row {row}, but the plan says that it never is",
                field.name()
            )));
        }
        Ok(Some(nulls))
    }

    fn bits(&self, bytes: Vec<u8>, what: &str, field: &Field) -> Result<BooleanBuffer> {
        if bytes.len() < self.rows.div_ceil(8) {
            let (name, n_bits) = (field.name(), bytes.len() * 8);
            return Err(bad(format!(
                "the {what} bitmap of column `{name}` has {n_bits} bits, but there are {} rows",
                self.rows
            )));
        }
        Ok(BooleanBuffer::new(Buffer::from_vec(bytes), 0, self.rows))
    }

    fn boolean(&mut self, field: &Field, node: u16, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let bytes = self.data(field, node)?;
        Ok(Arc::new(BooleanArray::new(
            self.bits(bytes, "data", field)?,
            nulls,
        )))
    }

    fn primitive<T: ArrowPrimitiveType>(
        &mut self,
        field: &Field,
        node: u16,
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef> {
        let bytes = self.data(field, node)?;
        let (name, rows, width) = (field.name(), self.rows, size_of::<T::Native>());
        let values = numbers(bytes, rows).map_err(|n_bytes| {
            bad(format!(
                "column `{name}` has {} values, but there are {rows} rows",
                n_bytes / width
            ))
        })?;
        Ok(Arc::new(
            PrimitiveArray::<T>::try_new(values, nulls).map_err(unexpected)?,
        ))
    }

    fn text(&mut self, field: &Field, node: u16, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let (offsets, data) = self.offsets_and_data(field, node)?;
        match StringArray::try_new(offsets.clone(), data.clone(), nulls) {
            Ok(array) => Ok(Arc::new(array)),
            Err(_) => {
                let is_bad = |row: &usize| {
                    std::str::from_utf8(&data[offsets[*row] as usize..offsets[*row + 1] as usize])
                        .is_err()
                };
                let row = (0..self.rows).find(is_bad).unwrap_or(0);
                Err(bad(format!(
                    "column `{}` is not UTF-8 in row {row}",
                    field.name()
                )))
            }
        }
    }

    /// The offsets of a text or binary column, from 0, ascending, and the data up to the last one.
    fn offsets_and_data(
        &mut self,
        field: &Field,
        node: u16,
    ) -> Result<(OffsetBuffer<i32>, Buffer)> {
        let name = field.name();
        let Some(bytes) = self.take(buffer::COLUMN, node, part::OFFSETS) else {
            return Err(bad(format!("column `{name}` is missing its offsets")));
        };
        let offsets = numbers::<i32>(bytes, self.rows + 1).map_err(|n_bytes| {
            bad(format!(
                "column `{name}` has {} offsets, but {} rows need one more than rows",
                n_bytes / 4,
                self.rows
            ))
        })?;
        let data = self.data(field, node)?;
        check_offsets(&offsets, data.len())
            .map_err(|message| bad(format!("the offsets of column `{name}` {message}")))?;
        let last = offsets[offsets.len() - 1] as usize;
        Ok((
            OffsetBuffer::new(offsets),
            Buffer::from_vec(data).slice_with_length(0, last),
        ))
    }
}

/// # Errors
/// The end of a sentence that begins with "the offsets".
pub(crate) fn check_offsets(offsets: &[i32], n_data: usize) -> std::result::Result<(), String> {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    if first != 0 {
        return Err(format!("begin at {first}, not at 0"));
    }
    if let Some(row) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        return Err(format!(
            "descend from {} to {} at row {row}",
            offsets[row],
            offsets[row + 1]
        ));
    }
    if last as usize > n_data {
        Err(format!(
            "end at {last}, but there are {n_data} bytes of data"
        ))
    } else {
        Ok(())
    }
}

/// Exactly `n` numbers, without a copy if the bytes are aligned. The error is the number of bytes.
fn numbers<T: ArrowNativeType>(
    bytes: Vec<u8>,
    n: usize,
) -> std::result::Result<ScalarBuffer<T>, usize> {
    if n.checked_mul(size_of::<T>()) != Some(bytes.len()) {
        return Err(bytes.len());
    }
    let is_aligned = bytes.as_ptr().align_offset(align_of::<T>()) == 0;
    let buffer = if is_aligned {
        Buffer::from_vec(bytes)
    } else {
        Buffer::from_slice_ref(&bytes)
    };
    Ok(ScalarBuffer::new(buffer, 0, n))
}

/// Arrow refuses what was checked here.
fn unexpected(error: arrow_schema::ArrowError) -> Error {
    Error::internal("a checked column does not make an array").with_source(error)
}
