//! Columns as bytes: what a section brings in, and what a builder gives out. Arrow's layout, little
//! endian, no alignment.
//!
//! Lengths are checked once, here; the row loops then index slices of arrays, which costs one
//! bounds check per value.

use crate::bindings::streamrt::plugin::types::{Buffer, Section};
use crate::error::{Error, Result};
use streamrt_wit::DataType;
use streamrt_wit::codes::{buffer, part};

/// The buffers of one column, borrowed.
#[derive(Clone, Copy, Default)]
pub struct RawColumn<'a> {
    pub(crate) validity: Option<&'a [u8]>,
    pub(crate) offsets: &'a [u8],
    pub(crate) data: &'a [u8],
}

/// The buffers of one column, owned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OwnedColumn {
    pub(crate) validity: Option<Vec<u8>>,
    pub(crate) offsets: Option<Vec<u8>>,
    pub(crate) data: Vec<u8>,
}

impl OwnedColumn {
    pub(crate) fn raw(&self) -> RawColumn<'_> {
        RawColumn {
            validity: self.validity.as_deref(),
            offsets: self.offsets.as_deref().unwrap_or_default(),
            data: &self.data,
        }
    }

    /// Adds the column's buffers to those of a section.
    pub(crate) fn send(self, node: u16, out: &mut Vec<Buffer>) {
        let buffer = |part, bytes| Buffer {
            role: buffer::COLUMN,
            node,
            part,
            bytes,
        };
        out.extend(self.validity.map(|bytes| buffer(part::VALIDITY, bytes)));
        out.extend(self.offsets.map(|bytes| buffer(part::OFFSETS, bytes)));
        out.push(buffer(part::DATA, self.data));
    }
}

/// Columns of equal length.
#[derive(Clone, Default)]
pub struct Table<'a> {
    pub(crate) n_rows: usize,
    pub(crate) columns: Vec<RawColumn<'a>>,
}

impl<'a> Table<'a> {
    /// The first `n_columns` columns of a section.
    pub(crate) fn of(section: &'a Section, n_columns: usize) -> Table<'a> {
        let mut columns = vec![RawColumn::default(); n_columns];
        for buffer in section
            .buffers
            .iter()
            .filter(|buffer| buffer.role == buffer::COLUMN)
        {
            if let Some(column) = columns.get_mut(usize::from(buffer.node)) {
                match buffer.part {
                    part::VALIDITY => column.validity = Some(&buffer.bytes),
                    part::OFFSETS => column.offsets = &buffer.bytes,
                    _ => column.data = &buffer.bytes,
                }
            }
        }
        Table {
            n_rows: section.rows as usize,
            columns,
        }
    }

    /// The columns from `first` on.
    pub(crate) fn skip(&self, first: usize) -> Table<'a> {
        Table {
            n_rows: self.n_rows,
            columns: self.columns.get(first..).unwrap_or_default().to_vec(),
        }
    }

    pub(crate) fn column(&self, index: usize) -> RawColumn<'a> {
        self.columns.get(index).copied().unwrap_or_default()
    }
}

/// The bytes of the buffer with this role.
pub(crate) fn find(section: &Section, role: u16) -> Option<&[u8]> {
    section
        .buffers
        .iter()
        .find(|buffer| buffer.role == role)
        .map(|buffer| buffer.bytes.as_slice())
}

/// Reads a buffer as `n` values of `N` bytes.
pub(crate) fn fixed<const N: usize>(bytes: &[u8], n: usize) -> Result<&[[u8; N]]> {
    let (values, rest) = bytes.as_chunks::<N>();
    match values.get(..n) {
        Some(values) if rest.is_empty() => Ok(values),
        _ => Err(Error::host(format!(
            "the host sent {} bytes where {n} values of {N} bytes belong",
            bytes.len()
        ))),
    }
}

/// Rows in a block of [`in_blocks`].
const BLOCK_ROWS: usize = 8;

/// Calls `each` for 0 to `n_rows`, in blocks of a fixed length that the compiler unrolls: the host
/// checks its deadline once per turn of a loop, which costs as much as a small function does.
#[inline]
pub(crate) fn in_blocks<E>(
    n_rows: usize,
    mut each: impl FnMut(usize) -> Result<(), E>,
) -> Result<(), E> {
    let mut row = 0;
    while n_rows - row >= BLOCK_ROWS {
        for place in 0..BLOCK_ROWS {
            each(row + place)?;
        }
        row += BLOCK_ROWS;
    }
    (row..n_rows).try_for_each(each)
}

/// A section that carries `columns` in addition to `buffers`.
pub(crate) fn section(
    role: u16,
    port: u16,
    rows: usize,
    mut buffers: Vec<Buffer>,
    columns: Vec<OwnedColumn>,
) -> Section {
    for (column, node) in columns.into_iter().zip(0..) {
        column.send(node, &mut buffers);
    }
    Section {
        role,
        port,
        rows: rows as u32,
        buffers,
    }
}

/// A buffer that is not a column.
pub(crate) fn plain(role: u16, bytes: Vec<u8>) -> Buffer {
    Buffer {
        role,
        node: 0,
        part: part::DATA,
        bytes,
    }
}

/// Numbers as bytes.
pub(crate) fn u32_bytes(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .map(|value| value.to_le_bytes())
        .collect::<Vec<_>>()
        .into_flattened()
}

/// Numbers as bytes.
pub(crate) fn i64_bytes(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .map(|value| value.to_le_bytes())
        .collect::<Vec<_>>()
        .into_flattened()
}

/// Bytes per value; `None` for bits and for values of varying length.
fn width(data_type: DataType) -> Option<usize> {
    match data_type {
        DataType::I32 | DataType::U32 | DataType::F32 => Some(4),
        DataType::I64 | DataType::U64 | DataType::F64 => Some(8),
        DataType::Bool | DataType::String | DataType::Binary => None,
    }
}

/// The rows of a column at `indices`.
pub(crate) fn gather(column: RawColumn<'_>, data_type: DataType, indices: &[u32]) -> OwnedColumn {
    let validity = column.validity.map(|bits| gather_bits(bits, indices));
    match (data_type, width(data_type)) {
        (_, Some(width)) => OwnedColumn {
            validity,
            offsets: None,
            data: gather_fixed(column.data, width, indices),
        },
        (DataType::Bool, None) => OwnedColumn {
            validity,
            offsets: None,
            data: gather_bits(column.data, indices),
        },
        (_, None) => {
            let (offsets, data) = gather_bytes(column, indices);
            OwnedColumn {
                validity,
                offsets: Some(offsets),
                data,
            }
        }
    }
}

fn gather_fixed(data: &[u8], width: usize, indices: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(indices.len() * width);
    for &index in indices {
        let at = index as usize * width;
        out.extend_from_slice(&data[at..at + width]);
    }
    out
}

fn gather_bits(bits: &[u8], indices: &[u32]) -> Vec<u8> {
    let mut out = vec![0; indices.len().div_ceil(8)];
    for (to, &from) in indices.iter().enumerate() {
        out[to / 8] |= u8::from(bit(bits, from as usize)) << (to % 8);
    }
    out
}

fn gather_bytes(column: RawColumn<'_>, indices: &[u32]) -> (Vec<u8>, Vec<u8>) {
    let (ends, _) = column.offsets.as_chunks::<4>();
    let (mut offsets, mut data) = (Vec::with_capacity(4 * indices.len() + 4), Vec::new());
    offsets.extend_from_slice(&0i32.to_le_bytes());
    for &index in indices {
        let index = index as usize;
        let (from, to) = (
            i32::from_le_bytes(ends[index]) as usize,
            i32::from_le_bytes(ends[index + 1]) as usize,
        );
        data.extend_from_slice(&column.data[from..to]);
        offsets.extend_from_slice(&(data.len() as i32).to_le_bytes());
    }
    (offsets, data)
}

/// Bit `index`, least significant first.
pub(crate) fn bit(bits: &[u8], index: usize) -> bool {
    bits[index / 8] >> (index % 8) & 1 == 1
}
