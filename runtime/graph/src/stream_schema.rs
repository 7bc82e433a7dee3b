//! What each kind of node demands of its input's columns, and the columns that it returns.

use crate::stream::{EdgePartitioner, StreamEdge};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use streamrt_types::{Error, Result, arrow_schema, arrow_type, code, port_schema};
use streamrt_wit::{
    AggregateFunction, Body, BuiltinAggregate, Function, FunctionKind, Generator, Node,
    OutputColumns, ResultColumn, ResultSource, StateDescriptor, TimeSource, WindowAssigner,
    WindowContents,
};

/// Index of a column.
///
/// # Errors
/// `Invalid`, with the columns that are there.
pub(crate) fn column(schema: &Schema, name: &str) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        Error::new(
            code::SCHEMA_MISMATCH,
            format!(
                "there is no column `{name}`; the stream has {}",
                known.join(", ")
            ),
        )
    })
}

/// The schemas of a node's output ports.
pub(crate) fn outputs<'a>(
    node: &Node,
    input: Option<&SchemaRef>,
    key: &[usize],
    function: &dyn Fn(u32) -> &'a Function,
) -> Result<Vec<SchemaRef>> {
    let input = match (&node.body, input) {
        (Body::Source { schema, .. }, _) if schema.is_empty() => {
            return Err(Error::new(code::INVALID_JOB, "the source has no columns"));
        }
        (Body::Source { schema, .. }, _) => return Ok(vec![arrow_schema(schema)]),
        (_, Some(input)) => input,
        (_, None) => return Err(Error::internal("a node that is no source has an input")),
    };
    match &node.body {
        Body::Source { .. } | Body::Sink { .. } => Ok(Vec::new()),
        Body::FunctionSink {
            function: number,
            write_ahead_bytes,
        } => sink(input, function(*number), *write_ahead_bytes).map(|()| Vec::new()),
        Body::Timestamps {
            time, generator, ..
        } => timestamps(input, time, generator, function),
        Body::Function { function: number } => plain_function(input, key, function(*number)),
        Body::Aggregate {
            aggregates,
            columns,
        } => {
            demand_key(key)?;
            Ok(vec![builtin(input, key, aggregates, columns, false)?])
        }
        Body::Window {
            assigner, contents, ..
        } => {
            demand_key(key)?;
            check_assigner(assigner)?;
            Ok(vec![window(input, key, contents, function)?, input.clone()])
        }
    }
}

fn demand_key(key: &[usize]) -> Result<()> {
    if key.is_empty() {
        Err(Error::new(
            code::INVALID_JOB,
            "the input has no key; partition it by `key_by` in front",
        ))
    } else {
        Ok(())
    }
}

fn timestamps<'a>(
    input: &SchemaRef,
    time: &TimeSource,
    generator: &Generator,
    function: &dyn Fn(u32) -> &'a Function,
) -> Result<Vec<SchemaRef>> {
    match time {
        TimeSource::Column { column: name, .. } => {
            let index = column(input, name)?;
            let found = input.field(index).data_type();
            if found != &DataType::Int64 {
                return Err(Error::new(
                    code::SCHEMA_MISMATCH,
                    format!("the time column `{name}` has type {found}, but it must be i64"),
                ));
            }
            if *generator == Generator::Punctuated {
                return Err(Error::new(
                    code::INVALID_JOB,
                    "punctuated watermarks need a timestamps function",
                ));
            }
        }
        TimeSource::Function { function: number } => {
            let function = function(*number);
            demand_kind(function, &[FunctionKind::Timestamps])?;
            check_input(input, function)?;
        }
    }
    Ok(vec![input.clone()])
}

fn demand_kind(function: &Function, kinds: &[FunctionKind]) -> Result<()> {
    if kinds.contains(&function.kind) {
        return Ok(());
    }
    Err(Error::new(
        code::INVALID_JOB,
        format!(
            "function {} is a {:?}, which cannot stand here",
            function.number, function.kind
        ),
    ))
}

/// Checks that every column that the function reads is in the stream, with its type, and without
/// nulls if it expects none.
fn check_input(input: &SchemaRef, function: &Function) -> Result<()> {
    function
        .input
        .iter()
        .try_for_each(|wanted| check_column(input, wanted))
}

fn check_column(input: &SchemaRef, wanted: &streamrt_wit::Field) -> Result<()> {
    let found = input.field(column(input, &wanted.name)?);
    let expected = arrow_type(wanted.data_type);
    if found.data_type() != &expected {
        let message = format!(
            "column `{}` has type {}, but the function reads {expected}",
            wanted.name,
            found.data_type()
        );
        return Err(Error::new(code::SCHEMA_MISMATCH, message));
    }
    if found.is_nullable() && !wanted.nullable {
        let message = format!(
            "column `{}` may be null, but the function reads it as never null",
            wanted.name
        );
        return Err(Error::new(code::SCHEMA_MISMATCH, message));
    }
    Ok(())
}

/// Checks that the key columns that the function wants to see are key columns of the edge.
fn check_key(input: &SchemaRef, key: &[usize], function: &Function) -> Result<()> {
    for wanted in function.key.iter().flatten() {
        check_column(input, wanted)?;
        if !key
            .iter()
            .any(|&index| input.field(index).name() == &wanted.name)
        {
            return Err(Error::new(
                code::SCHEMA_MISMATCH,
                format!("column `{}` is not in the key of the stream", wanted.name),
            ));
        }
    }
    Ok(())
}

fn plain_function(input: &SchemaRef, key: &[usize], function: &Function) -> Result<Vec<SchemaRef>> {
    use FunctionKind::{BroadcastProcess, Filter, FlatMap, KeyProjection, Map, Process};
    demand_kind(
        function,
        &[
            Map,
            Filter,
            FlatMap,
            KeyProjection,
            Process,
            BroadcastProcess,
        ],
    )?;
    check_input(input, function)?;
    check_key(input, key, function)?;
    if function.key.is_some() {
        demand_key(key)?;
    } else if function.timers
        || function
            .states
            .iter()
            .any(|state| !state.kind.is_operator_state())
    {
        return Err(Error::new(
            code::INVALID_JOB,
            "state and timers need a key; partition the stream by `key_by` in front",
        ));
    }
    function
        .states
        .iter()
        .try_for_each(|state| check_state(function, state))?;
    function
        .outputs
        .iter()
        .map(|port| port_schema(input, &port.columns))
        .collect()
}

/// The highest limit that a write-ahead sink may have.
const WRITE_AHEAD_BYTES_MAX: u64 = 1 << 30;

fn sink(input: &SchemaRef, function: &Function, write_ahead_bytes: Option<u64>) -> Result<()> {
    demand_kind(
        function,
        &[FunctionKind::TwoPhaseSink, FunctionKind::WriteAheadSink],
    )?;
    if write_ahead_bytes.is_some_and(|bytes| bytes > WRITE_AHEAD_BYTES_MAX) {
        let message = format!(
            "rows of {} MiB at most wait for a write-ahead sink, in memory and in each checkpoint",
            WRITE_AHEAD_BYTES_MAX >> 20
        );
        return Err(Error::new(code::PLAN_LIMIT, message));
    }
    if function.kind == FunctionKind::TwoPhaseSink && write_ahead_bytes.is_some() {
        return Err(Error::new(
            code::BAD_OPTION,
            "a limit of rows that wait is for write-ahead sinks",
        ));
    }
    check_input(input, function)
}

fn check_state(function: &Function, state: &StateDescriptor) -> Result<()> {
    let is_process = matches!(
        function.kind,
        FunctionKind::Process | FunctionKind::BroadcastProcess
    );
    let fault = match state.ttl_ms {
        _ if state.kind.is_operator_state() && !is_process => {
            "only process functions have operator state"
        }
        Some(_) if state.kind.is_operator_state() => "operator state has no time to live",
        Some(0) => "its time to live is 0 ms, but it must be positive",
        _ => return Ok(()),
    };
    Err(Error::new(
        code::INVALID_JOB,
        format!("state `{}`: {fault}", state.name),
    ))
}

/// Checks that a broadcast-process function, and nothing else, has a second input, all of whose
/// rows go to every subtask.
pub(crate) fn check_second_input<'a>(
    node: &Node,
    input: Option<&SchemaRef>,
    edges: &[StreamEdge],
    function: &dyn Fn(u32) -> &'a Function,
) -> Result<()> {
    let broadcast = match &node.body {
        Body::Function { function: number } => {
            Some(function(*number)).filter(|f| f.kind == FunctionKind::BroadcastProcess)
        }
        _ => None,
    };
    if let Some(input) = node
        .inputs
        .iter()
        .map(|input| input.input)
        .find(|input| *input > u16::from(broadcast.is_some()))
    {
        return Err(Error::new(
            code::INVALID_JOB,
            format!("an edge leads to its input {input}, which it does not have"),
        ));
    }
    let Some(function) = broadcast else {
        return Ok(());
    };
    let replaces = |columns: &OutputColumns| matches!(columns, OutputColumns::Replace { .. });
    let fault = match input {
        None => "its second input is missing: `connect` gives it one, or `broadcast` in a job.toml",
        Some(_) if node.inputs.len() == edges.len() => "its first input is missing",
        Some(_)
            if edges
                .iter()
                .any(|edge| edge.partitioner != EdgePartitioner::Broadcast) =>
        {
            "its second input is not broadcast"
        }
        Some(_) if !function.outputs.iter().all(|port| replaces(&port.columns)) => {
            "a function with two inputs must replace the columns"
        }
        Some(input) => {
            return function
                .second_input
                .iter()
                .try_for_each(|wanted| check_column(input, wanted));
        }
    };
    Err(Error::new(code::INVALID_JOB, fault))
}

fn window<'a>(
    input: &SchemaRef,
    key: &[usize],
    contents: &WindowContents,
    function: &dyn Fn(u32) -> &'a Function,
) -> Result<SchemaRef> {
    let last = match contents {
        WindowContents::Builtin {
            aggregates,
            columns,
        } => return builtin(input, key, aggregates, columns, true),
        WindowContents::Process { function: number } => {
            let process = function(*number);
            check_input(input, process)?;
            process
        }
        WindowContents::Aggregate {
            function: number,
            then,
        } => {
            let aggregate = function(*number);
            demand_kind(aggregate, &[FunctionKind::Aggregate, FunctionKind::Reduce])?;
            check_input(input, aggregate)?;
            let Some(then) = then else {
                return result_schema(input, aggregate);
            };
            let then = function(*then);
            check_input(&result_schema(input, aggregate)?, then)?;
            then
        }
    };
    demand_kind(last, &[FunctionKind::WindowProcess])?;
    check_key(input, key, last)?;
    result_schema(input, last)
}

/// Functions of windows replace the columns: one output row stands for many input rows.
fn result_schema(input: &SchemaRef, function: &Function) -> Result<SchemaRef> {
    match (function.kind, function.outputs.first()) {
        (FunctionKind::Reduce, None) => Ok(input.clone()),
        (_, Some(port)) if matches!(port.columns, streamrt_wit::OutputColumns::Replace { .. }) => {
            port_schema(input, &port.columns)
        }
        _ => Err(Error::new(
            code::INVALID_JOB,
            format!(
                "function {} must say which columns it returns",
                function.number
            ),
        )),
    }
}

fn check_assigner(assigner: &WindowAssigner) -> Result<()> {
    let positive = |what: &str, ms: i64| match ms > 0 {
        true => Ok(()),
        false => Err(Error::new(
            code::INVALID_JOB,
            format!("the {what} of the window is {ms} ms, but it must be positive"),
        )),
    };
    let offset_within = |offset: i64, step: i64| match offset
        .checked_abs()
        .is_some_and(|offset| offset < step)
    {
        true => Ok(()),
        false => Err(Error::new(
            code::INVALID_JOB,
            format!("the offset of the window is {offset} ms, but it must be less than {step} ms"),
        )),
    };
    match assigner {
        WindowAssigner::Tumbling {
            size_ms, offset_ms, ..
        } => positive("size", *size_ms).and_then(|()| offset_within(*offset_ms, *size_ms)),
        WindowAssigner::Sliding {
            size_ms,
            slide_ms,
            offset_ms,
            ..
        } => {
            positive("size", *size_ms)?;
            positive("slide", *slide_ms)?;
            offset_within(*offset_ms, *slide_ms)
        }
        WindowAssigner::Session { gap_ms, .. } => positive("gap", *gap_ms),
        WindowAssigner::Count { rows: 0 } => Err(Error::new(
            code::INVALID_JOB,
            "the count of the window is 0, but it must be positive",
        )),
        WindowAssigner::Count { .. } | WindowAssigner::Global => Ok(()),
    }
}

/// The columns of built-in aggregates.
fn builtin(
    input: &SchemaRef,
    key: &[usize],
    aggregates: &[BuiltinAggregate],
    columns: &[ResultColumn],
    windows: bool,
) -> Result<SchemaRef> {
    let results = aggregates
        .iter()
        .map(|aggregate| aggregate_type(input, aggregate))
        .collect::<Result<Vec<_>>>()?;
    let field = |result: &ResultColumn| -> Result<Field> {
        let (data_type, nullable) = match &result.from {
            ResultSource::Key { column: name } => {
                let index = column(input, name)?;
                if !key.contains(&index) {
                    return Err(Error::new(
                        code::SCHEMA_MISMATCH,
                        format!("column `{name}` is not in the key of the stream"),
                    ));
                }
                (input.field(index).data_type().clone(), false)
            }
            ResultSource::WindowStart | ResultSource::WindowEnd if windows => {
                (DataType::Int64, false)
            }
            ResultSource::WindowStart | ResultSource::WindowEnd => {
                return Err(Error::new(
                    code::INVALID_JOB,
                    format!("column `{}`: there is no window here", result.name),
                ));
            }
            ResultSource::Aggregate { index } => {
                results.get(*index as usize).cloned().ok_or_else(|| {
                    Error::new(
                        code::INVALID_JOB,
                        format!("column `{}`: there is no aggregate {index}", result.name),
                    )
                })?
            }
        };
        Ok(Field::new(&result.name, data_type, nullable))
    };
    Ok(Arc::new(Schema::new(
        columns.iter().map(field).collect::<Result<Vec<_>>>()?,
    )))
}

/// Type and nullability of an aggregate's result.
fn aggregate_type(input: &SchemaRef, aggregate: &BuiltinAggregate) -> Result<(DataType, bool)> {
    let Some(name) = &aggregate.column else {
        return match aggregate.function {
            AggregateFunction::Count => Ok((DataType::Int64, false)),
            other => Err(Error::new(
                code::INVALID_JOB,
                format!("the aggregate {other:?} needs a column"),
            )),
        };
    };
    let field = input.field(column(input, name)?);
    let found = field.data_type();
    let result = match aggregate.function {
        AggregateFunction::Count => return Ok((DataType::Int64, false)),
        AggregateFunction::Sum => sum_type(found),
        AggregateFunction::Avg => sum_type(found).map(|_| DataType::Float64),
        _ => Some(found.clone()),
    };
    let message = || {
        format!(
            "the aggregate {:?} does not work on column `{name}` of type {found}",
            aggregate.function
        )
    };
    result
        .map(|data_type| (data_type, field.is_nullable()))
        .ok_or_else(|| Error::new(code::SCHEMA_MISMATCH, message()))
}

fn sum_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Int32 | DataType::Int64 => Some(DataType::Int64),
        DataType::UInt32 | DataType::UInt64 => Some(DataType::UInt64),
        DataType::Float32 | DataType::Float64 => Some(DataType::Float64),
        _ => None,
    }
}
