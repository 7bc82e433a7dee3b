//! User functions that run natively: a window-process that collects times, an aggregate that
//! counts, a reduce.

use super::*;
use crate::WindowFunction;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use streamrt_operator::harness::NativeChain;
use streamrt_operator::{Call, Failure, FunctionChain, Invocation, Outcome, RowsOut, StateOut};
use streamrt_types::{Error, arrow_schema, code};
use streamrt_wit::{
    DataType as Type, Field as PlanField, Function, FunctionKind, OutputColumns, OutputPort,
};

fn fields(names: &[&str], data_type: Type) -> Vec<PlanField> {
    names
        .iter()
        .map(|name| PlanField::new(*name, data_type))
        .collect()
}

fn function(kind: FunctionKind, input: &[&str], output: Vec<PlanField>) -> Function {
    Function {
        number: 0,
        kind,
        name: "f".into(),
        input: fields(input, Type::I64),
        outputs: vec![OutputPort {
            name: String::new(),
            columns: OutputColumns::Replace { schema: output },
        }],
        key: None,
        time: true,
        timers: false,
        states: Vec::new(),
        accumulator: None,
        grants: Vec::new(),
        second_input: Vec::new(),
    }
}

/// Returns (key, start, end, times joined by commas) for each window, and fails on windows that
/// hold `poison`.
struct Collect {
    poison: Option<i64>,
}

impl FunctionChain for Collect {
    fn invoke(
        &mut self,
        invocation: Invocation<'_>,
        _: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        assert_eq!(invocation.call, Call::Window);
        let (slots, rows) = (invocation.slots.unwrap(), invocation.rows.unwrap());
        let (starts, ends) = slots.windows.unwrap();
        let times = longs(rows.columns.column(0));
        let of_rows = rows.columns.schema_ref().field(0).name() == "time";
        assert_eq!(
            rows.times.is_some(),
            of_rows,
            "rows come with their times, results of an aggregate have none"
        );
        if self.poison.is_some_and(|poison| times.contains(&poison)) {
            return Err(Error::new(code::USER_ERROR, "boom").into());
        }
        let text = |range: &[u32]| {
            times[range[0] as usize..range[1] as usize]
                .iter()
                .map(i64::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let texts = slots
            .offsets
            .unwrap()
            .windows(2)
            .map(text)
            .collect::<Vec<_>>();
        let columns = RecordBatch::try_new(
            arrow_schema(&collect_output()),
            vec![
                slots.keys.unwrap().column(0).clone(),
                Arc::new(Int64Array::from(starts.to_vec())),
                Arc::new(Int64Array::from(ends.to_vec())),
                Arc::new(arrow_array::StringArray::from(texts)),
            ],
        )
        .unwrap();
        let rows = vec![RowsOut {
            function: 0,
            port: 0,
            n_rows: columns.num_rows(),
            columns: Some(columns),
            origin: None,
        }];
        Ok(Outcome {
            rows,
            ..Outcome::default()
        })
    }
}

fn collect_output() -> Vec<PlanField> {
    let mut output = fields(&["key", "start", "end"], Type::I64);
    output.push(PlanField::new("times", Type::String));
    output
}

fn collector(input: &str, poison: Option<i64>) -> WindowFunction {
    let key = Some(fields(&["key"], Type::I64));
    (
        Box::new(Collect { poison }),
        Function {
            key,
            ..function(FunctionKind::WindowProcess, &[input], collect_output())
        },
    )
}

/// An operator whose window-process function gives key, start, end and the times of all rows.
pub(crate) fn collecting(
    assigner: WindowAssigner,
    lateness_ms: u64,
    poison: Option<i64>,
) -> WindowOperator {
    try_collecting(assigner, lateness_ms, poison).unwrap()
}

pub(crate) fn try_collecting(
    assigner: WindowAssigner,
    lateness_ms: u64,
    poison: Option<i64>,
) -> Result<WindowOperator> {
    let functions = WindowFunctions {
        aggregate: None,
        process: Some(collector("time", poison)),
    };
    let contents = WindowContents::Process { function: 0 };
    let output = arrow_schema(&collect_output());
    WindowOperator::new(
        &assigner,
        lateness_ms,
        &contents,
        functions,
        input_schema(),
        vec![0],
        output,
    )
}

/// Like [`collecting`], and records the most windows and rows of a call.
pub(crate) fn watched(
    assigner: WindowAssigner,
    windows: Arc<AtomicUsize>,
    rows: Arc<AtomicUsize>,
) -> WindowOperator {
    let (mut chain, function) = collector("time", None);
    let watching = NativeChain(move |invocation: Invocation<'_>| {
        windows.fetch_max(
            invocation.slots.as_ref().map_or(0, |slots| slots.n_slots),
            Ordering::Relaxed,
        );
        rows.fetch_max(
            invocation
                .rows
                .as_ref()
                .map_or(0, |rows| rows.columns.num_rows()),
            Ordering::Relaxed,
        );
        chain.invoke(invocation, Duration::MAX)
    });
    let functions = WindowFunctions {
        aggregate: None,
        process: Some((Box::new(watching), function)),
    };
    let contents = WindowContents::Process { function: 0 };
    let output = arrow_schema(&collect_output());
    WindowOperator::new(
        &assigner,
        0,
        &contents,
        functions,
        input_schema(),
        vec![0],
        output,
    )
    .unwrap()
}

/// Counts rows, and refuses those whose time is `poison`.
struct Counter {
    poison: Option<i64>,
}

impl FunctionChain for Counter {
    fn invoke(
        &mut self,
        invocation: Invocation<'_>,
        _: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        let state = &invocation.states[0];
        let mut counts = longs(state.values.column(0)).to_vec();
        match invocation.call {
            Call::Accumulate => {
                let rows = invocation.rows.unwrap();
                if self
                    .poison
                    .is_some_and(|poison| longs(rows.columns.column(0)).contains(&poison))
                {
                    return Err(Error::new(code::USER_ERROR, "boom").into());
                }
                rows.slots
                    .unwrap()
                    .iter()
                    .for_each(|&slot| counts[slot as usize] += 1);
            }
            Call::Merge => counts = vec![counts.iter().sum()],
            Call::Result => {
                let rows = vec![RowsOut {
                    function: 0,
                    port: 0,
                    n_rows: counts.len(),
                    columns: Some(state.values.clone()),
                    origin: None,
                }];
                return Ok(Outcome {
                    rows,
                    ..Outcome::default()
                });
            }
            other => panic!("an aggregate gets no {other:?}"),
        }
        let values = RecordBatch::try_new(
            state.values.schema(),
            vec![Arc::new(Int64Array::from(counts))],
        )
        .unwrap();
        Ok(Outcome {
            states: vec![StateOut {
                number: 0,
                values,
                actions: None,
            }],
            ..Outcome::default()
        })
    }
}

fn counter(poison: Option<i64>) -> WindowFunction {
    let n = fields(&["n"], Type::I64);
    (
        Box::new(Counter { poison }),
        Function {
            accumulator: Some(n.clone()),
            ..function(FunctionKind::Aggregate, &["time"], n)
        },
    )
}

/// An aggregate function that counts, followed by one that shows key, start, end and the count.
pub(crate) fn counting(
    assigner: WindowAssigner,
    lateness_ms: u64,
    poison: Option<i64>,
) -> WindowOperator {
    let functions = WindowFunctions {
        aggregate: Some(counter(poison)),
        process: Some(collector("n", None)),
    };
    let contents = WindowContents::Aggregate {
        function: 0,
        then: Some(1),
    };
    let output = arrow_schema(&collect_output());
    WindowOperator::new(
        &assigner,
        lateness_ms,
        &contents,
        functions,
        input_schema(),
        vec![0],
        output,
    )
    .unwrap()
}

/// An aggregate function by itself: its result is all that comes out.
pub(crate) fn counting_alone(assigner: WindowAssigner) -> WindowOperator {
    let functions = WindowFunctions {
        aggregate: Some(counter(None)),
        process: None,
    };
    let contents = WindowContents::Aggregate {
        function: 0,
        then: None,
    };
    let output = arrow_schema(&fields(&["n"], Type::I64));
    WindowOperator::new(
        &assigner,
        0,
        &contents,
        functions,
        input_schema(),
        vec![0],
        output,
    )
    .unwrap()
}

/// Reduces rows to the one with the least time.
struct Earliest;

impl FunctionChain for Earliest {
    fn invoke(
        &mut self,
        invocation: Invocation<'_>,
        _: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        let state = &invocation.states[0];
        let pairs = |batch: &RecordBatch| {
            longs(batch.column(0))
                .iter()
                .copied()
                .zip(longs(batch.column(1)).iter().copied())
                .collect::<Vec<_>>()
        };
        let accumulators = pairs(&state.values);
        let mut reduced = match invocation.call {
            Call::Merge => vec![*accumulators.iter().min_by_key(|row| row.1).unwrap()],
            _ => accumulators,
        };
        if let Some(rows) = invocation.rows {
            let mut present = state.present.clone();
            for (row, &slot) in pairs(rows.columns).into_iter().zip(rows.slots.unwrap()) {
                let slot = slot as usize;
                if std::mem::replace(&mut present[slot], 1) == 0 || row.1 < reduced[slot].1 {
                    reduced[slot] = row;
                }
            }
        }
        Ok(Outcome {
            states: vec![StateOut {
                number: 0,
                values: rows(&reduced),
                actions: None,
            }],
            ..Outcome::default()
        })
    }
}

pub(crate) fn reducing(assigner: WindowAssigner) -> WindowOperator {
    let reduce = Function {
        outputs: Vec::new(),
        ..function(FunctionKind::Reduce, &["key", "time"], Vec::new())
    };
    let functions = WindowFunctions {
        aggregate: Some((Box::new(Earliest), reduce)),
        process: None,
    };
    let contents = WindowContents::Aggregate {
        function: 0,
        then: None,
    };
    WindowOperator::new(
        &assigner,
        0,
        &contents,
        functions,
        input_schema(),
        vec![0],
        input_schema(),
    )
    .unwrap()
}

/// A map function where an aggregate belongs.
pub(crate) fn mapping(assigner: WindowAssigner) -> Result<WindowOperator> {
    let map = function(FunctionKind::Map, &["time"], fields(&["n"], Type::I64));
    let functions = WindowFunctions {
        aggregate: Some((Box::new(Counter { poison: None }), map)),
        process: None,
    };
    let contents = WindowContents::Aggregate {
        function: 0,
        then: None,
    };
    WindowOperator::new(
        &assigner,
        0,
        &contents,
        functions,
        input_schema(),
        vec![0],
        input_schema(),
    )
}
