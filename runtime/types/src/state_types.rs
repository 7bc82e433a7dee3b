//! What the bytes of each keyed state of an operator mean. Operators write it next to their states
//! and refuse a snapshot that says something else; the comparison of two versions of a job asks the
//! same functions, so that its verdict is that of a restore.
//!
//! Invariant: frozen. What is equal here has the same bytes in a snapshot; two versions of streamrt
//! give one state the same types.

use crate::code;
use crate::error::{Error, Result};
use crate::schema::plan_schema;
use arrow_schema::Schema;
use serde_json::{Value, json};
use streamrt_wit::{
    Body, BuiltinAggregate, Function, FunctionKind, StateDescriptor, WindowAssigner, WindowContents,
};

/// The name of the timers of a process function. A function's own states cannot have such a name.
pub const TIMERS: &str = "$timers";
/// The state of a running aggregate.
pub const AGGREGATES: &str = "aggregates";
/// Windows of built-in aggregates that are kept by pane.
pub const PANES: &str = "panes";
/// All other windows.
pub const WINDOWS: &str = "windows";
/// Set in the types of a state that has times of last access in front of its entries.
pub const TIME_TO_LIVE: &str = "time-to-live";

/// The types of the key columns `key` of `input`.
pub fn key_types(input: &Schema, key: &[usize]) -> Value {
    key.iter()
        .map(|&column| Value::from(input.field(column).data_type().to_string()))
        .collect()
}

/// Rows of state: names of columns do not matter.
pub fn row_types(schema: &streamrt_wit::Schema) -> Value {
    schema
        .iter()
        .map(|field| json!([field.data_type, field.nullable]))
        .collect()
}

/// A state that a function declares; `key` is the types of the keys, which operator state ignores.
/// How long entries live does not matter.
pub fn state_types(descriptor: &StateDescriptor, key: &Value) -> Value {
    let mut types = json!({"kind": descriptor.kind, "value": row_types(&descriptor.value)});
    if !descriptor.kind.is_operator_state() {
        types["key"] = key.clone();
    }
    if !descriptor.key.is_empty() {
        types["map-key"] = row_types(&descriptor.key);
    }
    if descriptor.ttl_ms.is_some() {
        types[TIME_TO_LIVE] = json!(true);
    }
    types
}

/// Whether two states differ only in that one has a time to live: then the state can be taken over.
pub fn differ_in_time_to_live(one: &Value, other: &Value) -> bool {
    let without = |types: &Value| {
        let mut types = types.clone();
        types
            .as_object_mut()
            .map(|fields| fields.remove(TIME_TO_LIVE));
        types
    };
    one != other && without(one) == without(other)
}

/// Timers of these keys.
pub fn timer_types(key: &Value) -> Value {
    json!({"kind": "timers", "key": key})
}

/// Accumulators of built-in aggregates over rows of `input`: the function of each, and the column
/// that it reads. A column with another name makes another aggregate; otherwise two sums that
/// change places would continue with each other's totals.
///
/// # Errors
/// `Invalid` if a column is not there.
pub fn aggregate_types(aggregates: &[BuiltinAggregate], input: &Schema) -> Result<Value> {
    let of_one = |aggregate: &BuiltinAggregate| {
        let column = aggregate
            .column
            .as_ref()
            .map(|name| input.field_with_name(name))
            .transpose();
        let missing = || {
            Error::new(
                code::SCHEMA_MISMATCH,
                "an aggregate reads a column that the input does not have",
            )
        };
        let column = column.map_err(|_| missing())?;
        let column = column
            .map(|field| plan_schema(&Schema::new(vec![field.clone()])))
            .transpose()?
            .unwrap_or_default();
        Ok(json!({"function": aggregate.function, "column": column.first()}))
    };
    aggregates.iter().map(of_one).collect()
}

/// A running aggregate.
pub fn running_types(key: &Value, aggregates: &Value) -> Value {
    json!({"kind": "running-aggregates", "key": key, "aggregates": aggregates})
}

/// Windows: the name of their state and what it holds. Allowed lateness may change. `functions` are
/// those of the contents, in their order.
///
/// # Errors
/// The same as for [`aggregate_types`]; `Invalid` if a function is missing.
pub fn window_types(
    assigner: &WindowAssigner,
    contents: &WindowContents,
    functions: &[&Function],
    input: &Schema,
    key: &Value,
) -> Result<(&'static str, Value)> {
    let by_time = matches!(
        assigner,
        WindowAssigner::Tumbling { .. } | WindowAssigner::Sliding { .. }
    );
    let first = || {
        functions
            .first()
            .ok_or_else(|| Error::internal("the functions of a window come with its contents"))
    };
    let (name, contents) = match contents {
        WindowContents::Builtin { aggregates, .. } => (
            if by_time { PANES } else { WINDOWS },
            json!({"aggregates": aggregate_types(aggregates, input)?}),
        ),
        WindowContents::Process { .. } => (WINDOWS, json!({"rows": row_types(&first()?.input)})),
        WindowContents::Aggregate { .. } => {
            let function = first()?;
            (
                WINDOWS,
                json!({"function": function.kind, "accumulator": accumulator(function).map(row_types)}),
            )
        }
    };
    Ok((
        name,
        json!({"kind": "windows", "assigner": assigner, "key": key, "contents": contents}),
    ))
}

/// The columns of the accumulator of an aggregate or reduce function; `None` if an aggregate does
/// not declare them.
pub fn accumulator(function: &Function) -> Option<&streamrt_wit::Schema> {
    match function.kind {
        FunctionKind::Reduce => Some(function.accumulator.as_ref().unwrap_or(&function.input)),
        _ => function.accumulator.as_ref(),
    }
}

/// Every typed state of a node that calls `functions` in this order, over rows of `input` with the
/// key columns `key`: name and types. Sources, sinks and timestamps have none of these.
///
/// # Errors
/// The same as for [`window_types`].
pub fn node_states(
    body: &Body,
    functions: &[&Function],
    input: &Schema,
    key: &[usize],
) -> Result<Vec<(String, Value)>> {
    let key = key_types(input, key);
    Ok(match body {
        Body::Function { .. } => {
            let states = functions.iter().flat_map(|function| &function.states);
            let timers = functions
                .iter()
                .any(|function| function.timers)
                .then(|| (TIMERS.to_owned(), timer_types(&key)));
            states
                .map(|state| (state.name.clone(), state_types(state, &key)))
                .chain(timers)
                .collect()
        }
        Body::Aggregate { aggregates, .. } => vec![(
            AGGREGATES.to_owned(),
            running_types(&key, &aggregate_types(aggregates, input)?),
        )],
        Body::Window {
            assigner, contents, ..
        } => {
            let (name, types) = window_types(assigner, contents, functions, input, &key)?;
            vec![(name.to_owned(), types)]
        }
        Body::Source { .. }
        | Body::Sink { .. }
        | Body::FunctionSink { .. }
        | Body::Timestamps { .. } => Vec::new(),
    })
}
