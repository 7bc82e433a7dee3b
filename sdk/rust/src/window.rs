//! Windows: how rows of a key are grouped, and what is made from a group.
//!
//! # Source
//! Flink documentation, "Windows": same assigners, same default triggers, same lateness.

use crate::aggregate::{Aggregates, Term};
use crate::chain::Maker;
use crate::env::{main_port, replace};
use crate::fold::{AggregateFunction, Fold, Reduce};
use crate::key::Key;
use crate::keyed::KeyedStream;
use crate::record::Record;
use crate::stream::{Stream, function};
use crate::watermarks::millis;
use crate::window_function::{WindowFunction, WindowWhole};
use std::ops::Deref;
use std::time::Duration;
use streamrt_wit::{
    Body, Function, FunctionKind, OutputColumns, OutputPort, WindowAssigner, WindowContents,
};

/// Name of the side output that gets late rows.
pub const LATE: &str = "late";

/// How rows come to windows: [`Tumbling`], [`Sliding`], [`Session`], [`Count`] or [`Global`].
#[derive(Debug, Clone)]
pub struct Assigner(WindowAssigner);

impl Assigner {
    /// Shifts the windows of a tumbling or sliding assigner from the Unix epoch.
    pub fn offset(mut self, by: Duration) -> Assigner {
        if let WindowAssigner::Tumbling { offset_ms, .. }
        | WindowAssigner::Sliding { offset_ms, .. } = &mut self.0
        {
            *offset_ms = length(by);
        }
        self
    }

    /// Goes by the clock of the host instead of event time.
    pub fn processing_time(mut self) -> Assigner {
        if let WindowAssigner::Tumbling {
            processing_time, ..
        }
        | WindowAssigner::Sliding {
            processing_time, ..
        }
        | WindowAssigner::Session {
            processing_time, ..
        } = &mut self.0
        {
            *processing_time = true;
        }
        self
    }
}

fn length(duration: Duration) -> i64 {
    i64::try_from(millis(duration)).unwrap_or(i64::MAX)
}

/// Windows of equal size, one after the other.
pub struct Tumbling;

impl Tumbling {
    /// Windows of this size.
    pub fn of(size: Duration) -> Assigner {
        Assigner(WindowAssigner::Tumbling {
            size_ms: length(size),
            offset_ms: 0,
            processing_time: false,
        })
    }
}

/// Windows of equal size that overlap.
pub struct Sliding;

impl Sliding {
    /// Windows of this size, one beginning every `slide`. Up to 10,000 of them may cover one time,
    /// or 2,000 if a function of the plugin computes what they give; the host refuses more (S2015).
    pub fn of(size: Duration, slide: Duration) -> Assigner {
        let (size_ms, slide_ms) = (length(size), length(slide));
        Assigner(WindowAssigner::Sliding {
            size_ms,
            slide_ms,
            offset_ms: 0,
            processing_time: false,
        })
    }
}

/// Windows that end where a key is silent.
pub struct Session;

impl Session {
    /// Sessions that end after a gap of this length.
    pub fn with_gap(gap: Duration) -> Assigner {
        Assigner(WindowAssigner::Session {
            gap_ms: length(gap),
            processing_time: false,
        })
    }
}

/// Windows of a number of rows.
pub struct Count;

impl Count {
    /// Fires and empties itself each time a key has this number of rows.
    pub fn of(rows: u64) -> Assigner {
        Assigner(WindowAssigner::Count { rows })
    }
}

/// One window for ever, which fires at the end of a bounded input.
pub struct Global;

impl From<Global> for Assigner {
    fn from(_: Global) -> Assigner {
        Assigner(WindowAssigner::Global)
    }
}

/// Rows of each key, grouped into windows.
pub struct WindowedStream<T, K> {
    pub(crate) keyed: KeyedStream<T, K>,
    assigner: WindowAssigner,
    allowed_lateness_ms: u64,
}

impl<T: Record, K: Key> WindowedStream<T, K> {
    pub(crate) fn new(keyed: &KeyedStream<T, K>, assigner: Assigner) -> Self {
        let keyed = KeyedStream::new(&keyed.stream, keyed.fields.clone());
        WindowedStream {
            keyed,
            assigner: assigner.0,
            allowed_lateness_ms: 0,
        }
    }

    /// Keeps windows for this long after their end; a late row within that time fires its window
    /// again.
    pub fn allowed_lateness(self, lateness: Duration) -> Self {
        WindowedStream {
            allowed_lateness_ms: millis(lateness),
            ..self
        }
    }

    /// Computes aggregates in the host, without calling the guest.
    #[track_caller]
    pub fn aggregate<O: Record>(
        self,
        uid: &str,
        terms: impl IntoIterator<Item = Term>,
    ) -> WindowResult<O, T> {
        let built = Aggregates::build::<T, O>(uid, &self.keyed.fields, terms, true);
        let Aggregates {
            aggregates,
            columns,
        } = self.keyed.stream.graph.check(built);
        self.contents(
            uid,
            WindowContents::Builtin {
                aggregates,
                columns,
            },
        )
    }

    /// Folds the rows of each window by a function of the plugin.
    #[track_caller]
    pub fn aggregate_with<A: AggregateFunction<In = T>>(
        self,
        uid: &str,
        aggregate: A,
    ) -> WindowResult<A::Out, T> {
        let function = self.fold(uid, aggregate);
        self.contents(
            uid,
            WindowContents::Aggregate {
                function,
                then: None,
            },
        )
    }

    /// Like [`WindowedStream::aggregate_with`], and hands the result, with key and window, to a
    /// window function.
    #[track_caller]
    pub fn aggregate_then<A, F>(self, uid: &str, aggregate: A, then: F) -> WindowResult<F::Out, T>
    where
        A: AggregateFunction<In = T>,
        F: WindowFunction<In = A::Out>,
    {
        let function = self.fold(uid, aggregate);
        let then = Some(self.window_function(uid, then));
        self.contents(uid, WindowContents::Aggregate { function, then })
    }

    /// Folds the rows of each window into one row, from left to right.
    #[track_caller]
    pub fn reduce(
        self,
        uid: &str,
        reduce: impl FnMut(&T, &T) -> T + 'static,
    ) -> WindowResult<T, T> {
        let function = self.reduce_function(uid, reduce);
        self.contents(
            uid,
            WindowContents::Aggregate {
                function,
                then: None,
            },
        )
    }

    /// Like [`WindowedStream::reduce`], and hands the result, with key and window, to a window
    /// function.
    #[track_caller]
    pub fn reduce_then<F: WindowFunction<In = T>>(
        self,
        uid: &str,
        reduce: impl FnMut(&T, &T) -> T + 'static,
        then: F,
    ) -> WindowResult<F::Out, T> {
        let function = self.reduce_function(uid, reduce);
        let then = Some(self.window_function(uid, then));
        self.contents(uid, WindowContents::Aggregate { function, then })
    }

    /// Keeps all rows of each window, and hands them to a window function when it fires.
    #[track_caller]
    pub fn process<F: WindowFunction<In = T>>(
        self,
        uid: &str,
        process: F,
    ) -> WindowResult<F::Out, T> {
        let function = self.window_function(uid, process);
        self.contents(uid, WindowContents::Process { function })
    }

    #[track_caller]
    fn fold<A: AggregateFunction<In = T>>(&self, uid: &str, aggregate: A) -> u32 {
        let base = function(
            FunctionKind::Aggregate,
            uid,
            T::schema(),
            replace::<A::Out>(),
        );
        let declared = Function {
            accumulator: Some(A::Accumulator::schema()),
            ..base
        };
        self.keyed
            .stream
            .graph
            .function(declared, Maker::whole(Fold::new(aggregate)))
    }

    #[track_caller]
    fn reduce_function(&self, uid: &str, reduce: impl FnMut(&T, &T) -> T + 'static) -> u32 {
        let base = function(FunctionKind::Reduce, uid, T::schema(), replace::<T>());
        let declared = Function {
            accumulator: Some(T::schema()),
            ..base
        };
        self.keyed
            .stream
            .graph
            .function(declared, Maker::whole(Reduce::<T, _>::new(reduce)))
    }

    #[track_caller]
    fn window_function<F: WindowFunction>(&self, uid: &str, process: F) -> u32 {
        let graph = &self.keyed.stream.graph;
        let key = graph.check(self.keyed.key_of::<F::Key>(uid));
        let base = function(
            FunctionKind::WindowProcess,
            uid,
            F::In::schema(),
            replace::<F::Out>(),
        );
        graph.function(
            Function {
                key: Some(key),
                ..base
            },
            Maker::whole(WindowWhole::new(process)),
        )
    }

    #[track_caller]
    fn contents<O: Record>(self, uid: &str, contents: WindowContents) -> WindowResult<O, T> {
        let late = OutputPort {
            name: LATE.to_owned(),
            columns: OutputColumns::Forward,
        };
        let body = Body::Window {
            assigner: self.assigner.clone(),
            allowed_lateness_ms: self.allowed_lateness_ms,
            contents,
        };
        let graph = &self.keyed.stream.graph;
        let node = graph.node(
            uid,
            self.keyed.inputs(),
            body,
            vec![main_port(replace::<O>()), late],
        );
        WindowResult {
            results: Stream::of(graph, node, 0),
            late: Stream::of(graph, node, 1),
        }
    }
}

/// What windows give: a stream of results, and the rows that came too late for all of their
/// windows.
pub struct WindowResult<O, T> {
    results: Stream<O>,
    late: Stream<T>,
}

impl<O, T> WindowResult<O, T> {
    /// Late rows, as they came.
    pub fn late(&self) -> Stream<T> {
        self.late.clone()
    }
}

impl<O, T> Deref for WindowResult<O, T> {
    type Target = Stream<O>;
    fn deref(&self) -> &Stream<O> {
        &self.results
    }
}
