//! The window operator after the timestamps operator, as in a job: every test runs with batches of
//! 1, 2, 3 and 1024 rows, and the output, row for row and mark for mark, must be the same.

mod differential;
mod functions;
mod on_disk;
mod pieces;
mod rescale;
mod restore;
mod restore_timestamps;
mod semantics;
mod timestamps;
mod traces;

use crate::{TimestampsOperator, WindowFunctions, WindowOperator};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use streamrt_operator::{Exits, OperatorChain, OperatorContext, TaskMetrics, json};
use streamrt_types::{
    Batch, Configuration, EndOfTime, KeyGroupRange, ManualClock, Result, Status, Target,
    WATERMARK_MAX, Watermark,
};
use streamrt_wit::{
    AggregateFunction, BuiltinAggregate, Generator, ResultColumn, ResultSource, TimeSource,
    TimeUnit, WindowAssigner, WindowContents,
};

pub(crate) const BATCH_ROWS: [usize; 4] = [1, 2, 3, 1024];

/// Rows of (key, time in ms).
pub(crate) type Input<'a> = &'a [(i64, i64)];

pub(crate) fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, false),
        Field::new("time", DataType::Int64, false),
    ]))
}

pub(crate) fn rows(input: Input<'_>) -> RecordBatch {
    let column = |value: fn(&(i64, i64)) -> i64| {
        Arc::new(Int64Array::from_iter_values(input.iter().map(value))) as ArrayRef
    };
    RecordBatch::try_new(
        input_schema(),
        vec![column(|row| row.0), column(|row| row.1)],
    )
    .unwrap()
}

/// Lines of what comes out: `+` results, `late` rows, `w` and `late-w` watermarks of the two ports,
/// which keep no order between them.
#[derive(Default)]
pub(crate) struct Recorder {
    ports: [Vec<String>; 2],
}

impl Recorder {
    pub(crate) fn lines(self) -> Vec<String> {
        let watermarks = |port: &[String]| {
            port.iter()
                .filter_map(|line| Some(line.split_once("w ")?.1.to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            watermarks(&self.ports[0]),
            watermarks(&self.ports[1]),
            "both ports carry all watermarks"
        );
        self.ports.concat()
    }

    /// What port 0 has got.
    pub(crate) fn main(&self) -> &[String] {
        &self.ports[0]
    }
}

impl Exits for Recorder {
    fn batch(&mut self, exit: usize, batch: Batch) -> Result<()> {
        batch.check()?;
        let mut marks = batch.marks.iter().peekable();
        for row in 0..=batch.n_rows() {
            while let Some(mark) = marks.next_if(|mark| mark.row as usize <= row) {
                self.watermark(exit, mark.watermark)?;
            }
            if row < batch.n_rows() {
                let time = batch
                    .times()
                    .map_or("-".to_owned(), |times| times[row].to_string());
                let columns = batch
                    .columns
                    .columns()
                    .iter()
                    .map(|column| json::value(column, row))
                    .collect::<Vec<_>>()
                    .join(" ");
                self.ports[exit].push(format!("{} {columns} @{time}", ["+", "late"][exit]));
            }
        }
        Ok(())
    }

    fn watermark(&mut self, exit: usize, watermark: Watermark) -> Result<()> {
        let line = if watermark == WATERMARK_MAX {
            "end".into()
        } else {
            format!("{} {watermark}", ["w", "late-w"][exit])
        };
        self.ports[exit].push(line);
        Ok(())
    }

    fn status(&mut self, exit: usize, status: Status) -> Result<()> {
        self.ports[exit].push(format!("{status:?}"));
        Ok(())
    }
}

pub(crate) fn context() -> (OperatorContext, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let context = OperatorContext {
        disk: None,
        job: "job".into(),
        generation: 1,
        cancel: Arc::default(),
        memory: Arc::default(),
        uid: "op".into(),
        subtask: 0,
        parallelism: 1,
        max_parallelism: 16,
        key_groups: KeyGroupRange::all(16),
        clock: clock.clone(),
        configuration: Arc::new(Configuration::default()),
        metrics: Arc::new(TaskMetrics::default()),
        dead_letters: Arc::new(|_| Ok(())),
    };
    (context, clock)
}

/// A chain of timestamps (column `time`, unit ms) and `window`, opened.
pub(crate) fn chain(
    bound_ms: u64,
    window: WindowOperator,
) -> (OperatorChain, OperatorContext, Arc<ManualClock>) {
    chain_with(bound_ms, window, Configuration::default())
}

pub(crate) fn chain_with(
    bound_ms: u64,
    window: WindowOperator,
    configuration: Configuration,
) -> (OperatorChain, OperatorContext, Arc<ManualClock>) {
    let time = TimeSource::Column {
        column: "time".into(),
        unit: TimeUnit::Milliseconds,
    };
    let timestamps = TimestampsOperator::new(
        &time,
        &Generator::Bounded { bound_ms },
        None,
        &input_schema(),
        None,
    )
    .unwrap();
    let (context, clock) = context();
    let context = OperatorContext {
        configuration: Arc::new(configuration),
        ..context
    };
    let mut chain = OperatorChain::new();
    chain.push(
        Box::new(timestamps),
        context.clone(),
        vec![(0, Target::Operator(1))],
    );
    chain.push(
        Box::new(window),
        context.clone(),
        vec![(0, Target::Exit(0)), (1, Target::Exit(1))],
    );
    chain.open().unwrap();
    (chain, context, clock)
}

/// Runs a bounded job over `input` in batches of `batch_rows`.
pub(crate) fn run(
    bound_ms: u64,
    window: WindowOperator,
    input: Input<'_>,
    batch_rows: usize,
) -> Vec<String> {
    let (mut chain, _, _) = chain(bound_ms, window);
    let mut recorder = Recorder::default();
    for piece in input.chunks(batch_rows) {
        feed(&mut chain, &mut recorder, Batch::new(rows(piece)));
    }
    chain
        .head(&mut recorder, &mut |operator, output| {
            operator.watermark(WATERMARK_MAX, output)
        })
        .unwrap();
    chain
        .end_of_input(Some(EndOfTime::Drop), &mut recorder)
        .unwrap();
    recorder.lines()
}

pub(crate) fn feed(chain: &mut OperatorChain, recorder: &mut Recorder, batch: Batch) {
    let mut batch = Some(batch);
    chain
        .head(recorder, &mut |operator, output| {
            operator.batch(batch.take().unwrap(), output)
        })
        .unwrap();
}

/// Runs with every size of batches; the output must be the same. Returns its lines, without
/// watermarks.
pub(crate) fn run_all(
    bound_ms: u64,
    window: impl Fn() -> WindowOperator,
    input: Input<'_>,
) -> Vec<String> {
    let expected = run(bound_ms, window(), input, 1);
    for batch_rows in BATCH_ROWS {
        assert_eq!(
            run(bound_ms, window(), input, batch_rows),
            expected,
            "batches of {batch_rows} rows"
        );
    }
    expected
        .into_iter()
        .filter(|line| line.starts_with('+') || line.starts_with("late "))
        .collect()
}

pub(crate) fn count() -> BuiltinAggregate {
    BuiltinAggregate {
        function: AggregateFunction::Count,
        column: None,
    }
}

/// Count, first and last time of the rows: key, start, end, count, first, last.
pub(crate) fn builtin(assigner: WindowAssigner, lateness_ms: u64) -> WindowOperator {
    let of_time = |function| BuiltinAggregate {
        function,
        column: Some("time".into()),
    };
    let column = |name: &str, from| ResultColumn {
        name: name.into(),
        from,
    };
    let aggregates = vec![
        count(),
        of_time(AggregateFunction::First),
        of_time(AggregateFunction::Last),
    ];
    let columns = vec![
        column(
            "key",
            ResultSource::Key {
                column: "key".into(),
            },
        ),
        column("start", ResultSource::WindowStart),
        column("end", ResultSource::WindowEnd),
        column("n", ResultSource::Aggregate { index: 0 }),
        column("first", ResultSource::Aggregate { index: 1 }),
        column("last", ResultSource::Aggregate { index: 2 }),
    ];
    let output = Arc::new(Schema::new(
        columns
            .iter()
            .map(|c| Field::new(&c.name, DataType::Int64, false))
            .collect::<Vec<_>>(),
    ));
    let contents = WindowContents::Builtin {
        aggregates,
        columns,
    };
    WindowOperator::new(
        &assigner,
        lateness_ms,
        &contents,
        WindowFunctions::default(),
        input_schema(),
        vec![0],
        output,
    )
    .unwrap()
}

pub(crate) fn tumbling(size_ms: i64) -> WindowAssigner {
    WindowAssigner::Tumbling {
        size_ms,
        offset_ms: 0,
        processing_time: false,
    }
}

pub(crate) fn sliding(size_ms: i64, slide_ms: i64) -> WindowAssigner {
    WindowAssigner::Sliding {
        size_ms,
        slide_ms,
        offset_ms: 0,
        processing_time: false,
    }
}

pub(crate) fn session(gap_ms: i64) -> WindowAssigner {
    WindowAssigner::Session {
        gap_ms,
        processing_time: false,
    }
}

pub(crate) fn longs(column: &ArrayRef) -> &[i64] {
    column.as_primitive::<Int64Type>().values()
}
