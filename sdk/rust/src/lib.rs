//! Write streamrt operators in Rust. A job is a function over [`Env`]; `job!` makes a plugin from
//! it.
//!
//! The crate knows the WIT and nothing of the engine. It leaves to the host what the host does
//! better: files, sockets, partitioning, windows and built-in aggregates are nodes of the plan for
//! which no guest code runs. What user code works on crosses the boundary in columns.
//!
//! ```
//! use streamrt_sdk::prelude::*;
//!
//! #[derive(Record, Clone, Debug, PartialEq)]
//! struct Click { user: i64, item: i64, behavior: String, time: i64 }
//!
//! #[derive(Record, Clone, Debug, PartialEq)]
//! struct ItemCount { item: i64, window_end: i64, count: i64 }
//!
//! fn job(env: &mut Env) -> Result<()> {
//!     let counts = env
//!         .source("clicks", File::csv::<Click>(env.arg("input")?))
//!         .watermarks(Watermarks::bounded(Click::TIME.seconds(), secs(2)))
//!         .filter("page-views", |click: &Click| click.behavior == "pv")
//!         .key_by(Click::ITEM)
//!         .window(Sliding::of(hours(1), minutes(5)))
//!         .aggregate::<ItemCount>("counts", [count().to("count")]);
//!     counts.late().sink("late", File::json(format!("{}/late", env.arg("output")?)));
//!     counts.sink("results", File::json(env.arg("output")?));
//!     Ok(())
//! }
//! streamrt_sdk::job!(job);
//!
//! let plan = streamrt_sdk::testing::plan(job, ["--input", "clicks.csv", "--output", "out"]).unwrap();
//! assert_eq!(plan.nodes.len(), 6);
//! ```
#![deny(unsafe_code)]
#![warn(missing_docs)]

extern crate self as streamrt_sdk;

mod aggregate;
mod args;
#[doc(hidden)]
pub mod bindings;
mod broadcast;
mod builder;
mod chain;
mod column;
mod connector;
mod counter;
mod dynamic;
mod env;
mod error;
mod files;
mod fold;
#[doc(hidden)]
pub mod glue;
mod host;
mod key;
mod keyed;
mod kinds;
mod library;
mod log;
mod process;
mod record;
mod side;
mod sink;
mod state;
mod stream;
pub mod testing;
mod timers;
mod transform;
mod value;
mod watermarks;
mod window;
mod window_function;

pub use aggregate::{Term, avg, count, first, key, last, max, min, sum, window_end, window_start};
pub use broadcast::{BroadcastConnectedStream, BroadcastContext, BroadcastProcessFunction};
pub use connector::{
    Blackhole, Datagen, File, FileConnector, Postgres, Print, Sink, Socket, SocketConnector, Source,
};
pub use counter::Counter;
pub use dynamic::{Cell, Row, RowWriter};
pub use env::Env;
pub use error::{Error, Outcome, Result};
pub use files::{Entry, Folder};
pub use fold::AggregateFunction;
pub use key::{Key, KeySelector, SingleKey};
pub use keyed::KeyedStream;
#[doc(hidden)]
pub use kinds::{HasKey, HasNoKey, HasResults};
pub use library::Library;
pub use log::{log, print};
pub use process::{Context, OutputTag, ProcessFunction, Setup, TimeDomain};
pub use record::{Column, Record};
pub use sink::{SinkSetup, TwoPhaseSink, WriteAheadSink};
pub use state::{
    AggregatingState, BroadcastState, ListState, MapKey, MapState, ReducingState, Ttl, ValueState,
};
pub use stream::{Stream, WriteAheadNode};
pub use streamrt_sdk_macros::Record;
pub use streamrt_wit::{DataType, Field, Plan, Schema};
pub use transform::{Collector, Forward, MapResult, Output};
pub use value::{NotNull, Value};
pub use watermarks::{TimeColumn, Watermarks};
pub use window::{
    Assigner, Count, Global, LATE, Session, Sliding, Tumbling, WindowResult, WindowedStream,
};
pub use window_function::{Rows, Window, WindowFunction};

use std::time::Duration;

/// What the derive and the macros refer to.
#[doc(hidden)]
pub mod support {
    pub use crate::builder::ColumnBuilder;
    pub use crate::column::{OwnedColumn, Table};
    pub use crate::record::{decode, field};
    pub use crate::value::Value;
    pub use streamrt_wit::Schema;
}

/// Everything that a job needs.
pub mod prelude {
    pub use crate::{
        AggregateFunction, AggregatingState, Blackhole, BroadcastContext, BroadcastProcessFunction,
        BroadcastState, Collector, Column, Context, Count, Counter, Datagen, Env, Error, File,
        Folder, Forward, Global, KeyedStream, Library, ListState, MapState, OutputTag, Postgres,
        Print, ProcessFunction, Record, ReducingState, Result, Rows, Session, Setup, SinkSetup,
        Sliding, Socket, Stream, TimeDomain, Ttl, Tumbling, TwoPhaseSink, ValueState, Watermarks,
        Window, WindowFunction, WindowResult, WindowedStream, WriteAheadSink, avg, count, first,
        hours, key, last, max, millis, min, minutes, secs, sum, window_end, window_start,
    };
}

/// A duration in milliseconds.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A duration in seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A duration in minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// A duration in hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(3600 * n)
}

/// Makes a plugin from a job: `streamrt_sdk::job!(job)`, where `job` is a `fn(&mut Env)` that
/// returns nothing or a `Result<()>`.
#[macro_export]
macro_rules! job {
    ($job:path) => {
        $crate::__export!(|args| $crate::glue::build_job($job, args));
    };
}

/// Makes a plugin from a library: `streamrt_sdk::library!(functions)`, where `functions` is a
/// `fn(&mut Library)`.
#[macro_export]
macro_rules! library {
    ($functions:path) => {
        $crate::__export!(|args| $crate::glue::build_library($functions, args));
    };
}

/// Natively nothing is exported, so that `cargo test` links.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($build:expr) => {
        // The user's function is used natively as well, or the compiler would call it dead code.
        #[cfg(not(target_family = "wasm"))]
        const _: () = {
            let _ = $build;
        };
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::exports::streamrt::plugin::operator::{Error, Guest, Section};

            struct Plugin;

            impl Guest for Plugin {
                fn describe(args: Vec<String>) -> Result<String, Error> {
                    $crate::glue::describe($build, args)
                }
                fn open(functions: Vec<u32>, context: String) -> Result<u32, Error> {
                    $crate::glue::open($build, &functions, &context)
                }
                fn invoke(chain: u32, call: u16, input: Vec<Section>) -> Result<Vec<Section>, Error> {
                    $crate::glue::invoke(chain, call, &input)
                }
                fn close(chain: u32) {
                    $crate::glue::close(chain)
                }
            }

    $crate::bindings::export_operator!(Plugin with_types_in $crate::bindings);

            impl $crate::bindings::sinks::exports::streamrt::plugin::two_phase_sink::Guest for Plugin {
                fn open(function: u32, context: String) -> Result<u32, Error> {
                    $crate::glue::open_sink($build, function, &context)
                }
                fn begin(sink: u32, transaction: String) -> Result<(), Error> {
                    $crate::glue::begin(sink, &transaction)
                }
                fn write(sink: u32, rows: Section) -> Result<(), Error> {
                    $crate::glue::write(sink, &rows)
                }
                fn pre_commit(sink: u32) -> Result<Option<Vec<u8>>, Error> {
                    $crate::glue::pre_commit(sink)
                }
                fn commit(sink: u32, committable: Vec<u8>) -> Result<(), Error> {
                    $crate::glue::commit(sink, &committable)
                }
                fn abort(sink: u32) -> Result<(), Error> {
                    $crate::glue::abort(sink)
                }
                fn abort_unlisted(sink: u32, prefix: String, keep: Vec<Vec<u8>>) -> Result<(), Error> {
                    $crate::glue::abort_unlisted(sink, &prefix, &keep)
                }
                fn close(sink: u32) {
                    $crate::glue::close_sink(sink)
                }
            }

    $crate::bindings::sinks::export_sinks!(Plugin with_types_in $crate::bindings::sinks);

            #[used]
            #[unsafe(link_section = "streamrt.meta")]
            static META: [u8; $crate::glue::META.len()] = *$crate::glue::META;
        };
    };
}
