//! The loops with which the engine is compared: what one would write by hand for the job, on the
//! same bids from the same generator.

use crate::jobs::Job;
use anyhow::{Context, Result};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use hashbrown::HashMap;
use std::hint::black_box;
use std::time::Duration;
use streamrt_operator::{Enumeration, ReaderPoll};

/// Rows of a batch, as the engine's default.
const BATCH_ROWS: usize = 1024;

/// Calls `each` with every batch of bids.
fn bids(job: Job, rows: u64, mut each: impl FnMut(&RecordBatch)) -> Result<()> {
    let (schema, options) = (job.fields()?, job.options(rows));
    let source = streamrt_connector::source(
        "nexmark",
        options.as_object().context("options are an object")?,
        &schema,
    )?;
    let Enumeration::Splits(splits) = source.enumerator(None)?.poll(1)? else {
        anyhow::bail!("the generator gives its splits at once")
    };
    for split in splits {
        let mut reader = source.open(&split, None)?;
        while let ReaderPoll::Batch(batch) = reader.poll(BATCH_ROWS, Duration::MAX)? {
            each(&batch.columns);
        }
    }
    Ok(())
}

fn column(batch: &RecordBatch, index: usize) -> &[i64] {
    batch.column(index).as_primitive::<Int64Type>().values()
}

/// Runs the job's loop; every result row goes to `out` as (key, second column, third column), or is
/// dropped where there is none.
pub fn run(job: Job, rows: u64, out: &mut impl FnMut(i64, i64, i64)) -> Result<()> {
    match job {
        Job::Bid => bids(job, rows, |batch| {
            black_box(batch);
        }),
        Job::Keyed { keys } => {
            let mut totals: HashMap<i64, (i64, i64)> = HashMap::with_capacity(keys as usize);
            bids(job, rows, |batch| {
                for (&key, &price) in column(batch, 0).iter().zip(column(batch, 1)) {
                    let total = totals.entry(key).or_default();
                    *total = (total.0 + 1, total.1 + price);
                    out(key, total.0, total.1);
                }
            })
        }
        Job::Tumbling { keys } => {
            let mut counts: HashMap<i64, i64> = HashMap::with_capacity(keys as usize);
            let mut end = 10_000;
            bids(job, rows, |batch| {
                for (&key, &time) in column(batch, 0).iter().zip(column(batch, 1)) {
                    while time >= end {
                        counts.drain().for_each(|(key, count)| out(key, end, count));
                        end += 10_000;
                    }
                    *counts.entry(key).or_default() += 1;
                }
            })?;
            counts.drain().for_each(|(key, count)| out(key, end, count));
            Ok(())
        }
    }
}

/// Runs the job's loop, and drops the results.
pub fn to_blackhole(job: Job, rows: u64) -> Result<()> {
    run(job, rows, &mut |key, second, third| {
        black_box((key, second, third));
    })
}
