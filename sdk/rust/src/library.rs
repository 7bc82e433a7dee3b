//! Libraries: plugins that offer functions without a graph. A `job.toml` names them, wires them and
//! gives them arguments.
//!
//! A typed function reads columns by the names of its record's fields. Where arguments name the
//! columns, [`Library::extend`] reads and makes columns that are known only at run time.

use crate::args::Args;
use crate::chain::Maker;
use crate::dynamic::{ExtendStage, Row, RowWriter};
use crate::env::{Built, Graph};
use crate::error::{Error, Result};
use crate::process::{ProcessFunction, ProcessStage, Setup};
use crate::record::Record;
use crate::sink::{SinkSetup, TwoPhase, TwoPhaseSink, WriteAhead, WriteAheadSink};
use crate::stream::{function, sink_function};
use crate::transform::{Collector, Filter, FlatMap, Map, MapResult, Output};
use streamrt_wit::{Function, FunctionKind, OutputColumns, Schema};

/// Where a library registers its functions, and reads its arguments.
pub struct Library {
    graph: Graph,
    args: Args,
}

impl Library {
    pub(crate) fn new(args: &[String]) -> Library {
        Library {
            graph: Graph::default(),
            args: Args::new(args),
        }
    }

    /// The value of `--name VALUE` or `--name=VALUE`.
    ///
    /// # Errors
    /// If the argument is missing, with a sentence that names it.
    pub fn arg(&self, name: &str) -> Result<String> {
        self.args.get(name)
    }

    /// The value of `--name VALUE`, or `default`.
    pub fn arg_or(&self, name: &str, default: &str) -> String {
        self.args.find(name).unwrap_or(default).to_owned()
    }

    /// The value of `--name VALUE` read as a number or another type, or `default`.
    ///
    /// # Errors
    /// If the value is there and cannot be read.
    pub fn parse_or<V: std::str::FromStr>(&self, name: &str, default: V) -> Result<V> {
        self.args.parse_or(name, default)
    }

    /// Whether `--name` is among the arguments, without a value or with `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.args.flag(name)
    }

    #[track_caller]
    fn add(&mut self, function: Function, maker: Maker) {
        if self.graph.has_function(&function.name) {
            self.graph.mistake(Error::job(format!(
                "the library offers two functions named {}",
                function.name
            )));
        }
        self.graph.function(function, maker);
    }

    /// Offers a filter.
    #[track_caller]
    pub fn filter<T: Record>(&mut self, name: &str, keep: impl FnMut(&T) -> bool + 'static) {
        let declared = function(
            FunctionKind::Filter,
            name,
            T::schema(),
            OutputColumns::Forward,
        );
        self.add(declared, Maker::stage(Filter::new(keep)));
    }

    /// Offers a map.
    #[track_caller]
    pub fn map<T: Record, M: MapResult>(&mut self, name: &str, map: impl FnMut(&T) -> M + 'static) {
        let declared = function(
            FunctionKind::Map,
            name,
            T::schema(),
            <M::Record as Output>::output_columns(),
        );
        self.add(declared, Maker::stage(Map::<T, M, _>::new(map)));
    }

    /// Offers a flat-map.
    #[track_caller]
    pub fn flat_map<T: Record, O: Record>(
        &mut self,
        name: &str,
        map: impl FnMut(&T, &mut Collector<O>) -> Result<()> + 'static,
    ) {
        let declared = function(
            FunctionKind::FlatMap,
            name,
            T::schema(),
            O::output_columns(),
        );
        self.add(declared, Maker::stage(FlatMap::<T, O, _>::new(map)));
    }

    /// Offers a map that appends columns to each row. Both the columns that it reads and those that
    /// it appends are chosen at run time.
    #[track_caller]
    pub fn extend(
        &mut self,
        name: &str,
        input: Schema,
        appended: Schema,
        map: impl FnMut(&Row<'_>, &mut RowWriter) -> Result<()> + 'static,
    ) {
        let declared = function(
            FunctionKind::Map,
            name,
            input.clone(),
            OutputColumns::Extend {
                schema: appended.clone(),
            },
        );
        self.add(
            declared,
            Maker::stage(ExtendStage::new(input, appended, map)),
        );
    }

    /// Offers a keyed process function. It must not look at its key: which columns the key has is
    /// decided where it is wired.
    #[track_caller]
    pub fn process<F: ProcessFunction<Key = ()>>(&mut self, name: &str, mut process: F) {
        let setup = Setup::open(&mut process);
        let base = function(
            FunctionKind::Process,
            name,
            F::In::schema(),
            F::Out::output_columns(),
        );
        let states = self.graph.check(setup.declared(name));
        let declared = Function {
            key: Some(Schema::new()),
            time: F::TIME,
            timers: F::TIMERS,
            states,
            ..base
        };
        self.add(
            declared,
            Maker::stage(ProcessStage::new(process, setup, true)),
        );
    }

    /// Offers a two-phase sink.
    #[track_caller]
    pub fn two_phase_sink<S: TwoPhaseSink>(&mut self, name: &str, sink: S) {
        let mut setup = SinkSetup::new();
        let sink = TwoPhase::open(sink, &mut setup);
        self.add(
            sink_function::<S::In>(FunctionKind::TwoPhaseSink, name, setup),
            Maker::Sink(Box::new(sink)),
        );
    }

    /// Offers a write-ahead sink.
    #[track_caller]
    pub fn write_ahead_sink<S: WriteAheadSink>(&mut self, name: &str, sink: S) {
        let mut setup = SinkSetup::new();
        let sink = WriteAhead::open(sink, &mut setup);
        self.add(
            sink_function::<S::In>(FunctionKind::WriteAheadSink, name, setup),
            Maker::Sink(Box::new(sink)),
        );
    }

    pub(crate) fn finish(self) -> Result<Built> {
        self.args.check()?;
        self.graph.built()
    }
}
