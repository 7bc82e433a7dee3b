//! Tests of jobs with plain `cargo test`: a harness that stands in for the host at the `invoke`
//! boundary.
//!
//! [`job`] runs a whole job, from vectors as sources to vectors as sinks, with windows, virtual
//! time and kills. For one operator by itself [`harness`] builds the job natively;
//! [`Harness::operator`] takes one of its functions by uid, and keeps state, timers and a clock for
//! it as the host would. State with a time to live goes by that clock: see
//! [`Operator::processing_time`]. Everything that user code sees, and the bytes that carry it, are
//! the same as in a component.
//!
//! ```
//! use streamrt_sdk::prelude::*;
//! use streamrt_sdk::testing;
//!
//! #[derive(Record, Clone, Debug, PartialEq)]
//! struct Reading { sensor: String, celsius: f64 }
//!
//! /// Reports each sensor that was silent for a second.
//! #[derive(Default)]
//! struct Silence { last: ValueState<i64> }
//!
//! impl ProcessFunction for Silence {
//!     type In = Reading;
//!     type Key = String;
//!     type Out = String;
//!
//!     fn open(&mut self, setup: &mut Setup) {
//!         self.last = setup.value("last");
//!     }
//!     fn on_element(&mut self, _: &Reading, ctx: &mut Context<'_, String>, _: &mut Collector<String>) -> Result<()> {
//!         let time = ctx.timestamp().unwrap_or_default();
//!         self.last.set(time);
//!         ctx.register_event_timer(time + 1000);
//!         Ok(())
//!     }
//!     fn on_timer(&mut self, time: i64, ctx: &mut Context<'_, String>, out: &mut Collector<String>) -> Result<()> {
//!         if self.last.get() == Some(time - 1000) {
//!             out.collect(ctx.key());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn job(env: &mut Env) -> Result<()> {
//!     let readings = env.source("readings", File::csv::<Reading>(env.arg("input")?));
//!     readings.key_by(Reading::SENSOR).process("silence", Silence::default()).sink("out", Print);
//!     Ok(())
//! }
//!
//! let mut silence = testing::harness(job, ["--input", "readings.csv"]).operator("silence");
//! silence.push(Reading { sensor: "a".into(), celsius: 20.0 }, 0);
//! silence.push(Reading { sensor: "a".into(), celsius: 21.0 }, 700);
//! silence.watermark(1500);
//! assert_eq!(silence.output::<String>(), Vec::<String>::new());
//! silence.watermark(1700);
//! assert_eq!(silence.output::<String>(), ["a"]);
//! ```

mod aggregate;
mod flow;
mod frame;
mod job;
mod operator;
// In a component sinks have the host's folders alone.
#[cfg(not(target_family = "wasm"))]
mod sink;
mod state;
mod windows;

pub use job::{Job, job};
pub use operator::{Event, Operator};
#[cfg(not(target_family = "wasm"))]
pub(crate) use sink::MemoryFiles;
#[cfg(not(target_family = "wasm"))]
pub use sink::{SinkHarness, sink, write_ahead_sink};

use self::frame::Frame;
use self::state::FakeHost;
use crate::chain::{Chain, Maker, Whole};
use crate::column::{i64_bytes, plain, section, u32_bytes};
use crate::env::{Built, Env};
use crate::error::{Outcome, Result};
use crate::glue::{build_job, build_library};
use crate::host::StateHost;
use crate::library::Library;
use crate::record::Record;
use crate::window_function::{Window, WindowFunction, WindowWhole};
use std::rc::Rc;
use streamrt_wit::codes::{self, buffer};
use streamrt_wit::{Body, Function, Node, Partitioning, Plan};

/// The plan of a job, as the host would get it.
///
/// # Errors
/// The error that `describe` would return.
pub fn plan<O: Outcome>(
    job: fn(&mut Env) -> O,
    args: impl IntoIterator<Item = impl Into<String>>,
) -> Result<Plan> {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    build_job(job, &args).map(|built| built.plan)
}

/// Builds a job for tests of its operators.
///
/// # Panics
/// If the job does not build, with the sentence that the user would see.
#[track_caller]
pub fn harness<O: Outcome>(
    job: fn(&mut Env) -> O,
    args: impl IntoIterator<Item = impl Into<String>>,
) -> Harness {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    match build_job(job, &args) {
        Ok(built) => Harness { built },
        Err(error) => panic!("the job does not build: {error}"),
    }
}

/// The plan of a library.
///
/// # Errors
/// The error that `describe` would return.
pub fn library_plan<O: Outcome>(
    functions: fn(&mut Library) -> O,
    args: impl IntoIterator<Item = impl Into<String>>,
) -> Result<Plan> {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    build_library(functions, &args).map(|built| built.plan)
}

/// Builds a library for tests of its functions: see [`Harness::function`].
///
/// # Panics
/// If the library does not build, with the sentence that the user would see.
#[track_caller]
pub fn library<O: Outcome>(
    functions: fn(&mut Library) -> O,
    args: impl IntoIterator<Item = impl Into<String>>,
) -> Harness {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    match build_library(functions, &args) {
        Ok(built) => Harness { built },
        Err(error) => panic!("the library does not build: {error}"),
    }
}

/// Calls a window function with the rows of one window, and returns what it makes of them.
///
/// # Errors
/// The function's own error.
pub fn window<F: WindowFunction>(
    function: F,
    window: Window<F::Key>,
    rows: &[F::In],
) -> Result<Vec<F::Out>> {
    let keys = Frame::of(std::slice::from_ref(&window.key));
    let ends = plain(buffer::OFFSETS, u32_bytes(&[0, rows.len() as u32]));
    let bounds = [
        (buffer::WINDOW_START, window.start),
        (buffer::WINDOW_END, window.end),
    ];
    let buffers = bounds
        .iter()
        .map(|(role, time)| plain(*role, i64_bytes(&[*time])))
        .chain([ends])
        .collect();
    let clock = plain(
        buffer::CLOCK,
        i64_bytes(&[window.watermark, window.watermark, window.processing_time]),
    );
    let input = [
        section(codes::section::SLOTS, 0, 1, buffers, keys.columns),
        section(
            codes::section::ROWS,
            0,
            rows.len(),
            Vec::new(),
            Frame::of(rows).columns,
        ),
        section(codes::section::CLOCK, 0, 1, vec![clock], Vec::new()),
    ];
    let answer = WindowWhole::new(function).invoke(codes::call::WINDOW, &input)?;
    Frame::received(&answer[0], &F::Out::schema()).records()
}

/// A job built for tests.
pub struct Harness {
    built: Built,
}

impl Harness {
    /// Takes the map, filter, flat-map or process function of the operator `uid`.
    ///
    /// # Panics
    /// If there is no such operator, it calls no such function, or its function was taken already.
    #[track_caller]
    pub fn operator(&mut self, uid: &str) -> Operator {
        let Some(node) = self
            .built
            .plan
            .nodes
            .iter()
            .find(|node| node.uid == uid)
            .cloned()
        else {
            panic!(
                "the job has no operator {uid}; it has {}",
                uids(&self.built.plan, |_| true)
            );
        };
        let input = &self.built.plan.nodes
            [node.inputs.first().map_or(0, |input| input.node as usize)]
        .clone();
        let projection = self.key_projection(input);
        let Some(function) = self.take(&node) else {
            panic!(
                "the operator {uid} calls no function that takes rows one by one, or it was taken; testing::job runs windows as well"
            );
        };
        Operator::new(key_columns(&node), function, projection)
    }

    /// Takes a function of a library that has no key, by name.
    ///
    /// # Panics
    /// If there is none, or it was taken already.
    #[track_caller]
    pub fn function(&mut self, name: &str) -> Operator {
        let Some(number) = self
            .built
            .plan
            .functions
            .iter()
            .position(|function| function.name == name)
        else {
            panic!("the library has no function {name}");
        };
        let Some(maker) = self.built.makers[number].take() else {
            panic!("the function {name} was taken")
        };
        Operator::new(
            None,
            (self.built.plan.functions[number].clone(), maker),
            None,
        )
    }

    /// Takes a keyed process function of a library, by name; `key` names the key columns of the
    /// rows that will be pushed.
    ///
    /// # Panics
    /// If there is none, or it was taken already.
    #[track_caller]
    pub fn keyed_function(&mut self, name: &str, key: &[&str]) -> Operator {
        let mut operator = self.function(name);
        operator.key = Some(key.iter().map(|&column| column.to_owned()).collect());
        operator
    }

    /// The key projection in front of a function, if that is what its input is.
    fn key_projection(&mut self, input: &Node) -> Option<(Function, Maker)> {
        let Body::Function { function } = input.body else {
            return None;
        };
        let is_projection = self.built.plan.functions[function as usize].kind
            == streamrt_wit::FunctionKind::KeyProjection;
        if is_projection {
            self.take(input)
        } else {
            None
        }
    }

    fn take(&mut self, node: &Node) -> Option<(Function, Maker)> {
        let Body::Function { function } = node.body else {
            return None;
        };
        let maker = self.built.makers[function as usize].take()?;
        Some((self.built.plan.functions[function as usize].clone(), maker))
    }
}

/// The uids of nodes, for a message.
fn uids(plan: &Plan, which: impl Fn(&Node) -> bool) -> String {
    plan.nodes
        .iter()
        .filter(|node| which(node))
        .map(|node| node.uid.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// A function that keeps no state with the host, ready to be called.
fn stateless(function: Function, maker: Maker) -> Result<Chain> {
    let host: Rc<dyn StateHost> = Rc::new(FakeHost::new(Vec::new()));
    Chain::new(vec![(function, maker)], &host)
}

/// Names of the key columns of a keyed node.
fn key_columns(node: &Node) -> Option<Vec<String>> {
    match &node.inputs.first()?.partitioning {
        Partitioning::Hash { columns } => Some(columns.clone()),
        _ => None,
    }
}
