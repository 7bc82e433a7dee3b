//! The functions of `guest/` written against the same contract without Wasm: the baseline for a
//! plugin.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use std::sync::Arc;
use std::time::Duration;
use streamrt_operator::{Failure, FunctionChain, Invocation, Outcome, RowsIn, RowsOut, StateOut};
use streamrt_types::Error;

/// One of the three functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    Map,
    Filter,
    KeyedSum,
}

impl FunctionChain for Native {
    fn invoke(&mut self, invocation: Invocation, _deadline: Duration) -> Result<Outcome, Failure> {
        let rows = invocation
            .rows
            .as_ref()
            .ok_or_else(|| Error::internal("the benchmark sends rows"))?;
        match self {
            Native::Map => map(rows),
            Native::Filter => Ok(filter(rows)),
            Native::KeyedSum => keyed_sum(&invocation, rows),
        }
    }
}

fn output(n_rows: usize, columns: Option<RecordBatch>, origin: Option<Vec<u32>>) -> RowsOut {
    RowsOut {
        function: 0,
        port: 0,
        n_rows,
        columns,
        origin,
    }
}

fn one_column(name: &str, values: Vec<i64>) -> Result<RecordBatch, Failure> {
    let columns = [(name, Arc::new(Int64Array::from(values)) as ArrayRef)];
    Ok(RecordBatch::try_from_iter(columns)
        .map_err(|e| Error::internal("a column makes a batch").with_source(e))?)
}

fn map(rows: &RowsIn<'_>) -> Result<Outcome, Failure> {
    let prices = rows.columns.column(0).as_primitive::<Int64Type>().values();
    let mapped = one_column(
        "price",
        prices
            .iter()
            .map(|price| price.wrapping_mul(89).wrapping_add(7))
            .collect(),
    )?;
    Ok(Outcome {
        rows: vec![output(prices.len(), Some(mapped), None)],
        ..Outcome::default()
    })
}

fn filter(rows: &RowsIn<'_>) -> Outcome {
    let urls = rows.columns.column(0).as_string::<i32>();
    let kept: Vec<u32> = (0..urls.len() as u32)
        .filter(|&row| urls.value(row as usize).ends_with('7'))
        .collect();
    Outcome {
        rows: vec![output(kept.len(), None, Some(kept))],
        ..Outcome::default()
    }
}

fn keyed_sum(invocation: &Invocation, rows: &RowsIn<'_>) -> Result<Outcome, Failure> {
    let prices = rows.columns.column(1).as_primitive::<Int64Type>().values();
    let slots = rows
        .slots
        .ok_or_else(|| Error::internal("the sum is keyed"))?;
    let state = invocation
        .states
        .first()
        .ok_or_else(|| Error::internal("the sum has a state"))?;
    let mut totals = state
        .values
        .column(0)
        .as_primitive::<Int64Type>()
        .values()
        .to_vec();
    let mut running = Vec::with_capacity(prices.len());
    for (&slot, &price) in slots.iter().zip(prices) {
        let total = &mut totals[slot as usize];
        *total = total.wrapping_add(price);
        running.push(*total);
    }
    let states = vec![StateOut {
        number: 0,
        values: one_column("value", totals)?,
        actions: None,
    }];
    let rows = vec![output(
        running.len(),
        Some(one_column("total", running)?),
        None,
    )];
    Ok(Outcome {
        rows,
        states,
        ..Outcome::default()
    })
}
