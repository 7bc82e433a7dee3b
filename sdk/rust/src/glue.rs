//! The exported interface: `describe`, `open`, `invoke`, `close`, over a plugin that lives as long
//! as the instance.
//!
//! Invariant: the user's `job` decides alone what the plan is; it is run again whenever a function
//! is needed a second time.

use crate::bindings::streamrt::plugin::types::{Error as WitError, Section};
use crate::chain::{Chain, Maker};
use crate::counter;
use crate::env::{Built, Env};
use crate::error::{Error, Outcome, Result};
use crate::host::{Imports, StateHost};
use crate::library::Library;
use crate::sink::RunningSink;
use std::cell::RefCell;
use std::rc::Rc;
use streamrt_wit::codes::level;

/// Builds the plan from arguments.
pub(crate) type Build = fn(&[String]) -> Result<Built>;

/// One instance.
#[derive(Default)]
pub(crate) struct Plugin {
    args: Vec<String>,
    built: Option<Built>,
    chains: Vec<Option<Chain>>,
    sinks: Vec<Option<Box<dyn RunningSink>>>,
}

impl Plugin {
    pub(crate) fn describe(&mut self, build: Build, args: Vec<String>) -> Result<String> {
        let built = build(&args)?;
        let plan = built.plan.to_json();
        (self.args, self.built) = (args, Some(built));
        Ok(plan)
    }

    pub(crate) fn open(
        &mut self,
        build: Build,
        functions: &[u32],
        context: &str,
        host: &Rc<dyn StateHost>,
    ) -> Result<u32> {
        let functions = self.taken(build, functions, context)?;
        self.chains.push(Some(Chain::new(functions, host)?));
        Ok(self.chains.len() as u32 - 1)
    }

    /// Functions that no chain or sink has taken yet; if one was taken, the job runs again.
    fn taken(
        &mut self,
        build: Build,
        functions: &[u32],
        context: &str,
    ) -> Result<Vec<(streamrt_wit::Function, Maker)>> {
        if let Some(args) =
            args_of(context)?.filter(|args| self.built.is_none() || *args != self.args)
        {
            self.describe(build, args)?;
        }
        let mut taken = self.take(functions);
        if taken.is_none() {
            self.describe(build, self.args.clone())?;
            taken = self.take(functions);
        }
        taken.ok_or_else(|| Error::unknown(format!("the plan has no functions {functions:?}")))
    }

    pub(crate) fn open_sink(&mut self, build: Build, function: u32, context: &str) -> Result<u32> {
        match self.taken(build, &[function], context)?.pop() {
            Some((_, Maker::Sink(sink))) => self.sinks.push(Some(sink)),
            _ => return Err(Error::unknown(format!("function {function} is no sink"))),
        }
        Ok(self.sinks.len() as u32 - 1)
    }

    pub(crate) fn sink(&mut self, sink: u32) -> Result<&mut dyn RunningSink> {
        let open = self
            .sinks
            .get_mut(sink as usize)
            .and_then(Option::as_deref_mut);
        open.map(|sink| sink as &mut dyn RunningSink)
            .ok_or_else(|| Error::host(format!("the sink {sink} is not open")))
    }

    /// Takes functions out of the registry, unless one is not there or was taken already.
    fn take(&mut self, functions: &[u32]) -> Option<Vec<(streamrt_wit::Function, Maker)>> {
        let built = self.built.as_mut()?;
        let there = functions.iter().all(|&number| {
            built
                .makers
                .get(number as usize)
                .is_some_and(Option::is_some)
        });
        let take = |&number: &u32| {
            Some((
                built.plan.functions[number as usize].clone(),
                built.makers[number as usize].take()?,
            ))
        };
        if there {
            functions.iter().map(take).collect()
        } else {
            None
        }
    }

    pub(crate) fn invoke(
        &mut self,
        chain: u32,
        call: u16,
        input: &[Section],
    ) -> Result<Vec<Section>> {
        match self.chains.get_mut(chain as usize) {
            Some(Some(chain)) => {
                counter::forget();
                let mut output = chain.invoke(call, input)?;
                output.extend(counter::take());
                Ok(output)
            }
            _ => Err(Error::host(format!("the chain {chain} is not open"))),
        }
    }

    pub(crate) fn close(&mut self, chain: u32) {
        if let Some(chain) = self.chains.get_mut(chain as usize) {
            *chain = None;
        }
    }
}

/// `args` in the context of `open`.
fn args_of(context: &str) -> Result<Option<Vec<String>>> {
    let broken =
        |e: serde_json::Error| Error::host(format!("the context of open is not JSON: {e}"));
    let context: serde_json::Value =
        serde_json::from_str(if context.is_empty() { "{}" } else { context }).map_err(broken)?;
    let strings = |args: &Vec<serde_json::Value>| {
        args.iter()
            .filter_map(|arg| arg.as_str().map(str::to_owned))
            .collect()
    };
    Ok(context
        .get("args")
        .and_then(serde_json::Value::as_array)
        .map(strings))
}

/// Runs a job for its plan and functions: used by `job!`.
#[doc(hidden)]
pub fn build_job<O: Outcome>(job: fn(&mut Env) -> O, args: &[String]) -> Result<Built> {
    let mut env = Env::new(args);
    job(&mut env).into_result()?;
    env.finish()
}

/// Runs a library for its functions: used by `library!`.
#[doc(hidden)]
pub fn build_library<O: Outcome>(
    functions: fn(&mut Library) -> O,
    args: &[String],
) -> Result<Built> {
    let mut library = Library::new(args);
    functions(&mut library).into_result()?;
    library.finish()
}

thread_local! {
    static PLUGIN: RefCell<Plugin> = RefCell::default();
}

fn wit(error: Error) -> WitError {
    WitError {
        code: error.code(),
        message: error.message().to_owned(),
    }
}

/// A panic of std about something that its target lacks, with what a plugin has instead.
fn explained(panic: String) -> String {
    match panic.contains("time not implemented on this platform") {
        true => panic + "; a plugin has no clock of its own: `ctx.processing_time()` is the host's",
        false => panic,
    }
}

/// Used by the export.
#[doc(hidden)]
pub fn describe(
    build: fn(&[String]) -> Result<Built>,
    args: Vec<String>,
) -> Result<String, WitError> {
    std::panic::set_hook(Box::new(|panic| {
        crate::log(level::PANIC, &explained(panic.to_string()))
    }));
    PLUGIN
        .with_borrow_mut(|plugin| plugin.describe(build, args))
        .map_err(wit)
}

/// Used by the export.
#[doc(hidden)]
pub fn open(
    build: fn(&[String]) -> Result<Built>,
    functions: &[u32],
    context: &str,
) -> Result<u32, WitError> {
    let host: Rc<dyn StateHost> = Rc::new(Imports);
    PLUGIN
        .with_borrow_mut(|plugin| plugin.open(build, functions, context, &host))
        .map_err(wit)
}

/// Used by the export.
#[doc(hidden)]
pub fn invoke(chain: u32, call: u16, input: &[Section]) -> Result<Vec<Section>, WitError> {
    PLUGIN
        .with_borrow_mut(|plugin| plugin.invoke(chain, call, input))
        .map_err(wit)
}

/// Used by the export.
#[doc(hidden)]
pub fn close(chain: u32) {
    PLUGIN.with_borrow_mut(|plugin| plugin.close(chain));
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn open_sink(
    build: fn(&[String]) -> Result<Built>,
    function: u32,
    context: &str,
) -> Result<u32, WitError> {
    PLUGIN
        .with_borrow_mut(|plugin| plugin.open_sink(build, function, context))
        .map_err(wit)
}

fn with_sink<T>(
    sink: u32,
    work: impl FnOnce(&mut dyn RunningSink) -> Result<T>,
) -> Result<T, WitError> {
    PLUGIN
        .with_borrow_mut(|plugin| plugin.sink(sink).and_then(work))
        .map_err(wit)
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn begin(sink: u32, transaction: &str) -> Result<(), WitError> {
    with_sink(sink, |sink| sink.begin(transaction))
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn write(sink: u32, rows: &Section) -> Result<(), WitError> {
    with_sink(sink, |sink| sink.write(rows))
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn pre_commit(sink: u32) -> Result<Option<Vec<u8>>, WitError> {
    with_sink(sink, |sink| sink.pre_commit())
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn commit(sink: u32, committable: &[u8]) -> Result<(), WitError> {
    with_sink(sink, |sink| sink.commit(committable))
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn abort(sink: u32) -> Result<(), WitError> {
    with_sink(sink, |sink| sink.abort())
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn abort_unlisted(sink: u32, prefix: &str, keep: &[Vec<u8>]) -> Result<(), WitError> {
    with_sink(sink, |sink| sink.abort_unlisted(prefix, keep))
}

/// Used by the export of sinks.
#[doc(hidden)]
pub fn close_sink(sink: u32) {
    PLUGIN.with_borrow_mut(|plugin| plugin.sinks.get_mut(sink as usize).map(Option::take));
}

/// Custom section of a component: which SDK made it.
#[doc(hidden)]
pub const META: &[u8; META_LENGTH] =
    b"{\"sdk\":\"streamrt-sdk 0.1.0\",\"language\":\"rust\",\"interface\":\"0.1.0\"}";
const META_LENGTH: usize = 66;
