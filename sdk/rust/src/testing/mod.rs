//! Tests of jobs with plain `cargo test`: a harness that stands in for the host at the `invoke` boundary.
//!
//! [`harness`] builds the job natively; [`Harness::operator`] takes one of its functions by uid, and keeps state, timers and a clock for
//! it as the host would. Everything that user code sees, and the bytes that carry it, are the same as in a component.
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

mod frame;
mod operator;
mod state;

pub use operator::{Event, Operator};

use crate::chain::Maker;
use crate::env::{Built, Env};
use crate::error::{Outcome, Result};
use crate::glue::build_job;
use streamrt_wit::{Body, Function, Node, Plan};

/// The plan of a job, as the host would get it.
///
/// # Errors
/// What `describe` would say.
pub fn plan<O: Outcome>(job: fn(&mut Env) -> O, args: impl IntoIterator<Item = impl Into<String>>) -> Result<Plan> {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    build_job(job, &args).map(|built| built.plan)
}

/// Builds a job for tests of its operators.
///
/// # Panics
/// If the job does not build, with the sentence that the user would see.
pub fn harness<O: Outcome>(job: fn(&mut Env) -> O, args: impl IntoIterator<Item = impl Into<String>>) -> Harness {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    match build_job(job, &args) {
        Ok(built) => Harness { built },
        Err(error) => panic!("the job does not build: {error}"),
    }
}

/// A job that was built for tests.
pub struct Harness {
    built: Built,
}

impl Harness {
    /// Takes the map, filter, flat-map or process function of the operator `uid`.
    ///
    /// # Panics
    /// If there is no such operator, it calls no such function, or its function was taken already.
    pub fn operator(&mut self, uid: &str) -> Operator {
        let node = self.built.plan.nodes.iter().find(|node| node.uid == uid).cloned();
        let node = node.unwrap_or_else(|| panic!("the job has no operator {uid}"));
        let input = &self.built.plan.nodes[node.inputs.first().map_or(0, |input| input.node as usize)].clone();
        let projection = self.key_projection(input);
        let function = self.take(&node).unwrap_or_else(|| panic!("the operator {uid} calls no function of the plugin, or it was taken"));
        Operator::new(&node, function, projection)
    }

    /// The key projection in front of a function, if that is what its input is.
    fn key_projection(&mut self, input: &Node) -> Option<(Function, Maker)> {
        let Body::Function { function } = input.body else { return None };
        let is_projection = self.built.plan.functions[function as usize].kind == streamrt_wit::FunctionKind::KeyProjection;
        if is_projection { self.take(input) } else { None }
    }

    fn take(&mut self, node: &Node) -> Option<(Function, Maker)> {
        let Body::Function { function } = node.body else { return None };
        let maker = self.built.makers[function as usize].take()?;
        Some((self.built.plan.functions[function as usize].clone(), maker))
    }
}
