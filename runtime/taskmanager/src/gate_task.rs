//! The loop of a task that is fed by other tasks: commands, timers, then the gate, then the chain.

use crate::control::Control;
use crate::task::{Task, gate_snapshot};
use std::time::Instant;
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::SplitEvent;
use streamrt_types::Result;

/// Runs until all channels are at their end.
///
/// # Errors
/// The first error of an operator, or that the job was cancelled.
pub fn run(task: &mut Task, gate: &mut InputGate) -> Result<()> {
    let uid = task.chain.contexts().next().map(|context| context.uid.clone()).unwrap_or_default();
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
            GateEvent::Batch(batch) => task.batch(batch)?,
            GateEvent::SecondInput(batch) => task.second_input(batch)?,
            GateEvent::Watermark(watermark) => task.watermark(watermark)?,
            GateEvent::Status(status) => task.status(status)?,
            GateEvent::SplitFinished(number) => task.split(SplitEvent::Finished { number })?,
            GateEvent::Barrier(barrier, alignment) => task.checkpoint(barrier, alignment, gate_snapshot(&uid, gate.watermark()))?,
            GateEvent::Nothing => {}
            GateEvent::EndOfInput => {
                let watermark = gate.watermark();
                return task.end_of_input(gate, || gate_snapshot(&uid, watermark));
            }
        }
        task.account(start, idle);
    }
}
