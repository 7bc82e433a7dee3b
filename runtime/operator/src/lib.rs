//! The contracts between the engine and what runs in it: sources, operators, sinks, user functions; and how they are chained.
//!
//! Rust implements operators, Wasm implements functions: an [`Operator`] owns state, timers and watermarks and is trusted, a
//! [`FunctionChain`] is the user's code and is not. This crate does no I/O and starts no thread; everything in it is called by the
//! one thread of a task.

mod aggregate;
mod chain;
mod function;
pub mod harness;
pub mod json;
mod keyed;
mod operator;
mod sink;
mod source;

pub use aggregate::{Accumulators, Overflow, RunningAggregateOperator};
pub use chain::{Exits, OperatorChain};
pub use function::{
    Call, ClockIn, Failure, FunctionChain, Invocation, NoState, Outcome, RowsIn, RowsOut, SlotsIn, StateAccess, StateIn, StateOut, TimerIn,
    TimerOut,
};
pub use keyed::BatchKeys;
pub use operator::{DeadLetter, Operator, OperatorContext, Output, TaskMetrics};
pub use sink::{Sink, SinkOperator};
pub use source::{Enumeration, PoisonLine, ReaderPoll, Source, Split, SplitEnumerator, SplitEvent, SplitReader};
