//! Event time: which column or closure gives it, and how watermarks follow from it.
//!
//! # Source
//! Flink documentation, "Generating Watermarks". Ours differ in that a watermark rises right after
//! every row that raises it, never by the clock.

use crate::chain::Maker;
use crate::env::Graph;
use crate::record::{Column, Record};
use crate::stream::function;
use crate::transform::Timestamps;
use std::marker::PhantomData;
use std::time::Duration;
use streamrt_wit::{
    Body, DataType, Field, FunctionKind, Generator, OutputColumns, TimeSource, TimeUnit,
};

/// A column of type i64 that holds the event time, and its unit.
pub struct TimeColumn<T> {
    name: &'static str,
    unit: TimeUnit,
    record: PhantomData<fn() -> T>,
}

impl<T> From<Column<T, i64>> for TimeColumn<T> {
    /// In milliseconds since the Unix epoch.
    fn from(column: Column<T, i64>) -> Self {
        column.milliseconds()
    }
}

impl<T> Column<T, i64> {
    fn in_unit(self, unit: TimeUnit) -> TimeColumn<T> {
        TimeColumn {
            name: self.name(),
            unit,
            record: PhantomData,
        }
    }

    /// The column holds seconds since the Unix epoch.
    pub fn seconds(self) -> TimeColumn<T> {
        self.in_unit(TimeUnit::Seconds)
    }

    /// The column holds milliseconds since the Unix epoch.
    pub fn milliseconds(self) -> TimeColumn<T> {
        self.in_unit(TimeUnit::Milliseconds)
    }

    /// The column holds microseconds since the Unix epoch.
    pub fn microseconds(self) -> TimeColumn<T> {
        self.in_unit(TimeUnit::Microseconds)
    }
}

/// The time of a row in ms since the epoch, and the watermark that it raises, if any.
type Extract<T> = Box<dyn FnMut(&T) -> (i64, Option<i64>)>;

enum Time<T> {
    Column(TimeColumn<T>),
    Closure(Extract<T>),
}

/// Event times and watermarks of a stream of `T`.
pub struct Watermarks<T> {
    time: Time<T>,
    generator: Generator,
    idle: Option<Duration>,
}

impl<T: Record> Watermarks<T> {
    /// Rows may come up to `bound` behind the greatest time so far; the watermark is `greatest time
    /// - bound - 1 ms`.
    pub fn bounded(time: impl Into<TimeColumn<T>>, bound: Duration) -> Self {
        Watermarks {
            time: Time::Column(time.into()),
            generator: by(bound),
            idle: None,
        }
    }

    /// Rows come in the order of their times.
    pub fn monotonous(time: impl Into<TimeColumn<T>>) -> Self {
        Watermarks::bounded(time, Duration::ZERO)
    }

    /// Like [`Watermarks::bounded`], where a closure gives the time in ms since the Unix epoch.
    pub fn bounded_with(mut time: impl FnMut(&T) -> i64 + 'static, bound: Duration) -> Self {
        let extract: Extract<T> = Box::new(move |row| (time(row), None));
        Watermarks {
            time: Time::Closure(extract),
            generator: by(bound),
            idle: None,
        }
    }

    /// Like [`Watermarks::monotonous`], where a closure gives the time in ms since the Unix epoch.
    pub fn monotonous_with(time: impl FnMut(&T) -> i64 + 'static) -> Self {
        Watermarks::bounded_with(time, Duration::ZERO)
    }

    /// A closure gives the time of each row, and the watermark that it raises, if any; both in ms
    /// since the Unix epoch.
    pub fn punctuated(extract: impl FnMut(&T) -> (i64, Option<i64>) + 'static) -> Self {
        Watermarks {
            time: Time::Closure(Box::new(extract)),
            generator: Generator::Punctuated,
            idle: None,
        }
    }

    /// A split that is silent for this long no longer holds the watermark back.
    pub fn idle(self, after: Duration) -> Self {
        Watermarks {
            idle: Some(after),
            ..self
        }
    }

    pub(crate) fn body(self, graph: &Graph, uid: &str) -> Body {
        let punctuated = self.generator == Generator::Punctuated;
        let time = match self.time {
            Time::Column(column) => TimeSource::Column {
                column: column.name.to_owned(),
                unit: column.unit,
            },
            Time::Closure(extract) => {
                let output = OutputColumns::Replace {
                    schema: schema(punctuated),
                };
                let maker = Maker::stage(Timestamps::new(extract, punctuated));
                TimeSource::Function {
                    function: graph.function(
                        function(FunctionKind::Timestamps, uid, T::schema(), output),
                        maker,
                    ),
                }
            }
        };
        Body::Timestamps {
            time,
            generator: self.generator,
            idle_ms: self.idle.map(millis),
        }
    }
}

fn by(bound: Duration) -> Generator {
    Generator::Bounded {
        bound_ms: millis(bound),
    }
}

/// Whole milliseconds; what does not fit means for ever.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn schema(punctuated: bool) -> Vec<Field> {
    let watermark = Field {
        nullable: true,
        ..Field::new("watermark", DataType::I64)
    };
    std::iter::once(Field::new("time", DataType::I64))
        .chain(punctuated.then_some(watermark))
        .collect()
}
