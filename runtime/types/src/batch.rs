//! A batch of rows: Arrow columns, event times, watermark marks, and where the rows came from.
//!
//! Invariants, checked where a batch is made: all columns have `n_rows` rows; marks ascend in row
//! and watermark, with `row <= n_rows`; times, where there are any, have `n_rows` entries without
//! nulls.

use crate::error::{Error, Result};
use crate::time::Watermark;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch, UInt32Array};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, SchemaRef};
use std::sync::Arc;

/// A watermark inside a batch: rows from `row` on are under it, rows before are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// From 0 to `n_rows`, both included.
    pub row: u32,
    pub watermark: Watermark,
}

/// Where the event times of a batch are.
#[derive(Debug, Clone)]
pub enum Times {
    /// The job has no event time here.
    None,
    /// In this column, which has the type Int64, no nulls, and the unit ms.
    Column(usize),
    Array(ScalarBuffer<i64>),
}

/// Which records of the outside world the rows of a batch come from; for reports on poison records.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Names the split, for example `data/clicks.csv`.
    pub split: Arc<str>,
    /// The number of the split, unique in the job; watermark generators are kept by it.
    pub split_number: u64,
    pub rows: Rows,
}

/// Positions of rows within a split, counted from 1 (line numbers, for a file).
#[derive(Debug, Clone)]
pub enum Rows {
    /// Row i is at `first + i`.
    Range {
        first: u64,
    },
    Array(ScalarBuffer<u64>),
}

impl Origin {
    /// The position of row `row` within the split.
    pub fn position(&self, row: usize) -> u64 {
        match &self.rows {
            Rows::Range { first } => first + row as u64,
            Rows::Array(positions) => positions[row],
        }
    }

    /// The origin of the rows at `indices`.
    pub fn take(&self, indices: &[u32]) -> Origin {
        let positions = indices.iter().map(|&i| self.position(i as usize)).collect();
        Origin {
            split: self.split.clone(),
            split_number: self.split_number,
            rows: Rows::Array(positions),
        }
    }

    fn slice(&self, offset: usize, length: usize) -> Origin {
        let rows = match &self.rows {
            Rows::Range { first } => Rows::Range {
                first: first + offset as u64,
            },
            Rows::Array(positions) => Rows::Array(positions.slice(offset, length)),
        };
        Origin {
            split: self.split.clone(),
            split_number: self.split_number,
            rows,
        }
    }
}

/// Rows on their way from one operator to the next. Cloning is cheap: columns are shared.
#[derive(Debug, Clone)]
pub struct Batch {
    pub columns: RecordBatch,
    pub times: Times,
    pub marks: Vec<Mark>,
    pub origin: Option<Origin>,
}

impl Batch {
    /// Makes a batch without times, marks and origin.
    pub fn new(columns: RecordBatch) -> Batch {
        Batch {
            columns,
            times: Times::None,
            marks: Vec::new(),
            origin: None,
        }
    }

    /// A batch without rows that carries a watermark.
    pub fn watermark(schema: SchemaRef, watermark: Watermark) -> Batch {
        Batch {
            marks: vec![Mark { row: 0, watermark }],
            ..Batch::new(RecordBatch::new_empty(schema))
        }
    }

    pub fn n_rows(&self) -> usize {
        self.columns.num_rows()
    }

    /// The average number of bytes that a row takes in the columns; what a slice does not show is
    /// not counted.
    pub fn row_bytes(&self) -> usize {
        let bytes = self
            .columns
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
        bytes.sum::<usize>().div_ceil(self.n_rows().max(1))
    }

    /// The event times in ms, one per row, or `None` if the job has no event time.
    pub fn times(&self) -> Option<&[i64]> {
        match &self.times {
            Times::None => None,
            Times::Column(index) => Some(
                self.columns
                    .column(*index)
                    .as_primitive::<Int64Type>()
                    .values(),
            ),
            Times::Array(times) => Some(times),
        }
    }

    /// The last watermark that the batch carries.
    pub fn last_watermark(&self) -> Option<Watermark> {
        self.marks.last().map(|mark| mark.watermark)
    }

    /// Bytes of the rows; for a slice, only those that it shows. Names and marks are negligible and
    /// not counted.
    pub fn n_bytes(&self) -> usize {
        let times = if let Times::Array(times) = &self.times {
            size_of_val(&times[..])
        } else {
            0
        };
        columns_bytes(&self.columns) + times
    }

    /// Cuts the batch into pieces of at most `rows_max` rows and `bytes_max` bytes, or of one row.
    /// They share the columns. A mark at a cut goes to the piece before it. Most batches are one
    /// piece, which is the batch itself.
    ///
    /// # Errors
    /// The first that `each` returns; it gets no piece after that.
    #[inline]
    pub fn each_piece(
        self,
        rows_max: usize,
        bytes_max: usize,
        mut each: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let is_small =
            self.n_rows() <= rows_max && (bytes_max == usize::MAX || self.n_bytes() <= bytes_max);
        if is_small || self.n_rows() <= 1 {
            each(self)
        } else {
            self.cut(rows_max, bytes_max, &mut each)
        }
    }

    fn cut(
        self,
        rows_max: usize,
        bytes_max: usize,
        each: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let by_bytes = self.n_rows() as u128 * bytes_max as u128 / self.n_bytes().max(1) as u128;
        let usual = rows_max
            .min(usize::try_from(by_bytes).unwrap_or(usize::MAX))
            .max(1);
        let (mut start, mut mark) = (0, 0);
        while start < self.n_rows() {
            let mut rows = usual.min(self.n_rows() - start);
            let mut piece = self.slice(start, rows);
            while rows > 1 && piece.n_bytes() > bytes_max {
                rows /= 2;
                piece = self.slice(start, rows);
            }
            let end =
                mark + self.marks[mark..].partition_point(|mark| mark.row as usize <= start + rows);
            piece.marks = self.marks[mark..end]
                .iter()
                .map(|at| Mark {
                    row: at.row - start as u32,
                    watermark: at.watermark,
                })
                .collect();
            (start, mark) = (start + rows, end);
            each(piece)?;
        }
        Ok(())
    }

    /// Rows `offset..offset + length`, without marks: a caller that cuts at a mark decides which
    /// side gets it.
    pub fn slice(&self, offset: usize, length: usize) -> Batch {
        Batch {
            columns: self.columns.slice(offset, length),
            times: match &self.times {
                Times::Array(times) => Times::Array(times.slice(offset, length)),
                other => other.clone(),
            },
            marks: Vec::new(),
            origin: self
                .origin
                .as_ref()
                .map(|origin| origin.slice(offset, length)),
        }
    }

    /// The rows at `indices`, in that order, without marks.
    ///
    /// # Errors
    /// `Internal` if an index is out of range.
    pub fn take(&self, indices: &UInt32Array) -> Result<Batch> {
        let columns = arrow_select::take::take_record_batch(&self.columns, indices)
            .map_err(|e| Error::internal("rows could not be selected").with_source(e))?;
        let times = match &self.times {
            Times::Array(times) => Times::Array(
                indices
                    .values()
                    .iter()
                    .map(|&i| times[i as usize])
                    .collect(),
            ),
            other => other.clone(),
        };
        let origin = self
            .origin
            .as_ref()
            .map(|origin| origin.take(indices.values()));
        Ok(Batch {
            columns,
            times,
            marks: Vec::new(),
            origin,
        })
    }

    /// Checks the invariants of this type; for tests and for input that was not made here.
    ///
    /// # Errors
    /// `Internal`, naming the invariant that is broken.
    pub fn check(&self) -> Result<()> {
        let n_rows = self.n_rows();
        if let Times::Column(index) = self.times {
            let column = self.columns.columns().get(index);
            if column.is_none_or(|c| c.data_type() != &DataType::Int64 || c.null_count() > 0) {
                return Err(Error::internal(format!(
                    "column {index} holds no event times"
                )));
            }
        }
        if self.times().is_some_and(|times| times.len() != n_rows) {
            return Err(Error::internal("a batch has as many times as rows"));
        }
        let ascends = self
            .marks
            .windows(2)
            .all(|m| m[0].row <= m[1].row && m[0].watermark < m[1].watermark);
        if !ascends
            || self
                .marks
                .last()
                .is_some_and(|mark| mark.row as usize > n_rows)
        {
            return Err(Error::internal(
                "the marks of a batch ascend and lie within it",
            ));
        }
        Ok(())
    }
}

/// Bytes of the values of columns; for slices, only those that they show.
pub fn columns_bytes(columns: &RecordBatch) -> usize {
    columns
        .columns()
        .iter()
        .map(|column| column_bytes(column.as_ref()))
        .sum()
}

fn column_bytes(column: &dyn Array) -> usize {
    let nulls = if column.nulls().is_some() {
        column.len().div_ceil(8)
    } else {
        0
    };
    nulls
        + match column.data_type() {
            DataType::Utf8 => text_bytes(column.as_string::<i32>().value_offsets()),
            DataType::Binary => text_bytes(column.as_binary::<i32>().value_offsets()),
            DataType::Boolean => column.len().div_ceil(8),
            other => column.len() * other.primitive_width().unwrap_or(0),
        }
}

fn text_bytes(offsets: &[i32]) -> usize {
    let data = offsets
        .last()
        .zip(offsets.first())
        .map_or(0, |(last, first)| last - first);
    data as usize + size_of_val(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, StringArray};

    /// Texts of these lengths and marks before these rows, cut: the rows and the marks of each
    /// piece.
    fn check(
        lengths: &[usize],
        marks: &[u32],
        (rows_max, bytes_max): (usize, usize),
        expected: &[(usize, &[u32])],
    ) {
        let text = StringArray::from_iter_values(lengths.iter().map(|&n| "x".repeat(n)));
        let columns = RecordBatch::try_from_iter([("text", Arc::new(text) as ArrayRef)]).unwrap();
        let marks = marks
            .iter()
            .zip(0..)
            .map(|(&row, watermark)| Mark { row, watermark })
            .collect();
        let mut pieces = Vec::new();
        let batch = Batch {
            marks,
            ..Batch::new(columns)
        };
        batch
            .each_piece(rows_max, bytes_max, |piece| {
                piece.check()?;
                pieces.push((
                    piece.n_rows(),
                    piece.marks.iter().map(|mark| mark.row).collect::<Vec<_>>(),
                ));
                Ok(())
            })
            .unwrap();
        let expected: Vec<(usize, Vec<u32>)> = expected
            .iter()
            .map(|(rows, marks)| (*rows, marks.to_vec()))
            .collect();
        assert_eq!(pieces, expected);
    }

    #[test]
    fn pieces_are_bounded_in_bytes_and_lose_no_mark() {
        check(&[10, 10, 10, 10], &[0, 2, 4], (9, 1000), &[(4, &[0, 2, 4])]);
        check(
            &[10, 10, 10, 10],
            &[0, 2, 3, 4],
            (9, 40),
            &[(2, &[0, 2]), (2, &[1, 2])],
        );
        check(
            &[10, 10, 90, 10],
            &[3],
            (9, 40),
            &[(1, &[]), (1, &[]), (1, &[1]), (1, &[])],
        );
        check(
            &[10, 10, 10],
            &[1, 2],
            (2, usize::MAX),
            &[(2, &[1, 2]), (1, &[])],
        );
        check(&[], &[0], (9, 0), &[(0, &[0])]);
    }

    #[test]
    fn a_slice_counts_what_it_shows() {
        let columns = RecordBatch::try_from_iter_with_nullable([
            (
                "n",
                Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
                true,
            ),
            (
                "s",
                Arc::new(StringArray::from(vec!["abcdef", "g", ""])),
                true,
            ),
        ])
        .unwrap();
        assert_eq!(columns_bytes(&columns), 24 + 1 + 7 + 16);
        assert_eq!(columns_bytes(&columns.slice(1, 2)), 16 + 1 + 1 + 12);
    }
}
