//! A sink of a plugin, driven by one subtask or by a recovery: the contracts [`Sink`] and
//! [`WriteAhead`] kept by a component.
//!
//! Invariant: no call is repeated in place, because it may have had its effect. Whatever fails, the
//! instance is dropped; what it had open is then withdrawn by name, in a new instance, as a
//! recovery would.

use crate::abi::{Answer, GuestError, SectionIn};
use crate::chain::Log;
use crate::grants::Grants;
use crate::guest::Instance;
use crate::lower::Sections;
use crate::plugin::Plugin;
use crate::signature::Signature;
use arrow_array::RecordBatch;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use streamrt_operator::{Failure, Sink, WriteAhead};
use streamrt_types::{Batch, Error, Pace, Result, code, columns_bytes};
use streamrt_wit::codes::error;
use streamrt_wit::{Plan, TWO_PHASE_SINK_INTERFACE};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, ComponentType, Func, Lift, Lower,
};

/// How long one call of `write` should take, and how many bytes it should bring.
const WRITE_TIME: Duration = Duration::from_millis(20);
const WRITE_BYTES: usize = 4 << 20;

/// What [`Plugin::sink`] needs to know.
pub struct SinkSpec {
    /// The arguments of the job; the same as those that gave `plan`.
    pub args: Vec<String>,
    pub plan: Arc<Plan>,
    /// Its number in the plan.
    pub function: u32,
    pub subtask: u32,
    pub parallelism: u32,
    /// Once it is true, writing and committing end with `CANCELLED` within two ticks of 10 ms:
    /// whoever settles the sinks commits what was not committed then. Withdrawals continue, because
    /// an end needs them.
    pub cancel: Arc<AtomicBool>,
    pub log: Log,
    /// The grants of the function.
    pub grants: Grants,
}

/// Where the functions of the interface `two-phase-sink` are.
pub(crate) struct Exports([ComponentExportIndex; 7]);

/// The same in an instance, in the order of [`NAMES`].
type Functions = [Func; 7];

const NAMES: [&str; 7] = [
    "open",
    "begin",
    "write",
    "pre-commit",
    "commit",
    "abort",
    "abort-unlisted",
];
const OPEN: usize = 0;
const BEGIN: usize = 1;
const WRITE: usize = 2;
const PRE_COMMIT: usize = 3;
const COMMIT: usize = 4;
const ABORT: usize = 5;
const ABORT_UNLISTED: usize = 6;

impl Exports {
    /// `None` if the component does not export the interface.
    ///
    /// # Errors
    /// `Invalid` if a function of it is missing.
    pub fn find(component: &Component) -> Result<Option<Exports>> {
        let Some(interface) = component.get_export_index(None, TWO_PHASE_SINK_INTERFACE) else {
            return Ok(None);
        };
        let find = |name| {
            component
                .get_export_index(Some(&interface), name)
                .ok_or_else(|| missing(name))
        };
        let [
            open,
            begin,
            write,
            pre_commit,
            commit,
            abort,
            abort_unlisted,
        ] = NAMES.map(find);
        Ok(Some(Exports([
            open?,
            begin?,
            write?,
            pre_commit?,
            commit?,
            abort?,
            abort_unlisted?,
        ])))
    }
}

fn missing(name: &str) -> Error {
    Error::new(
        code::INTERFACE_VERSION,
        format!("the component exports {TWO_PHASE_SINK_INTERFACE} without `{name}`"),
    )
}

/// A sink of a plugin.
pub struct PluginSink {
    plugin: Arc<Plugin>,
    spec: SinkSpec,
    ready: Option<Ready>,
    /// The open transaction, in this instance or in one that is gone.
    transaction: Option<String>,
    /// The pace of `write`.
    pace: Pace,
}

/// An instance with an open sink.
struct Ready {
    instance: Instance,
    functions: Functions,
    sink: u32,
}

impl PluginSink {
    pub(crate) fn new(plugin: Arc<Plugin>, spec: SinkSpec) -> Result<PluginSink> {
        let time = WRITE_TIME.min(plugin.deadline() / 4);
        let mut sink = PluginSink {
            plugin,
            spec,
            ready: None,
            transaction: None,
            pace: Pace::new(time, WRITE_BYTES),
        };
        let ready = sink
            .instantiate()
            .map_err(|failure| explain("open", failure))?;
        sink.ready = Some(ready);
        Ok(sink)
    }

    fn instantiate(&self) -> std::result::Result<Ready, Failure> {
        let spec = &self.spec;
        let mut guest = self.plugin.guest(
            Arc::default(),
            spec.log.clone(),
            Arc::new(Signature::empty()),
            spec.subtask,
        );
        guest.grants = spec.grants.clone();
        let mut instance = self.plugin.described(guest, &spec.args, &spec.plan)?;
        let without = || {
            Error::new(
                code::INTERFACE_VERSION,
                format!(
                    "the plan has a sink, but the component does not export {TWO_PHASE_SINK_INTERFACE}"
                ),
            )
        };
        let exports = self.plugin.functions().sink.as_ref().ok_or_else(without)?;
        let [
            open,
            begin,
            write,
            pre_commit,
            commit,
            abort,
            abort_unlisted,
        ] = exports.0.each_ref().map(|index| instance.function(index));
        let functions = [
            open?,
            begin?,
            write?,
            pre_commit?,
            commit?,
            abort?,
            abort_unlisted?,
        ];
        let context = serde_json::json!({ "args": spec.args, "subtask": spec.subtask, "parallelism": spec.parallelism });
        let opened: Answer<u32> = instance.call(
            functions[OPEN],
            (spec.function, context.to_string()),
            self.plugin.deadline(),
        )?;
        Ok(Ready {
            instance,
            functions,
            sink: opened.map_err(refused)?,
        })
    }

    /// Makes one call, whose parameters `parameters` makes from the sink's number. An instance in
    /// which it fails is dropped.
    fn call<P, R>(
        &mut self,
        function: usize,
        cancel: Arc<AtomicBool>,
        parameters: impl FnOnce(u32) -> P,
    ) -> Result<R>
    where
        P: ComponentNamedList + Lower,
        Answer<R>: ComponentType + Lift,
    {
        let deadline = self.plugin.deadline();
        let answer = self.in_instance(|ready| {
            ready.instance.store.data_mut().cancel = cancel;
            let answer: Answer<R> = ready.call(function, parameters(ready.sink), deadline)?;
            answer.map_err(|error| refused(error).into())
        });
        answer.map_err(|failure| explain(NAMES[function], failure))
    }

    fn in_instance<R>(
        &mut self,
        call: impl FnOnce(&mut Ready) -> std::result::Result<R, Failure>,
    ) -> std::result::Result<R, Failure> {
        let mut ready = match self.ready.take() {
            Some(ready) => ready,
            None => self.instantiate()?,
        };
        let answer = call(&mut ready)?;
        self.ready = Some(ready);
        Ok(answer)
    }

    /// Rows belong to the transaction that this very instance has begun.
    fn check_begun(&self) -> Result<()> {
        let begun = self.ready.is_some() && self.transaction.is_some();
        if begun {
            Ok(())
        } else {
            Err(Error::internal(
                "rows reach a sink whose transaction is not open",
            ))
        }
    }

    /// Writes rows in calls well within the deadline: a call into a sink is not repeated, so it
    /// must not be too large.
    fn write_rows(&mut self, rows: &RecordBatch) -> Result<()> {
        let mut start = 0;
        while start < rows.num_rows() {
            let some = rows.slice(start, self.pace.events().min(rows.num_rows() - start));
            let begun = Instant::now();
            self.write_some(&some)?;
            self.pace
                .took(some.num_rows(), begun.elapsed(), columns_bytes(&some));
            start += some.num_rows();
        }
        Ok(())
    }

    fn write_some(&mut self, rows: &RecordBatch) -> Result<()> {
        self.check_begun()?;
        let sections = Sections::of_rows(rows)?;
        let buffers = sections.buffers();
        let section = || {
            sections
                .sections(&buffers)
                .pop()
                .ok_or_else(|| Error::internal("rows make a section"))
        };
        let section: SectionIn<'_> = section()?;
        self.call(WRITE, self.spec.cancel.clone(), |sink| (sink, section))
    }

    fn end(&mut self) -> Result<Option<Vec<u8>>> {
        self.check_begun()?;
        let committable = self.call(PRE_COMMIT, self.spec.cancel.clone(), |sink| (sink,))?;
        self.transaction = None;
        Ok(committable)
    }
}

impl Ready {
    fn call<P, R>(
        &mut self,
        function: usize,
        parameters: P,
        deadline: Duration,
    ) -> std::result::Result<R, Failure>
    where
        P: ComponentNamedList + Lower,
        R: ComponentType + Lift,
    {
        self.instance
            .call(self.functions[function], parameters, deadline)
    }
}

/// What a guest reports of its own failure.
fn refused(refused: GuestError) -> Error {
    let code = match refused.code {
        error::UNAVAILABLE => code::SINK_UNAVAILABLE,
        error::LOST => code::COMMIT_LOST,
        error::REFUSED => code::NOT_GRANTED,
        error::HOST => code::INTERNAL,
        _ => code::SINK_FAILED,
    };
    Error::new(code, refused.message)
}

/// The poison policy does not apply to sinks, so a trap in one has a code of its own, with another
/// fix.
fn explain(call: &str, failure: Failure) -> Error {
    let error = match failure.error.code() {
        code::TRAP => Error::new(code::SINK_FAILED, failure.error.message()),
        _ => failure.error,
    };
    let error = error.at(call);
    if failure.backtrace.is_empty() {
        error
    } else {
        error.with_source(failure.backtrace)
    }
}

impl Sink for PluginSink {
    fn begin(&mut self, transaction: &str) -> Result<()> {
        self.transaction = Some(transaction.to_owned());
        self.call(BEGIN, self.spec.cancel.clone(), |sink| (sink, transaction))
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.write_rows(&batch.columns)
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        self.end()
    }

    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        self.call(COMMIT, self.spec.cancel.clone(), |sink| (sink, committable))
    }

    /// In an instance that has not begun the transaction it is withdrawn by its name, which no
    /// other waiting transaction's name begins with: names end in a number that only grows.
    fn abort(&mut self) -> Result<()> {
        match self.transaction.take() {
            None => Ok(()),
            Some(_) if self.ready.is_some() => self.call(ABORT, Arc::default(), |sink| (sink,)),
            Some(gone) => self.abort_unlisted(&gone, &[]),
        }
    }

    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        self.call(ABORT_UNLISTED, Arc::default(), |sink| (sink, prefix, keep))
    }
}

impl WriteAhead for PluginSink {
    fn send(&mut self, transaction: &str, rows: &[RecordBatch]) -> Result<()> {
        self.begin(transaction)?;
        rows.iter().try_for_each(|rows| self.write_rows(rows))?;
        match self.end()? {
            Some(committable) => self.commit(&committable),
            None => Ok(()),
        }
    }
}
