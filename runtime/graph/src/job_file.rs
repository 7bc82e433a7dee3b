//! `job.toml`: a job wired from ready-made components, without a line of code.
//!
//! The file names components; what their functions read and give is known only once they have described themselves. So reading is in
//! two steps: [`JobFile::parse`], then [`JobFile::spec`] with one plan for each of [`JobFile::plugins`].

use crate::spec::{FunctionRef, JobSpec};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_types::{Error, Result, code};
use streamrt_wit::{
    Body, Field, Generator, Input, Node, Options, OutputColumns, OutputPort, Partitioning, Plan, Schema, TimeSource, TimeUnit,
};

/// A component as a job file uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginUse {
    /// As written; relative to the job file's folder.
    pub component: String,
    /// For `describe`.
    pub args: Vec<String>,
}

/// A job file, parsed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    name: String,
    /// Like `-D` on the command line, which comes after it.
    #[serde(default)]
    configuration: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    source: Vec<SourceTable>,
    #[serde(default)]
    operator: Vec<OperatorTable>,
    #[serde(default)]
    sink: Vec<SinkTable>,
}

#[derive(Debug, Deserialize)]
struct SourceTable {
    /// Checked with the graph, which has a code for it.
    #[serde(default)]
    uid: String,
    connector: String,
    columns: Vec<Field>,
    watermarks: Option<WatermarkTable>,
    #[serde(flatten)]
    options: Options,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WatermarkTable {
    column: String,
    unit: TimeUnit,
    /// For example `2s`.
    bound: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorTable {
    /// Checked with the graph, which has a code for it.
    #[serde(default)]
    uid: String,
    component: String,
    function: String,
    input: String,
    #[serde(default)]
    key: Vec<String>,
    parallelism: Option<u32>,
    #[serde(default)]
    args: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct SinkTable {
    /// Checked with the graph, which has a code for it.
    #[serde(default)]
    uid: String,
    connector: String,
    input: String,
    #[serde(flatten)]
    options: Options,
}

/// The ports of the nodes so far, by uid.
type Ports = BTreeMap<String, (u32, Vec<String>)>;

impl JobFile {
    /// Reads the text of a job file.
    ///
    /// # Errors
    /// `Invalid`, with line and column.
    pub fn parse(text: &str) -> Result<JobFile> {
        toml::from_str(text).map_err(|e| Error::new(code::INVALID_JOB, e.to_string().trim_end().to_owned()))
    }

    /// The keys of `[configuration]` as text.
    pub fn configuration(&self) -> impl Iterator<Item = (&str, String)> {
        self.configuration.iter().map(|(key, value)| (key.as_str(), text_of(value)))
    }

    /// The components, one for each operator, in the order of the file.
    pub fn plugins(&self) -> Vec<PluginUse> {
        let args = |table: &OperatorTable| table.args.iter().flat_map(|(key, value)| [format!("--{key}"), text_of(value)]).collect();
        self.operator.iter().map(|table| PluginUse { component: table.component.clone(), args: args(table) }).collect()
    }

    /// Wires the job. `plans` belong to [`JobFile::plugins`].
    ///
    /// # Errors
    /// `Invalid`: an input or a function that is not there, or a bad duration.
    pub fn spec(&self, plans: &[Arc<Plan>]) -> Result<JobSpec> {
        assert_eq!(plans.len(), self.operator.len(), "a plan for each operator");
        self.check_uids()?;
        let mut job = JobSpec { name: self.name.clone(), nodes: Vec::new(), functions: Vec::new() };
        for table in &self.source {
            add_source(&mut job, table)?;
        }
        for (plugin, (table, plan)) in self.operator.iter().zip(plans).enumerate() {
            job.functions.push(find_function(table, plugin, plan)?);
            let body = Body::Function { function: plugin as u32 };
            let outputs = job.functions[plugin].function().outputs.clone();
            let partitioning = match table.key.is_empty() {
                true => Partitioning::Forward,
                false => Partitioning::Hash { columns: table.key.clone() },
            };
            job.nodes.push(Node {
                parallelism: table.parallelism,
                inputs: vec![unresolved(partitioning)],
                ..node(&job, &table.uid, body, outputs)
            });
        }
        for table in &self.sink {
            let body = Body::Sink { connector: table.connector.clone(), options: table.options.clone() };
            job.nodes.push(Node { inputs: vec![unresolved(Partitioning::Forward)], ..node(&job, &table.uid, body, Vec::new()) });
        }
        self.connect(&mut job)?;
        Ok(job)
    }

    /// Before anything refers to them.
    fn check_uids(&self) -> Result<()> {
        let sources = self.source.iter().map(|table| ("[[source]]", &table.uid));
        let operators = self.operator.iter().map(|table| ("[[operator]]", &table.uid));
        let sinks = self.sink.iter().map(|table| ("[[sink]]", &table.uid));
        match sources.chain(operators).chain(sinks).find(|(_, uid)| uid.trim().is_empty()) {
            None => Ok(()),
            Some((table, _)) => Err(Error::new(code::MISSING_UID, format!("a {table} has no uid"))),
        }
    }

    /// Fills in the inputs, now that every node has its number; operators may stand in any order in the file.
    fn connect(&self, job: &mut JobSpec) -> Result<()> {
        let mut ports = Ports::new();
        for node in &job.nodes {
            // Behind a source with watermarks stands the node that makes them, under a uid of its own.
            let uid = node.uid.strip_suffix(WATERMARKS).unwrap_or(&node.uid);
            ports.insert(uid.to_owned(), (node.id, node.outputs.iter().map(|port| port.name.clone()).collect()));
        }
        let inputs = self.operator.iter().map(|t| (&t.uid, &t.input)).chain(self.sink.iter().map(|t| (&t.uid, &t.input)));
        let first = job.nodes.len() - self.operator.len() - self.sink.len();
        for (number, (uid, input)) in inputs.enumerate() {
            let found = resolve(&ports, input).map_err(|e| e.at(format!("node `{uid}`")))?;
            let edge = &mut job.nodes[first + number].inputs[0];
            (edge.node, edge.port) = found;
        }
        Ok(())
    }
}

const WATERMARKS: &str = "-watermarks";

fn text_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn node(job: &JobSpec, uid: &str, body: Body, outputs: Vec<OutputPort>) -> Node {
    Node { id: job.nodes.len() as u32, uid: uid.to_owned(), parallelism: None, chaining: true, inputs: Vec::new(), body, outputs }
}

fn unresolved(partitioning: Partitioning) -> Input {
    Input { node: u32::MAX, port: 0, partitioning, input: 0 }
}

fn forward_port() -> Vec<OutputPort> {
    vec![OutputPort { name: String::new(), columns: OutputColumns::Forward }]
}

fn add_source(job: &mut JobSpec, table: &SourceTable) -> Result<()> {
    let schema: Schema = table.columns.clone();
    let body = Body::Source { connector: table.connector.clone(), options: table.options.clone(), schema: schema.clone() };
    let outputs = vec![OutputPort { name: String::new(), columns: OutputColumns::Replace { schema } }];
    job.nodes.push(node(job, &table.uid, body, outputs));
    let Some(watermarks) = &table.watermarks else { return Ok(()) };
    let bound_ms = streamrt_types::parse_duration_ms("bound", &watermarks.bound).map_err(|e| e.at(format!("source `{}`", table.uid)))?;
    let time = TimeSource::Column { column: watermarks.column.clone(), unit: watermarks.unit };
    let body = Body::Timestamps { time, generator: Generator::Bounded { bound_ms }, idle_ms: None };
    let source = Input { node: job.nodes.len() as u32 - 1, port: 0, partitioning: Partitioning::Forward, input: 0 };
    job.nodes.push(Node { inputs: vec![source], ..node(job, &format!("{}{WATERMARKS}", table.uid), body, forward_port()) });
    Ok(())
}

fn find_function(table: &OperatorTable, plugin: usize, plan: &Arc<Plan>) -> Result<FunctionRef> {
    match plan.functions.iter().find(|function| function.name == table.function) {
        Some(function) => Ok(FunctionRef { plugin, plan: plan.clone(), number: function.number }),
        None => {
            let known: Vec<&str> = plan.functions.iter().map(|f| f.name.as_str()).collect();
            let message = format!(
                "node `{}`: component {} has no function `{}`; it has {}",
                table.uid,
                table.component,
                table.function,
                known.join(", ")
            );
            Err(Error::new(code::INVALID_JOB, message))
        }
    }
}

/// `uid` or `uid.side-output`.
fn resolve(ports: &Ports, input: &str) -> Result<(u32, u16)> {
    if let Some((id, _)) = ports.get(input) {
        return Ok((*id, 0));
    }
    let side = input.rsplit_once('.').and_then(|(uid, name)| {
        let (id, names) = ports.get(uid)?;
        Some((*id, names.iter().position(|known| known == name)? as u16))
    });
    side.ok_or_else(|| {
        let known: Vec<&str> = ports.keys().map(String::as_str).collect();
        Error::new(code::UNKNOWN_UID, format!("its input `{input}` is no uid of the job; there are {}", known.join(", ")))
    })
}
