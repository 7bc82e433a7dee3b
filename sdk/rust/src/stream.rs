//! Streams: handles to an output of a node, typed by the record that it carries. Every verb adds a
//! node and returns the next handle.

use crate::broadcast::BroadcastConnectedStream;
use crate::chain::Maker;
use crate::connector::Sink;
use crate::env::{Graph, Of, main_port, replace};
use crate::error::{Error, Outcome};
use crate::key::{Key, KeySelector};
use crate::keyed::KeyedStream;
use crate::process::{OutputTag, ProcessFunction, ProcessStage, Setup};
use crate::record::{Column, Record};
use crate::sink::{RunningSink, SinkSetup, TwoPhase, TwoPhaseSink, WriteAhead, WriteAheadSink};
use crate::transform::{
    Collector, Filter, FilterColumn, FlatMap, KeyProjection, Map, MapResult, Output,
};
use crate::value::Value;
use crate::watermarks::Watermarks;
use std::marker::PhantomData;
use streamrt_wit::{
    Body, DataType, Field, Function, FunctionKind, Input, OutputColumns, Partitioning, Schema,
    StateDescriptor,
};

/// A stream of records of type `T`: an output of an operator, or the union of several. A stream may
/// be used more than once; each use gets every row.
pub struct Stream<T> {
    pub(crate) graph: Graph,
    /// The operators that make it, by node and port.
    from: Vec<(u32, u16)>,
    pub(crate) partitioning: Partitioning,
    record: Of<T>,
}

impl<T> Clone for Stream<T> {
    fn clone(&self) -> Self {
        Stream {
            graph: self.graph.clone(),
            from: self.from.clone(),
            partitioning: self.partitioning.clone(),
            record: PhantomData,
        }
    }
}

/// A function of this kind that reads `input`; the caller fills in what else it has.
pub(crate) fn function(
    kind: FunctionKind,
    name: &str,
    input: Schema,
    output: OutputColumns,
) -> Function {
    Function {
        number: 0,
        kind,
        name: name.to_owned(),
        input,
        outputs: vec![main_port(output)],
        key: None,
        time: false,
        timers: false,
        states: Vec::new(),
        accumulator: None,
        grants: Vec::new(),
        second_input: Vec::new(),
    }
}

impl<T: Record> Stream<T> {
    pub(crate) fn of(graph: &Graph, node: u32, port: u16) -> Stream<T> {
        Stream {
            graph: graph.clone(),
            from: vec![(node, port)],
            partitioning: Partitioning::Forward,
            record: PhantomData,
        }
    }

    pub(crate) fn inputs(&self) -> Vec<Input> {
        self.edges(&self.partitioning, 0)
    }

    /// Edges to the input `input` of a node.
    pub(crate) fn edges(&self, partitioning: &Partitioning, input: u16) -> Vec<Input> {
        let edge = |&(node, port): &(u32, u16)| Input {
            node,
            port,
            partitioning: partitioning.clone(),
            input,
        };
        self.from.iter().map(edge).collect()
    }

    /// The one operator that makes the stream.
    #[track_caller]
    fn operator(&self, verb: &str) -> Option<u32> {
        match self.from[..] {
            [(node, _)] => Some(node),
            _ => {
                self.graph.mistake(Error::job(format!("{verb} is for the stream of one operator, and this is a union: call it in front")));
                None
            }
        }
    }

    /// Adds a node that calls a function, with the inputs `inputs`.
    #[track_caller]
    pub(crate) fn call<O: Record>(
        &self,
        uid: &str,
        inputs: Vec<Input>,
        function: Function,
        maker: Maker,
    ) -> Stream<O> {
        let outputs = function.outputs.clone();
        let function = self.graph.function(function, maker);
        let node = self
            .graph
            .node(uid, inputs, Body::Function { function }, outputs);
        Stream::of(&self.graph, node, 0)
    }

    #[track_caller]
    fn transform<O: Record>(
        &self,
        kind: FunctionKind,
        uid: &str,
        input: Schema,
        output: OutputColumns,
        maker: Maker,
    ) -> Stream<O> {
        self.call(
            uid,
            self.inputs(),
            function(kind, uid, input, output),
            maker,
        )
    }

    /// All rows of both streams, in no particular order. Its watermark is the lesser of theirs: a
    /// stream without watermarks holds it back until it ends. Streams of different partitioning
    /// cannot be united, nor can one with itself.
    #[track_caller]
    pub fn union(&self, other: &Stream<T>) -> Stream<T> {
        if self.partitioning != other.partitioning {
            let hint = "call rebalance, broadcast or global after union";
            self.graph.mistake(Error::job(format!(
                "the streams of a union are partitioned in different ways: {hint}"
            )));
        }
        if let Some((node, _)) = other.from.iter().find(|from| self.from.contains(from)) {
            let uid = self.graph.uid(*node);
            self.graph.mistake(Error::job(format!(
                "the stream of {uid} is united with itself: flat_map gives each row twice"
            )));
        }
        Stream {
            from: [&self.from[..], &other.from[..]].concat(),
            ..self.clone()
        }
    }

    /// Assigns event times and makes watermarks. The operator is called `<uid>-watermarks`, after
    /// the operator or operators before it.
    #[track_caller]
    pub fn watermarks(&self, watermarks: Watermarks<T>) -> Stream<T> {
        let uids: Vec<String> = self
            .from
            .iter()
            .map(|(node, _)| self.graph.uid(*node))
            .collect();
        let uid = format!("{}-watermarks", uids.join("-"));
        let body = watermarks.body(&self.graph, &uid);
        let node = self.graph.node(
            &uid,
            self.inputs(),
            body,
            vec![main_port(OutputColumns::Forward)],
        );
        Stream::of(&self.graph, node, 0)
    }

    /// Keeps the rows for which `keep` returns true. No column travels back: the guest only names
    /// the rows.
    #[track_caller]
    pub fn filter(&self, uid: &str, keep: impl FnMut(&T) -> bool + 'static) -> Stream<T> {
        self.filter_on(uid, keep)
    }

    /// Keeps rows by a part of their columns: `R` is a record with some of the columns of `T`, by
    /// name and type, and only these are sent to the guest.
    #[track_caller]
    pub fn filter_on<R: Record>(
        &self,
        uid: &str,
        keep: impl FnMut(&R) -> bool + 'static,
    ) -> Stream<T> {
        self.graph.check(part_of(uid, &R::schema(), &T::schema()));
        self.transform(
            FunctionKind::Filter,
            uid,
            R::schema(),
            OutputColumns::Forward,
            Maker::stage(Filter::<R, _>::new(keep)),
        )
    }

    /// Keeps rows by one column, whose values are read where they stand: a string column gives
    /// `&str`, or `&[u8]` if asked for its [`bytes`](Column::bytes), which saves the check of
    /// UTF-8.
    #[track_caller]
    pub fn filter_by<V: Value>(
        &self,
        uid: &str,
        column: Column<T, V>,
        keep: impl for<'a> FnMut(V::Ref<'a>) -> bool + 'static,
    ) -> Stream<T> {
        let input = vec![column.field()];
        self.transform(
            FunctionKind::Filter,
            uid,
            input,
            OutputColumns::Forward,
            Maker::stage(FilterColumn::<V, _>::new(keep)),
        )
    }

    /// Turns each row into one row. `map` returns the new record, or a `Result` of it.
    #[track_caller]
    pub fn map<M: MapResult>(
        &self,
        uid: &str,
        map: impl FnMut(&T) -> M + 'static,
    ) -> Stream<M::Record> {
        self.transform(
            FunctionKind::Map,
            uid,
            T::schema(),
            replace::<M::Record>(),
            Maker::stage(Map::<T, M, _>::new(map)),
        )
    }

    /// Turns each row into any number of rows, by `out.collect(..)`.
    #[track_caller]
    pub fn flat_map<O: Record, R: Outcome>(
        &self,
        uid: &str,
        map: impl FnMut(&T, &mut Collector<O>) -> R + 'static,
    ) -> Stream<O> {
        self.transform(
            FunctionKind::FlatMap,
            uid,
            T::schema(),
            replace::<O>(),
            Maker::stage(FlatMap::<T, O, _>::new(map)),
        )
    }

    /// Calls a process function without a key: it has no timers and no keyed state, but operator
    /// state, times, watermarks and side outputs.
    #[track_caller]
    pub fn process<F: ProcessFunction<In = T>>(
        &self,
        uid: &str,
        mut process: F,
    ) -> Stream<<F::Out as Output>::Of<T>> {
        let setup = Setup::open(&mut process);
        let states = self.graph.check(
            setup
                .declared(uid)
                .and_then(|states| without_key::<F::Key>(uid, states)),
        );
        let base = function(
            FunctionKind::Process,
            uid,
            T::schema(),
            F::Out::output_columns(),
        );
        let function = Function {
            time: F::TIME,
            states,
            ..base
        };
        self.call(
            uid,
            self.inputs(),
            function,
            Maker::stage(ProcessStage::new(process, setup, false)),
        )
    }

    /// Connects a broadcast stream to this one, for a function that reads both: see
    /// [`BroadcastProcessFunction`](crate::BroadcastProcessFunction).
    #[track_caller]
    pub fn connect<B: Record>(&self, broadcast: &Stream<B>) -> BroadcastConnectedStream<T, (), B> {
        BroadcastConnectedStream::new(self, None, broadcast)
    }

    /// The rows that an operator sends to the side output `tag`. It belongs to the operator that
    /// made this stream.
    #[track_caller]
    pub fn side_output<S: Record>(&self, tag: &OutputTag<S>) -> Stream<S> {
        let node = self.operator("side_output").unwrap_or_default();
        let port = self.graph.side_port(node, tag.name(), replace::<S>());
        Stream::of(&self.graph, node, port)
    }

    /// Partitions by a column or a tuple of columns; the host computes nothing but a hash.
    #[track_caller]
    pub fn key_by<S: KeySelector<T>>(&self, key: S) -> KeyedStream<T, S::Key> {
        KeyedStream::new(self, key.fields())
    }

    /// Partitions by what a closure makes of each row. Its result travels with the row, in the
    /// columns `<uid>-0`, `<uid>-1` and so on.
    #[track_caller]
    pub fn key_by_fn<K: Key>(
        &self,
        uid: &str,
        key: impl FnMut(&T) -> K + 'static,
    ) -> KeyedStream<T, K> {
        let mut fields = K::schema();
        for (field, i) in fields.iter_mut().zip(0..) {
            field.name = format!("{uid}-{i}");
        }
        let output = OutputColumns::Extend {
            schema: fields.clone(),
        };
        let maker = Maker::stage(KeyProjection::<T, K, _>::new(key));
        let extended: Stream<T> =
            self.transform(FunctionKind::KeyProjection, uid, T::schema(), output, maker);
        KeyedStream::new(&extended, fields)
    }

    /// Deals the rows out to the subtasks of the next operator in turn.
    pub fn rebalance(&self) -> Stream<T> {
        self.partitioned(Partitioning::Rebalance)
    }

    /// Sends every row to every subtask of the next operator.
    pub fn broadcast(&self) -> Stream<T> {
        self.partitioned(Partitioning::Broadcast)
    }

    /// Sends all rows to the first subtask of the next operator.
    pub fn global(&self) -> Stream<T> {
        self.partitioned(Partitioning::Global)
    }

    fn partitioned(&self, partitioning: Partitioning) -> Stream<T> {
        Stream {
            partitioning,
            ..self.clone()
        }
    }

    /// Sets how many subtasks the operator that made this stream has; the default is the job's
    /// parallelism.
    #[track_caller]
    pub fn parallelism(&self, parallelism: u32) -> Stream<T> {
        if let Some(node) = self.operator("parallelism") {
            self.graph
                .edit(node, |node| node.parallelism = Some(parallelism));
        }
        self.clone()
    }

    /// Keeps the operator that made this stream out of the task of the operator before it.
    #[track_caller]
    pub fn start_new_chain(&self) -> Stream<T> {
        if let Some(node) = self.operator("start_new_chain") {
            self.graph.edit(node, |node| node.chaining = false);
        }
        self.clone()
    }

    /// Ends the stream in a sink of the host.
    #[track_caller]
    pub fn sink<S: Sink<T>>(&self, uid: &str, sink: S) {
        let body = Body::Sink {
            connector: S::CONNECTOR.to_owned(),
            options: sink.options(),
        };
        self.graph.node(uid, self.inputs(), body, Vec::new());
    }

    /// Ends the stream in a sink of the plugin, which writes each row exactly once.
    #[track_caller]
    pub fn two_phase_sink<S: TwoPhaseSink<In = T>>(&self, uid: &str, sink: S) {
        let mut setup = SinkSetup::new();
        let sink = TwoPhase::open(sink, &mut setup);
        self.end(
            uid,
            sink_function::<T>(FunctionKind::TwoPhaseSink, uid, setup),
            Box::new(sink),
        );
    }

    /// Ends the stream in a sink of the plugin that sends what is in a checkpoint, for systems
    /// without transactions.
    #[track_caller]
    pub fn write_ahead_sink<S: WriteAheadSink<In = T>>(
        &self,
        uid: &str,
        sink: S,
    ) -> WriteAheadNode {
        let mut setup = SinkSetup::new();
        let sink = WriteAhead::open(sink, &mut setup);
        let node = self.end(
            uid,
            sink_function::<T>(FunctionKind::WriteAheadSink, uid, setup),
            Box::new(sink),
        );
        WriteAheadNode {
            graph: self.graph.clone(),
            node,
        }
    }

    #[track_caller]
    fn end(&self, uid: &str, function: Function, sink: Box<dyn RunningSink>) -> u32 {
        let function = self.graph.function(function, Maker::Sink(sink));
        self.graph.node(
            uid,
            self.inputs(),
            Body::FunctionSink {
                function,
                write_ahead_bytes: None,
            },
            Vec::new(),
        )
    }
}

/// The declaration of a sink.
pub(crate) fn sink_function<T: Record>(
    kind: FunctionKind,
    name: &str,
    setup: SinkSetup,
) -> Function {
    Function {
        outputs: Vec::new(),
        grants: setup.grants,
        ..function(kind, name, T::schema(), OutputColumns::Forward)
    }
}

/// The end of a stream in a write-ahead sink.
pub struct WriteAheadNode {
    graph: Graph,
    node: u32,
}

impl WriteAheadNode {
    /// Sets how many bytes the rows between two checkpoints may have, 64 MiB by default: they are
    /// in memory until then, and in the checkpoint.
    pub fn bytes_max(&self, bytes: u64) {
        self.graph.edit(self.node, |node| {
            if let Body::FunctionSink {
                write_ahead_bytes, ..
            } = &mut node.body
            {
                *write_ahead_bytes = Some(bytes);
            }
        });
    }
}

/// The states of a function without a key, whose type `K` says whether it wants one.
pub(crate) fn without_key<K: Key>(
    uid: &str,
    states: Vec<StateDescriptor>,
) -> crate::Result<Vec<StateDescriptor>> {
    if let Some(state) = states.iter().find(|state| !state.kind.is_operator_state()) {
        return Err(Error::job(format!(
            "{uid}: state {} needs a key: call key_by in front of it",
            state.name
        )));
    }
    match K::schema().is_empty() {
        true => Ok(states),
        false => Err(Error::job(format!(
            "{uid}: its type Key is {}, but the stream has no key: call key_by in front of it",
            types(&K::schema())
        ))),
    }
}

/// The types of columns in words, such as `(i64, string)`.
pub(crate) fn types(schema: &[Field]) -> String {
    let types: Vec<String> = schema
        .iter()
        .map(|field| words(field.data_type, field.nullable))
        .collect();
    if let [one] = &types[..] {
        one.clone()
    } else {
        format!("({})", types.join(", "))
    }
}

/// A type in words, such as `option of i64`.
pub(crate) fn words(data_type: DataType, nullable: bool) -> String {
    let name = format!("{data_type:?}").to_lowercase();
    if nullable {
        format!("option of {name}")
    } else {
        name
    }
}

/// Checks that `part` is among `whole`, by name and type.
fn part_of(uid: &str, part: &Schema, whole: &Schema) -> crate::Result<()> {
    match part.iter().find(|field| !whole.contains(field)) {
        None => Ok(()),
        Some(field) => Err(not_there(uid, field, whole)),
    }
}

/// A column that is not in the stream, or is there with another type.
pub(crate) fn not_there(uid: &str, wanted: &Field, stream: &[Field]) -> Error {
    let want = words(wanted.data_type, wanted.nullable);
    let there = match stream.iter().find(|field| field.name == wanted.name) {
        Some(found) => format!(
            "it is {}, not {want}",
            words(found.data_type, found.nullable)
        ),
        None => format!(
            "it has {}",
            stream
                .iter()
                .map(|field| field.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    Error::columns(format!(
        "{uid}: the stream has no column {} of that type: {there}",
        wanted.name
    ))
}
