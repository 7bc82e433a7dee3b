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
    Barrier, Batch, Error, Result, Status, StreamElement, WATERMARK_MIN, Watermark, failpoint,
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
    /// row.
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
                if !batch.marks.is_empty() {
                    batch.marks = self.valve.batch_marks(channel, &batch.marks);
                }
                if batch.n_rows() > 0 || !batch.marks.is_empty() {
                    self.pending.push_back(if self.second[channel] {
                        GateEvent::SecondInput(batch)
                    } else {
                        GateEvent::Batch(batch)
                    });
                }
            }
            StreamElement::Watermark(watermark) => {
                self.pending.extend(
                    self.valve
                        .watermark(channel, watermark)
                        .map(GateEvent::Watermark),
                );
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
        for event in self.valve.status(channel, status) {
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
        if !self.told && self.known.iter().all(|known| *known) {
            self.told = true;
            self.pending
                .push_back(GateEvent::Status(self.valve.current_status()));
            self.pending
                .extend(self.restored.take().map(GateEvent::Watermark));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use streamrt_types::Mark;

    fn batch(watermark: Watermark) -> StreamElement {
        let columns = RecordBatch::try_from_iter([(
            "n",
            Arc::new(Int64Array::from(vec![watermark])) as ArrayRef,
        )])
        .unwrap();
        StreamElement::Batch(Batch {
            marks: vec![Mark { row: 1, watermark }],
            ..Batch::new(columns)
        })
    }

    /// Everything that comes out until nothing is left, in short form.
    fn drain(gate: &mut InputGate) -> Vec<String> {
        let mut events = Vec::new();
        loop {
            match gate.poll(Some(Duration::ZERO)).unwrap() {
                GateEvent::Nothing => return events,
                GateEvent::EndOfInput => {
                    events.push("end".to_owned());
                    return events;
                }
                GateEvent::Batch(batch) => events.push(format!(
                    "batch {:?}",
                    batch.marks.iter().map(|m| m.watermark).collect::<Vec<_>>()
                )),
                GateEvent::SecondInput(batch) => events.push(format!(
                    "second input {:?}",
                    batch.marks.iter().map(|m| m.watermark).collect::<Vec<_>>()
                )),
                GateEvent::Watermark(watermark) => events.push(format!("watermark {watermark}")),
                GateEvent::Status(status) => events.push(format!("{status:?}")),
                GateEvent::SplitFinished(number) => events.push(format!("split {number} finished")),
                GateEvent::Barrier(barrier, _) => {
                    events.push(format!("barrier {}", barrier.checkpoint))
                }
            }
        }
    }

    #[test]
    fn no_batch_passes_before_every_channel_has_told_its_status() {
        let mut gate = InputGate::new(2, 1 << 20);
        let (one, two) = (gate.sender(0), gate.sender(1));
        one.send(StreamElement::Status(Status::Active)).unwrap();
        one.send(batch(7)).unwrap();
        assert_eq!(drain(&mut gate), Vec::<String>::new());
        two.send(StreamElement::Status(Status::Idle)).unwrap();
        assert_eq!(drain(&mut gate), ["Active", "batch [7]"]);
        one.send(StreamElement::EndOfInput).unwrap();
        assert_eq!(drain(&mut gate), ["Idle"]);
        two.send(StreamElement::EndOfInput).unwrap();
        assert_eq!(drain(&mut gate), ["Finished", "end"]);
    }

    #[test]
    fn two_inputs_share_watermark_status_and_barriers() {
        let mut gate = InputGate::new(2, 1 << 20);
        gate.set_second_input(&[1]);
        (0..2).for_each(|channel| {
            assert!(
                gate.sender(channel)
                    .send(StreamElement::Status(Status::Active))
                    .is_ok()
            )
        });
        gate.sender(0).send(batch(7)).unwrap();
        assert_eq!(drain(&mut gate), ["Active", "batch []"]);
        gate.sender(1).send(batch(5)).unwrap();
        assert_eq!(drain(&mut gate), ["second input [5]"]);
        gate.sender(1).send(barrier(1)).unwrap();
        gate.sender(1).send(batch(9)).unwrap();
        gate.sender(0).send(StreamElement::EndOfInput).unwrap();
        // The first channel has ended without the final watermark.
        assert_eq!(drain(&mut gate), ["barrier 1", "second input [7]"]);
    }

    #[test]
    fn a_channel_that_does_not_begin_with_its_status_is_refused() {
        let mut gate = InputGate::new(1, 1 << 20);
        gate.sender(0).send(batch(7)).unwrap();
        assert_eq!(
            gate.poll(None).unwrap_err().message(),
            "the first element of a channel is its status"
        );
    }

    /// Sends (channel, element) pairs to two active channels and compares what comes out after
    /// each.
    fn check_barriers(script: &[(usize, StreamElement, &[&str])]) {
        let mut gate = InputGate::new(2, 1 << 20);
        (0..2).for_each(|channel| {
            assert!(
                gate.sender(channel)
                    .send(StreamElement::Status(Status::Active))
                    .is_ok()
            )
        });
        assert_eq!(drain(&mut gate), ["Active"]);
        for (step, (channel, element, expected)) in script.iter().enumerate() {
            gate.sender(*channel).send(element.clone()).unwrap();
            assert_eq!(drain(&mut gate), *expected, "step {step}");
        }
    }

    fn barrier(checkpoint: u64) -> StreamElement {
        StreamElement::Barrier(Barrier { checkpoint })
    }

    #[test]
    fn rows_behind_a_barrier_wait_for_the_barriers_of_the_other_channels() {
        check_barriers(&[
            (0, barrier(1), &[]),
            (0, batch(3), &[]),
            (1, batch(5), &["batch []"]),
            (1, barrier(1), &["barrier 1", "batch [3]"]),
            (1, barrier(1), &[]),
            (0, batch(4), &["batch [4]"]),
        ]);
    }

    #[test]
    fn a_channel_that_ends_counts_as_aligned_and_a_later_barrier_replaces_one_that_will_not_come() {
        check_barriers(&[
            (0, barrier(1), &[]),
            (1, barrier(2), &[]),
            (1, batch(9), &[]),
            (0, barrier(2), &["barrier 2", "batch []"]),
            (0, barrier(3), &[]),
            (1, StreamElement::EndOfInput, &["barrier 3"]),
            (0, barrier(4), &["barrier 4"]),
        ]);
    }

    #[test]
    fn an_abandoned_checkpoint_frees_its_channels_and_its_late_barriers_mean_nothing() {
        let mut gate = InputGate::new(2, 1 << 20);
        (0..2).for_each(|channel| {
            assert!(
                gate.sender(channel)
                    .send(StreamElement::Status(Status::Active))
                    .is_ok()
            )
        });
        gate.sender(0).send(barrier(1)).unwrap();
        gate.sender(0).send(batch(3)).unwrap();
        assert_eq!(drain(&mut gate), ["Active"]);
        gate.abandon(1);
        assert_eq!(drain(&mut gate), ["batch []"]);
        gate.sender(1).send(barrier(1)).unwrap();
        gate.sender(1).send(StreamElement::Watermark(3)).unwrap();
        assert_eq!(drain(&mut gate), ["watermark 3"]);
    }

    #[test]
    fn a_gate_whose_channels_have_ended_gives_the_barrier_that_it_is_asked_for_once() {
        let mut gate = InputGate::new(1, 1 << 20);
        gate.trigger(Barrier { checkpoint: 1 });
        assert_eq!(drain(&mut gate), [""; 0]);
        gate.sender(0).send(StreamElement::EndOfInput).unwrap();
        assert_eq!(drain(&mut gate), ["Finished", "barrier 1", "end"]);
        gate.trigger(Barrier { checkpoint: 2 });
        gate.trigger(Barrier { checkpoint: 2 });
        assert_eq!(drain(&mut gate), ["barrier 2", "end"]);
    }

    #[test]
    fn a_restored_watermark_comes_before_any_row_and_holds_until_all_have_passed_it() {
        let mut gate = InputGate::new(2, 1 << 20);
        gate.restore(7);
        gate.sender(0)
            .send(StreamElement::Status(Status::Active))
            .unwrap();
        gate.sender(0).send(batch(9)).unwrap();
        gate.sender(1)
            .send(StreamElement::Status(Status::Active))
            .unwrap();
        assert_eq!(drain(&mut gate), ["Active", "watermark 7", "batch []"]);
        gate.sender(1).send(StreamElement::Watermark(8)).unwrap();
        assert_eq!(
            (drain(&mut gate), gate.watermark()),
            (vec!["watermark 8".to_owned()], 8)
        );
    }

    #[test]
    fn a_barrier_passes_a_task_that_is_not_done_if_nothing_stands_before_it() {
        let mut gate = InputGate::new(2, 1 << 20);
        (0..2).for_each(|channel| {
            assert!(
                gate.sender(channel)
                    .send(StreamElement::Status(Status::Active))
                    .is_ok()
            )
        });
        assert_eq!(drain(&mut gate), ["Active"]);
        gate.sender(0).send(barrier(1)).unwrap();
        gate.sender(1).send(batch(3)).unwrap();
        gate.sender(1).send(barrier(1)).unwrap();
        assert!(
            gate.poll_barrier().unwrap().is_none(),
            "rows stand before it"
        );
        assert_eq!(drain(&mut gate), ["batch []", "barrier 1"]);
        gate.sender(0).send(barrier(2)).unwrap();
        let next = |gate: &mut InputGate| {
            gate.poll_barrier()
                .unwrap()
                .map(|(barrier, _)| barrier.checkpoint)
        };
        gate.sender(1)
            .send(StreamElement::SplitFinished(1))
            .unwrap();
        gate.sender(1).send(StreamElement::Watermark(8)).unwrap();
        gate.sender(1).send(StreamElement::EndOfInput).unwrap();
        assert_eq!(
            next(&mut gate),
            None,
            "a generator of this task may have the split in its state"
        );
        assert_eq!(drain(&mut gate), ["split 1 finished", "barrier 2"]);
        gate.sender(0).send(StreamElement::Watermark(6)).unwrap();
        gate.sender(0)
            .send(StreamElement::Status(Status::Idle))
            .unwrap();
        gate.sender(0).send(barrier(3)).unwrap();
        assert_eq!(
            (next(&mut gate), gate.watermark()),
            (Some(3), 8),
            "what waits is in the checkpoint"
        );
        assert_eq!(next(&mut gate), None);
        gate.sender(0).send(StreamElement::EndOfInput).unwrap();
        gate.trigger(Barrier { checkpoint: 4 });
        assert_eq!(next(&mut gate), Some(4));
        assert_eq!(
            drain(&mut gate),
            ["watermark 6", "watermark 8", "Idle", "Finished", "end"]
        );
    }
}
