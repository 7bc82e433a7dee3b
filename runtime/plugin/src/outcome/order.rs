//! The order in which results belong to the events of a call.

use super::Asked;
use crate::lift::bad;
use streamrt_operator::{Call, TimerOut};
use streamrt_types::{Mark, Result};
use streamrt_wit::codes::{NO_MARK, ORIGIN_TIMER, action};

/// The events of a call from which output rows come.
pub(super) struct Order<'a> {
    pub(super) n_origins: usize,
    pub(super) marks: &'a [Mark],
    /// The marks of the fired timers, in the order of firing.
    pub(super) fired: Vec<u32>,
    pub(super) call: Call,
}

impl<'a> Order<'a> {
    pub(super) fn new(asked: &Asked<'a>, timers: &[TimerOut]) -> Order<'a> {
        let fired = timers
            .iter()
            .take_while(|timer| timer.action == action::FIRED)
            .map(|timer| timer.mark)
            .collect();
        Order {
            n_origins: asked.n_origins(),
            marks: asked.marks,
            fired,
            call: asked.call,
        }
    }

    /// Each origin exists, and they ascend in the order of events.
    pub(super) fn check(&self, origins: &[u32]) -> Result<()> {
        let is_plain = origins
            .last()
            .is_none_or(|last| (*last as usize) < self.n_origins)
            && origins.is_sorted();
        if is_plain {
            return Ok(());
        }
        let mut before = (0, 0);
        for (row, &origin) in origins.iter().enumerate() {
            let place = self.place(origin).ok_or_else(|| {
                bad(format!(
                    "row {row} comes from {}, which is not there",
                    name_of(origin)
                ))
            })?;
            if place < before {
                return Err(bad(format!(
                    "row {row} comes from {}, which stands before the origin of the row in front of it",
                    name_of(origin)
                )));
            }
            before = place;
        }
        Ok(())
    }

    /// The place of an event: processing-time timers first, then marks and rows in turn; timers of
    /// one mark in the order of firing.
    fn place(&self, origin: u32) -> Option<(u64, u32)> {
        let Some(timer) = origin.checked_sub(ORIGIN_TIMER) else {
            return ((origin as usize) < self.n_origins).then_some((2 * u64::from(origin) + 2, 0));
        };
        match *self.fired.get(timer as usize)? {
            NO_MARK => Some((0, timer)),
            mark => Some((2 * u64::from(self.marks.get(mark as usize)?.row) + 1, timer)),
        }
    }
}

fn name_of(origin: u32) -> String {
    match origin.checked_sub(ORIGIN_TIMER) {
        Some(timer) => format!("fired timer {timer}"),
        None => format!("row {origin}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origins: &[u32], expected: Option<&str>) {
        let marks = [
            Mark {
                row: 1,
                watermark: 5,
            },
            Mark {
                row: 3,
                watermark: 6,
            },
        ];
        let order = Order {
            n_origins: 3,
            marks: &marks,
            fired: vec![NO_MARK, 0, 0, 1],
            call: Call::Process,
        };
        let found = order.check(origins).err().map(|e| e.message().to_owned());
        assert_eq!(found.as_deref(), expected, "{origins:?}");
    }

    #[test]
    fn origins_ascend_in_the_order_of_events() {
        const T: u32 = ORIGIN_TIMER;
        check(&[], None);
        check(&[0, 0, 1, 2, 2], None);
        check(&[T, 0, T + 1, T + 2, T + 2, 1, 2, T + 3], None);
        check(&[0, 3], Some("row 1 comes from row 3, which is not there"));
        check(
            &[1, 0],
            Some(
                "row 1 comes from row 0, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[1, T + 1],
            Some(
                "row 1 comes from fired timer 1, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[T + 3, 2],
            Some(
                "row 1 comes from row 2, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[T + 2, T + 1],
            Some(
                "row 1 comes from fired timer 1, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[0, T + 4],
            Some("row 1 comes from fired timer 4, which is not there"),
        );
        check(
            &[0, T],
            Some(
                "row 1 comes from fired timer 0, which stands before the origin of the row in front of it",
            ),
        );
    }
}
