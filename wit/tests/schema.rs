//! Keeps `plan.schema.json` in step with the plan: a plan that uses everything is valid by the
//! schema, and every property, kind and value of the schema is one that the plan reads.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use streamrt_wit::Plan;

/// Uses every kind and every field at least once; long, because it is data and one glance should
/// take it in.
fn everything() -> Value {
    let fields = json!([
        {"name": "a", "type": "bool"}, {"name": "b", "type": "i32"}, {"name": "c", "type": "i64", "nullable": true},
        {"name": "d", "type": "u32"}, {"name": "e", "type": "u64"}, {"name": "f", "type": "f32"}, {"name": "g", "type": "f64"},
        {"name": "h", "type": "string"}, {"name": "i", "type": "binary"},
    ]);
    let node = |id: u32, body: Value| json!({"id": id, "uid": format!("n{id}"), "body": body});
    let aggregates: Vec<Value> = ["count", "sum", "min", "max", "avg", "first", "last"]
        .iter()
        .map(|name| json!({"function": name, "column": "c"}))
        .collect();
    let columns = json!([
        {"name": "k", "from": {"kind": "key", "column": "b"}}, {"name": "s", "from": {"kind": "window-start"}},
        {"name": "e", "from": {"kind": "window-end"}}, {"name": "n", "from": {"kind": "aggregate", "index": 0}},
    ]);
    let builtin = json!({"kind": "builtin", "aggregates": aggregates, "columns": columns});
    let window = |assigner: Value, contents: &Value| json!({"kind": "window", "assigner": assigner, "allowed-lateness-ms": 1, "contents": contents});
    let process = json!({"kind": "process", "function": 0});
    let column = |unit: &str| json!({"kind": "column", "column": "c", "unit": unit});
    let bounded = json!({"kind": "bounded", "bound-ms": 0});
    let partitionings = json!([
        {"node": 0, "port": 0, "partitioning": {"kind": "forward"}}, {"node": 0, "partitioning": {"kind": "hash", "columns": ["b"]}},
        {"node": 0, "partitioning": {"kind": "rebalance"}}, {"node": 0, "partitioning": {"kind": "broadcast"}},
        {"node": 0, "partitioning": {"kind": "global"}, "input": 1},
    ]);
    let outputs = json!([
        {"columns": {"kind": "forward"}}, {"name": "x", "columns": {"kind": "extend", "schema": fields}},
        {"name": "y", "columns": {"kind": "replace", "schema": fields}},
    ]);
    let nodes = json!([
        node(0, json!({"kind": "source", "connector": "file", "options": {"path": "p"}, "schema": fields})),
        node(1, json!({"kind": "timestamps", "time": column("seconds"), "generator": bounded, "idle-ms": 5})),
        node(2, json!({"kind": "timestamps", "time": column("milliseconds"), "generator": bounded})),
        node(3, json!({"kind": "timestamps", "time": column("microseconds"), "generator": bounded})),
        node(4, json!({"kind": "timestamps", "time": {"kind": "function", "function": 0}, "generator": {"kind": "punctuated"}})),
        {"id": 5, "uid": "n5", "place": "src/lib.rs:1:2", "parallelism": 2, "chaining": false, "inputs": partitionings, "outputs": outputs,
         "body": {"kind": "function", "function": 0}},
        node(6, json!({"kind": "aggregate", "aggregates": aggregates, "columns": columns})),
        node(7, window(json!({"kind": "tumbling", "size-ms": 1, "offset-ms": -1, "processing-time": true}), &builtin)),
        node(8, window(json!({"kind": "sliding", "size-ms": 2, "slide-ms": 1, "offset-ms": 0, "processing-time": true}), &process)),
        node(9, window(json!({"kind": "session", "gap-ms": 1, "processing-time": true}), &json!({"kind": "aggregate", "function": 0, "then": 1}))),
        node(10, window(json!({"kind": "global"}), &process)),
        node(11, window(json!({"kind": "count", "rows": 1}), &process)),
        node(12, json!({"kind": "sink", "connector": "print", "options": {}})),
        node(13, json!({"kind": "function-sink", "function": 15, "write-ahead-bytes": 1})),
    ]);
    let mut states: Vec<Value> = [
        "value",
        "list",
        "map",
        "reducing",
        "aggregating",
        "operator-list",
        "union-list",
        "broadcast",
    ]
    .iter()
    .map(|kind| json!({"name": kind, "kind": kind, "key": fields, "value": fields, "ttl-ms": 1}))
    .collect();
    for (state, (update, visibility)) in states.iter_mut().zip([
        ("on-create-and-write", "never-return-expired"),
        ("on-read-and-write", "return-expired-if-not-cleaned-up"),
    ]) {
        state["ttl-update"] = json!(update);
        state["ttl-visibility"] = json!(visibility);
    }
    let kinds = [
        "map",
        "filter",
        "flat-map",
        "key-projection",
        "timestamps",
        "process",
        "aggregate",
        "reduce",
        "window-process",
        "co-process",
        "broadcast-process",
        "trigger",
        "evictor",
        "window-assigner",
        "partitioner",
        "two-phase-sink",
        "write-ahead-sink",
    ];
    let function = |(number, kind): (usize, &&str)| {
        json!({"number": number, "kind": kind, "name": kind, "input": fields, "outputs": outputs, "key": fields, "time": true, "timers": true,
               "states": states, "accumulator": fields, "grants": ["folder"], "second-input": fields})
    };
    json!({"version": 1, "nodes": nodes, "functions": kinds.iter().enumerate().map(function).collect::<Vec<_>>()})
}

fn schema() -> Value {
    serde_json::from_str(include_str!("../plan.schema.json")).expect("the schema is JSON")
}

/// Validates a value by the part of JSON Schema that the file uses; records which properties and
/// constants it met.
fn validate(
    root: &Value,
    rule: &Value,
    value: &Value,
    met: &mut BTreeSet<String>,
) -> Result<(), String> {
    if let Some(reference) = rule["$ref"].as_str() {
        return validate(
            root,
            &root["$defs"][reference.trim_start_matches("#/$defs/")],
            value,
            met,
        );
    }
    if let Some(choices) = rule["oneOf"].as_array() {
        let fits = choices
            .iter()
            .filter(|choice| validate(root, choice, value, &mut BTreeSet::new()).is_ok())
            .collect::<Vec<_>>();
        return match fits[..] {
            [one] => validate(root, one, value, met),
            _ => Err(format!("{} choices fit {value}", fits.len())),
        };
    }
    if let Some(constant) = rule.get("const") {
        met.insert(format!("const {constant}"));
        return if constant == value {
            Ok(())
        } else {
            Err(format!("{value} is not {constant}"))
        };
    }
    if let Some(values) = rule["enum"].as_array() {
        met.insert(format!("enum {value}"));
        return if values.contains(value) {
            Ok(())
        } else {
            Err(format!("{value} is not in {values:?}"))
        };
    }
    match (rule["type"].as_str(), value) {
        (Some("array"), Value::Array(items)) => items
            .iter()
            .try_for_each(|item| validate(root, &rule["items"], item, met)),
        (Some("object"), Value::Object(_)) if rule.get("properties").is_some() => {
            properties(root, rule, value, met)
        }
        (Some("object"), Value::Object(_))
        | (Some("string"), Value::String(_))
        | (Some("boolean"), Value::Bool(_)) => Ok(()),
        (Some("integer"), Value::Number(n))
            if n.is_i64()
                && rule["minimum"]
                    .as_i64()
                    .is_none_or(|min| n.as_i64() >= Some(min)) =>
        {
            Ok(())
        }
        (wanted, _) => Err(format!("{value} is no {wanted:?}")),
    }
}

fn properties(
    root: &Value,
    rule: &Value,
    value: &Value,
    met: &mut BTreeSet<String>,
) -> Result<(), String> {
    let object = value.as_object().expect("the caller has looked");
    for (name, entry) in object {
        let property = rule["properties"]
            .get(name)
            .ok_or_else(|| format!("the schema has no property {name} in {value}"))?;
        met.insert(format!("{} {name}", rule["description"]));
        validate(root, property, entry, met)?;
    }
    let required = rule["required"]
        .as_array()
        .expect("every object says what it requires");
    match required
        .iter()
        .find(|name| !object.contains_key(name.as_str().unwrap_or_default()))
    {
        Some(missing) => Err(format!("{missing} is missing in {value}")),
        None => Ok(()),
    }
}

/// Every property and constant that the schema names.
fn named(rule: &Value, names: &mut BTreeSet<String>) {
    if let Some(properties) = rule.get("properties").and_then(Value::as_object) {
        names.extend(
            properties
                .keys()
                .map(|name| format!("{} {name}", rule["description"])),
        );
    }
    if let Some(constant) = rule.get("const") {
        names.insert(format!("const {constant}"));
    }
    if let Some(values) = rule.get("enum").and_then(Value::as_array) {
        names.extend(values.iter().map(|value| format!("enum {value}")));
    }
    match rule {
        Value::Object(entries) => entries.values().for_each(|entry| named(entry, names)),
        Value::Array(items) => items.iter().for_each(|item| named(item, names)),
        _ => {}
    }
}

#[test]
fn a_plan_with_everything_is_valid_and_uses_all_that_the_schema_names() {
    let sample = everything();
    let plan = Plan::from_json(&sample.to_string()).expect("the plan reads it");
    let written: Value = serde_json::from_str(&plan.to_json()).expect("a plan is written as JSON");
    let (root, mut met, mut names) = (schema(), BTreeSet::new(), BTreeSet::new());
    for value in [&sample, &written] {
        assert_eq!(validate(&root, &root, value, &mut met), Ok(()));
    }
    named(&root, &mut names);
    assert_eq!(
        names.difference(&met).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "named by the schema, but not in the sample"
    );
}

#[test]
fn what_the_plan_refuses_the_schema_refuses() {
    let root = schema();
    let check = |plan: Value| {
        assert!(Plan::from_json(&plan.to_string()).is_err());
        assert!(
            validate(&root, &root, &plan, &mut BTreeSet::new()).is_err(),
            "{plan}"
        );
    };
    check(json!({"version": 2}));
    check(json!({"version": 1, "edges": []}));
    check(json!({"version": 1, "nodes": [{"id": 0, "uid": "a"}]}));
    check(json!({"version": 1, "nodes": [{"id": 0, "uid": "a", "body": {"kind": "join"}}]}));
    check(
        json!({"version": 1, "functions": [{"number": 0, "kind": "map", "name": "m", "input": [{"name": "a", "type": "date"}]}]}),
    );
}
