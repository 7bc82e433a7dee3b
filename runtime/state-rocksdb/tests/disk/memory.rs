//! The budget of memory holds for state that is much larger, over several disks at once.

use crate::support::key;
use std::sync::Arc;
use streamrt_state::{Backend, Disk};
use streamrt_state_rocksdb::RocksBackend;

const BUDGET_BYTES: usize = 32 << 20;
/// What a flush may hold in addition: the write buffer that waits for it.
const SLACK_BYTES: usize = 4 << 20;
const DISKS: u32 = 2;
const PAIRS_OF_A_DISK: u32 = 500_000;
const VALUE_BYTES: u32 = 200;
const BATCH: u32 = 1000;
/// Prime to the number of pairs: keys come in no order, each once.
const STRIDE: u32 = 316_957;

fn value(number: u32) -> Vec<u8> {
    (0..VALUE_BYTES / 4)
        .flat_map(|word| (number ^ word).wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

fn keys(batch: u32) -> Vec<u32> {
    let mut keys: Vec<u32> = (batch * BATCH..(batch + 1) * BATCH)
        .map(|i| (u64::from(i) * u64::from(STRIDE) % u64::from(PAIRS_OF_A_DISK)) as u32)
        .collect();
    keys.sort_unstable();
    keys
}

fn write(disk: &dyn Disk, batch: u32) {
    let pairs: Vec<_> = keys(batch)
        .into_iter()
        .map(|i| (key(0, i), value(i)))
        .collect();
    disk.write(
        &mut pairs
            .iter()
            .map(|(key, value)| (&key[..], Some(&value[..]))),
    )
    .unwrap();
}

/// How many of the batch's keys are there, with the right value.
fn read(disk: &dyn Disk, batch: u32) -> usize {
    let numbers = keys(batch);
    let keys: Vec<Vec<u8>> = numbers.iter().map(|&i| key(0, i)).collect();
    let mut n_right = 0;
    let mut found = |i: usize, bytes: &[u8]| {
        n_right += usize::from(bytes == value(numbers[i]));
        Ok(())
    };
    disk.get(
        &keys.iter().map(Vec::as_slice).collect::<Vec<_>>(),
        &mut found,
    )
    .unwrap();
    n_right
}

#[test]
fn two_hundred_megabytes_fit_a_budget_of_thirty_two() {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(BUDGET_BYTES).unwrap();
    let disks: Vec<Arc<dyn Disk>> = (0..DISKS)
        .map(|i| {
            backend
                .open(&scratch.path().join(i.to_string()), &[])
                .unwrap()
        })
        .collect();
    let mut most = 0;
    for batch in 0..PAIRS_OF_A_DISK / BATCH {
        for disk in &disks {
            write(&**disk, batch);
            if batch % 4 == 0 {
                assert_eq!(
                    read(&**disk, batch / 2),
                    BATCH as usize,
                    "half of the way back"
                );
            }
            most = most.max(backend.memory_used_bytes());
        }
    }
    let on_disk: u64 = disks.iter().map(|disk| disk.disk_bytes()).sum();
    assert!(
        on_disk > 4 * BUDGET_BYTES as u64,
        "only {on_disk} bytes are on disk"
    );
    assert!(most < BUDGET_BYTES + SLACK_BYTES, "{most} bytes of memory");
    assert!(
        most > BUDGET_BYTES / 2,
        "only {most} bytes of memory: the budget is not used"
    );
}
