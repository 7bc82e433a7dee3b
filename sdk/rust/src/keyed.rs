//! Keyed streams: a stream and the columns that partition it. State, timers and windows belong to a
//! key.

use crate::aggregate::{Aggregates, Term};
use crate::broadcast::BroadcastConnectedStream;
use crate::chain::Maker;
use crate::env::main_port;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::process::{ProcessFunction, ProcessStage, Setup};
use crate::record::Record;
use crate::stream::{Stream, function, types};
use crate::transform::Output;
use crate::window::{Assigner, WindowedStream};
use std::marker::PhantomData;
use streamrt_wit::{Body, Field, Function, FunctionKind, Input, OutputColumns, Partitioning};

/// A stream of `T`, partitioned by a key of type `K`.
pub struct KeyedStream<T, K> {
    pub(crate) stream: Stream<T>,
    /// The key columns, under their names in the stream.
    pub(crate) fields: Vec<Field>,
    key: PhantomData<fn() -> K>,
}

impl<T: Record, K: Key> KeyedStream<T, K> {
    pub(crate) fn new(stream: &Stream<T>, fields: Vec<Field>) -> Self {
        KeyedStream {
            stream: stream.clone(),
            fields,
            key: PhantomData,
        }
    }

    pub(crate) fn inputs(&self) -> Vec<Input> {
        let columns = self.fields.iter().map(|field| field.name.clone()).collect();
        self.stream.edges(&Partitioning::Hash { columns }, 0)
    }

    /// Calls a process function for each row and timer of a key.
    #[track_caller]
    pub fn process<F: ProcessFunction<In = T>>(
        &self,
        uid: &str,
        mut process: F,
    ) -> Stream<<F::Out as Output>::Of<T>> {
        let setup = Setup::open(&mut process);
        let key = self.stream.graph.check(self.key_of::<F::Key>(uid));
        let base = function(
            FunctionKind::Process,
            uid,
            T::schema(),
            F::Out::output_columns(),
        );
        let states = self.stream.graph.check(setup.declared(uid));
        let function = Function {
            key: Some(key),
            time: F::TIME,
            timers: F::TIMERS,
            states,
            ..base
        };
        self.stream.call(
            uid,
            self.inputs(),
            function,
            Maker::stage(ProcessStage::new(process, setup, true)),
        )
    }

    /// Connects a broadcast stream to this one, for a function that reads both: see
    /// [`BroadcastProcessFunction`](crate::BroadcastProcessFunction).
    #[track_caller]
    pub fn connect<B: Record>(&self, broadcast: &Stream<B>) -> BroadcastConnectedStream<T, K, B> {
        BroadcastConnectedStream::new(&self.stream, Some(self), broadcast)
    }

    /// The key columns that a function with the key type `F` is sent.
    pub(crate) fn key_of<F: Key>(&self, uid: &str) -> Result<Vec<Field>> {
        let wanted: Vec<_> = F::schema()
            .into_iter()
            .map(|field| field.data_type)
            .collect();
        match self.fields.iter().map(|field| field.data_type) {
            _ if wanted.is_empty() => Ok(Vec::new()),
            types if types.clone().eq(wanted.iter().copied()) => Ok(self.fields.clone()),
            _ => {
                let (wanted, key) = (types(&F::schema()), types(&self.fields));
                Err(Error::columns(format!(
                    "{uid}: its type Key is {wanted}, but the key of the stream is {key}; () takes any key"
                )))
            }
        }
    }

    /// Keeps aggregates per key, computed by the host, and emits one row for each row in.
    #[track_caller]
    pub fn aggregate_running<O: Record>(
        &self,
        uid: &str,
        terms: impl IntoIterator<Item = Term>,
    ) -> Stream<O> {
        let built = Aggregates::build::<T, O>(uid, &self.fields, terms, false);
        let Aggregates {
            aggregates,
            columns,
        } = self.stream.graph.check(built);
        let outputs = vec![main_port(OutputColumns::Replace {
            schema: O::schema(),
        })];
        let node = self.stream.graph.node(
            uid,
            self.inputs(),
            Body::Aggregate {
                aggregates,
                columns,
            },
            outputs,
        );
        Stream::of(&self.stream.graph, node, 0)
    }

    /// Groups the rows of each key into windows.
    #[track_caller]
    pub fn window(&self, assigner: impl Into<Assigner>) -> WindowedStream<T, K> {
        WindowedStream::new(self, assigner.into())
    }
}
