//! All rows of each window, for a window-process function without an aggregate before it.
//!
//! Invariant: the rows of a cell are in the order in which they were added; a merge appends those
//! of the other windows.

use crate::contents::{Additions, Cell, Cells, Fired, Firing, Place, WindowState};
use crate::snapshot_bytes::{Fields, put_bytes};
use crate::window_call::{WindowCall, WindowRows};
use arrow_schema::SchemaRef;
use streamrt_operator::{Call, Projection};
use streamrt_state::RowCodec;
use streamrt_types::{Batch, Result};

/// Encoded rows, row i up to `ends[i]`.
#[derive(Default)]
struct Rows {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    times: Vec<i64>,
}

impl Rows {
    fn append(&mut self, other: Rows) {
        let base = self.bytes.len();
        self.bytes.extend(other.bytes);
        self.ends
            .extend(other.ends.into_iter().map(|end| base + end));
        self.times.extend(other.times);
    }

    fn each(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }
}

/// The rows of all windows, and the function for which they are kept.
pub(crate) struct RowContents {
    projection: Projection,
    codec: RowCodec,
    cells: Cells<Rows>,
    call: WindowCall,
}

impl RowContents {
    /// Keeps the columns that the function reads.
    ///
    /// # Errors
    /// `Invalid` if one of them is not in the input.
    pub(crate) fn new(call: WindowCall, input: &SchemaRef) -> Result<RowContents> {
        let projection = Projection::new(call.function(), input)?;
        let codec = RowCodec::new(&call.function().input);
        Ok(RowContents {
            projection,
            codec,
            cells: Cells::new(),
            call,
        })
    }
}

impl WindowState for RowContents {
    fn create(&mut self) -> Cell {
        self.cells.create()
    }

    fn add(&mut self, _: &Place, batch: &Batch, additions: &Additions) -> Result<()> {
        let columns = self.projection.apply(&batch.columns)?;
        let times = batch.times();
        for (&row, range) in additions.rows.iter().zip(additions.offsets.windows(2)) {
            for &cell in &additions.cells[range[0] as usize..range[1] as usize] {
                let rows = self.cells.get_mut(cell);
                self.codec
                    .encode(columns.columns(), row as usize, &mut rows.bytes);
                rows.ends.push(rows.bytes.len());
                rows.times.extend(times.map(|times| times[row as usize]));
            }
        }
        Ok(())
    }

    fn merge(&mut self, _: &Place, into: &Firing, from: &[Cell]) -> Result<()> {
        for &cell in from {
            let rows = self.cells.remove(cell);
            self.cells.get_mut(into.cell).append(rows);
        }
        Ok(())
    }

    fn fire(&mut self, place: &Place, firings: &[Firing]) -> Result<Fired> {
        let cells = || firings.iter().map(|firing| self.cells.get(firing.cell));
        let rows: Vec<&[u8]> = cells().flat_map(Rows::each).collect();
        let times: Vec<i64> = cells()
            .flat_map(|rows| rows.times.iter().copied())
            .collect();
        let mut offsets = vec![0];
        cells().fold(0, |end, rows| {
            offsets.push(end + rows.ends.len() as u32);
            end + rows.ends.len() as u32
        });
        let columns = self.codec.decode(&rows)?;
        let times = (times.len() == rows.len()).then_some(&times[..]);
        self.call.fire(
            place,
            firings,
            &WindowRows {
                columns: &columns,
                times,
                offsets: &offsets,
            },
        )
    }

    fn remove(&mut self, cell: Cell) {
        self.cells.remove(cell);
    }

    fn bytes(&self, cell: Cell) -> usize {
        let rows = self.cells.get(cell);
        rows.bytes.len() + rows.ends.len() * size_of::<usize>()
    }

    fn sees_watermark(&self) -> bool {
        true
    }

    fn piece(&self, place: &Place) -> usize {
        place.isolation.n_events(Call::Window)
    }

    /// A byte that says whether rows have times; then each row after its time and length.
    fn export(&self, cell: Cell, out: &mut Vec<u8>) {
        let rows = self.cells.get(cell);
        let timed = rows.times.len() == rows.ends.len();
        out.push(u8::from(timed));
        for (i, row) in rows.each().enumerate() {
            if timed {
                out.extend_from_slice(&rows.times[i].to_le_bytes());
            }
            put_bytes(row, out);
        }
    }

    fn import(&mut self, bytes: &[u8]) -> Result<Cell> {
        let mut fields = Fields::new(bytes, "rows of a window");
        let timed = fields.flag()?;
        let mut rows = Rows::default();
        while !fields.is_empty() {
            if timed {
                rows.times.push(fields.i64()?);
            }
            let row = fields.bytes()?;
            self.codec.check(row)?;
            rows.bytes.extend_from_slice(row);
            rows.ends.push(rows.bytes.len());
        }
        let cell = self.cells.create();
        *self.cells.get_mut(cell) = rows;
        Ok(cell)
    }
}
