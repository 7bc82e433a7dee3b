//! The receiving end of a task's channels.
//!
//! Elements of one channel keep their order; the gate takes the channels in turn. The gate owns the
//! watermark valve: what comes out of it carries the combined watermark of all channels. Invariant:
//! no batch comes out before every channel has sent its status, since a silent channel might still
//! hold time back.
//!
//! A checkpoint's barriers are aligned here: a channel whose barrier has come is not read until
//! those of all others have, so that what is processed before the barrier is passed on is what the
//! checkpoint holds. A channel that has ended counts as aligned.
//!
//! # Source
//! Flink's `SingleCheckpointBarrierHandler`, for aligned checkpoints.

use crate::channel::{ChannelSender, GateWaker, Shared};
use crate::valve::{ValveEvent, WatermarkValve};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_types::{
    Barrier, Batch, Error, Result, Status, StreamElement, WATERMARK_MAX, WATERMARK_MIN, Watermark,
    failpoint,
};

/// What a gate has for its task.
#[derive(Debug)]
pub enum GateEvent {
    Batch(Batch),
    /// A batch for the second input of an operator that has two.
    SecondInput(Batch),
    Watermark(Watermark),
    Status(Status),
    /// A channel has no more rows of this split.
    SplitFinished(u64),
    /// The barriers of all channels have come; the duration is the time since the first one.
    Barrier(Barrier, Duration),
    /// All channels are at their end.
    EndOfInput,
    /// Nothing came within the time, or somebody woke the task.
    Nothing,
}

/// All channels of one task.
pub struct InputGate {
    shared: Arc<Shared>,
    valve: WatermarkValve,
    /// Channels that have sent their status, and those that have ended.
    known: Vec<bool>,
    ended: Vec<bool>,
    /// Channels that lead to the second input.
    second: Vec<bool>,
    /// Whether the combined status has been sent.
    told: bool,
    /// What the valve returned beyond the event that was passed on.
    pending: VecDeque<GateEvent>,
    /// The checkpoint whose barriers are coming in, and since when.
    aligning: Option<(Barrier, Instant)>,
    /// Channels that are not read until the others are aligned.
    blocked: Vec<bool>,
    /// Barriers of this checkpoint and of earlier ones no longer count.
    last_checkpoint: u64,
    /// The watermark from before a restart, until it has been sent.
    restored: Option<Watermark>,
}

impl InputGate {
    /// Makes a gate of `n_channels` channels, each with room for `capacity_bytes`.
    pub fn new(n_channels: usize, capacity_bytes: usize) -> InputGate {
        InputGate {
            shared: Arc::new(Shared::new(n_channels, capacity_bytes)),
            valve: WatermarkValve::new(n_channels),
            known: vec![false; n_channels],
            second: vec![false; n_channels],
            ended: vec![false; n_channels],
            told: false,
            pending: VecDeque::new(),
            aligning: None,
            blocked: vec![false; n_channels],
            last_checkpoint: 0,
            restored: None,
        }
    }

    /// The last combined watermark that was sent; it belongs in a checkpoint.
    pub fn watermark(&self) -> Watermark {
        self.valve
            .watermark_out()
            .max(self.restored.unwrap_or(WATERMARK_MIN))
    }

    /// Sets which channels lead to the second input of the task's operator. Watermarks, status and
    /// barriers are those of all channels together, as if there were one input.
    pub fn set_second_input(&mut self, channels: &[usize]) {
        channels
            .iter()
            .for_each(|&channel| self.second[channel] = true);
    }

    /// Begins with the watermark of a checkpoint: it is sent after the first status, before any
    /// row. The task counts as active until it has carried it out.
    pub fn restore(&mut self, watermark: Watermark) {
        if watermark > WATERMARK_MIN {
            self.restored = Some(watermark);
            self.valve.restore(watermark);
        }
    }

    /// Asks for the barrier of a checkpoint that no channel will bring: it comes out when all of
    /// them have ended, or at once if there are none.
    pub fn trigger(&mut self, barrier: Barrier) {
        let newest = self
            .aligning
            .map_or(self.last_checkpoint + 1, |(current, _)| current.checkpoint);
        if barrier.checkpoint >= newest {
            self.align(barrier);
        }
    }

    /// Abandons a checkpoint: its channels are read again, and its barriers no longer count.
    pub fn abandon(&mut self, checkpoint: u64) {
        if self
            .aligning
            .is_some_and(|(barrier, _)| barrier.checkpoint <= checkpoint)
        {
            self.release();
        }
        self.last_checkpoint = self.last_checkpoint.max(checkpoint);
    }

    fn release(&mut self) {
        self.aligning = None;
        self.blocked.fill(false);
    }

    fn barrier(&mut self, channel: usize, barrier: Barrier) -> Result<()> {
        if barrier.checkpoint <= self.last_checkpoint {
            return Ok(());
        }
        match self.aligning {
            Some((current, _)) if current.checkpoint > barrier.checkpoint => return Ok(()),
            Some((current, _)) if current.checkpoint == barrier.checkpoint => {}
            // The awaited one will not come: its coordinator has begun another.
            _ => self.release(),
        }
        self.blocked[channel] = true;
        self.align(barrier);
        if self.aligning.is_some() {
            failpoint("barrier.aligning")
        } else {
            Ok(())
        }
    }

    /// Lets the barrier out when every channel has brought it, or ended.
    fn align(&mut self, barrier: Barrier) {
        let since = self.aligning.map_or_else(Instant::now, |(_, since)| since);
        self.aligning = Some((barrier, since));
        if self
            .blocked
            .iter()
            .zip(&self.ended)
            .all(|(blocked, ended)| *blocked || *ended)
        {
            self.pending
                .push_back(GateEvent::Barrier(barrier, since.elapsed()));
            self.last_checkpoint = barrier.checkpoint;
            self.release();
        }
    }

    pub fn sender(&self, channel: usize) -> ChannelSender {
        ChannelSender::new(self.shared.clone(), channel)
    }

    pub fn waker(&self) -> GateWaker {
        GateWaker::new(self.shared.clone())
    }

    /// Returns what is there, or waits for at most `timeout` (`None`: until something comes).
    ///
    /// # Errors
    /// `Internal` if a sender broke the order of elements.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<GateEvent> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            if self.ended.iter().all(|ended| *ended) {
                return Ok(GateEvent::EndOfInput);
            }
            match self.next_element(deadline) {
                None => return Ok(GateEvent::Nothing),
                Some((channel, element)) => self.handle(channel, element)?,
            }
        }
    }

    /// The barriers of all channels, if no row and no end of a split comes before them; for a task
    /// that is not done with what came before.
    ///
    /// Watermarks, statuses and ends of channels that come before them wait for the task. A
    /// checkpoint that is taken here includes them: the watermark of the gate is in it, and
    /// statuses and ends are sent again after a restore.
    ///
    /// # Errors
    /// The same as for [`InputGate::poll`].
    pub fn poll_barrier(&mut self) -> Result<Option<(Barrier, Duration)>> {
        loop {
            let is_barrier = |event: &GateEvent| matches!(event, GateEvent::Barrier(..));
            if let Some(at) = self.pending.iter().position(is_barrier)
                && let Some(GateEvent::Barrier(barrier, alignment)) = self.pending.remove(at)
            {
                return Ok(Some((barrier, alignment)));
            }
            let is_read = |channel: usize| self.known[channel] && !self.blocked[channel];
            let may_wait = |element: &StreamElement| {
                !matches!(
                    element,
                    StreamElement::Batch(_) | StreamElement::SplitFinished(_)
                )
            };
            let Some((channel, element)) = self.shared.take_if(is_read, may_wait) else {
                return Ok(None);
            };
            self.handle(channel, element)?;
        }
    }

    /// Sets how many rows may wait in a channel, in addition to its limit in bytes; one larger
    /// batch passes. `usize::MAX` means any number.
    pub fn set_rows_max(&self, rows: usize) {
        self.shared.set_rows_max(rows);
    }

    /// Waits for `timeout`, or until somebody wakes the task, whatever the channels hold.
    pub fn wait(&self, timeout: Duration) {
        self.shared.wait(timeout);
    }

    /// The next element in turn; while some channel's status is unknown, only from the channels
    /// whose status it is.
    fn next_element(&self, deadline: Option<Instant>) -> Option<(usize, StreamElement)> {
        let all_known = self.known.iter().all(|known| *known);
        self.shared.next(deadline, |channel| {
            (all_known || !self.known[channel]) && !self.blocked[channel]
        })
    }

    fn handle(&mut self, channel: usize, element: StreamElement) -> Result<()> {
        if !self.known[channel]
            && !matches!(
                element,
                StreamElement::Status(_) | StreamElement::EndOfInput
            )
        {
            return Err(Error::internal(
                "the first element of a channel is its status",
            ));
        }
        self.known[channel] = true;
        match element {
            StreamElement::Batch(mut batch) => {
                let mut is_final = false;
                if !batch.marks.is_empty() {
                    batch.marks = self.valve.batch_marks(channel, &batch.marks);
                    // No row follows it, and a status goes before it.
                    let last = batch.marks.pop_if(|mark| mark.watermark == WATERMARK_MAX);
                    is_final = last.is_some();
                }
                if batch.n_rows() > 0 || !batch.marks.is_empty() {
                    self.pending.push_back(if self.second[channel] {
                        GateEvent::SecondInput(batch)
                    } else {
                        GateEvent::Batch(batch)
                    });
                }
                if is_final {
                    let events = self.valve.final_watermark();
                    self.carry_out(events);
                }
            }
            StreamElement::Watermark(watermark) => {
                let events = self.valve.watermark(channel, watermark);
                self.carry_out(events);
            }
            StreamElement::Status(status) => self.status(channel, status),
            StreamElement::Barrier(barrier) => self.barrier(channel, barrier)?,
            StreamElement::SplitFinished(number) => {
                self.pending.push_back(GateEvent::SplitFinished(number))
            }
            StreamElement::EndOfInput => {
                self.ended[channel] = true;
                self.status(channel, Status::Finished);
                if let Some((barrier, _)) = self.aligning {
                    self.align(barrier);
                }
            }
        }
        Ok(())
    }

    /// The first statuses are gathered; when the last channel has sent its own, the combined one is
    /// sent.
    fn status(&mut self, channel: usize, status: Status) {
        let events = self.valve.status(channel, status);
        self.carry_out(events);
        if !self.told && self.known.iter().all(|known| *known) {
            self.told = true;
            self.tell_first();
        }
    }

    fn carry_out(&mut self, events: Vec<ValveEvent>) {
        for event in events {
            match event {
                ValveEvent::Watermark(watermark) => {
                    self.pending.push_back(GateEvent::Watermark(watermark))
                }
                ValveEvent::Status(status) if self.told => {
                    self.pending.push_back(GateEvent::Status(status))
                }
                ValveEvent::Status(_) => {}
            }
        }
    }

    /// What the restored watermark makes fire is sent by an active task, whatever the channels are:
    /// receivers do not wait for the rows of an idle one.
    fn tell_first(&mut self) {
        let status = self.valve.current_status();
        if let Some(watermark) = self.restored.take() {
            let sent = match watermark {
                WATERMARK_MAX => Status::Ending,
                _ => Status::Active,
            };
            self.pending.push_back(GateEvent::Status(sent));
            self.pending.push_back(GateEvent::Watermark(watermark));
            if status == sent {
                return;
            }
        }
        self.pending.push_back(GateEvent::Status(status));
    }
}

#[cfg(test)]
mod tests;
