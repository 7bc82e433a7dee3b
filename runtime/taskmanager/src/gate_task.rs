//! The loop of a task that is fed by other tasks: timers, then the gate, then the chain.

use crate::control::Control;
use crate::task::Task;
use std::time::Instant;
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_types::Result;

/// Runs until all channels are at their end.
///
/// # Errors
/// The first error of an operator, or that the job was cancelled.
pub fn run(task: &mut Task, gate: &mut InputGate) -> Result<()> {
    loop {
        let start = Instant::now();
        let timeout = task.run_timers()?;
        let before_poll = Instant::now();
        let event = gate.poll(timeout)?;
        let idle = before_poll.elapsed();
        if task.control.is_cancelled() {
            return Err(Control::cancelled());
        }
        match event {
            GateEvent::Batch(batch) => task.batch(batch)?,
            GateEvent::Watermark(watermark) => task.watermark(watermark)?,
            GateEvent::Status(status) => task.status(status)?,
            GateEvent::Nothing => {}
            GateEvent::EndOfInput => return task.end_of_input(),
        }
        task.account(start, idle);
    }
}
