//! The watermark valve: combines the watermarks and statuses of several channels into one watermark and one status.
//!
//! 1. A channel's watermark only rises. 2. What comes out is the minimum over the channels that are active and aligned, and only rises. 3. A
//! channel that turns active again is aligned once its watermark has reached what came out last, so time never goes back. 4. When no channel
//! is active and some are idle, the greatest watermark comes out once, and then the status idle; when all are finished, likewise and finished.
//!
//! # Source
//! Flink's `StatusWatermarkValve`, with a third status: a finished channel leaves the minimum until all are finished (FLINK-38477).

use streamrt_types::{Mark, Status, WATERMARK_MIN, Watermark};

#[derive(Debug, Clone, Copy)]
struct Channel {
    status: Status,
    watermark: Watermark,
    aligned: bool,
}

/// What the valve lets out, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValveEvent {
    Watermark(Watermark),
    Status(Status),
}

/// The valve of one gate. Pure: it is fed, and answers.
#[derive(Debug)]
pub struct WatermarkValve {
    channels: Vec<Channel>,
    last: Watermark,
    status: Status,
}

impl WatermarkValve {
    /// All channels begin as active, without a watermark.
    pub fn new(n_channels: usize) -> WatermarkValve {
        let channel = Channel { status: Status::Active, watermark: WATERMARK_MIN, aligned: true };
        WatermarkValve { channels: vec![channel; n_channels], last: WATERMARK_MIN, status: Status::Active }
    }

    /// The combined status.
    pub fn current_status(&self) -> Status {
        self.status
    }

    /// The channel's watermark rises; returns the combined one if that rises.
    pub fn watermark(&mut self, channel: usize, watermark: Watermark) -> Option<Watermark> {
        let state = &mut self.channels[channel];
        if watermark <= state.watermark || state.status != Status::Active {
            return None;
        }
        state.watermark = watermark;
        state.aligned |= watermark >= self.last;
        self.minimum()
    }

    /// Turns the marks of a batch from `channel` into marks of the combined watermark, at the same rows.
    pub fn batch_marks(&mut self, channel: usize, marks: &[Mark]) -> Vec<Mark> {
        let rise = |mark: &Mark| self.watermark(channel, mark.watermark).map(|watermark| Mark { row: mark.row, watermark });
        marks.iter().filter_map(rise).collect()
    }

    /// The channel's status changes.
    pub fn status(&mut self, channel: usize, status: Status) -> Vec<ValveEvent> {
        let state = &mut self.channels[channel];
        if state.status == status || state.status == Status::Finished {
            return Vec::new();
        }
        state.status = status;
        state.aligned = status == Status::Active && state.watermark >= self.last;
        let combined = self.combined_status();
        let mut events = Vec::new();
        let watermark = if combined == Status::Active { self.minimum() } else { self.maximum() };
        events.extend(watermark.map(ValveEvent::Watermark));
        if combined != self.status {
            self.status = combined;
            events.push(ValveEvent::Status(combined));
        }
        events
    }

    fn combined_status(&self) -> Status {
        let any = |status| self.channels.iter().any(|channel| channel.status == status);
        match (any(Status::Active), any(Status::Idle)) {
            (true, _) => Status::Active,
            (false, true) => Status::Idle,
            (false, false) => Status::Finished,
        }
    }

    fn minimum(&mut self) -> Option<Watermark> {
        let aligned = self.channels.iter().filter(|channel| channel.status == Status::Active && channel.aligned);
        let minimum = aligned.map(|channel| channel.watermark).min()?;
        self.rise(minimum)
    }

    fn maximum(&mut self) -> Option<Watermark> {
        let maximum = self.channels.iter().map(|channel| channel.watermark).max()?;
        self.rise(maximum)
    }

    fn rise(&mut self, watermark: Watermark) -> Option<Watermark> {
        if watermark <= self.last {
            return None;
        }
        self.last = watermark;
        Some(watermark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Active, Finished, Idle};

    /// Feeds `(channel, event)` pairs to a valve of two channels and compares what comes out.
    fn check(steps: &[(usize, ValveEvent)], expected: &[ValveEvent]) {
        let mut valve = WatermarkValve::new(2);
        let mut out = Vec::new();
        for &(channel, event) in steps {
            match event {
                ValveEvent::Watermark(watermark) => out.extend(valve.watermark(channel, watermark).map(ValveEvent::Watermark)),
                ValveEvent::Status(status) => out.extend(valve.status(channel, status)),
            }
        }
        assert_eq!(out, expected, "{steps:?}");
    }

    fn w(watermark: Watermark) -> ValveEvent {
        ValveEvent::Watermark(watermark)
    }

    fn s(status: Status) -> ValveEvent {
        ValveEvent::Status(status)
    }

    #[test]
    fn the_minimum_comes_out_and_only_rises() {
        check(&[(0, w(5)), (1, w(3)), (1, w(2)), (1, w(9)), (0, w(7))], &[w(3), w(5), w(7)]);
    }

    #[test]
    fn an_idle_channel_leaves_the_minimum_and_comes_back_aligned() {
        check(&[(0, w(5)), (1, s(Idle)), (0, w(9)), (1, s(Active)), (0, w(12)), (1, w(10)), (1, w(13))], &[w(5), w(9), w(12)]);
        check(&[(0, w(5)), (1, s(Idle)), (1, s(Active)), (1, w(6)), (0, w(7))], &[w(5), w(6)]);
    }

    #[test]
    fn when_all_are_idle_the_greatest_watermark_comes_out_once() {
        check(&[(0, w(5)), (1, w(3)), (1, s(Idle)), (0, s(Idle))], &[w(3), w(5), s(Idle)]);
        check(&[(0, w(3)), (1, w(5)), (1, s(Idle)), (0, s(Idle)), (0, s(Active))], &[w(3), w(5), s(Idle), s(Active)]);
    }

    #[test]
    fn a_finished_channel_leaves_the_minimum_until_all_are_finished() {
        check(&[(0, w(9)), (0, s(Finished)), (1, w(3)), (1, w(12)), (1, s(Finished))], &[w(3), w(12), s(Finished)]);
        check(&[(0, w(9)), (0, s(Finished)), (1, w(3)), (1, s(Finished))], &[w(3), w(9), s(Finished)]);
        check(&[(0, s(Finished)), (0, s(Active)), (1, s(Idle))], &[s(Idle)]);
    }

    #[test]
    fn marks_keep_their_rows() {
        let mut valve = WatermarkValve::new(2);
        assert_eq!(valve.watermark(1, 15), None);
        let marks = [(1, 10), (2, 20), (5, 30)].map(|(row, watermark)| Mark { row, watermark });
        let out: Vec<(u32, Watermark)> = valve.batch_marks(0, &marks).iter().map(|mark| (mark.row, mark.watermark)).collect();
        assert_eq!(out, [(1, 10), (2, 15)]);
    }
}
