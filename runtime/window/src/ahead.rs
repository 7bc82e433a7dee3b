//! `watermark.max-ahead`: rows whose event time is too far in the future, by the machine's clock.
//!
//! Such a row (a year mistyped, microseconds taken for milliseconds) would raise the watermark to
//! its own time, and make all others late. So the timestamps operator counts it as late and raises
//! no watermark for it, and a window operator puts it to the late output. The clock decides, not
//! the rows before it: after a gap in the input, however long, the next row is not suspicious, and
//! no row can shut out all that follow it. The price is that a row near the limit may be treated
//! differently when the input is read again.

use arrow_array::UInt32Array;
use streamrt_operator::OperatorContext;
use streamrt_types::{Batch, Mark, Result};

/// The latest event time that is not too far ahead; `i64::MAX` without a limit.
pub(crate) fn latest_time(context: &OperatorContext) -> i64 {
    let max_ahead = context.configuration.watermark_max_ahead_ms;
    max_ahead.map_or(i64::MAX, |ms| {
        context
            .clock
            .now_ms()
            .saturating_add(i64::try_from(ms).unwrap_or(i64::MAX))
    })
}

/// Splits off the rows that are later than `latest`: the others, with all marks, and those, without
/// any.
///
/// # Errors
/// `Internal` if rows could not be selected.
pub(crate) fn part(batch: Batch, latest: i64) -> Result<(Batch, Option<Batch>)> {
    let is_ahead = |row: &u32| {
        batch
            .times()
            .is_some_and(|times| times[*row as usize] > latest)
    };
    let (ahead, rest): (Vec<u32>, Vec<u32>) = (0..batch.n_rows() as u32).partition(is_ahead);
    if ahead.is_empty() {
        return Ok((batch, None));
    }
    let marks = batch
        .marks
        .iter()
        .map(|mark| Mark {
            row: rest.partition_point(|row| *row < mark.row) as u32,
            ..*mark
        })
        .collect();
    let ahead = batch.take(&UInt32Array::from(ahead))?;
    let rest = batch.take(&UInt32Array::from(rest))?;
    Ok((Batch { marks, ..rest }, Some(ahead)))
}
