//! Accumulators of an aggregate or reduce function of a plugin: one row of state per window of a
//! key.
//!
//! Invariant: a cell without an accumulator has seen no row that its function accepted, and gives
//! no result. One call adds all rows of a segment, one gives the results of all windows that fire.

mod calls;

use self::calls::{Accumulation, Merging, Results};
use crate::contents::{Additions, Cell, Cells, Fired, Firing, Place, WindowState};
use crate::keyed_windows::ADDED_BYTES;
use crate::snapshot_bytes::Fields;
use crate::window_call::{WindowCall, WindowRows};
use arrow_array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::SchemaRef;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;
use streamrt_operator::{
    Call, Failure, FunctionChain, Invocation, NoState, Outcome, Projection, RowsIn, StateIn,
};
use streamrt_state::{Address, Arena, NO_ADDRESS, RowCodec};
use streamrt_types::state_types::accumulator;
use streamrt_types::{Batch, Error, Result, arrow_schema, code, columns_bytes};
use streamrt_wit::{Function, FunctionKind, OutputColumns};

/// The function, its accumulators, and what follows it.
pub(crate) struct UserContents {
    chain: Box<dyn FunctionChain>,
    function: Function,
    projection: Projection,
    codec: RowCodec,
    cells: Cells<Address>,
    arena: Arena,
    /// The schema of the results.
    result: SchemaRef,
    then: Option<(WindowCall, Projection)>,
}

/// The schema of the results of an aggregate or reduce function.
///
/// # Errors
/// `Invalid` if an aggregate does not declare it.
pub(crate) fn result_schema(function: &Function, input: &SchemaRef) -> Result<SchemaRef> {
    match (
        function.outputs.first().map(|port| &port.columns),
        function.kind,
    ) {
        (Some(OutputColumns::Replace { schema }), _) => Ok(arrow_schema(schema)),
        (None, FunctionKind::Reduce) => Ok(input.clone()),
        _ => Err(Error::new(
            code::INVALID_JOB,
            format!(
                "function `{}` must say which columns it returns",
                function.name
            ),
        )),
    }
}

impl UserContents {
    /// `result` is the schema of the function's results.
    ///
    /// # Errors
    /// `Invalid` if the function has no accumulator, reads what is not there, or reduces to columns
    /// other than those that it returns.
    pub(crate) fn new(
        chain: Box<dyn FunctionChain>,
        function: Function,
        input: &SchemaRef,
        result: &SchemaRef,
    ) -> Result<UserContents> {
        let projection = Projection::new(&function, input)?;
        let no_accumulator = || {
            Error::new(
                code::INVALID_JOB,
                format!("function `{}` declares no accumulator", function.name),
            )
        };
        let codec = RowCodec::new(accumulator(&function).ok_or_else(no_accumulator)?);
        if function.kind == FunctionKind::Reduce && !same_types(codec.schema(), result) {
            let message = format!(
                "reduce function `{}` must keep all columns of its input, in their order",
                function.name
            );
            return Err(Error::new(code::SCHEMA_MISMATCH, message));
        }
        let (cells, arena) = (Cells::new(), Arena::new());
        Ok(UserContents {
            chain,
            function,
            projection,
            codec,
            cells,
            arena,
            result: result.clone(),
            then: None,
        })
    }

    /// Sends results on to a window-process function.
    pub(crate) fn then(mut self, call: WindowCall, projection: Projection) -> UserContents {
        self.then = Some((call, projection));
        self
    }

    /// The accumulators of some cells, as they go into a call.
    fn accumulators(&self, cells: &[Cell]) -> Result<StateIn> {
        let address = |cell: &Cell| *self.cells.get(*cell);
        let row = |cell: &Cell| {
            if address(cell) == NO_ADDRESS {
                &[]
            } else {
                self.arena.get(address(cell))
            }
        };
        let values = self
            .codec
            .decode(&cells.iter().map(row).collect::<Vec<_>>())?;
        let present = cells
            .iter()
            .map(|cell| u8::from(address(cell) != NO_ADDRESS))
            .collect();
        Ok(StateIn {
            number: 0,
            values,
            present,
            slots: None,
        })
    }

    /// Takes the accumulators that a call returned for some cells.
    fn store(&mut self, cells: &[Cell], outcome: Outcome) -> Result<()> {
        let bad = |what: &str| {
            Error::new(
                code::BAD_OUTPUT,
                format!("function `{}` returned {what}", self.function.name),
            )
        };
        let state = outcome
            .states
            .into_iter()
            .find(|state| state.number == 0)
            .ok_or_else(|| bad("no accumulators"))?;
        if state.values.num_rows() != cells.len()
            || !same_types(state.values.schema_ref(), self.codec.schema())
        {
            return Err(bad("other accumulators than it was given"));
        }
        let mut bytes = Vec::new();
        for (row, &cell) in cells.iter().enumerate() {
            bytes.clear();
            self.codec.encode(state.values.columns(), row, &mut bytes);
            let address = self.cells.get_mut(cell);
            *address = if *address == NO_ADDRESS {
                self.arena.insert(&bytes)
            } else {
                self.arena.replace(*address, &bytes)
            };
        }
        Ok(())
    }

    fn invoke(
        &mut self,
        call: Call,
        rows: Option<RowsIn<'_>>,
        states: StateIn,
        deadline: Duration,
    ) -> Result<Outcome, Failure> {
        let access = &mut NoState::boxed();
        self.chain.invoke(
            Invocation {
                call,
                rows,
                slots: None,
                states: vec![states],
                timers: &[],
                clock: None,
                access,
            },
            deadline,
        )
    }

    /// Returns the bytes that went in and came out in the largest call.
    fn accumulate(
        &mut self,
        batch: &Batch,
        additions: &Additions,
        part: &Range<usize>,
        deadline: Duration,
    ) -> Result<usize, Failure> {
        let (rows, cells) = additions.pairs(part.clone());
        let cells = &additions.cells[cells];
        // The windows of a row can take a large row in several calls; it goes into all of them or
        // into none.
        let n_pairs = match part.len() {
            1 => (ADDED_BYTES / batch.slice(rows[0] as usize, 1).row_bytes().max(1))
                .clamp(1, rows.len().max(1)),
            _ => rows.len().max(1),
        };
        let (mut outcomes, mut bytes_max) = (Vec::with_capacity(1), 0);
        for (rows, cells) in rows.chunks(n_pairs).zip(cells.chunks(n_pairs)) {
            let (distinct, outcome, n_bytes) =
                self.accumulate_pairs(batch, rows, cells, deadline)?;
            outcomes.push((distinct, outcome));
            bytes_max = bytes_max.max(n_bytes);
        }
        outcomes
            .into_iter()
            .try_for_each(|(distinct, outcome)| self.store(&distinct, outcome))?;
        Ok(bytes_max)
    }

    /// Adds row `rows[i]` to the accumulator of `cells[i]`, for every i. Returns the cells with
    /// what has become of them, and the bytes of the call.
    fn accumulate_pairs(
        &mut self,
        batch: &Batch,
        rows: &[u32],
        cells: &[Cell],
        deadline: Duration,
    ) -> Result<(Vec<Cell>, Outcome, usize), Failure> {
        let (distinct, slots) = number(cells);
        let taken = batch.take(&UInt32Array::from(rows.to_vec()))?;
        let columns = self.projection.apply(&taken.columns)?;
        let times = if self.function.time {
            taken.times()
        } else {
            None
        };
        let rows = RowsIn {
            columns: &columns,
            times,
            marks: &[],
            slots: Some(&slots),
        };
        let states = self.accumulators(&distinct)?;
        let n_bytes_in = columns_bytes(&columns) + columns_bytes(&states.values);
        let outcome = self.invoke(Call::Accumulate, Some(rows), states, deadline)?;
        let n_bytes = n_bytes_in + outcome.n_bytes();
        Ok((distinct, outcome, n_bytes))
    }

    /// Merges the accumulators of `cells` into the first one's.
    fn merge_cells(&mut self, cells: &[Cell], deadline: Duration) -> Result<usize, Failure> {
        let present: Vec<Cell> = cells
            .iter()
            .copied()
            .filter(|cell| *self.cells.get(*cell) != NO_ADDRESS)
            .collect();
        if present.is_empty() {
            return Ok(0);
        }
        let states = StateIn {
            slots: Some(vec![0; present.len()]),
            ..self.accumulators(&present)?
        };
        let n_bytes = columns_bytes(&states.values);
        let outcome = self.invoke(Call::Merge, None, states, deadline)?;
        self.store(&cells[..1], outcome)?;
        Ok(n_bytes)
    }

    /// The result of each accumulator.
    fn results(&mut self, cells: &[Cell], deadline: Duration) -> Result<RecordBatch, Failure> {
        let states = self.accumulators(cells)?;
        if self.function.kind == FunctionKind::Reduce {
            return Ok(self.accept(states.values)?);
        }
        let outcome = self.invoke(Call::Result, None, states, deadline)?;
        let sent = outcome
            .rows
            .into_iter()
            .find(|sent| sent.port == 0)
            .and_then(|sent| sent.columns);
        let sent = sent.filter(|sent| sent.num_rows() == cells.len());
        let missing = || {
            Error::new(
                code::BAD_OUTPUT,
                format!(
                    "function `{}` did not return one row for each accumulator",
                    self.function.name
                ),
            )
        };
        Ok(self.accept(sent.ok_or_else(missing)?)?)
    }

    fn accept(&self, columns: RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(columns.num_rows()));
        RecordBatch::try_new_with_options(self.result.clone(), columns.columns().to_vec(), &options)
            .map_err(|e| {
                Error::new(
                    code::BAD_OUTPUT,
                    format!(
                        "function `{}` returned other columns than it declares",
                        self.function.name
                    ),
                )
                .with_source(e)
            })
    }
}

fn same_types(a: &SchemaRef, b: &SchemaRef) -> bool {
    a.fields().len() == b.fields().len()
        && a.fields()
            .iter()
            .zip(b.fields())
            .all(|(a, b)| a.data_type() == b.data_type())
}

/// The distinct cells in order of first appearance, and the number of each.
fn number(cells: &[Cell]) -> (Vec<Cell>, Vec<u32>) {
    let (mut distinct, mut numbers) = (Vec::new(), HashMap::new());
    let slot = |&cell: &Cell| {
        *numbers.entry(cell).or_insert_with(|| {
            distinct.push(cell);
            distinct.len() as u32 - 1
        })
    };
    let slots = cells.iter().map(slot).collect();
    (distinct, slots)
}

impl WindowState for UserContents {
    fn create(&mut self) -> Cell {
        self.cells.create()
    }

    fn add(&mut self, place: &Place, batch: &Batch, additions: &Additions) -> Result<()> {
        let n_rows = additions.rows.len();
        let mut work = Accumulation {
            contents: self,
            place: &place.decoder,
            batch,
            additions,
        };
        if n_rows == 0 {
            Ok(())
        } else {
            place.isolation.run(&mut work, 0..n_rows)
        }
    }

    fn merge(&mut self, place: &Place, into: &Firing, from: &[Cell]) -> Result<()> {
        let cells = std::iter::once(into.cell)
            .chain(from.iter().copied())
            .collect();
        place.isolation.run(
            &mut Merging {
                contents: self,
                place,
                into,
                cells,
            },
            (),
        )?;
        from.iter().for_each(|&cell| self.remove(cell));
        Ok(())
    }

    fn fire(&mut self, place: &Place, firings: &[Firing]) -> Result<Fired> {
        let mut work = Results {
            contents: self,
            place,
            firings,
            columns: Vec::new(),
            fired: Vec::new(),
        };
        if !firings.is_empty() {
            place.isolation.run(&mut work, 0..firings.len())?;
        }
        let Results { columns, fired, .. } = work;
        let mut counts = vec![0; firings.len()];
        fired.iter().for_each(|&firing| counts[firing] = 1);
        let Some((call, projection)) = &mut self.then else {
            return Ok(Fired { columns, counts });
        };
        if fired.is_empty() {
            return Ok(Fired {
                columns: Vec::new(),
                counts,
            });
        }
        let joined = arrow_select::concat::concat_batches(&self.result, &columns).map_err(|e| {
            Error::internal("results of windows could not be joined").with_source(e)
        })?;
        let rows = projection.apply(&joined)?;
        // A window without a result does not get this far.
        let live: Vec<Firing> = fired
            .iter()
            .map(|&firing| firings[firing].clone())
            .collect();
        let offsets: Vec<u32> = (0..=live.len() as u32).collect();
        let then = call.fire(
            place,
            &live,
            &WindowRows {
                columns: &rows,
                times: None,
                offsets: &offsets,
            },
        )?;
        fired
            .iter()
            .zip(then.counts)
            .for_each(|(&firing, n)| counts[firing] = n);
        Ok(Fired {
            columns: then.columns,
            counts,
        })
    }

    fn remove(&mut self, cell: Cell) {
        let address = self.cells.remove(cell);
        if address != NO_ADDRESS {
            self.arena.remove(address);
        }
    }

    fn bytes(&self, cell: Cell) -> usize {
        self.arena.get(*self.cells.get(cell)).len()
    }

    fn sees_watermark(&self) -> bool {
        self.then.is_some()
    }

    fn piece(&self, place: &Place) -> usize {
        let n_results = place.isolation.n_events(Call::Result);
        if self.then.is_some() {
            n_results.min(place.isolation.n_events(Call::Window))
        } else {
            n_results
        }
    }

    /// A 1 and the accumulator; a 0 if there is none.
    fn export(&self, cell: Cell, out: &mut Vec<u8>) {
        let address = *self.cells.get(cell);
        out.push(u8::from(address != NO_ADDRESS));
        out.extend_from_slice(self.arena.get(address));
    }

    fn import(&mut self, bytes: &[u8]) -> Result<Cell> {
        let mut fields = Fields::new(bytes, "an accumulator");
        let mut address = NO_ADDRESS;
        if fields.flag()? {
            let accumulator = fields.rest();
            self.codec.check(accumulator)?;
            address = self.arena.insert(accumulator);
        } else {
            fields.end()?;
        }
        let cell = self.cells.create();
        *self.cells.get_mut(cell) = address;
        Ok(cell)
    }
}
