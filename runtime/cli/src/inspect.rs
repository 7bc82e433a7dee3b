//! `streamrt inspect`: what a component holds, without running it as a job.
//!
//! What the file itself says is always printed. The plan comes from the plugin's own code, which
//! may want arguments first. What its sources and sinks reach is shown beside them, with the flag
//! that `run` would want for it.

use crate::args::{Format, InspectArgs};
use crate::named::{self, Named};
use crate::plugin_file::{Disk, Loader};
use crate::{print, report};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use streamrt_plugin::{Engines, Plugin};
use streamrt_types::{Configuration, Result, code, without_passwords};
use streamrt_wit::{
    Body, Field, Function, Input, Node, Options, Partitioning, Plan, StateDescriptor, StateKind,
};

/// Prints the component on stdout.
///
/// # Errors
/// As for loading a component; `UserCode` if its `describe` fails. Arguments that are missing are
/// no error.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let configuration = Configuration::default();
    let mut loader = Loader::new(&configuration, Arc::new(Disk), &Engines::default())?;
    let plugin = loader.load(&args.file)?;
    let (plan, wanted) = match plugin.describe(&args.args) {
        Ok(plan) => (Some(plan), None),
        Err(error) if error.code() == code::BAD_ARGUMENTS => {
            (None, Some(error.message().to_owned()))
        }
        Err(error) => return Err(error.at(args.file.display())),
    };
    print(&shown(&plugin, plan.as_ref(), args))?;
    if let Some(wanted) = wanted {
        report::status(&format!(
            "the job itself is not shown, as it wants arguments after `--`: {wanted}"
        ));
    }
    Ok(())
}

fn shown(plugin: &Plugin, plan: Option<&Plan>, args: &InspectArgs) -> String {
    let named = Named::new(&args.args, &[], &[]);
    match args.output {
        Format::Json => format!("{}\n", object(plugin, plan, &named)),
        Format::Text => {
            header(plugin)
                + &plan
                    .map(|plan| describe_plan(plan, &named))
                    .unwrap_or_default()
        }
    }
}

fn object(plugin: &Plugin, plan: Option<&Plan>, named: &Named) -> Value {
    json!({
        "digest": plugin.digest(),
        "size_bytes": plugin.size_bytes(),
        "meta": plugin.meta(),
        "exports": plugin.exports(),
        "imports": plugin.imports(),
        "plan": plan.map(|plan| serde_json::to_value(plan).expect("a plan has only string keys and no failing types")),
        "needs": plan.map(|plan| plan.nodes.iter().flat_map(|node| need_objects(node, named)).collect::<Value>()),
    })
}

/// What a node reaches, and the flag without which it may not.
fn need_objects(node: &Node, named: &Named) -> Vec<Value> {
    let needs = named::needs(node).unwrap_or_default();
    let object = |need| json!({"uid": node.uid, "verb": named::verb(node), "what": named::shown(need), "flag": named.missing(need)});
    needs.iter().map(object).collect()
}

fn header(plugin: &Plugin) -> String {
    let mut text = format!(
        "digest     blake3:{}\nsize       {} bytes\n",
        plugin.digest(),
        plugin.size_bytes()
    );
    if let Some(meta) = plugin.meta() {
        text += &format!("made by    {}\n", pairs(meta));
    }
    for (title, names) in [("exports", plugin.exports()), ("imports", plugin.imports())] {
        text += &format!(
            "{title:<10} {}\n",
            if names.is_empty() {
                "nothing".to_owned()
            } else {
                names.join("\n           ")
            }
        );
    }
    text
}

/// `sdk streamrt-sdk 0.1.0, language rust`.
fn pairs(meta: &Value) -> String {
    let pair = |(key, value): (&String, &Value)| {
        format!(
            "{key} {}",
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        )
    };
    meta.as_object()
        .into_iter()
        .flatten()
        .map(pair)
        .collect::<Vec<_>>()
        .join(", ")
}

fn describe_plan(plan: &Plan, named: &Named) -> String {
    let mut text = String::new();
    let mut functions: Vec<&Function> = plan.functions.iter().collect();
    functions.sort_by_key(|function| (name_of(&function.kind), function.number));
    if functions.is_empty() {
        text += "\nno functions\n";
    }
    for kind in functions.chunk_by(|a, b| a.kind == b.kind) {
        let _ = write!(text, "\n{}\n", name_of(&kind[0].kind));
        kind.iter()
            .for_each(|function| text += &describe_function(function));
    }
    if !plan.nodes.is_empty() {
        text += "\njob\n";
        let nodes: HashMap<u32, &Node> = plan.nodes.iter().map(|node| (node.id, node)).collect();
        plan.nodes
            .iter()
            .for_each(|node| text += &(describe_node(node, &nodes) + &describe_needs(node, named)));
    }
    text
}

/// The name that the plan's JSON uses.
fn name_of(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn describe_function(function: &Function) -> String {
    let mut text = format!(
        "  {:>2} {}  reads ({})",
        function.number,
        function.name,
        columns(&function.input)
    );
    if let Some(key) = &function.key {
        let _ = write!(text, "  by ({})", columns(key));
    }
    if !function.second_input.is_empty() {
        let _ = write!(text, "  beside ({})", columns(&function.second_input));
    }
    if function.timers {
        text += "  timers";
    }
    function
        .grants
        .iter()
        .for_each(|name| text += &format!("  asks for folder {name}"));
    let sides = function.outputs.iter().filter(|port| !port.name.is_empty());
    sides.for_each(|port| text += &format!("  side output {}", port.name));
    text += "\n";
    function
        .states
        .iter()
        .for_each(|state| text += &format!("     state {}\n", describe_state(state)));
    text
}

fn columns(schema: &[Field]) -> String {
    let column = |field: &Field| {
        format!(
            "{}: {}{}",
            field.name,
            name_of(&field.data_type),
            if field.nullable { "?" } else { "" }
        )
    };
    schema.iter().map(column).collect::<Vec<_>>().join(", ")
}

fn describe_state(state: &StateDescriptor) -> String {
    let kind = name_of(&state.kind);
    let contents = match state.kind {
        StateKind::Map | StateKind::Broadcast => {
            format!("({}) to ({})", columns(&state.key), columns(&state.value))
        }
        _ => format!("({})", columns(&state.value)),
    };
    let ttl = state
        .ttl_ms
        .map(|ms| format!(", kept for {ms} ms"))
        .unwrap_or_default();
    format!("{}: {kind} of {contents}{ttl}", state.name)
}

fn describe_node(node: &Node, nodes: &HashMap<u32, &Node>) -> String {
    let inputs: Vec<String> = node
        .inputs
        .iter()
        .map(|input| describe_input(input, nodes))
        .collect();
    let from = if inputs.is_empty() {
        String::new()
    } else {
        format!("  from {}", inputs.join(", "))
    };
    format!(
        "  {:>2} {}  {}{from}\n",
        node.id,
        node.uid,
        describe_body(&node.body)
    )
}

fn describe_body(body: &Body) -> String {
    match body {
        Body::Source {
            connector, options, ..
        } => format!("source {connector}{}", describe_options(options)),
        Body::Sink { connector, options } => {
            format!("sink {connector}{}", describe_options(options))
        }
        Body::FunctionSink { function, .. } => format!("sink function {function}"),
        Body::Timestamps { .. } => "timestamps and watermarks".to_owned(),
        Body::Function { function } => format!("function {function}"),
        Body::Aggregate { .. } => "running aggregate of the host".to_owned(),
        Body::Window { .. } => "window".to_owned(),
    }
}

fn describe_options(options: &Options) -> String {
    options
        .iter()
        .map(|(name, value)| format!(" {name}={}", without_password(value)))
        .collect()
}

/// The value of an option; of a URL, or of a list of settings, without the password.
fn without_password(value: &Value) -> String {
    value.as_str().map_or_else(
        || value.to_string(),
        |text| json!(without_passwords(text)).to_string(),
    )
}

/// A line for each path and server.
fn describe_needs(node: &Node, named: &Named) -> String {
    let needs = match named::needs(node) {
        Ok(needs) => needs,
        Err(error) => return format!("     {}\n", error.message()),
    };
    let line = |need| {
        let flag = named
            .missing(need)
            .map(|flag| format!(": needs {flag}"))
            .unwrap_or_default();
        format!("     {} {}{flag}\n", named::verb(node), named::shown(need))
    };
    needs.iter().map(line).collect()
}

fn describe_input(input: &Input, nodes: &HashMap<u32, &Node>) -> String {
    let from = nodes.get(&input.node);
    let uid = from.map_or_else(|| input.node.to_string(), |node| node.uid.clone());
    let port = from
        .and_then(|node| node.outputs.get(usize::from(input.port)))
        .map(|port| port.name.as_str())
        .filter(|name| !name.is_empty());
    let name = port.map_or(uid.clone(), |port| format!("{uid}.{port}"));
    match &input.partitioning {
        Partitioning::Forward => name,
        Partitioning::Hash { columns } => format!("{name} by ({})", columns.join(", ")),
        Partitioning::Rebalance => format!("{name} rebalanced"),
        Partitioning::Broadcast => format!("{name} broadcast"),
        Partitioning::Global => format!("{name} in one subtask"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"{"version":1,
      "nodes":[
        {"id":0,"uid":"lines","body":{"kind":"source","connector":"file","schema":[],"options":{"path":"a","watch":true}},"outputs":[{"columns":{"kind":"replace","schema":[]}}]},
        {"id":1,"uid":"alerts","inputs":[{"node":0,"partitioning":{"kind":"hash","columns":["a","b"]}}],"body":{"kind":"function","function":1},
         "outputs":[{"columns":{"kind":"forward"}},{"name":"late","columns":{"kind":"forward"}}]},
        {"id":2,"uid":"out","inputs":[{"node":1,"port":1}],"body":{"kind":"sink","connector":"print"}},
        {"id":3,"uid":"audit","inputs":[{"node":1}],"body":{"kind":"function-sink","function":3}}],
      "functions":[
        {"number":0,"kind":"filter","name":"even","input":[{"name":"n","type":"i64"}]},
        {"number":1,"kind":"process","name":"alerts","input":[{"name":"s","type":"string","nullable":true}],"key":[{"name":"a","type":"i64"}],"timers":true,
         "outputs":[{"columns":{"kind":"forward"}},{"name":"late","columns":{"kind":"forward"}}],
         "states":[{"name":"last","kind":"value","value":[{"name":"v","type":"f64"}],"ttl-ms":5},
                   {"name":"seen","kind":"map","key":[{"name":"k","type":"string"}],"value":[{"name":"v","type":"bool"}]}]},
        {"number":2,"kind":"filter","name":"odd"},
        {"number":3,"kind":"two-phase-sink","name":"audit","input":[{"name":"n","type":"i64"}],"grants":["log"]}]}"#;

    #[test]
    fn a_plan_is_shown_by_kind_and_with_its_graph() {
        let expected = r#"
filter
   0 even  reads (n: i64)
   2 odd  reads ()

process
   1 alerts  reads (s: string?)  by (a: i64)  timers  side output late
     state last: value of (v: f64), kept for 5 ms
     state seen: map of (k: string) to (v: bool)

two-phase-sink
   3 audit  reads (n: i64)  asks for folder log

job
   0 lines  source file path="a" watch=true
     reads a: needs `--allow-path a`
   1 alerts  function 1  from lines by (a, b)
   2 out  sink print  from alerts.late
   3 audit  sink function 3  from alerts
"#;
        assert_eq!(
            describe_plan(&Plan::from_json(PLAN).unwrap(), &Named::default()),
            expected
        );
        let named = Named::new(&["--input=a".to_owned()], &[], &[]);
        assert!(
            describe_plan(&Plan::from_json(PLAN).unwrap(), &named).contains("\n     reads a\n")
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        for (text, expected) in [
            (
                "postgresql://me:se@cret@db/x",
                r#""postgresql://me:***@db/x""#,
            ),
            ("postgresql://me@db/x", r#""postgresql://me@db/x""#),
            ("host=db password=secret", r#""host=db password=***""#),
            ("a:b@c", r#""a:b@c""#),
        ] {
            assert_eq!(without_password(&json!(text)), expected);
        }
        assert_eq!(without_password(&json!(5)), "5");
    }

    #[test]
    fn an_empty_plan_says_so() {
        assert_eq!(
            describe_plan(&Plan::default(), &Named::default()),
            "\nno functions\n"
        );
    }
}
