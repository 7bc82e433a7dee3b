//! List and map state within one call.

use super::*;

/// List and map state: x < 0 clears the list; otherwise x is appended, and put into the map under x
/// % 3. Emits the list's length, the sum of the map's values, and how many entries a scan gives.
#[derive(Clone, Copy)]
struct Collections;

impl User for Collections {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let slot = [context.slot];
        let element = batch_of([("v", column(x))]).columns;
        let what = if x < 0 {
            action::CLEAR_SLOT
        } else {
            action::APPEND
        };
        context.access.put(1, &slot, &[what], &element)?;
        let entry = batch_of([("key", column(x % 3)), ("v", column(x))]).columns;
        context.access.put(
            2,
            &slot,
            &[if x == 9 { action::CLEAR } else { action::SET }],
            &entry,
        )?;
        let (list, offsets) = context.access.list(1, &slot)?;
        let (value, present) =
            context
                .access
                .map(2, &slot, &batch_of([("key", column(x % 3))]).columns)?;
        let (first, cursor) = context.access.scan(2, context.slot, &[], 1)?;
        let n_rest = match &cursor {
            Some(cursor) => context
                .access
                .scan(2, context.slot, cursor, 10)?
                .0
                .num_rows(),
            None => 0,
        };
        assert_eq!(offsets, [0, list.num_rows() as u32]);
        assert_eq!(
            value.column(0).as_primitive::<Int64Type>().value(0),
            if present[0] == 1 { x } else { 0 }
        );
        context.emit(
            list.num_rows() as i64 * 100
                + i64::from(present[0]) * 10
                + (first.num_rows() + n_rest) as i64,
        );
        if x == 7 {
            return Err(Error::new(code::USER_ERROR, "seven is refused"));
        }
        Ok(())
    }
    fn timer(&mut self, _: i64, _: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn lists_and_maps_see_their_own_writes_and_roll_back() {
    let rows = [
        ("a", 1, 0),
        ("a", 2, 0),
        ("b", 4, 0),
        ("a", 7, 0),
        ("a", 3, 0),
        ("a", 9, 0),
        ("a", -3, 0),
    ];
    for batch_rows in 1..=8 {
        let configuration = Configuration {
            poison_policy: PoisonPolicy::Skip,
            ..Configuration::default()
        };
        let mut harness = Harness::with(operator(Collections), configuration).unwrap();
        harness.batches(&input(&rows, &[]), batch_rows).unwrap();
        let y = |values: &[i64]| {
            values
                .iter()
                .map(|y| format!("0 {{\"y\":{y}}}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            harness.lines(0),
            y(&[111, 212, 111, 313, 402, 13]),
            "batches of {batch_rows}"
        );
        let letters = harness.dead_letters.lock().unwrap();
        assert_eq!(
            (
                letters.len(),
                letters[0].key.as_str(),
                letters[0].message.as_str()
            ),
            (1, r#"{"k":"a"}"#, "seven is refused")
        );
    }
}
