//! The channels of one gate: bounded queues under one lock, with what wakes either side.
//!
//! A channel is bounded in bytes, and in rows if the receiver is slow: what waits in it is then
//! done in a moment, so a barrier after it comes soon. Invariant: an element that is larger than a
//! channel passes when the channel is empty, so nothing ever waits for ever.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use streamrt_types::StreamElement;

/// The receiver is gone: its task failed, or the job was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnected;

/// The number of bytes that every element counts in addition to its rows: its place in the queue,
/// and its arrays.
const ELEMENT_BYTES: usize = 256;

/// How much of a channel an element takes.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: usize,
    rows: usize,
}

impl Size {
    fn of(element: &StreamElement) -> Size {
        match element {
            StreamElement::Batch(batch) => Size {
                bytes: ELEMENT_BYTES + batch.n_bytes() + size_of_val(&batch.marks[..]),
                rows: batch.n_rows(),
            },
            _ => Size {
                bytes: ELEMENT_BYTES,
                rows: 0,
            },
        }
    }
}

#[derive(Default)]
struct Queue {
    elements: VecDeque<(StreamElement, Size)>,
    used: Size,
}

impl Queue {
    fn pop(&mut self) -> Option<StreamElement> {
        let (element, size) = self.elements.pop_front()?;
        self.used.bytes -= size.bytes;
        self.used.rows -= size.rows;
        Some(element)
    }

    fn push(&mut self, element: StreamElement, size: Size) {
        self.used.bytes += size.bytes;
        self.used.rows += size.rows;
        self.elements.push_back((element, size));
    }

    fn has_room(&self, size: Size, limit: Size) -> bool {
        let fits = self.used.bytes + size.bytes <= limit.bytes
            && self.used.rows.saturating_add(size.rows) <= limit.rows;
        fits || self.elements.is_empty()
    }

    /// A stopped sender resumes once half of its channel is free: being woken for every element
    /// costs as much as the element.
    fn is_half_free(&self, limit: Size) -> bool {
        self.used.bytes <= limit.bytes / 2 && self.used.rows <= limit.rows / 2
    }
}

struct Queues {
    channels: Vec<Queue>,
    /// Where the next search begins.
    turn: usize,
    /// Senders that wait for room; nobody is woken without reason.
    n_blocked: usize,
    woken: bool,
    closed: bool,
}

/// What the gate shares with its senders.
pub(crate) struct Shared {
    queues: Mutex<Queues>,
    readable: Condvar,
    writable: Condvar,
    capacity_bytes: usize,
    rows_max: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(n_channels: usize, capacity_bytes: usize) -> Shared {
        let channels = (0..n_channels).map(|_| Queue::default()).collect();
        Shared {
            queues: Mutex::new(Queues {
                channels,
                turn: 0,
                n_blocked: 0,
                woken: false,
                closed: false,
            }),
            readable: Condvar::new(),
            writable: Condvar::new(),
            capacity_bytes,
            rows_max: AtomicUsize::new(usize::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // A thread that panicked while holding the lock left plain queues behind, which are still
        // consistent.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limit(&self) -> Size {
        Size {
            bytes: self.capacity_bytes,
            rows: self.rows_max.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_rows_max(&self, rows: usize) {
        self.rows_max.store(rows, Ordering::Relaxed);
    }

    /// Takes the next element of a channel that `is_read`, in turn, waiting until `deadline`.
    /// `None` also if somebody woke the task.
    pub(crate) fn next(
        &self,
        deadline: Option<Instant>,
        is_read: impl Fn(usize) -> bool,
    ) -> Option<(usize, StreamElement)> {
        let mut queues = self.lock();
        loop {
            if let Some(found) = self.take(&mut queues, &is_read, |_| true) {
                return Some(found);
            }
            if std::mem::take(&mut queues.woken) || queues.closed {
                return None;
            }
            queues = match deadline {
                None => self
                    .readable
                    .wait(queues)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    self.readable
                        .wait_timeout(queues, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Takes the first element of some channel that `is_read`, if it is `wanted`.
    pub(crate) fn take_if(
        &self,
        is_read: impl Fn(usize) -> bool,
        wanted: impl Fn(&StreamElement) -> bool,
    ) -> Option<(usize, StreamElement)> {
        self.take(&mut self.lock(), &is_read, wanted)
    }

    fn take(
        &self,
        queues: &mut Queues,
        is_read: &impl Fn(usize) -> bool,
        wanted: impl Fn(&StreamElement) -> bool,
    ) -> Option<(usize, StreamElement)> {
        let n_channels = queues.channels.len();
        for step in 0..n_channels {
            let channel = (queues.turn + step) % n_channels;
            let queue = &mut queues.channels[channel];
            if !is_read(channel)
                || !queue
                    .elements
                    .front()
                    .is_some_and(|(element, _)| wanted(element))
            {
                continue;
            }
            if let Some(element) = queue.pop() {
                let is_half_free = queue.is_half_free(self.limit());
                queues.turn = (channel + 1) % n_channels;
                if queues.n_blocked > 0 && is_half_free {
                    self.writable.notify_all();
                }
                return Some((channel, element));
            }
        }
        None
    }

    /// Waits for `timeout`, or until somebody wakes the task, whatever the channels hold.
    pub(crate) fn wait(&self, timeout: Duration) {
        let queues = self.lock();
        let asleep = |queues: &mut Queues| !queues.woken && !queues.closed;
        let waited = self
            .readable
            .wait_timeout_while(queues, timeout, asleep)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut queues, _) = waited;
        queues.woken = false;
    }
}

/// The sending end of one channel.
#[derive(Clone)]
pub struct ChannelSender {
    shared: Arc<Shared>,
    channel: usize,
}

impl ChannelSender {
    pub(crate) fn new(shared: Arc<Shared>, channel: usize) -> ChannelSender {
        ChannelSender { shared, channel }
    }

    /// The number of rows that the receiver wants to have waiting; a sender cuts larger batches.
    pub fn rows_max(&self) -> usize {
        self.shared.rows_max.load(Ordering::Relaxed)
    }

    /// Puts an element into the channel, waiting while it is full. Returns how long it waited.
    ///
    /// # Errors
    /// [`Disconnected`] if the receiver is gone.
    pub fn send(&self, element: StreamElement) -> std::result::Result<Duration, Disconnected> {
        let size = Size::of(&element);
        let has_room = |queues: &Queues| {
            queues.closed || queues.channels[self.channel].has_room(size, self.shared.limit())
        };
        let mut queues = self.shared.lock();
        let mut waited = Duration::ZERO;
        if !has_room(&queues) {
            let start = Instant::now();
            queues.n_blocked += 1;
            while !has_room(&queues) {
                queues = self
                    .shared
                    .writable
                    .wait(queues)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            queues.n_blocked -= 1;
            waited = start.elapsed();
        }
        if queues.closed {
            return Err(Disconnected);
        }
        let queue = &mut queues.channels[self.channel];
        let was_empty = queue.elements.is_empty();
        queue.push(element, size);
        drop(queues);
        if was_empty {
            self.shared.readable.notify_one();
        }
        Ok(waited)
    }
}

/// Wakes a task that waits at its gate.
#[derive(Clone)]
pub struct GateWaker {
    shared: Arc<Shared>,
}

impl GateWaker {
    pub(crate) fn new(shared: Arc<Shared>) -> GateWaker {
        GateWaker { shared }
    }

    /// Lets the task return from its wait, to check its commands.
    pub fn wake(&self) {
        self.shared.lock().woken = true;
        self.shared.readable.notify_all();
    }

    /// Ends the gate: senders get [`Disconnected`].
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.readable.notify_all();
        self.shared.writable.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use streamrt_types::{Batch, Status};

    fn batch(n_rows: usize, text_bytes: usize) -> StreamElement {
        let numbers = Arc::new(Int64Array::from(vec![7; n_rows])) as ArrayRef;
        let texts = Arc::new(StringArray::from_iter_values(
            (0..n_rows).map(|_| "x".repeat(text_bytes)),
        )) as ArrayRef;
        StreamElement::Batch(Batch::new(
            RecordBatch::try_from_iter([("n", numbers), ("text", texts)]).unwrap(),
        ))
    }

    /// Puts the same element into a channel until there is no room, and returns how often.
    fn check(bytes: usize, rows: usize, element: &StreamElement, expected: usize) {
        let (limit, mut queue) = (Size { bytes, rows }, Queue::default());
        while queue.has_room(Size::of(element), limit) {
            queue.push(element.clone(), Size::of(element));
        }
        assert_eq!(queue.elements.len(), expected);
        let n_taken = (0..)
            .take_while(|_| !queue.is_half_free(limit) && queue.pop().is_some())
            .count();
        assert!(
            n_taken >= expected / 2 && queue.has_room(Size::of(element), limit),
            "a sender that waits goes on"
        );
        while queue.pop().is_some() {}
        assert_eq!((queue.used.bytes, queue.used.rows), (0, 0));
    }

    #[test]
    fn a_channel_is_bounded_in_bytes_and_rows_and_lets_one_large_element_through() {
        check(
            10 * ELEMENT_BYTES,
            usize::MAX,
            &StreamElement::Status(Status::Active),
            10,
        );
        // 1000 bytes of text, 8 of a number, 8 of offsets.
        check(4 * (ELEMENT_BYTES + 1016), usize::MAX, &batch(1, 1000), 4);
        check(1000, usize::MAX, &batch(1, 1_000_000), 1);
        check(1 << 20, 25, &batch(10, 1), 2);
        check(1 << 20, 5, &batch(10, 1), 1);
    }

    #[test]
    fn a_full_channel_blocks_its_sender_until_there_is_room() {
        let shared = Arc::new(Shared::new(1, 2 * ELEMENT_BYTES));
        let sender = ChannelSender::new(shared.clone(), 0);
        let thread = std::thread::spawn(move || {
            (0..20).for_each(|time| assert!(sender.send(StreamElement::Watermark(time)).is_ok()))
        });
        for time in 0..20 {
            assert!(
                matches!(shared.next(None, |_| true), Some((0, StreamElement::Watermark(found))) if found == time)
            );
            assert!(shared.lock().channels[0].elements.len() <= 2);
        }
        thread.join().unwrap();
    }

    #[test]
    fn a_closed_gate_frees_its_senders() {
        let shared = Arc::new(Shared::new(1, 1));
        let (sender, waker) = (
            ChannelSender::new(shared.clone(), 0),
            GateWaker::new(shared),
        );
        sender.send(StreamElement::Status(Status::Active)).unwrap();
        let thread = std::thread::spawn(move || sender.send(StreamElement::EndOfInput));
        waker.close();
        assert_eq!(thread.join().unwrap(), Err(Disconnected));
    }
}
