//! Combines the watermarks and statuses of all channels of a gate into those of the task.
//!
//! Invariant: what comes out only rises, and never passes the watermark of an active channel that
//! is aligned. A channel whose input is at its end has sent the final watermark, and leaves the
//! minimum with it; one that ended without it was stopped, and holds the others for ever where it
//! was: what it did not read is still to come, in another run. While a channel carries out the final
//! watermark, none is passed, idle or not: which of them hears of the end first is chance. The valve
//! is pure: the gate calls it with every watermark, mark and status, and carries out what it
//! returns.
//!
//! # Source
//! Flink's `StatusWatermarkValve`, with two more statuses: a finished channel leaves the minimum and
//! the maximum until all are finished, so the final watermark of one does not make late what an
//! idle one still holds (the mistake behind FLINK-38477), and neither do the pieces of one that is
//! ending.

use streamrt_types::{Mark, Status, WATERMARK_MAX, WATERMARK_MIN, Watermark};

/// What the task is to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValveEvent {
    Watermark(Watermark),
    Status(Status),
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    /// `None` until the channel has sent it; until then it holds time back like an active one.
    status: Option<Status>,
    watermark: Watermark,
    /// Whether its watermark has reached the output since it became active; if not, it does not
    /// take part in the minimum.
    aligned: bool,
    /// Whether nothing was to be expected of it for now; a channel that is stopped stays as it was.
    idle: bool,
}

impl Channel {
    /// Whether something may follow, in this run or in the next. The final watermark says that
    /// nothing does, whatever the status.
    fn is_open(&self) -> bool {
        self.watermark != WATERMARK_MAX
    }

    fn is_ending(&self) -> bool {
        self.is_open() && self.status == Some(Status::Ending)
    }

    fn takes_part(&self) -> bool {
        self.is_open() && self.aligned && !self.idle
    }
}

/// The watermarks and statuses of some channels, and of their combination.
#[derive(Debug)]
pub struct WatermarkValve {
    channels: Vec<Channel>,
    watermark: Watermark,
    status: Option<Status>,
}

impl WatermarkValve {
    pub fn new(n_channels: usize) -> WatermarkValve {
        let channel = Channel {
            status: None,
            watermark: WATERMARK_MIN,
            aligned: true,
            idle: false,
        };
        WatermarkValve {
            channels: vec![channel; n_channels],
            watermark: WATERMARK_MIN,
            status: None,
        }
    }

    /// The combined watermark.
    pub fn watermark_out(&self) -> Watermark {
        self.watermark
    }

    /// Begins with the combined watermark of a checkpoint. Every channel counts as having reached
    /// it: one that did not have it then must not let the others run ahead before it is heard from.
    pub fn restore(&mut self, watermark: Watermark) {
        self.watermark = watermark;
        self.channels
            .iter_mut()
            .for_each(|channel| channel.watermark = watermark);
    }

    /// Takes a watermark of a channel; a smaller one than before is ignored, and so is one of an
    /// idle channel, except for the final one. What follows is the combined watermark if it rises;
    /// ENDING comes before the final one.
    pub fn watermark(&mut self, channel: usize, watermark: Watermark) -> Vec<ValveEvent> {
        match self.raise(channel, watermark) {
            None => Vec::new(),
            Some(WATERMARK_MAX) => self.final_watermark(),
            Some(watermark) => vec![ValveEvent::Watermark(watermark)],
        }
    }

    /// What follows when the combined watermark has become the final one.
    pub fn final_watermark(&mut self) -> Vec<ValveEvent> {
        let before = self.status.replace(Status::Ending);
        let status = (before != Some(Status::Ending)).then_some(Status::Ending);
        let watermark = ValveEvent::Watermark(WATERMARK_MAX);
        let events = status.map(ValveEvent::Status).into_iter();
        events.chain([watermark]).collect()
    }

    fn raise(&mut self, channel: usize, watermark: Watermark) -> Option<Watermark> {
        let input = &mut self.channels[channel];
        // An idle channel may carry out the final watermark piece by piece. It says nothing about
        // another idle one that has not begun with that.
        let counts = !input.idle || watermark == WATERMARK_MAX;
        if watermark <= input.watermark || !counts {
            return None;
        }
        // One that was ahead of the output did not hold it back.
        let held_back = !input.aligned || input.watermark <= self.watermark;
        input.watermark = watermark;
        input.aligned |= watermark >= self.watermark;
        if held_back || watermark == WATERMARK_MAX {
            self.rise()
        } else {
            None
        }
    }

    /// Turns the marks of a batch of a channel into marks of the combined watermark. For a final
    /// one, the last, the caller puts what [`WatermarkValve::final_watermark`] says after the batch.
    pub fn batch_marks(&mut self, channel: usize, marks: &[Mark]) -> Vec<Mark> {
        let combined = |mark: &Mark| {
            Some(Mark {
                row: mark.row,
                watermark: self.raise(channel, mark.watermark)?,
            })
        };
        marks.iter().filter_map(combined).collect()
    }

    /// Takes a status of a channel, and returns what follows from it: ACTIVE comes before anything
    /// else, a last watermark before IDLE and FINISHED. Nothing follows from a status of a finished
    /// channel.
    pub fn status(&mut self, channel: usize, status: Status) -> Vec<ValveEvent> {
        let input = &mut self.channels[channel];
        if input.status == Some(Status::Finished) || input.status == Some(status) {
            return Vec::new();
        }
        input.status = Some(status);
        if status != Status::Finished {
            input.idle = status == Status::Idle;
            input.aligned = input.watermark >= self.watermark;
        }
        let combined = self
            .combined_status()
            .filter(|combined| self.status != Some(*combined));
        self.status = combined.or(self.status);
        let watermark = self.rise().map(ValveEvent::Watermark);
        let status = combined.map(ValveEvent::Status);
        let actions = if combined == Some(Status::Active) {
            [status, watermark]
        } else {
            [watermark, status]
        };
        actions.into_iter().flatten().collect()
    }

    /// The combined status as far as it is known; ACTIVE while a channel that was not heard from
    /// might be.
    pub fn current_status(&self) -> Status {
        self.combined_status().unwrap_or(Status::Active)
    }

    /// Active if some channel is; unknown while one that was not heard from might be.
    fn combined_status(&self) -> Option<Status> {
        let any = |status| {
            let mut open = self.channels.iter().filter(|channel| channel.is_open());
            open.any(|channel| channel.status == status)
        };
        let finished = |channel: &Channel| channel.status == Some(Status::Finished);
        match () {
            () if any(Some(Status::Active)) => Some(Status::Active),
            () if any(None) => None,
            () if any(Some(Status::Idle)) => Some(Status::Idle),
            () if self.channels.iter().all(finished) => Some(Status::Finished),
            () => Some(Status::Ending),
        }
    }

    /// Raises the combined watermark as far as the channels allow.
    fn rise(&mut self) -> Option<Watermark> {
        let watermark = self
            .bound()
            .filter(|watermark| *watermark > self.watermark)?;
        self.watermark = watermark;
        Some(watermark)
    }

    /// The minimum over those that take part, or over all open ones if one is ending; if all open
    /// ones are idle, the maximum over them; if none is open, the final watermark.
    fn bound(&self) -> Option<Watermark> {
        let open = || self.channels.iter().filter(|channel| channel.is_open());
        let watermark = |channel: &Channel| channel.watermark;
        if open().any(Channel::is_ending) {
            return open().map(watermark).min();
        }
        if open().any(|channel| !channel.idle) {
            return self
                .channels
                .iter()
                .filter(|channel| channel.takes_part())
                .map(watermark)
                .min();
        }
        open().map(watermark).max().or(Some(WATERMARK_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Active, Ending, Finished, Idle};
    use ValveEvent::{Status as S, Watermark as W};

    /// Feeds (channel, input) pairs to a valve whose channels are active, and compares what comes
    /// out of each.
    fn check(n_channels: usize, script: &[(usize, ValveEvent, &[ValveEvent])]) {
        let mut valve = WatermarkValve::new(n_channels);
        (0..n_channels).for_each(|channel| drop(valve.status(channel, Active)));
        for (step, &(channel, input, expected)) in script.iter().enumerate() {
            assert_eq!(feed(&mut valve, channel, input), expected, "step {step}");
        }
    }

    fn feed(valve: &mut WatermarkValve, channel: usize, input: ValveEvent) -> Vec<ValveEvent> {
        match input {
            W(watermark) => valve.watermark(channel, watermark),
            S(status) => valve.status(channel, status),
        }
    }

    #[test]
    fn per_channel_monotone_a_smaller_watermark_is_ignored() {
        check(
            1,
            &[
                (0, W(5), &[W(5)]),
                (0, W(4), &[]),
                (0, W(5), &[]),
                (0, W(6), &[W(6)]),
            ],
        );
    }

    #[test]
    fn out_is_the_minimum_and_only_larger_than_the_last() {
        check(
            2,
            &[
                (0, W(5), &[]),
                (1, W(3), &[W(3)]),
                (1, W(9), &[W(5)]),
                (0, W(7), &[W(7)]),
                (0, W(20), &[W(9)]),
            ],
        );
    }

    #[test]
    fn a_channel_that_turns_idle_leaves_the_minimum() {
        check(
            2,
            &[
                (0, W(5), &[]),
                (1, W(3), &[W(3)]),
                (1, S(Idle), &[W(5)]),
                (0, W(8), &[W(8)]),
            ],
        );
    }

    #[test]
    fn active_again_it_stays_unaligned_until_it_reaches_the_last_output() {
        let script: &[(usize, ValveEvent, &[ValveEvent])] = &[
            (1, S(Idle), &[]),
            (0, W(8), &[W(8)]),
            (1, S(Active), &[]),
            (0, W(9), &[W(9)]),
            (1, W(7), &[]),
            (0, W(10), &[W(10)]),
            (1, W(10), &[]),
            (0, W(12), &[]),
            (1, W(11), &[W(11)]),
        ];
        check(2, script);
    }

    #[test]
    fn all_idle_emits_the_maximum_once_then_idle_and_active_comes_before_data() {
        let script: &[(usize, ValveEvent, &[ValveEvent])] = &[
            (0, W(5), &[]),
            (1, W(3), &[W(3)]),
            (0, S(Idle), &[]),
            (1, S(Idle), &[W(5), S(Idle)]),
            (1, S(Active), &[S(Active)]),
            (1, W(4), &[]),
            (1, W(6), &[W(6)]),
            (1, S(Idle), &[S(Idle)]),
        ];
        check(2, script);
    }

    #[test]
    fn of_an_idle_channel_only_the_final_watermark_counts() {
        let script: &[(usize, ValveEvent, &[ValveEvent])] = &[
            (0, W(5), &[]),
            (1, W(3), &[W(3)]),
            (0, S(Idle), &[]),
            (1, S(Idle), &[W(5), S(Idle)]),
            (0, W(8), &[]),
            (0, W(WATERMARK_MAX), &[]),
            (0, S(Finished), &[]),
            (1, W(9), &[]),
            (1, W(WATERMARK_MAX), &[S(Ending), W(WATERMARK_MAX)]),
            (1, S(Finished), &[S(Finished)]),
        ];
        check(2, script);
    }

    #[test]
    fn finished_leaves_the_minimum_until_all_are_finished() {
        let script: &[(usize, ValveEvent, &[ValveEvent])] = &[
            (0, W(5), &[]),
            (1, W(3), &[W(3)]),
            (0, W(WATERMARK_MAX), &[]),
            (0, S(Finished), &[]),
            (1, W(4), &[W(4)]),
            (1, W(WATERMARK_MAX), &[S(Ending), W(WATERMARK_MAX)]),
            (1, S(Finished), &[S(Finished)]),
        ];
        check(2, script);
    }

    #[test]
    fn the_end_of_one_channel_makes_nothing_late_that_an_idle_one_still_holds() {
        let script: &[(usize, ValveEvent, &[ValveEvent])] = &[
            (1, W(3), &[]),
            (1, S(Idle), &[]),
            (0, W(5), &[W(5)]),
            (0, W(WATERMARK_MAX), &[]),
            (0, S(Finished), &[S(Idle)]),
            (1, S(Active), &[S(Active)]),
            (1, W(6), &[W(6)]),
        ];
        check(2, script);
    }

    /// One of two subtasks sees the end of all sources while the other still takes them for idle.
    #[test]
    fn what_ends_in_pieces_passes_none_that_has_not_begun_to_end() {
        let script: &[(usize, ValveEvent, &[ValveEvent])] = &[
            (0, W(5), &[]),
            (1, W(5), &[W(5)]),
            (0, S(Idle), &[]),
            (1, S(Ending), &[S(Idle)]),
            (1, W(7), &[]),
            (1, W(8), &[]),
            (0, S(Ending), &[S(Ending)]),
            (0, W(6), &[W(6)]),
            (0, W(9), &[W(8)]),
            (1, W(WATERMARK_MAX), &[W(9)]),
            (1, S(Finished), &[]),
            (0, W(WATERMARK_MAX), &[W(WATERMARK_MAX)]),
            (0, S(Finished), &[S(Finished)]),
        ];
        check(2, script);
    }

    #[test]
    fn a_status_comes_out_once_it_cannot_be_wrong() {
        let mut valve = WatermarkValve::new(2);
        assert_eq!(valve.status(0, Idle), []);
        assert_eq!(valve.status(1, Finished), [S(Idle)]);
        let mut valve = WatermarkValve::new(2);
        assert_eq!(valve.status(0, Active), [S(Active)]);
        assert_eq!(
            valve.watermark(0, 7),
            [],
            "the other channel has not been heard of"
        );
        assert_eq!(valve.watermark(1, WATERMARK_MAX), [W(7)]);
        assert_eq!(valve.status(1, Finished), []);
    }

    #[test]
    fn a_channel_that_was_stopped_holds_the_others_where_it_was() {
        let one_stopped: &[(usize, ValveEvent, &[ValveEvent])] = &[
            (0, W(5), &[]),
            (1, W(3), &[W(3)]),
            (1, S(Finished), &[]),
            (0, W(9), &[]),
            (0, W(WATERMARK_MAX), &[]),
            (0, S(Finished), &[S(Finished)]),
        ];
        check(2, one_stopped);
        // One that had no input ends with the final watermark, long before the other is stopped.
        check(
            2,
            &[
                (0, W(WATERMARK_MAX), &[]),
                (0, S(Finished), &[]),
                (1, W(3), &[W(3)]),
                (1, S(Finished), &[S(Finished)]),
            ],
        );
        // It had sent nothing yet.
        check_unheard(&[
            (1, S(Finished), &[]),
            (0, W(9), &[]),
            (0, S(Finished), &[S(Finished)]),
        ]);
        // One that was idle held nothing, and holds nothing now.
        check(
            2,
            &[
                (1, W(3), &[]),
                (1, S(Idle), &[]),
                (0, W(5), &[W(5)]),
                (1, S(Finished), &[]),
                (0, W(9), &[W(9)]),
            ],
        );
    }

    /// Like [`check`], with a second channel that was not heard from.
    fn check_unheard(script: &[(usize, ValveEvent, &[ValveEvent])]) {
        let mut valve = WatermarkValve::new(2);
        assert_eq!(valve.status(0, Active), [S(Active)]);
        for (step, &(channel, input, expected)) in script.iter().enumerate() {
            assert_eq!(feed(&mut valve, channel, input), expected, "step {step}");
        }
    }

    #[test]
    fn marks_of_a_batch_become_marks_of_the_output() {
        let mut valve = WatermarkValve::new(2);
        (0..2).for_each(|channel| drop(valve.status(channel, Active)));
        valve.watermark(1, 3);
        let mark = |row, watermark| Mark { row, watermark };
        assert_eq!(
            valve.batch_marks(0, &[mark(1, 2), mark(2, 4), mark(2, 5)]),
            [mark(1, 2), mark(2, 3)]
        );
        assert_eq!(valve.batch_marks(1, &[mark(0, 9)]), [mark(0, 5)]);
    }

    /// Every script of five inputs over two channels.
    #[test]
    fn no_script_breaks_the_invariant() {
        let inputs = [
            W(1),
            W(2),
            W(WATERMARK_MAX),
            S(Active),
            S(Idle),
            S(Ending),
            S(Finished),
        ];
        let n_choices = inputs.len() * 2;
        for script in 0..n_choices.pow(5) {
            let mut valve = WatermarkValve::new(2);
            let mut output = WATERMARK_MIN;
            let mut last_status = None;
            for step in 0..5 {
                let choice = script / n_choices.pow(step) % n_choices;
                for action in feed(&mut valve, choice % 2, inputs[choice / 2]) {
                    match action {
                        W(watermark) => assert!(
                            std::mem::replace(&mut output, watermark) < watermark,
                            "script {script} falls back"
                        ),
                        S(status) => assert_ne!(
                            last_status.replace(status),
                            Some(status),
                            "script {script} repeats a status"
                        ),
                    }
                }
                let holds = |channel: &Channel| {
                    channel.aligned && !channel.idle && channel.watermark != WATERMARK_MAX
                };
                let least = valve
                    .channels
                    .iter()
                    .filter(|channel| holds(channel))
                    .map(|channel| channel.watermark)
                    .min();
                assert!(
                    least.is_none_or(|least| output <= least),
                    "script {script} passes an active channel"
                );
            }
        }
    }
}
