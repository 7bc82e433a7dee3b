//! Timers by key, in event time and in processing time, each firing once.
//!
//! One timer per (key, time) and domain; a namespace has a service of its own. They are stored per
//! key group, ordered by time and then by key, so that the order of firing depends on neither
//! batches nor parallelism. Invariant: `head` of a domain is at or before its earliest timer, so a
//! batch that makes nothing due costs one comparison.
//!
//! # Source
//! Flink's `InternalTimerServiceImpl`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use streamrt_state::{EachEntry, Frozen};
use streamrt_types::{Error, KeyGroupRange, Result, code, key_group, murmur3_32};

/// A key, without an allocation if it is eight bytes. Ordered within one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    Fixed(u64),
    Bytes(Box<[u8]>),
}

impl TimerKey {
    /// Calls `read` with the canonical bytes.
    pub fn with_bytes<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            TimerKey::Fixed(key) => read(&key.to_le_bytes()),
            TimerKey::Bytes(bytes) => read(bytes),
        }
    }

    pub fn hash(&self) -> u32 {
        self.with_bytes(murmur3_32)
    }
}

/// When and for which key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    /// In ms.
    pub time: i64,
    pub key: TimerKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    EventTime,
    ProcessingTime,
}

#[derive(Debug)]
struct Queue {
    /// A group that a snapshot still holds is copied when it changes.
    groups: Vec<Arc<BTreeSet<Timer>>>,
    /// At or before the earliest timer; `None` if there is none.
    head: Option<i64>,
}

/// Bytes that a timer takes in a tree that is two thirds full.
const TIMER_BYTES: usize = 40;

/// The timers of one operator.
#[derive(Debug)]
pub struct TimerService {
    key_groups: KeyGroupRange,
    max_parallelism: u32,
    event_time: Queue,
    processing_time: Queue,
}

impl TimerService {
    pub fn new(key_groups: KeyGroupRange, max_parallelism: u32) -> TimerService {
        let queue = || Queue {
            groups: vec![Arc::default(); key_groups.len() as usize],
            head: None,
        };
        TimerService {
            key_groups,
            max_parallelism,
            event_time: queue(),
            processing_time: queue(),
        }
    }

    fn queue(&mut self, domain: Domain) -> &mut Queue {
        match domain {
            Domain::EventTime => &mut self.event_time,
            Domain::ProcessingTime => &mut self.processing_time,
        }
    }

    fn read(&self, domain: Domain) -> &Queue {
        match domain {
            Domain::EventTime => &self.event_time,
            Domain::ProcessingTime => &self.processing_time,
        }
    }

    /// The timers of the group to which a key with this hash belongs.
    fn group(&mut self, domain: Domain, hash: u32) -> &mut BTreeSet<Timer> {
        let group = key_group(hash, self.max_parallelism) - self.key_groups.start;
        Arc::make_mut(&mut self.queue(domain).groups[group as usize])
    }

    /// Adds a timer; does nothing if it is there. `hash` is that of its key.
    pub fn register(&mut self, domain: Domain, hash: u32, timer: Timer) {
        let time = timer.time;
        if self.group(domain, hash).insert(timer) {
            let head = &mut self.queue(domain).head;
            *head = Some(head.map_or(time, |head| head.min(time)));
        }
    }

    /// Removes a timer; does nothing if it is not there.
    pub fn delete(&mut self, domain: Domain, hash: u32, timer: &Timer) {
        let time = timer.time;
        if self.group(domain, hash).remove(timer) && self.read(domain).head == Some(time) {
            let queue = self.queue(domain);
            queue.head = queue.earliest();
        }
    }

    /// Removes timers that have fired.
    pub fn consume(&mut self, domain: Domain, timers: &[Timer]) {
        for timer in timers {
            self.group(domain, timer.key.hash()).remove(timer);
        }
        // Done once for all of them, since it looks at every group.
        let queue = self.queue(domain);
        queue.head = queue.earliest();
    }

    /// How many timers are at or before `bound`, counted up to `limit`.
    pub fn n_due(&self, domain: Domain, bound: i64, limit: usize) -> usize {
        let queue = self.read(domain);
        if queue.head.is_none_or(|head| head > bound) {
            return 0;
        }
        queue
            .groups
            .iter()
            .flat_map(|group| group.iter().take_while(|timer| timer.time <= bound))
            .take(limit)
            .count()
    }

    /// The time of the earliest timer.
    pub fn next(&self, domain: Domain) -> Option<i64> {
        self.read(domain).head
    }

    /// The earliest timers at or before `bound`, in order, at most `limit`. They stay until they
    /// are deleted.
    pub fn due(&self, domain: Domain, bound: i64, limit: usize) -> Vec<Timer> {
        let queue = self.read(domain);
        if queue.head.is_none_or(|head| head > bound) {
            return Vec::new();
        }
        let mut groups: Vec<_> = queue
            .groups
            .iter()
            .map(|group| group.iter().take_while(|timer| timer.time <= bound))
            .collect();
        let mut heap: BinaryHeap<_> = groups
            .iter_mut()
            .enumerate()
            .filter_map(|(g, group)| Some(Reverse((group.next()?, g))))
            .collect();
        let mut due = Vec::new();
        while let Some(Reverse((timer, g))) = heap.pop().filter(|_| due.len() < limit) {
            due.push(timer.clone());
            heap.extend(groups[g].next().map(|timer| Reverse((timer, g))));
        }
        due
    }

    /// All timers as they are now: under each key its timers, distinguished by domain and time.
    pub fn freeze(&self) -> impl Frozen + use<> {
        FrozenTimers {
            event_time: self.event_time.groups.clone(),
            processing_time: self.processing_time.groups.clone(),
        }
    }

    /// Takes an entry of a snapshot back. `fixed` says whether keys are eight bytes.
    ///
    /// # Errors
    /// `Data` if it is not a timer.
    pub fn restore(&mut self, hash: u32, key: &[u8], sub: &[u8], fixed: bool) -> Result<()> {
        let damaged = || Error::new(code::SNAPSHOT_DAMAGED, "a timer in the snapshot is none");
        let (&domain, time) = sub.split_first().ok_or_else(damaged)?;
        let time = i64::from_be_bytes(time.try_into().map_err(|_| damaged())?);
        let domain = if domain == 0 {
            Domain::EventTime
        } else {
            Domain::ProcessingTime
        };
        let key = match fixed {
            true => TimerKey::Fixed(u64::from_le_bytes(key.try_into().map_err(|_| damaged())?)),
            false => TimerKey::Bytes(key.into()),
        };
        self.register(domain, hash, Timer { time, key });
        Ok(())
    }

    pub fn len(&self, domain: Domain) -> usize {
        self.read(domain)
            .groups
            .iter()
            .map(|group| group.len())
            .sum()
    }

    /// The approximate number of bytes of memory that all timers take.
    pub fn used_bytes(&self) -> usize {
        (self.len(Domain::EventTime) + self.len(Domain::ProcessingTime)) * TIMER_BYTES
    }

    pub fn is_empty(&self, domain: Domain) -> bool {
        self.next(domain).is_none()
    }
}

struct FrozenTimers {
    event_time: Vec<Arc<BTreeSet<Timer>>>,
    processing_time: Vec<Arc<BTreeSet<Timer>>>,
}

impl Frozen for FrozenTimers {
    fn visit(&self, each: &mut EachEntry<'_>) {
        for (domain, groups) in [(0, &self.event_time), (1, &self.processing_time)] {
            for timer in groups.iter().flat_map(|group| group.iter()) {
                let mut sub = [domain; 9];
                sub[1..].copy_from_slice(&timer.time.to_be_bytes());
                timer.key.with_bytes(|key| each(key, &sub, &[]));
            }
        }
    }
}

impl Queue {
    fn earliest(&self) -> Option<i64> {
        self.groups
            .iter()
            .filter_map(|group| group.first())
            .map(|timer| timer.time)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// (register or delete, key, time) against one ordered set.
    fn check(steps: &[(bool, u64, i64)], bound: i64, limit: usize) {
        let mut service = TimerService::new(KeyGroupRange::all(16), 16);
        let mut model = BTreeSet::new();
        for &(register, key, time) in steps {
            let timer = Timer {
                time,
                key: TimerKey::Fixed(key),
            };
            let hash = timer.key.hash();
            if register {
                service.register(Domain::EventTime, hash, timer.clone());
                model.insert(timer);
            } else {
                service.delete(Domain::EventTime, hash, &timer);
                model.remove(&timer);
            }
            assert_eq!(
                service.next(Domain::EventTime),
                model.first().map(|timer| timer.time)
            );
        }
        let due: Vec<Timer> = model
            .iter()
            .take_while(|timer| timer.time <= bound)
            .take(limit)
            .cloned()
            .collect();
        assert_eq!(service.due(Domain::EventTime, bound, limit), due);
        assert_eq!(service.n_due(Domain::EventTime, bound, limit), due.len());
        service.consume(Domain::EventTime, &due);
        due.iter().for_each(|timer| assert!(model.remove(timer)));
        assert_eq!(
            service.next(Domain::EventTime),
            model.first().map(|timer| timer.time)
        );
        assert_eq!(
            (
                service.len(Domain::EventTime),
                service.is_empty(Domain::ProcessingTime)
            ),
            (model.len(), true)
        );
    }

    proptest! {
        #[test]
        fn is_an_ordered_set(
            steps in prop::collection::vec((prop::bool::weighted(0.7), 0u64..20, -5i64..20), 0..80),
            bound in -6i64..21,
            limit in 0usize..30,
        ) {
            check(&steps, bound, limit);
        }
    }

    #[test]
    fn a_timer_takes_24_bytes_beside_a_long_key() {
        assert_eq!(size_of::<Timer>(), 24);
    }
}
