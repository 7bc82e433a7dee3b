//! Entries on disk that have a time to live.

use super::*;

#[test]
fn entries_on_disk_get_times_and_lose_them() {
    let (without, with) = (
        json!({"kind": "map"}),
        json!({"kind": "map", "time-to-live": true}),
    );
    let open =
        |shared: &Arc<StateDisk>, types: &serde_json::Value, ttl: Option<Ttl>, now_ms: i64| {
            let mut state = MapState::new(
                &schema(),
                &schema(),
                KeyKind::Fixed,
                KeyGroupRange::all(GROUPS),
                GROUPS,
                ttl,
            );
            *state.tier() = Some(Box::new(shared.tier("s", types, now_ms).unwrap()));
            state.set_time(now_ms);
            state
        };
    let keys = keys_of(&(0..300).collect::<Vec<_>>());
    let live = |state: &mut MapState, now_ms: i64| {
        state.set_time(now_ms);
        state.prepare(keys.hashes(), keys.keys()).unwrap();
        (0..300)
            .filter(|&slot| {
                state.get(&keys, slot, &7i64.to_le_bytes())
                    == Some(&(slot as i64).to_le_bytes()[..])
            })
            .count()
    };
    let (disk, shared) = state_disk(1 << 30, BTreeMap::new(), Vec::new());
    let mut state = open(&shared, &without, None, 0);
    (0..300).for_each(|slot| {
        state.put(
            &keys,
            slot,
            &7i64.to_le_bytes(),
            &(slot as i64).to_le_bytes(),
        )
    });
    let frozen = KeyedSnapshot {
        name: "s".into(),
        types: without.clone(),
        entries: Box::new(state.freeze()),
    };
    let snapshot = OperatorSnapshot {
        keyed: vec![frozen],
        lists: Vec::new(),
    };
    snapshot
        .write_with_disk("u", GROUPS, &mut Vec::new(), Some(Path::new("/nowhere")))
        .unwrap();

    let (timed_disk, timed) = state_disk(1 << 30, disk.lock().clone(), shared.states());
    let mut state = open(&timed, &with, Ttl::of(&descriptor(10)), 1000);
    assert_eq!((live(&mut state, 1009), live(&mut state, 1010)), (300, 0));
    assert_eq!(timed.states()[0].types, with);

    let (plain_disk, plain) = state_disk(1 << 30, timed_disk.lock().clone(), timed.states());
    let mut state = open(&plain, &without, None, 2000);
    assert_eq!(live(&mut state, 100_000), 300);
    assert_eq!(*plain_disk.lock(), *disk.lock());
}

/// A state whose entries live for 10 ms, on a disk, with `n_keys` keys.
fn expiring(shared: &Arc<StateDisk>, n_keys: u64) -> (MapState, KeyBuffer) {
    let ttl = Ttl::of(&descriptor(10));
    let mut state = MapState::new(
        &schema(),
        &schema(),
        KeyKind::Fixed,
        KeyGroupRange::all(GROUPS),
        GROUPS,
        ttl,
    );
    *state.tier() = Some(Box::new(shared.tier("s", &json!("i64"), 0).unwrap()));
    (state, keys_of(&(0..n_keys).collect::<Vec<_>>()))
}

fn descriptor(ttl_ms: u64) -> streamrt_wit::StateDescriptor {
    serde_json::from_value(json!({"name": "s", "kind": "map", "value": [], "ttl-ms": ttl_ms}))
        .unwrap()
}

/// Takes a checkpoint, or a savepoint, whose entries it returns by key.
fn landed(state: &mut MapState, folder: Option<&Path>) -> Vec<Vec<u8>> {
    let frozen = KeyedSnapshot {
        name: "s".into(),
        types: json!("i64"),
        entries: Box::new(state.freeze()),
    };
    let mut object = Vec::new();
    let snapshot = OperatorSnapshot {
        keyed: vec![frozen],
        lists: Vec::new(),
    };
    let (index, _) = snapshot
        .write_with_disk("u", GROUPS, &mut object, folder)
        .unwrap();
    let share = Share {
        subtask: 0,
        parallelism: 1,
        key_groups: KeyGroupRange::all(GROUPS),
        max_parallelism: GROUPS,
    };
    let mut keys = Vec::new();
    let part = Part {
        object: Arc::new(object),
        index,
    };
    let each = |_, key: &[u8], _: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        Ok(())
    };
    OperatorState::assemble("u", &[Some(part)], share)
        .unwrap()
        .keyed("s", &json!("i64"), each)
        .unwrap();
    keys.sort();
    keys
}

#[test]
fn what_is_expired_on_disk_is_in_no_savepoint_and_is_deleted_by_checkpoints() {
    let (disk, shared) = state_disk(0, BTreeMap::new(), Vec::new());
    let (mut state, keys) = expiring(&shared, 400);
    state.set_time(0);
    (0..400).for_each(|slot| state.put(&keys, slot, &1i64.to_le_bytes(), &7i64.to_le_bytes()));
    state.make_room().unwrap();
    assert!(disk.lock().len() > 300);
    state.set_time(5);
    let renewed = keys_of(&[1, 2, 3]);
    state.prepare(renewed.hashes(), renewed.keys()).unwrap();
    state.put(&renewed, 1, &2i64.to_le_bytes(), &8i64.to_le_bytes());
    state.make_room().unwrap();
    state.set_time(12);
    assert_eq!(
        landed(&mut state, None),
        [2u64.to_le_bytes().to_vec()],
        "one entry of the key is live"
    );
    for _ in 1..GROUPS {
        assert!(disk.lock().len() > 1, "one key group at a time");
        landed(&mut state, Some(Path::new("/nowhere")));
    }
    assert_eq!(disk.lock().len(), 1, "what has a live entry stays");
}

#[test]
fn an_entry_that_was_removed_does_not_come_back_when_the_rest_of_its_key_expires() {
    let (_, shared) = state_disk(1 << 30, BTreeMap::new(), Vec::new());
    let (mut state, keys) = expiring(&shared, 1);
    state.set_time(0);
    state.put(&keys, 0, &1i64.to_le_bytes(), &7i64.to_le_bytes());
    state.set_time(8);
    state.put(&keys, 0, &2i64.to_le_bytes(), &7i64.to_le_bytes());
    landed(&mut state, Some(Path::new("/nowhere")));
    state.remove(&keys, 0, &2i64.to_le_bytes());
    state.set_time(11);
    // The entry that is left is expired: the disk must not keep both.
    assert_eq!(landed(&mut state, None), Vec::<Vec<u8>>::new());
}

#[test]
fn a_state_that_is_forgotten_leaves_the_disk_and_its_number_to_others() {
    for number in [0, 7, u8::MAX] {
        let state = |name: &str, number| DiskState {
            name: name.into(),
            number,
            types: json!("i64"),
            in_namespaces: false,
        };
        let key = |group: u8, number: u8, key: u8| vec![0, group, number, key];
        let other = number / 2 + 1;
        let pairs: BTreeMap<Vec<u8>, Vec<u8>> = (0..GROUPS as u8)
            .flat_map(|group| {
                [number, other]
                    .map(|number| [0, u8::MAX].map(|last| (key(group, number, last), vec![1])))
            })
            .flatten()
            .collect();
        let (disk, shared) = state_disk(
            usize::MAX,
            pairs,
            vec![state("gone", number), state("kept", other)],
        );
        shared.forget("gone", KeyGroupRange::all(GROUPS)).unwrap();
        shared.forget("gone", KeyGroupRange::all(GROUPS)).unwrap();
        assert_eq!(shared.states(), [state("kept", other)]);
        let left: Vec<u8> = disk.lock().keys().map(|key| key[2]).collect();
        assert_eq!(left, vec![other; 2 * GROUPS as usize], "{number}");
    }
}
