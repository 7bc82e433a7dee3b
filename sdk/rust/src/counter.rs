//! What user code counts under names of its own, for the metrics of the job.

use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{OwnedColumn, i64_bytes, section, u32_bytes};
use std::cell::RefCell;
use std::collections::BTreeMap;
use streamrt_wit::codes;

thread_local! {
    /// By name, what was counted since the last call that counts ended.
    static COUNTED: RefCell<BTreeMap<&'static str, i64>> = const { RefCell::new(BTreeMap::new()) };
}

/// A number that user code counts up. Each task has its own under this name, which `/metrics` shows;
/// it begins at 0 when the task starts. What a call counts that fails, does not count.
///
/// A task has at most 100 names, of at most 100 bytes. The functions of a sink count nothing.
///
/// ```
/// use streamrt_sdk::prelude::*;
///
/// static EMPTY: Counter = Counter::new("empty-lines");
///
/// fn words(line: &String, out: &mut Collector<String>) {
///     if line.is_empty() {
///         EMPTY.inc();
///     }
///     line.split_whitespace().for_each(|word| out.collect(word.to_owned()));
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Counter(&'static str);

impl Counter {
    /// A counter under a name; two of one name are the same.
    pub const fn new(name: &'static str) -> Counter {
        Counter(name)
    }

    /// Adds 1.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds to it, or takes away if `n` is negative.
    pub fn add(&self, n: i64) {
        COUNTED.with_borrow_mut(|counted| {
            let number = counted.entry(self.0).or_default();
            *number = number.wrapping_add(n);
        });
    }

    /// What was counted on this thread, in a native test.
    pub fn counted(&self) -> i64 {
        COUNTED.with_borrow(|counted| counted.get(self.0).copied().unwrap_or_default())
    }
}

/// What a call that begins has not counted.
pub(crate) fn forget() {
    COUNTED.with_borrow_mut(BTreeMap::clear);
}

/// What the call has counted, as a section; None if that is nothing.
pub(crate) fn take() -> Option<Section> {
    let counted = COUNTED.with_borrow_mut(std::mem::take);
    if counted.is_empty() {
        return None;
    }
    let (mut names, mut ends) = (Vec::new(), vec![0]);
    for name in counted.keys() {
        names.extend_from_slice(name.as_bytes());
        ends.push(names.len() as u32);
    }
    let numbers: Vec<i64> = counted.values().copied().collect();
    let names = OwnedColumn {
        validity: None,
        offsets: Some(u32_bytes(&ends)),
        data: names,
    };
    let numbers = OwnedColumn {
        data: i64_bytes(&numbers),
        ..OwnedColumn::default()
    };
    let columns = vec![names, numbers];
    let role = codes::section::COUNTERS;
    Some(section(role, 0, counted.len(), Vec::new(), columns))
}
