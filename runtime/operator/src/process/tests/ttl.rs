//! State with a time to live, through the operator: its clock, its calls, its snapshots. The table
//! of the rules itself is tested in `state`.

use super::*;
use streamrt_state::{Part, Share};
use streamrt_types::KeyGroupRange;

/// Adds x to the sum, and emits it. For x = 1 it also adds to list and map; it emits 100 for each
/// element and 1000 if the map has an entry.
#[derive(Clone, Copy)]
struct Everything;

impl User for Everything {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let slot = [context.slot];
        *context.sum += x;
        let mut answer = *context.sum;
        let (elements, _) = context.access.list(1, &slot)?;
        let (_, present) = context
            .access
            .map(2, &slot, &batch_of([("key", column(0))]).columns)?;
        let (scanned, _) = context.access.scan(2, context.slot, &[], 10)?;
        assert_eq!(
            scanned.num_rows(),
            usize::from(present[0]),
            "a scan sees what a read sees"
        );
        answer += 100 * elements.num_rows() as i64 + 1000 * i64::from(present[0]);
        if x == 1 {
            context.access.put(
                1,
                &slot,
                &[action::APPEND],
                &batch_of([("v", column(x))]).columns,
            )?;
            context.access.put(
                2,
                &slot,
                &[action::SET],
                &batch_of([("key", column(0)), ("v", column(x))]).columns,
            )?;
        }
        context.emit(answer);
        if x == 7 {
            Err(Error::new(code::USER_ERROR, "seven is refused"))
        } else {
            Ok(())
        }
    }
    fn timer(&mut self, _: i64, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
}

fn living(ttl_ms: Option<u64>, update: TtlUpdate, visibility: TtlVisibility) -> Function {
    let mut function = function();
    for state in &mut function.states {
        (state.ttl_ms, state.ttl_update, state.ttl_visibility) = (ttl_ms, update, visibility);
    }
    function
}

fn default_ttl(ttl_ms: Option<u64>) -> Function {
    living(ttl_ms, TtlUpdate::default(), TtlVisibility::default())
}

fn harness(function: Function) -> Harness<KeyedProcessOperator> {
    let schema = input(&[], &[]).columns.schema();
    Harness::new(
        KeyedProcessOperator::new(guest(Everything), &[function], &schema, vec![0]).unwrap(),
    )
}

fn push(harness: &mut Harness<KeyedProcessOperator>, now_ms: i64, x: i64) -> Result<()> {
    harness.clock.set_ms(now_ms);
    harness.batches(&input(&[("a", x, 0)], &[]), 1)
}

fn n_keys(harness: &mut Harness<KeyedProcessOperator>) -> Vec<usize> {
    CallStates::of(&mut harness.operator.opened.as_mut().unwrap().access)
        .states
        .n_keys()
}

/// Steps are (now, x, what is emitted).
#[track_caller]
fn check(function: Function, steps: &[(i64, i64, i64)]) {
    let mut harness = harness(function);
    for &(now, x, expected) in steps {
        push(&mut harness, now, x).unwrap();
        assert_eq!(
            harness.lines(0).last().unwrap(),
            &format!("0 {{\"y\":{expected}}}"),
            "{x} at {now}"
        );
    }
}

#[test]
fn states_expire_by_the_clock_of_the_operator() {
    check(
        default_ttl(None),
        &[(100, 1, 1), (109, 2, 1103), (10_000, 2, 1105)],
    );
    // The sum is written by each row, list and map only by the first.
    check(
        default_ttl(Some(10)),
        &[
            (100, 1, 1),
            (109, 2, 1103),
            (110, 2, 5),
            (119, 2, 7),
            (129, 2, 2),
        ],
    );
    // Reads renew list and map, and the elements after.
    let on_read = || {
        living(
            Some(10),
            TtlUpdate::OnReadAndWrite,
            TtlVisibility::default(),
        )
    };
    check(
        on_read(),
        &[
            (100, 1, 1),
            (109, 2, 1103),
            (118, 1, 1104),
            (127, 2, 1206),
            (136, 2, 1208),
            (146, 2, 2),
        ],
    );
}

#[test]
fn what_is_expired_may_be_shown_to_the_read_that_cleans_it() {
    let shown = living(
        Some(10),
        TtlUpdate::default(),
        TtlVisibility::ReturnExpiredIfNotCleanedUp,
    );
    let mut harness = harness(shown);
    push(&mut harness, 100, 1).unwrap();
    // A call is one moment, so the second row of it sees what the first saw.
    harness.clock.set_ms(110);
    harness
        .batches(&input(&[("a", 2, 0), ("a", 2, 0)], &[]), 2)
        .unwrap();
    assert_eq!(
        harness.lines(0)[1..],
        [r#"0 {"y":1103}"#, r#"0 {"y":1105}"#]
    );
    push(&mut harness, 111, 2).unwrap();
    assert_eq!(harness.lines(0)[3], r#"0 {"y":7}"#);
}

#[test]
fn a_call_that_fails_renews_nothing() {
    let mut harness = harness(living(
        Some(10),
        TtlUpdate::OnReadAndWrite,
        TtlVisibility::default(),
    ));
    push(&mut harness, 100, 1).unwrap();
    assert!(push(&mut harness, 105, 7).is_err());
    push(&mut harness, 110, 2).unwrap();
    assert_eq!(harness.lines(0).last(), Some(&r#"0 {"y":2}"#));
}

#[test]
fn expired_entries_leave_in_the_background_and_in_snapshots() {
    let mut harness = harness(default_ttl(Some(10)));
    let keys: Vec<String> = (0..500).map(|key| format!("key {key}")).collect();
    let rows: Vec<(&str, i64, i64)> = keys.iter().map(|key| (key.as_str(), 1, 0)).collect();
    harness.clock.set_ms(100);
    harness.batches(&input(&rows, &[]), 500).unwrap();
    assert_eq!(n_keys(&mut harness), [500, 500, 500]);
    harness.clock.set_ms(110);
    let (index, _) = frozen(&mut harness);
    assert_eq!(
        index
            .keyed
            .iter()
            .map(|state| state.groups.len())
            .collect::<Vec<_>>(),
        [0, 0, 0, 0],
        "three states and the timers"
    );
    // Nobody reads the old keys again.
    push(&mut harness, 111, 2).unwrap();
    assert!(
        n_keys(&mut harness)[0] > 400,
        "one batch looks at some entries alone: {:?}",
        n_keys(&mut harness)
    );
    (0..30).for_each(|_| push(&mut harness, 112, 2).unwrap());
    assert_eq!(n_keys(&mut harness), [1, 0, 0]);
}

fn frozen(harness: &mut Harness<KeyedProcessOperator>) -> (streamrt_state::OperatorIndex, Vec<u8>) {
    let mut object = Vec::new();
    let index = harness
        .operator
        .snapshot(1)
        .unwrap()
        .write("op", 16, &mut object);
    (index, object)
}

/// A harness of `function` with the current contents of `from`, restored with the clock at 0.
fn restored(
    from: &mut Harness<KeyedProcessOperator>,
    function: Function,
) -> Result<Harness<KeyedProcessOperator>> {
    restored_at(0, from, function)
}

fn restored_at(
    now_ms: i64,
    from: &mut Harness<KeyedProcessOperator>,
    function: Function,
) -> Result<Harness<KeyedProcessOperator>> {
    let (index, object) = frozen(from);
    let share = Share {
        subtask: 0,
        parallelism: 1,
        key_groups: KeyGroupRange::all(16),
        max_parallelism: 16,
    };
    let mut state = OperatorState::assemble(
        "op",
        &[Some(Part {
            object: Arc::new(object),
            index,
        })],
        share,
    )?;
    let mut harness = harness(function);
    harness.clock.set_ms(now_ms);
    harness.operator.restore(&mut state)?;
    state.check_taken()?;
    Ok(harness)
}

#[test]
fn times_survive_a_restore_and_the_duration_may_change() {
    for (ttl_ms, now, expected) in [
        (10, 109, 1103),
        (10, 110, 2),
        (50, 149, 1103),
        (50, 150, 2),
        (5, 105, 2),
    ] {
        let mut before = harness(default_ttl(Some(10)));
        push(&mut before, 100, 1).unwrap();
        let mut after = restored(&mut before, default_ttl(Some(ttl_ms))).unwrap();
        push(&mut after, now, 2).unwrap();
        assert_eq!(
            after.lines(0),
            [format!("0 {{\"y\":{expected}}}")],
            "{ttl_ms} ms at {now}"
        );
    }
}

#[test]
fn a_time_to_live_that_is_switched_on_begins_with_the_restore() {
    for (now, expected) in [(1009, 1103), (1010, 2)] {
        let mut before = harness(default_ttl(None));
        push(&mut before, 100, 1).unwrap();
        let mut after = restored_at(1000, &mut before, default_ttl(Some(10))).unwrap();
        push(&mut after, now, 2).unwrap();
        assert_eq!(
            after.lines(0),
            [format!("0 {{\"y\":{expected}}}")],
            "at {now}"
        );
    }
}

#[test]
fn a_time_to_live_that_is_switched_off_ends_with_the_restore() {
    let mut before = harness(default_ttl(Some(10)));
    push(&mut before, 100, 1).unwrap();
    let mut after = restored_at(105, &mut before, default_ttl(None)).unwrap();
    push(&mut after, 10_000, 2).unwrap();
    assert_eq!(after.lines(0), [r#"0 {"y":1103}"#]);
}

#[test]
fn kinds_do_not_change() {
    let mut before = harness(default_ttl(None));
    push(&mut before, 100, 1).unwrap();
    for ttl_ms in [None, Some(10)] {
        let mut reducing = default_ttl(ttl_ms);
        reducing.states[0].kind = StateKind::Reducing;
        let error = restored(&mut before, reducing).err().unwrap();
        assert_eq!(error.code(), code::STATE_TYPES);
        assert!(
            error.message().contains(r#""kind":"reducing""#),
            "{}",
            error.message()
        );
    }
    let mut reducing = default_ttl(None);
    reducing.states[0].kind = StateKind::Reducing;
    check(reducing, &[(100, 1, 1), (109, 2, 1103)]);
}
