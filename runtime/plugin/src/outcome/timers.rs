//! What a call returns about timers, and what it may return.

use super::Asked;
use crate::abi::Section;
use crate::lift::{Reader, bad};
use crate::signature::FunctionTypes;
use streamrt_operator::TimerOut;
use streamrt_types::Result;
use streamrt_wit::codes::{NO_MARK, action, buffer, domain};

pub(super) fn timers(
    function: &FunctionTypes,
    asked: &Asked<'_>,
    section: Section,
) -> Result<Vec<TimerOut>> {
    if !function.timers {
        return Err(bad(format!(
            "`{}` does not declare that it has any",
            function.name
        )));
    }
    let mut reader = Reader::new(section);
    let missing = |name: &'static str| move || bad(format!("buffer `{name}` is missing"));
    let times = reader
        .numbers::<i64>(buffer::TIME, "time")?
        .ok_or_else(missing("time"))?;
    let slots = reader
        .numbers::<u32>(buffer::SLOT, "slot")?
        .ok_or_else(missing("slot"))?;
    let domains = reader
        .numbers::<u8>(buffer::DOMAIN, "domain")?
        .ok_or_else(missing("domain"))?;
    let actions = reader
        .numbers::<u8>(buffer::ACTION, "action")?
        .ok_or_else(missing("action"))?;
    let marks = reader.numbers::<u32>(buffer::MARK, "mark")?;
    let n_rows = reader.rows();
    reader.finish()?;
    let timer = |i: usize| TimerOut {
        slot: slots[i],
        time: times[i],
        domain: domains[i],
        action: actions[i],
        mark: marks.as_ref().map_or(NO_MARK, |marks| marks[i]),
    };
    let timers: Vec<TimerOut> = (0..n_rows).map(timer).collect();
    timers.iter().enumerate().try_for_each(|(i, timer)| {
        check_timer(timer, asked).map_err(|fault| bad(format!("timer {i} {fault}")))
    })?;
    check_firing(&timers)?;
    Ok(timers)
}

pub(super) fn check_timer(timer: &TimerOut, asked: &Asked<'_>) -> std::result::Result<(), String> {
    if timer.slot as usize >= asked.n_slots {
        return Err(format!(
            "has slot {}, but the call has {}",
            timer.slot, asked.n_slots
        ));
    }
    if timer.domain > domain::PROCESSING_TIME {
        return Err(format!("has the unknown time domain {}", timer.domain));
    }
    match (timer.action, timer.domain) {
        (action::FIRED, domain::EVENT_TIME) if timer.mark as usize >= asked.marks.len() => {
            Err(format!(
                "fired at mark {}, but the call has {}",
                timer.mark,
                asked.marks.len()
            ))
        }
        (action::FIRED, domain::PROCESSING_TIME) if timer.mark != NO_MARK => {
            Err("of processing time fired at a mark".into())
        }
        (action::FIRED..=action::DELETE, _) => Ok(()),
        (unknown, _) => Err(format!("has the unknown action {unknown}")),
    }
}

/// The fired ones come first, those of processing time before all others, then mark by mark.
pub(super) fn check_firing(timers: &[TimerOut]) -> Result<()> {
    let n_fired = timers
        .iter()
        .take_while(|timer| timer.action == action::FIRED)
        .count();
    if timers[n_fired..]
        .iter()
        .any(|timer| timer.action == action::FIRED)
    {
        return Err(bad("a timer that fired stands after one that did not"));
    }
    // NO_MARK is the largest number, so that adding one makes it the first.
    let is_ordered = timers[..n_fired].is_sorted_by_key(|timer| timer.mark.wrapping_add(1));
    if is_ordered {
        Ok(())
    } else {
        Err(bad(
            "the timers that fired are not in the order of their marks",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_operator::Call;
    use streamrt_types::Mark;

    fn timer(action: u8, domain: u8, mark: u32) -> TimerOut {
        TimerOut {
            slot: 0,
            time: 7,
            domain,
            action,
            mark,
        }
    }

    #[test]
    fn fired_timers_stand_in_order() {
        let (fired, set) = (action::FIRED, action::REGISTER);
        assert!(
            check_firing(&[
                timer(fired, 1, NO_MARK),
                timer(fired, 0, 0),
                timer(fired, 0, 2),
                timer(set, 0, NO_MARK)
            ])
            .is_ok()
        );
        assert!(check_firing(&[timer(fired, 0, 0), timer(fired, 1, NO_MARK)]).is_err());
        assert!(check_firing(&[timer(fired, 0, 1), timer(fired, 0, 0)]).is_err());
        assert!(check_firing(&[timer(set, 0, 0), timer(fired, 0, 0)]).is_err());
    }

    #[test]
    fn timers_are_checked_one_by_one() {
        let marks = [Mark {
            row: 0,
            watermark: 1,
        }];
        let asked = Asked {
            call: Call::Process,
            n_rows: 0,
            n_slots: 1,
            marks: &marks,
        };
        for (timer, fault) in [
            (timer(action::FIRED, 0, 0), None),
            (timer(action::REGISTER, 1, NO_MARK), None),
            (
                timer(action::FIRED, 0, 1),
                Some("fired at mark 1, but the call has 1"),
            ),
            (
                timer(action::FIRED, 1, 0),
                Some("of processing time fired at a mark"),
            ),
            (timer(0, 0, 0), Some("has the unknown action 0")),
            (
                timer(action::DELETE, 2, 0),
                Some("has the unknown time domain 2"),
            ),
            (
                TimerOut {
                    slot: 1,
                    ..timer(action::DELETE, 0, 0)
                },
                Some("has slot 1, but the call has 1"),
            ),
        ] {
            assert_eq!(
                check_timer(&timer, &asked).err().as_deref(),
                fault,
                "{timer:?}"
            );
        }
    }
}
