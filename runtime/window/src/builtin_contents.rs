//! Built-in aggregates for windows that have no panes: sessions, counts, the global window.
//!
//! Invariant: a cell is an entry of the table, whose key is a serial number; so cells live where
//! the accumulators can reach them.

use crate::contents::{Additions, Cell, Fired, Firing, Place, WindowState};
use crate::result_columns::ResultColumns;
use arrow_array::{ArrayRef, Int64Array, UInt32Array};
use arrow_schema::SchemaRef;
use std::sync::Arc;
use streamrt_operator::Accumulators;
use streamrt_state::{EntryId, KeyKind, KeyTable, Keys};
use streamrt_types::{Batch, KeyGroupRange, Result, murmur3_32};
use streamrt_wit::{BuiltinAggregate, ResultColumn};

pub(crate) struct BuiltinContents {
    accumulators: Accumulators,
    columns: ResultColumns,
    table: KeyTable,
    serial: u64,
    created: Vec<u32>,
    entries: Vec<EntryId>,
}

impl BuiltinContents {
    /// # Errors
    /// `Invalid` if a column is not there, or its type cannot be aggregated so.
    pub(crate) fn new(
        aggregates: &[BuiltinAggregate],
        columns: &[ResultColumn],
        input: &SchemaRef,
        key: &SchemaRef,
        output: &SchemaRef,
    ) -> Result<BuiltinContents> {
        let accumulators = Accumulators::new(aggregates, input)?;
        let columns = ResultColumns::new(columns, key, aggregates.len(), output.clone())?;
        let table = KeyTable::new(
            KeyKind::Fixed,
            accumulators.bytes(),
            KeyGroupRange::all(1),
            1,
        );
        Ok(BuiltinContents {
            accumulators,
            columns,
            table,
            serial: 0,
            created: Vec::new(),
            entries: Vec::new(),
        })
    }
}

/// Whether row numbers follow one another without a gap.
fn is_run(rows: &[u32]) -> bool {
    rows.windows(2).all(|pair| pair[0] + 1 == pair[1])
}

impl WindowState for BuiltinContents {
    fn create(&mut self) -> Cell {
        let key = self.serial;
        self.serial += 1;
        self.table.upsert(
            &[murmur3_32(&key.to_le_bytes())],
            Keys::Fixed(&[key]),
            &mut self.entries,
            &mut self.created,
        );
        self.entries[0]
    }

    fn add(&mut self, place: &Place, batch: &Batch, additions: &Additions) -> Result<()> {
        let (rows, cells) = additions.pairs(0..additions.rows.len());
        let cells = &additions.cells[cells];
        let Some(&first) = rows.first() else {
            return Ok(());
        };
        let updated = if is_run(&rows) {
            let first = first as usize;
            self.accumulators.update(
                &mut self.table,
                cells,
                &batch.columns,
                batch.times(),
                first..first + rows.len(),
            )
        } else {
            let taken = batch.take(&UInt32Array::from(rows.clone()))?;
            self.accumulators.update(
                &mut self.table,
                cells,
                &taken.columns,
                taken.times(),
                0..rows.len(),
            )
        };
        updated.map_err(|overflow| {
            let key = place
                .decoder
                .describe(&batch.columns, rows[overflow.position] as usize);
            self.accumulators.overflow(overflow, &place.uid, &key)
        })
    }

    fn merge(&mut self, place: &Place, into: &Firing, from: &[Cell]) -> Result<()> {
        for &cell in from {
            let mut value = self.table.value(into.cell).to_vec();
            let merged = self.accumulators.merge(&mut value, self.table.value(cell));
            merged.map_err(|overflow| {
                self.accumulators.overflow(
                    overflow,
                    &place.uid,
                    &place.decoder.describe_bytes(&into.key),
                )
            })?;
            self.table.value_mut(into.cell).copy_from_slice(&value);
            self.remove(cell);
        }
        Ok(())
    }

    fn fire(&mut self, place: &Place, firings: &[Firing]) -> Result<Fired> {
        let mut values = Vec::with_capacity(firings.len() * self.accumulators.bytes());
        firings
            .iter()
            .for_each(|firing| values.extend_from_slice(self.table.value(firing.cell)));
        let keys: Vec<&[u8]> = firings.iter().map(|firing| &firing.key[..]).collect();
        let keys = if self.columns.needs_keys() {
            place.decoder.decode(&keys)?.columns().to_vec()
        } else {
            Vec::new()
        };
        let start: ArrayRef = Arc::new(Int64Array::from_iter_values(
            firings.iter().map(|firing| firing.window.start),
        ));
        let end: ArrayRef = Arc::new(Int64Array::from_iter_values(
            firings.iter().map(|firing| firing.window.end),
        ));
        let columns =
            self.columns
                .assemble(&keys, start, end, &self.accumulators.finish(&values))?;
        Ok(Fired {
            columns: vec![columns],
            counts: vec![1; firings.len()],
        })
    }

    fn remove(&mut self, cell: Cell) {
        self.accumulators.release(self.table.value(cell));
        self.table.remove(cell);
    }

    fn bytes(&self, cell: Cell) -> usize {
        self.accumulators.result_bytes(self.table.value(cell))
    }

    fn export(&self, cell: Cell, out: &mut Vec<u8>) {
        self.accumulators.export(self.table.value(cell), out);
    }

    fn import(&mut self, bytes: &[u8]) -> Result<Cell> {
        let cell = self.create();
        self.accumulators
            .import(bytes, self.table.value_mut(cell))?;
        Ok(cell)
    }
}
