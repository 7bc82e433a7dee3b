//! Which verbs belong to which kind of stream. A verb exists on the wrong kind of stream as well,
//! under a condition that never holds: so the compiler reports what has to come first, rather than
//! that there is no such method.

use crate::aggregate::Term;
use crate::key::{Key, KeySelector};
use crate::keyed::KeyedStream;
use crate::record::Record;
use crate::stream::Stream;
use crate::transform::{Collector, MapResult};
use crate::watermarks::Watermarks;
use crate::window::{Assigner, WindowedStream};

/// A stream with a key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no key, and this needs one",
    label = "call `key_by` or `key_by_fn` in front of this",
    note = "as in `clicks.key_by(Click::USER).window(Tumbling::of(minutes(1)))`"
)]
pub trait HasKey {}
impl<T, K> HasKey for KeyedStream<T, K> {}

/// A stream without a key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has been given a key, and this verb does not look at it",
    label = "call this in front of `key_by`, or after `process`, `aggregate_running` or a window"
)]
pub trait HasNoKey {}
impl<T> HasNoKey for Stream<T> {}

/// What windows have given.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has windows, and nothing is made of them yet",
    label = "call `aggregate`, `aggregate_with`, `reduce` or `process` in front of this"
)]
pub trait HasResults {}
impl<T> HasResults for Stream<T> {}

#[doc(hidden)]
impl<T: Record> Stream<T> {
    pub fn window(&self, assigner: impl Into<Assigner>) -> WindowedStream<T, ()>
    where
        Self: HasKey,
    {
        KeyedStream::<T, ()>::new(self, Vec::new()).window(assigner)
    }

    pub fn aggregate_running<O: Record>(
        &self,
        uid: &str,
        terms: impl IntoIterator<Item = Term>,
    ) -> Stream<O>
    where
        Self: HasKey,
    {
        KeyedStream::<T, ()>::new(self, Vec::new()).aggregate_running(uid, terms)
    }
}

#[doc(hidden)]
impl<T: Record, K: Key> KeyedStream<T, K> {
    pub fn filter(&self, uid: &str, keep: impl FnMut(&T) -> bool + 'static) -> Stream<T>
    where
        Self: HasNoKey,
    {
        self.stream.filter(uid, keep)
    }

    pub fn map<M: MapResult>(
        &self,
        uid: &str,
        map: impl FnMut(&T) -> M + 'static,
    ) -> Stream<M::Record>
    where
        Self: HasNoKey,
    {
        self.stream.map(uid, map)
    }

    pub fn flat_map<O: Record>(
        &self,
        uid: &str,
        map: impl FnMut(&T, &mut Collector<O>) + 'static,
    ) -> Stream<O>
    where
        Self: HasNoKey,
    {
        self.stream.flat_map(uid, map)
    }

    pub fn watermarks(&self, watermarks: Watermarks<T>) -> Stream<T>
    where
        Self: HasNoKey,
    {
        self.stream.watermarks(watermarks)
    }

    pub fn union(&self, other: &Stream<T>) -> Stream<T>
    where
        Self: HasNoKey,
    {
        self.stream.union(other)
    }

    pub fn key_by<S: KeySelector<T>>(&self, key: S) -> KeyedStream<T, S::Key>
    where
        Self: HasNoKey,
    {
        self.stream.key_by(key)
    }

    pub fn sink<S: crate::Sink<T>>(&self, uid: &str, sink: S)
    where
        Self: HasNoKey,
    {
        self.stream.sink(uid, sink);
    }
}

#[doc(hidden)]
impl<T: Record, K: Key> WindowedStream<T, K> {
    pub fn filter(&self, uid: &str, keep: impl FnMut(&T) -> bool + 'static) -> Stream<T>
    where
        Self: HasResults,
    {
        self.keyed.stream.filter(uid, keep)
    }

    pub fn map<M: MapResult>(
        &self,
        uid: &str,
        map: impl FnMut(&T) -> M + 'static,
    ) -> Stream<M::Record>
    where
        Self: HasResults,
    {
        self.keyed.stream.map(uid, map)
    }

    pub fn sink<S: crate::Sink<T>>(&self, uid: &str, sink: S)
    where
        Self: HasResults,
    {
        self.keyed.stream.sink(uid, sink);
    }
}
