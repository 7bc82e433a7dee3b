//! Functions of two inputs: a stream, keyed or not, and a broadcast stream that every subtask gets,
//! for rules and the like.
//!
//! The first input runs as a process function does. Rows of the second come in calls of their own,
//! without a key and without marks.

use crate::chain::{Maker, SECOND_INPUT, Stage, StageContext, StageInput, StageOutput};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::keyed::KeyedStream;
use crate::process::{Around, Context, OutputTag, ProcessFunction, ProcessStage, Setup};
use crate::record::Record;
use crate::side::Sides;
use crate::stream::{Stream, function, without_key};
use crate::transform::{Collector, Output};
use std::marker::PhantomData;
use streamrt_wit::{Field, Function, FunctionKind, Input, Partitioning, codes};

/// User code that processes a stream row by row, alongside a broadcast stream of which every
/// subtask gets every row.
///
/// What is broadcast goes to [`BroadcastState`](crate::BroadcastState), which rows of the first
/// input can read and not write. In which order rows of the two inputs come is not known. Event
/// time is the minimum over both inputs, so a broadcast stream that does not end needs watermarks
/// too if the function works by event time.
///
/// # Source
/// Flink's KeyedBroadcastProcessFunction and BroadcastProcessFunction.
pub trait BroadcastProcessFunction: 'static {
    /// What comes in.
    type In: Record;
    /// What is broadcast.
    type Broadcast: Record;
    /// The key of the first input, as the function wants to see it; `()` if it does not, or if
    /// there is none.
    type Key: Key;
    /// What goes out.
    type Out: Record;

    /// Whether rows come with event time and watermarks.
    const TIME: bool = true;
    /// Whether it registers timers, which needs a key.
    const TIMERS: bool = true;

    /// Declares state, once, before anything else.
    fn open(&mut self, _setup: &mut Setup) {}

    /// Processes one row of the first input.
    ///
    /// # Errors
    /// An error is a poison record: what this call did is rolled back, and the job's policy
    /// decides.
    fn on_element(
        &mut self,
        row: &Self::In,
        ctx: &mut Context<'_, Self::Key>,
        out: &mut Collector<Self::Out>,
    ) -> Result<()>;

    /// Processes one row that is broadcast. It does the same in every subtask, and its output
    /// comes once from each.
    ///
    /// # Errors
    /// The same as for a row of the first input.
    fn on_broadcast(
        &mut self,
        row: &Self::Broadcast,
        ctx: &mut BroadcastContext<'_>,
        out: &mut Collector<Self::Out>,
    ) -> Result<()>;

    /// Handles a timer that has fired; `time` is the time for which it was registered, in ms.
    ///
    /// # Errors
    /// The same as for a row of the first input.
    fn on_timer(
        &mut self,
        _time: i64,
        _ctx: &mut Context<'_, Self::Key>,
        _out: &mut Collector<Self::Out>,
    ) -> Result<()> {
        Ok(())
    }
}

/// The context of a function that processes a broadcast row: times and side outputs; no key, hence
/// no timers.
pub struct BroadcastContext<'a> {
    timestamp: Option<i64>,
    watermark: i64,
    processing_time: i64,
    event: u32,
    sides: &'a mut Sides,
}

impl BroadcastContext<'_> {
    /// Event time of the row in ms; `None` if its stream has no event time.
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// The watermark of both inputs together, in ms; `i64::MIN` before the first.
    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// The clock of the host when the call began, in ms.
    pub fn processing_time(&self) -> i64 {
        self.processing_time
    }

    /// Sends a record to a side output. If the job does not use that output, the record is dropped.
    pub fn side<S: Record>(&mut self, tag: &OutputTag<S>, record: impl std::borrow::Borrow<S>) {
        self.sides.collect(tag, record.borrow(), self.event);
    }
}

/// The first input, as a process function.
struct Elements<F>(F);

impl<F: BroadcastProcessFunction> ProcessFunction for Elements<F> {
    type In = F::In;
    type Key = F::Key;
    type Out = F::Out;
    const TIME: bool = F::TIME;
    const TIMERS: bool = F::TIMERS;

    fn open(&mut self, setup: &mut Setup) {
        self.0.open(setup);
    }

    fn on_element(
        &mut self,
        row: &F::In,
        ctx: &mut Context<'_, F::Key>,
        out: &mut Collector<F::Out>,
    ) -> Result<()> {
        self.0.on_element(row, ctx, out)
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, F::Key>,
        out: &mut Collector<F::Out>,
    ) -> Result<()> {
        self.0.on_timer(time, ctx, out)
    }
}

/// The running form of a broadcast-process function.
struct BroadcastStage<F: BroadcastProcessFunction> {
    elements: ProcessStage<Elements<F>>,
    row: F::Broadcast,
}

impl<F: BroadcastProcessFunction> Stage for BroadcastStage<F> {
    fn open(&mut self, context: &StageContext) {
        self.elements.open(context);
    }

    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let is_broadcast = |section: &crate::bindings::streamrt::plugin::types::Section| {
            section.role == codes::section::ROWS && section.port == SECOND_INPUT
        };
        let broadcast = input.sections.iter().any(is_broadcast);
        self.elements.setup.may_broadcast(broadcast);
        if broadcast {
            self.broadcast(input, out)
        } else {
            self.elements.run(input, out)
        }
    }
}

impl<F: BroadcastProcessFunction> BroadcastStage<F> {
    fn broadcast(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let around = Around::read(input.sections)?;
        let ProcessStage {
            function,
            setup,
            out: collector,
            sides,
            ..
        } = &mut self.elements;
        collector.reset();
        sides.reset();
        setup.begin(0, &[])?;
        let columns = F::Broadcast::columns(&input.table)?;
        let (watermark, processing_time) = (around.watermark, around.processing_time);
        let mut ctx = BroadcastContext {
            timestamp: None,
            watermark,
            processing_time,
            event: 0,
            sides,
        };
        for row in 0..input.n_rows {
            F::Broadcast::load(&mut self.row, &columns, input.place(row));
            ctx.timestamp = input.times.map(|times| i64::from_le_bytes(times[row]));
            ctx.event = row as u32;
            collector.begin(row as u32);
            function.0.on_broadcast(&self.row, &mut ctx, collector)?;
        }
        setup.finish(&mut out.sections)?;
        out.main = collector.finish(input.n_rows);
        out.sides = sides.finish();
        Ok(())
    }
}

/// A stream of `T`, with the key `K` or without one, together with a broadcast stream of `B`.
pub struct BroadcastConnectedStream<T, K, B> {
    stream: Stream<T>,
    broadcast: Stream<B>,
    inputs: Vec<Input>,
    /// The key columns.
    key: Option<Vec<Field>>,
    of: PhantomData<fn() -> K>,
}

impl<T: Record, K: Key, B: Record> BroadcastConnectedStream<T, K, B> {
    pub(crate) fn new(
        stream: &Stream<T>,
        keyed: Option<&KeyedStream<T, K>>,
        broadcast: &Stream<B>,
    ) -> Self {
        let mut inputs = keyed.map_or_else(|| stream.inputs(), KeyedStream::inputs);
        inputs.extend(broadcast.edges(&Partitioning::Broadcast, SECOND_INPUT));
        let key = keyed.map(|keyed| keyed.fields.clone());
        BroadcastConnectedStream {
            stream: stream.clone(),
            broadcast: broadcast.clone(),
            inputs,
            key,
            of: PhantomData,
        }
    }

    /// Calls a function for each row of both streams. The broadcast stream is one on which
    /// [`Stream::broadcast`] was called.
    #[track_caller]
    pub fn process<F: BroadcastProcessFunction<In = T, Broadcast = B>>(
        &self,
        uid: &str,
        process: F,
    ) -> Stream<F::Out> {
        let graph = &self.stream.graph;
        let mut elements = Elements(process);
        let setup = Setup::open(&mut elements);
        if self.broadcast.partitioning != Partitioning::Broadcast {
            graph.mistake(Error::job(format!("{uid}: the stream that it is connected with must be broadcast: call broadcast() on it")));
        }
        let base = function(
            FunctionKind::BroadcastProcess,
            uid,
            T::schema(),
            <F::Out as Output>::output_columns(),
        );
        let base = Function {
            time: F::TIME,
            second_input: B::schema(),
            ..base
        };
        let states = setup.declared(uid);
        let function = match &self.key {
            Some(_) => Function {
                key: Some(graph.check(self.key_of::<F::Key>(uid))),
                timers: F::TIMERS,
                states: graph.check(states),
                ..base
            },
            None => Function {
                states: graph.check(states.and_then(|states| without_key::<F::Key>(uid, states))),
                ..base
            },
        };
        let stage = BroadcastStage {
            elements: ProcessStage::new(elements, setup, self.key.is_some()),
            row: B::empty(),
        };
        self.stream
            .call(uid, self.inputs.clone(), function, Maker::stage(stage))
    }

    fn key_of<F: Key>(&self, uid: &str) -> Result<Vec<Field>> {
        KeyedStream::<T, K>::new(&self.stream, self.key.clone().unwrap_or_default())
            .key_of::<F>(uid)
    }
}
