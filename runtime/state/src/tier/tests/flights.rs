//! Changes on their way to the disk, and what a tier makes of them.

use super::*;

#[test]
fn changes_that_were_lost_end_everything_after_them() {
    let (_, shared) = state_disk(1000, BTreeMap::new(), Vec::new());
    let mut state = Values::new(shared.tier("s", &json!("i64"), 0).unwrap());
    state.put(&keys_of(&(0..400).collect::<Vec<_>>()), 1);
    drop(state.frozen());
    assert!(
        state
            .make_room()
            .unwrap_err()
            .message()
            .contains("were not written")
    );
    let snapshot = OperatorSnapshot {
        keyed: vec![state.frozen()],
        lists: Vec::new(),
    };
    assert!(
        snapshot
            .write_with_disk("u", GROUPS, &mut Vec::new(), None)
            .is_err()
    );
}

/// The thread of the checkpoints ends a flight a moment before it frees what was in it.
#[test]
fn a_key_that_came_back_is_found_as_soon_as_its_deletion_has_landed() {
    let (_, shared) = state_disk(1000, BTreeMap::new(), Vec::new());
    let mut state = Values::new(shared.tier("s", &json!("i64"), 0).unwrap());
    let keys = keys_of(&[7]);
    state.put(&keys, 1);
    let freeze = |state: &mut Values| state.frozen().entries.take_changes().unwrap();
    freeze(&mut state).guard.end(Ok(()));
    state.take(&keys);
    let changes = freeze(&mut state);
    changes.guard.end(Ok(()));
    state.put(&keys, 2);
    state
        .with_tier(|tier, state| tier.release(state, 1 << 20))
        .unwrap();
    state.prepare(keys.hashes(), keys.keys()).unwrap();
    assert_eq!(
        (state.read(&keys), changes.removed.len()),
        (vec![Some(2)], 1)
    );
}
