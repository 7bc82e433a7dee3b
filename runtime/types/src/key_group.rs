//! Key groups: the unit in which keyed state is spread over subtasks.
//!
//! # Source
//! Flink's `KeyGroupRangeAssignment`; same formulas. The hash is ours: murmur3 over the canonical
//! key bytes.

/// The maximum number of key groups of a job: a key group fits into 15 bits, wherever it is
/// written.
pub const MAX_PARALLELISM_MAX: u32 = 32_768;

/// A contiguous range of key groups, the end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyGroupRange {
    pub start: u32,
    pub end: u32,
}

impl KeyGroupRange {
    pub fn all(max_parallelism: u32) -> KeyGroupRange {
        KeyGroupRange {
            start: 0,
            end: max_parallelism,
        }
    }

    /// The groups that subtask `subtask` of `parallelism` owns.
    pub fn of_subtask(max_parallelism: u32, parallelism: u32, subtask: u32) -> KeyGroupRange {
        let bound =
            |i: u64| (i * u64::from(max_parallelism)).div_ceil(u64::from(parallelism)) as u32;
        KeyGroupRange {
            start: bound(u64::from(subtask)),
            end: bound(u64::from(subtask) + 1),
        }
    }

    pub fn contains(&self, group: u32) -> bool {
        (self.start..self.end).contains(&group)
    }

    /// The groups that are in both.
    pub fn common(&self, other: &KeyGroupRange) -> KeyGroupRange {
        let start = self.start.max(other.start);
        KeyGroupRange {
            start,
            end: self.end.min(other.end).max(start),
        }
    }

    pub fn len(&self) -> u32 {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// The key group of a key with this murmur3 hash.
#[inline]
pub fn key_group(hash: u32, max_parallelism: u32) -> u32 {
    // The usual power of two saves a division per row.
    if max_parallelism.is_power_of_two() {
        hash & (max_parallelism - 1)
    } else {
        hash % max_parallelism
    }
}

/// The subtask that owns a key group.
#[inline]
pub fn key_group_owner(group: u32, max_parallelism: u32, parallelism: u32) -> u32 {
    (u64::from(group) * u64::from(parallelism) / u64::from(max_parallelism)) as u32
}

/// The max parallelism of a job that names none: room to grow by half, a power of two, at least
/// 128.
pub fn default_max_parallelism(parallelism: u32) -> u32 {
    (parallelism + parallelism / 2)
        .next_power_of_two()
        .clamp(128, MAX_PARALLELISM_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_the_owner_whose_range_holds_it() {
        for parallelism in [1, 2, 3, 7, 100, 128] {
            for group in 0..128 {
                let owner = key_group_owner(group, 128, parallelism);
                assert!(
                    KeyGroupRange::of_subtask(128, parallelism, owner).contains(group),
                    "{group} of {parallelism}"
                );
            }
        }
    }

    #[test]
    fn default_max_parallelism_is_flinks() {
        for (parallelism, expected) in [(1, 128), (85, 128), (86, 256), (200, 512), (40000, 32768)]
        {
            assert_eq!(
                default_max_parallelism(parallelism),
                expected,
                "{parallelism}"
            );
        }
    }
}
