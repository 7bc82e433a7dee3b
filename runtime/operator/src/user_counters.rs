//! What user code counts under names of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How many names a task may have.
const NAMES_MAX: usize = 100;

/// The counters of one task: its thread adds once for each call that has counted, anybody reads.
#[derive(Debug, Default)]
pub struct UserCounters(Mutex<BTreeMap<String, i64>>);

impl UserCounters {
    /// Adds what a call has counted. False if there are too many names; then nothing is added.
    pub fn add(&self, counted: &[(String, i64)]) -> bool {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = counted
            .iter()
            .filter(|(name, _)| !counters.contains_key(name));
        if counters.len() + new.count() > NAMES_MAX {
            return false;
        }
        for (name, n) in counted {
            match counters.get_mut(name) {
                Some(counter) => *counter = counter.wrapping_add(*n),
                None => drop(counters.insert(name.clone(), *n)),
            }
        }
        true
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(String, i64)> {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters
            .iter()
            .map(|(name, n)| (name.clone(), *n))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_adds_up_under_a_hundred_names() {
        let counters = UserCounters::default();
        let counted = |name: usize, n| (format!("n{name:03}"), n);
        assert!(counters.add(&[counted(1, 2), counted(2, 5)]));
        assert!(counters.add(&[counted(1, -3)]));
        assert_eq!(counters.all(), [counted(1, -1), counted(2, 5)]);
        let many: Vec<_> = (0..100).map(|name| counted(name, 1)).collect();
        assert!(counters.add(&many));
        assert!(!counters.add(&[counted(1, 1), counted(100, 1)]));
        assert_eq!(counters.all()[1], counted(1, 0));
    }
}
