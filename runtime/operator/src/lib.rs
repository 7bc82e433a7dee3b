//! The contracts between the engine and what runs in it: sources, operators, sinks, user functions;
//! and how they are chained.
//!
//! Rust implements operators, Wasm implements functions: an [`Operator`] owns state, timers and
//! watermarks and is trusted, a [`FunctionChain`] is the user's code and is not. This crate does no
//! I/O and starts no thread; everything in it is called by the one thread of a task.
//!
//! ```
//! use arrow_array::{ArrayRef, Int64Array};
//! use std::sync::Arc;
//! use streamrt_operator::harness::{Harness, batch_of};
//! use streamrt_operator::RunningAggregateOperator;
//! use streamrt_wit::{AggregateFunction, BuiltinAggregate, ResultColumn, ResultSource};
//!
//! let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7, 9, 7]));
//! let batch = batch_of([("user", numbers)]);
//! let count = BuiltinAggregate { function: AggregateFunction::Count, column: None };
//! let column = ResultColumn { name: "clicks".into(), from: ResultSource::Aggregate { index: 0 } };
//! let operator = RunningAggregateOperator::new(&batch.columns.schema(), vec![0], &[count], &[column]).unwrap();
//! let mut harness = Harness::new(operator);
//! harness.batches(&batch, 1024).unwrap();
//! assert_eq!(harness.lines(0), [r#"- {"clicks":1}"#, r#"- {"clicks":1}"#, r#"- {"clicks":2}"#]);
//! ```

mod aggregate;
mod chain;
mod function;
pub mod harness;
mod isolate;
pub mod json;
mod keyed;
mod operator;

mod operator_states;
mod ports;
mod process;
pub mod record_text;
mod room;
mod second_input;
mod sink;
mod slots;
mod source;
mod states;
mod timers;
mod transform;
mod user_counters;
pub mod values;
mod write_ahead;

pub use aggregate::{Accumulators, FrozenTable, Overflow, RunningAggregateOperator};
pub use chain::{Exits, OperatorChain};
pub use function::{
    Call, ClockIn, Failure, FunctionChain, Invocation, NoState, Outcome, RowsIn, RowsOut, SlotsIn,
    StateAccess, StateIn, StateOut, TimerIn, TimerOut,
};
pub use isolate::{Isolation, Suspect, Work, split_range};
pub use keyed::BatchKeys;
pub use operator::{DeadLetter, LazyDisk, Operator, OperatorContext, Output, TaskMetrics};
pub use ports::port_number;
pub use process::KeyedProcessOperator;
pub use record_text::RecordEncoding;
pub use sink::{COMMITTABLES, Sink, SinkOperator, subtask_prefix, transaction_prefix};
pub use source::{
    Enumeration, PoisonLine, ReaderPoll, Source, Split, SplitEnumerator, SplitEvent, SplitReader,
    SplitTime,
};
pub use timers::{Domain, Timer, TimerKey, TimerService};
pub use transform::{Projection, TransformOperator, suspect_row};
pub use user_counters::UserCounters;
pub use write_ahead::{WRITE_AHEAD_BYTES, WriteAhead, WriteAheadSink};
