//! The loop of a task that is fed by other tasks: commands, timers, then the gate, then the chain.
//!
//! A slow chain lets few rows wait in its channels, so that a barrier after them is soon there.
//! What a watermark makes fire goes out piece by piece, and between two pieces a barrier passes
//! that stands next.

use crate::control::Control;
use crate::task::{Task, gate_snapshot};
use std::time::{Duration, Instant};
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::SplitEvent;
use streamrt_types::Result;

/// Runs until all channels are at their end.
///
/// # Errors
/// The first error of an operator, or that the job was cancelled.
pub fn run(task: &mut Task, gate: &mut InputGate) -> Result<()> {
    let uid = task
        .chain
        .contexts()
        .next()
        .map(|context| context.uid.clone())
        .unwrap_or_default();
    let mut appetite = Appetite::new(gate);
    loop {
        let start = Instant::now();
        task.commands(gate)?;
        let timeout = task.run_timers()?;
        let before_poll = Instant::now();
        let event = gate.poll(timeout)?;
        let idle = before_poll.elapsed();
        if task.control.is_cancelled() {
            return Err(Control::cancelled());
        }
        match event {
            GateEvent::Batch(batch) => {
                appetite.measure(gate, batch.n_rows(), || task.batch(batch))?
            }
            GateEvent::SecondInput(batch) => {
                appetite.measure(gate, batch.n_rows(), || task.second_input(batch))?
            }
            GateEvent::Watermark(watermark) => task.watermark(watermark)?,
            GateEvent::Status(status) => task.status(status)?,
            GateEvent::SplitFinished(number) => task.split(SplitEvent::Finished { number })?,
            GateEvent::Barrier(barrier, alignment) => {
                task.checkpoint(barrier, alignment, gate_snapshot(&uid, gate.watermark()))?
            }
            GateEvent::Nothing => {}
            GateEvent::EndOfInput => {
                let watermark = gate.watermark();
                return task.end_of_input(gate, || gate_snapshot(&uid, watermark));
            }
        }
        end_sweep(task, gate, &uid)?;
        task.account(start, idle);
        task.control.memory.check()?;
    }
}

/// Carries out what a watermark has begun. Rows after the watermark wait for it.
fn end_sweep(task: &mut Task, gate: &mut InputGate, uid: &str) -> Result<()> {
    while task.chain.is_sweeping() {
        if task.control.is_cancelled() {
            return Err(Control::cancelled());
        }
        task.commands(gate)?;
        if let Some((barrier, alignment)) = gate.poll_barrier()? {
            task.checkpoint(barrier, alignment, gate_snapshot(uid, gate.watermark()))?;
        }
        task.chain.resume(&mut task.exits)?;
    }
    Ok(())
}

/// How long the rows that wait in a channel should take the task.
const WAITING_TIME: Duration = Duration::from_millis(200);

/// Rows that wait in a channel before it is known how long they take.
const ROWS_FIRST: usize = 64;

/// How many rows a task wants to have waiting, from how long it takes for them.
struct Appetite {
    /// A moving average; 0 before the first.
    row_ns: f64,
    rows: usize,
}

impl Appetite {
    fn new(gate: &InputGate) -> Appetite {
        gate.set_rows_max(ROWS_FIRST);
        Appetite {
            row_ns: 0.0,
            rows: ROWS_FIRST,
        }
    }

    /// Measures `work` on `n_rows`, and tells the gate if that changes much.
    fn measure(
        &mut self,
        gate: &InputGate,
        n_rows: usize,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let start = Instant::now();
        work()?;
        if n_rows > 0 {
            let rows = self.took(n_rows, start.elapsed());
            if rows.abs_diff(self.rows) > self.rows / 4 {
                self.rows = rows;
                gate.set_rows_max(rows);
            }
        }
        Ok(())
    }

    /// The rows that are done in [`WAITING_TIME`].
    fn took(&mut self, n_rows: usize, time: Duration) -> usize {
        let row_ns = time.as_nanos() as f64 / n_rows as f64;
        self.row_ns = if self.row_ns == 0.0 {
            row_ns
        } else {
            self.row_ns * 0.75 + row_ns * 0.25
        };
        ((WAITING_TIME.as_nanos() as f64 / self.row_ns.max(1.0)) as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_task_lets_few_rows_wait() {
        let gate = InputGate::new(1, 1 << 20);
        let mut appetite = Appetite::new(&gate);
        assert_eq!(gate.sender(0).rows_max(), ROWS_FIRST);
        assert_eq!(appetite.took(1, Duration::from_millis(22)), 9);
        let mut last = 9;
        for _ in 0..40 {
            let rows = appetite.took(1000, Duration::from_millis(1));
            assert!(rows >= last);
            last = rows;
        }
        assert!(last > 150_000, "{last}");
        assert_eq!(appetite.took(1, Duration::from_secs(60)), 1);
    }
}
