//! Event time and windows: timestamps and watermarks, and the window operator.
//!
//! [`TimestampsOperator`] gives rows their time and makes watermarks from it; [`WindowOperator`]
//! groups rows of a key by time or number, and fires when the watermark or the clock says so.
//! Results depend only on the input, never on how it was cut into batches. How watermarks of
//! several channels are combined is in `streamrt-exchange`; timers of process functions are in
//! `streamrt-operator`. With what a checkpoint keeps of either operator, a restored job gives the
//! results of one that was never stopped.
//!
//! ```
//! use streamrt_window::TimestampsOperator;
//! use streamrt_wit::{DataType, Field, Generator, TimeSource, TimeUnit};
//!
//! let rows = streamrt_types::arrow_schema(&vec![Field::new("seconds", DataType::I64)]);
//! let time = TimeSource::Column { column: "seconds".into(), unit: TimeUnit::Seconds };
//! assert!(TimestampsOperator::new(&time, &Generator::Bounded { bound_ms: 2_000 }, None, &rows, None).is_ok());
//! ```

mod ahead;
mod assigner;
mod builtin_contents;
mod contents;
mod emission;
mod generator;
mod generator_snapshot;
mod group_watermarks;
mod key_slide;
mod keyed_windows;
mod operator;
mod pane;
mod pane_disk;
mod pane_results;
mod pane_tree;
mod panes;
mod result_columns;
mod row_contents;
mod row_times;
mod snapshot_bytes;
mod timestamps;
mod user_contents;
mod user_times;
mod window_call;

pub use operator::{WindowFunction, WindowFunctions, WindowOperator};
pub use timestamps::TimestampsOperator;

#[cfg(test)]
mod tests;
