//! User code in place of a plugin: what a call brings is taken row by row, as an SDK does it.

use super::*;
use crate::StateIn;

/// What user code can do while it processes an event.
pub(super) struct Context<'a> {
    pub(super) slot: u32,
    pub(super) sum: &'a mut i64,
    pub(super) watermark: i64,
    pub(super) processing_time: i64,
    event_timers: &'a mut BTreeSet<(i64, u32)>,
    bound: i64,
    changes: &'a mut Vec<TimerOut>,
    pub(super) access: &'a mut Box<dyn StateAccess>,
    out: &'a mut Vec<(u32, i64)>,
    origin: u32,
}

impl Context<'_> {
    pub(super) fn register(&mut self, time: i64) {
        if time <= self.bound {
            self.event_timers.insert((time, self.slot));
        } else {
            self.change(time, domain::EVENT_TIME, action::REGISTER);
        }
    }

    pub(super) fn delete(&mut self, time: i64) {
        self.event_timers.remove(&(time, self.slot));
        self.change(time, domain::EVENT_TIME, action::DELETE);
    }

    pub(super) fn change(&mut self, time: i64, domain: u8, action: u8) {
        self.changes.push(report(self.slot, time, domain, action));
    }

    pub(super) fn emit(&mut self, value: i64) {
        self.out.push((self.origin, value));
    }
}

pub(super) trait User: Send + 'static {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()>;
    fn timer(&mut self, time: i64, context: &mut Context<'_>) -> Result<()>;
}

/// Plays the part of an SDK.
pub(super) fn guest(mut user: impl User) -> Box<dyn FunctionChain> {
    Box::new(NativeChain(move |call: Invocation<'_>| {
        run(&mut user, call)
    }))
}

fn run(user: &mut impl User, call: Invocation<'_>) -> Result<Outcome, Failure> {
    let rows = call.rows.unwrap();
    let clock = call.clock.unwrap();
    let values = numbers(&rows.columns);
    let state = &call.states[0];
    let mut sums = numbers(&state.values).to_vec();
    let in_domain = |code: u8| call.timers.iter().filter(move |timer| timer.domain == code);
    let mut due: BTreeSet<(i64, u32)> = in_domain(domain::EVENT_TIME)
        .map(|timer| (timer.time, timer.slot))
        .collect();
    let (mut fired, mut changes, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let mut watermark = clock.watermark;
    macro_rules! context {
        ($slot:expr, $origin:expr) => {
            &mut Context {
                slot: $slot,
                sum: &mut sums[$slot as usize],
                watermark,
                processing_time: clock.processing_time,
                event_timers: &mut due,
                bound: clock.bound,
                changes: &mut changes,
                access: &mut *call.access,
                out: &mut out,
                origin: $origin,
            }
        };
    }
    for timer in in_domain(domain::PROCESSING_TIME) {
        let origin = ORIGIN_TIMER + fired.len() as u32;
        fired.push(report(timer.slot, timer.time, timer.domain, action::FIRED));
        user.timer(timer.time, context!(timer.slot, origin))?;
    }
    let mut marks = (0u32..).zip(rows.marks).peekable();
    for row in 0..=values.len() {
        while let Some((number, mark)) = marks.next_if(|(_, mark)| mark.row as usize <= row) {
            watermark = mark.watermark;
            while let Some(&(time, slot)) = due.first().filter(|(time, _)| *time <= watermark) {
                due.pop_first();
                let origin = ORIGIN_TIMER + fired.len() as u32;
                fired.push(TimerOut {
                    mark: number,
                    ..report(slot, time, domain::EVENT_TIME, action::FIRED)
                });
                user.timer(time, context!(slot, origin))?;
            }
        }
        if row < values.len() {
            user.row(values[row], context!(rows.slots.unwrap()[row], row as u32))?;
        }
    }
    let left = due.into_iter();
    changes
        .extend(left.map(|(time, slot)| report(slot, time, domain::EVENT_TIME, action::REGISTER)));
    fired.extend(changes);
    Ok(outcome(state, sums, out, fired))
}

fn numbers(columns: &RecordBatch) -> &[i64] {
    columns.column(0).as_primitive::<Int64Type>().values()
}

fn report(slot: u32, time: i64, domain: u8, action: u8) -> TimerOut {
    TimerOut {
        slot,
        time,
        domain,
        action,
        mark: NO_MARK,
    }
}

/// What goes back: the sums, the rows with their origins, and the timers.
fn outcome(
    state: &StateIn,
    sums: Vec<i64>,
    out: Vec<(u32, i64)>,
    timers: Vec<TimerOut>,
) -> Outcome {
    let actions = sums
        .iter()
        .map(|&sum| if sum == 0 { action::CLEAR } else { action::SET })
        .collect();
    let values = RecordBatch::try_new(
        state.values.schema(),
        vec![Arc::new(Int64Array::from(sums))],
    )
    .unwrap();
    let (origin, y): (Vec<u32>, Vec<i64>) = out.into_iter().unzip();
    let columns = Some(batch_of([("y", Arc::new(Int64Array::from(y)) as ArrayRef)]).columns);
    Outcome {
        rows: vec![RowsOut {
            function: 0,
            port: 0,
            n_rows: origin.len(),
            columns,
            origin: Some(origin),
        }],
        states: vec![StateOut {
            number: state.number,
            values,
            actions: Some(actions),
        }],
        timers,
    }
}
