//! The timers of one call: which fire, in which order, and what the host learns of the others.
//!
//! 1. The host gives every timer that is due up to the bound of the call.
//! 2. At a mark those at or before its watermark fire in the order of (time, slot), among them
//!    those that were registered on the way.
//! 3. What lies beyond the bound is only passed on, in the order in which it was asked for.
//!
//! # Source
//! Flink's InternalTimerServiceImpl: one timer per (key, time); a timer in the past fires at the
//! next advance of the watermark.

use crate::bindings::streamrt::plugin::types::{Buffer, Section};
use crate::column::{find, fixed, i64_bytes, plain, section, u32_bytes};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use streamrt_wit::codes::{self, NO_MARK, action, buffer, domain};

/// Where a timer that may fire in this call comes from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Host,
    ThisCall,
}

/// Timers that may fire in this call, by time and slot.
type Due = BTreeMap<(i64, u32), From>;

/// What the host learns of a timer.
struct Report {
    slot: u32,
    time: i64,
    domain: u8,
    action: u8,
    mark: u32,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Timers {
    event: Due,
    clock: Due,
    bound: i64,
    /// Until rows begin, a due processing-time timer still fires in this call.
    clock_bound: i64,
    fired: Vec<Report>,
    changes: Vec<Report>,
    /// For each slot the event time that was passed on last, since most functions register the same
    /// one for every row.
    passed_on: Vec<Option<i64>>,
    mistake: Option<Error>,
}

impl Timers {
    pub(crate) fn begin(
        &mut self,
        sections: &[Section],
        n_slots: usize,
        bound: i64,
        processing_time: i64,
    ) -> Result<()> {
        *self = Timers {
            bound,
            clock_bound: processing_time,
            passed_on: vec![None; n_slots],
            ..Timers::default()
        };
        let Some(given) = sections
            .iter()
            .find(|section| section.role == codes::section::TIMERS)
        else {
            return Ok(());
        };
        let n = given.rows as usize;
        let slots = fixed::<4>(find(given, buffer::SLOT).unwrap_or_default(), n)?;
        let times = fixed::<8>(find(given, buffer::TIME).unwrap_or_default(), n)?;
        let domains = find(given, buffer::DOMAIN).unwrap_or_default();
        for (i, (slot, time)) in slots.iter().zip(times).enumerate() {
            let due = if domains.get(i) == Some(&domain::PROCESSING_TIME) {
                &mut self.clock
            } else {
                &mut self.event
            };
            due.insert(
                (i64::from_le_bytes(*time), u32::from_le_bytes(*slot)),
                From::Host,
            );
        }
        Ok(())
    }

    pub(crate) fn refuse(&mut self, mistake: Error) {
        self.mistake.get_or_insert(mistake);
    }

    pub(crate) fn register(&mut self, slot: u32, time: i64, domain: u8) {
        let (due, bound) = self.due(domain);
        if time <= bound {
            due.entry((time, slot)).or_insert(From::ThisCall);
        } else if domain == domain::PROCESSING_TIME
            || self.passed_on[slot as usize].replace(time) != Some(time)
        {
            self.change(slot, time, domain, action::REGISTER);
        }
    }

    pub(crate) fn delete(&mut self, slot: u32, time: i64, domain: u8) {
        if self.due(domain).0.remove(&(time, slot)) == Some(From::ThisCall) {
            return;
        }
        self.passed_on[slot as usize] = None;
        self.change(slot, time, domain, action::DELETE);
    }

    fn due(&mut self, domain: u8) -> (&mut Due, i64) {
        match domain {
            domain::EVENT_TIME => (&mut self.event, self.bound),
            _ => (&mut self.clock, self.clock_bound),
        }
    }

    fn change(&mut self, slot: u32, time: i64, domain: u8, action: u8) {
        self.changes.push(Report {
            slot,
            time,
            domain,
            action,
            mark: NO_MARK,
        });
    }

    /// Takes the next timer that is due, as (slot, time, number among the fired ones).
    pub(crate) fn fire(&mut self, domain: u8, until: i64, mark: u32) -> Option<(u32, i64, u32)> {
        let due = self.due(domain).0;
        let (&(time, slot), _) = due
            .first_key_value()
            .filter(|((time, _), _)| *time <= until)?;
        due.pop_first();
        let number = self.fired.len() as u32;
        self.fired.push(Report {
            slot,
            time,
            domain,
            action: action::FIRED,
            mark,
        });
        Some((slot, time, number))
    }

    /// From here on, what is registered for the clock fires in a later call.
    pub(crate) fn end_clock(&mut self) {
        self.clock_bound = i64::MIN;
    }

    /// Times of the fired timers, in order.
    pub(crate) fn fired_times(&self) -> Vec<i64> {
        self.fired.iter().map(|report| report.time).collect()
    }

    /// What the host learns, or the mistake that user code made.
    pub(crate) fn finish(&mut self) -> Result<Option<Section>> {
        if let Some(mistake) = self.mistake.take() {
            return Err(mistake);
        }
        for (domain, due) in [
            (domain::EVENT_TIME, std::mem::take(&mut self.event)),
            (domain::PROCESSING_TIME, std::mem::take(&mut self.clock)),
        ] {
            for ((time, slot), _) in due.into_iter().filter(|(_, from)| *from == From::ThisCall) {
                self.change(slot, time, domain, action::REGISTER);
            }
        }
        let mut reports = std::mem::take(&mut self.fired);
        reports.append(&mut self.changes);
        Ok((!reports.is_empty()).then(|| {
            section(
                codes::section::TIMERS,
                0,
                reports.len(),
                buffers(&reports),
                Vec::new(),
            )
        }))
    }
}

fn buffers(reports: &[Report]) -> Vec<Buffer> {
    let numbers = |of: fn(&Report) -> u32| u32_bytes(&reports.iter().map(of).collect::<Vec<_>>());
    let bytes = |of: fn(&Report) -> u8| reports.iter().map(of).collect::<Vec<_>>();
    vec![
        plain(buffer::SLOT, numbers(|report| report.slot)),
        plain(
            buffer::TIME,
            i64_bytes(&reports.iter().map(|report| report.time).collect::<Vec<_>>()),
        ),
        plain(buffer::DOMAIN, bytes(|report| report.domain)),
        plain(buffer::ACTION, bytes(|report| report.action)),
        plain(buffer::MARK, numbers(|report| report.mark)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers and deletes (time, slot, register?) under the bound, then fires up to each
    /// watermark.
    fn check(
        bound: i64,
        asked: &[(i64, u32, bool)],
        watermarks: &[i64],
        fires: &[(i64, u32)],
        changes: &[(i64, u32, u8)],
    ) {
        let mut timers = Timers::default();
        timers.begin(&[], 4, bound, 0).unwrap();
        for &(time, slot, register) in asked {
            match register {
                true => timers.register(slot, time, domain::EVENT_TIME),
                false => timers.delete(slot, time, domain::EVENT_TIME),
            }
        }
        let mut fired = Vec::new();
        for &watermark in watermarks {
            fired.extend(
                std::iter::from_fn(|| timers.fire(domain::EVENT_TIME, watermark, 0))
                    .map(|(slot, time, _)| (time, slot)),
            );
        }
        assert_eq!(fired, fires);
        timers.finish().unwrap();
        let mut again = Timers::default();
        again.begin(&[], 4, bound, 0).unwrap();
        asked
            .iter()
            .for_each(|&(time, slot, register)| match register {
                true => again.register(slot, time, domain::EVENT_TIME),
                false => again.delete(slot, time, domain::EVENT_TIME),
            });
        let told: Vec<_> = again
            .changes
            .iter()
            .map(|report| (report.time, report.slot, report.action))
            .collect();
        assert_eq!(told, changes);
    }

    #[test]
    fn timers_fire_by_time_and_slot_and_the_rest_is_passed_on() {
        check(
            10,
            &[(5, 1, true), (5, 0, true), (3, 2, true)],
            &[4, 10],
            &[(3, 2), (5, 0), (5, 1)],
            &[],
        );
        check(10, &[(5, 1, true), (5, 1, true)], &[10], &[(5, 1)], &[]);
        check(10, &[(5, 1, true), (5, 1, false)], &[10], &[], &[]);
        check(
            10,
            &[(11, 1, true), (11, 1, true), (11, 1, false), (11, 1, true)],
            &[10],
            &[],
            &[(11, 1, 2), (11, 1, 3), (11, 1, 2)],
        );
        check(10, &[(7, 1, false)], &[10], &[], &[(7, 1, 3)]);
    }
}
