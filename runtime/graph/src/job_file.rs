//! `job.toml`: a job wired from ready-made components, without a line of code.
//!
//! The file names components; what their functions read and return is known only once they have
//! described themselves. So reading is in two steps: [`JobFile::parse`], then [`JobFile::spec`]
//! with one plan for each of [`JobFile::plugins`].

use crate::spec::{FunctionRef, JobSpec};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_types::{Error, Result, code};
use streamrt_wit::{
    Body, Field, Generator, Input, Node, Options, OutputColumns, OutputPort, Partitioning, Plan,
    Schema, TimeSource, TimeUnit,
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
    #[serde(default)]
    plugin: PluginTable,
}

/// Settings for all components of the job.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginTable {
    /// Folders by the names under which functions ask for them.
    #[serde(default)]
    grant: BTreeMap<String, String>,
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
    input: Inputs,
    /// For a function with two inputs: the second one, all of whose rows go to every subtask.
    broadcast: Option<Inputs>,
    #[serde(default)]
    key: Vec<String>,
    parallelism: Option<u32>,
    #[serde(default)]
    args: Args,
}

#[derive(Debug, Deserialize)]
struct SinkTable {
    /// Checked with the graph, which has a code for it.
    #[serde(default)]
    uid: String,
    input: Inputs,
    /// A sink of the host; otherwise `component` and `function` are given.
    connector: Option<String>,
    component: Option<String>,
    function: Option<String>,
    #[serde(default)]
    args: Args,
    write_ahead_bytes: Option<u64>,
    #[serde(flatten)]
    options: Options,
}

/// `"uid"`, or `["uid", "other"]` for the union of several streams.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an input is a uid, or a list of uids")]
enum Inputs {
    One(String),
    Several(Vec<String>),
}

impl Inputs {
    fn uids(&self) -> &[String] {
        match self {
            Inputs::One(uid) => std::slice::from_ref(uid),
            Inputs::Several(uids) => uids,
        }
    }

    /// One edge for each, to the input `number` of a node.
    fn edges(&self, number: u16, partitioning: Partitioning) -> impl Iterator<Item = Input> {
        let edge = Input {
            node: u32::MAX,
            port: 0,
            partitioning,
            input: number,
        };
        self.uids().iter().map(move |_| edge.clone())
    }
}

/// Arguments of a component, by name.
type Args = BTreeMap<String, serde_json::Value>;

impl SinkTable {
    /// A sink of the host, or one of the component whose plan is the next that no function uses.
    fn body(&self, job: &mut JobSpec, plans: &[Arc<Plan>]) -> Result<Body> {
        let refuse = |message: &str| Err(Error::new(code::INVALID_JOB, message));
        match (&self.connector, &self.component, &self.function) {
            (Some(_), None, None) if self.write_ahead_bytes.is_some() || !self.args.is_empty() => {
                refuse("`args` and `write_ahead_bytes` are for sinks of components")
            }
            (Some(connector), None, None) => Ok(Body::Sink {
                connector: connector.clone(),
                options: self.options.clone(),
            }),
            (None, Some(_), Some(_)) if !self.options.is_empty() => {
                let names: Vec<&str> = self.options.keys().map(String::as_str).collect();
                refuse(&format!(
                    "a sink of a component has no {}; its own options stand under `args`",
                    names.join(", ")
                ))
            }
            (None, Some(component), Some(function)) => {
                let number = job.functions.len();
                job.functions
                    .push(find_function(component, function, number, &plans[number])?);
                Ok(Body::FunctionSink {
                    function: number as u32,
                    write_ahead_bytes: self.write_ahead_bytes,
                })
            }
            _ => refuse("a sink has either a `connector`, or a `component` and its `function`"),
        }
    }
}

/// The ports of the nodes so far, by uid.
type Ports = BTreeMap<String, (u32, Vec<String>)>;

impl JobFile {
    /// Reads the text of a job file.
    ///
    /// # Errors
    /// `Invalid`, with line and column.
    pub fn parse(text: &str) -> Result<JobFile> {
        toml::from_str(text)
            .map_err(|e| Error::new(code::INVALID_JOB, e.to_string().trim_end().to_owned()))
    }

    /// What the job is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keys of `[configuration]` as text.
    pub fn configuration(&self) -> impl Iterator<Item = (&str, String)> {
        self.configuration
            .iter()
            .map(|(key, value)| (key.as_str(), text_of(value)))
    }

    /// The folders of `[plugin.grant]`, by name; relative to the current folder.
    pub fn grants(&self) -> impl Iterator<Item = (&str, &str)> {
        self.plugin
            .grant
            .iter()
            .map(|(name, folder)| (name.as_str(), folder.as_str()))
    }

    /// The components: one per operator, then one per sink of a component, in the order of the
    /// file.
    pub fn plugins(&self) -> Vec<PluginUse> {
        let args = |args: &Args| {
            args.iter()
                .flat_map(|(key, value)| argument(key, &text_of(value)))
                .collect()
        };
        let operators = self
            .operator
            .iter()
            .map(|table| (&table.component, &table.args));
        let sinks = self.sink.iter().filter_map(|table| {
            table
                .component
                .as_ref()
                .map(|component| (component, &table.args))
        });
        operators
            .chain(sinks)
            .map(|(component, of)| PluginUse {
                component: component.clone(),
                args: args(of),
            })
            .collect()
    }

    /// Wires the job. `plans` belong to [`JobFile::plugins`].
    ///
    /// # Errors
    /// `Invalid`: an input or a function that is not there, or a bad duration.
    pub fn spec(&self, plans: &[Arc<Plan>]) -> Result<JobSpec> {
        assert_eq!(
            plans.len(),
            self.plugins().len(),
            "a plan for each component"
        );
        self.check_uids()?;
        let mut job = JobSpec {
            name: self.name.clone(),
            nodes: Vec::new(),
            functions: Vec::new(),
        };
        for table in &self.source {
            add_source(&mut job, table)?;
        }
        for (plugin, (table, plan)) in self.operator.iter().zip(plans).enumerate() {
            job.functions.push(
                find_function(&table.component, &table.function, plugin, plan)
                    .map_err(|e| e.at(format!("node `{}`", table.uid)))?,
            );
            let body = Body::Function {
                function: plugin as u32,
            };
            let outputs = job.functions[plugin].function().outputs.clone();
            let partitioning = match table.key.is_empty() {
                true => Partitioning::Forward,
                false => Partitioning::Hash {
                    columns: table.key.clone(),
                },
            };
            let broadcast = table
                .broadcast
                .iter()
                .flat_map(|inputs| inputs.edges(1, Partitioning::Broadcast));
            job.nodes.push(Node {
                parallelism: table.parallelism,
                inputs: table
                    .input
                    .edges(0, partitioning)
                    .chain(broadcast)
                    .collect(),
                ..node(&job, &table.uid, body, outputs)
            });
        }
        for table in &self.sink {
            let body = table
                .body(&mut job, plans)
                .map_err(|e| e.at(format!("node `{}`", table.uid)))?;
            job.nodes.push(Node {
                inputs: table.input.edges(0, Partitioning::Forward).collect(),
                ..node(&job, &table.uid, body, Vec::new())
            });
        }
        self.connect(&mut job)?;
        Ok(job)
    }

    /// Checks uids before anything refers to them.
    fn check_uids(&self) -> Result<()> {
        let sources = self.source.iter().map(|table| ("[[source]]", &table.uid));
        let operators = self
            .operator
            .iter()
            .map(|table| ("[[operator]]", &table.uid));
        let sinks = self.sink.iter().map(|table| ("[[sink]]", &table.uid));
        match sources
            .chain(operators)
            .chain(sinks)
            .find(|(_, uid)| uid.trim().is_empty())
        {
            None => Ok(()),
            Some((table, _)) => Err(Error::new(
                code::MISSING_UID,
                format!("a {table} has no uid"),
            )),
        }
    }

    /// Fills in the inputs, now that every node has its number; operators may stand in any order in
    /// the file.
    fn connect(&self, job: &mut JobSpec) -> Result<()> {
        let mut ports = Ports::new();
        for node in &job.nodes {
            // A source with watermarks is followed by the node that makes them, under a uid of its
            // own.
            let uid = node.uid.strip_suffix(WATERMARKS).unwrap_or(&node.uid);
            ports.insert(
                uid.to_owned(),
                (
                    node.id,
                    node.outputs.iter().map(|port| port.name.clone()).collect(),
                ),
            );
        }
        let operators = self
            .operator
            .iter()
            .map(|t| (&t.uid, [Some(&t.input), t.broadcast.as_ref()]));
        let inputs = operators.chain(self.sink.iter().map(|t| (&t.uid, [Some(&t.input), None])));
        let first = job.nodes.len() - self.operator.len() - self.sink.len();
        for (node, (uid, inputs)) in job.nodes[first..].iter_mut().zip(inputs) {
            for (edge, input) in node
                .inputs
                .iter_mut()
                .zip(inputs.into_iter().flatten().flat_map(Inputs::uids))
            {
                (edge.node, edge.port) =
                    resolve(&ports, input).map_err(|e| e.at(format!("node `{uid}`")))?;
            }
        }
        Ok(())
    }
}

const WATERMARKS: &str = "-watermarks";

/// `--key value`, or `--key=value` where the value would look like a name.
fn argument(key: &str, value: &str) -> Vec<String> {
    match value.starts_with("--") {
        true => vec![format!("--{key}={value}")],
        false => vec![format!("--{key}"), value.to_owned()],
    }
}

fn text_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn node(job: &JobSpec, uid: &str, body: Body, outputs: Vec<OutputPort>) -> Node {
    Node {
        id: job.nodes.len() as u32,
        uid: uid.to_owned(),
        place: None,
        parallelism: None,
        chaining: true,
        inputs: Vec::new(),
        body,
        outputs,
    }
}

fn forward_port() -> Vec<OutputPort> {
    vec![OutputPort {
        name: String::new(),
        columns: OutputColumns::Forward,
    }]
}

fn add_source(job: &mut JobSpec, table: &SourceTable) -> Result<()> {
    let schema: Schema = table.columns.clone();
    let body = Body::Source {
        connector: table.connector.clone(),
        options: table.options.clone(),
        schema: schema.clone(),
    };
    let outputs = vec![OutputPort {
        name: String::new(),
        columns: OutputColumns::Replace { schema },
    }];
    job.nodes.push(node(job, &table.uid, body, outputs));
    let Some(watermarks) = &table.watermarks else {
        return Ok(());
    };
    let bound_ms = streamrt_types::parse_duration_ms("bound", &watermarks.bound)
        .map_err(|e| e.at(format!("source `{}`", table.uid)))?;
    let time = TimeSource::Column {
        column: watermarks.column.clone(),
        unit: watermarks.unit,
    };
    let body = Body::Timestamps {
        time,
        generator: Generator::Bounded { bound_ms },
        idle_ms: None,
    };
    let source = Input {
        node: job.nodes.len() as u32 - 1,
        port: 0,
        partitioning: Partitioning::Forward,
        input: 0,
    };
    job.nodes.push(Node {
        inputs: vec![source],
        ..node(
            job,
            &format!("{}{WATERMARKS}", table.uid),
            body,
            forward_port(),
        )
    });
    Ok(())
}

fn find_function(
    component: &str,
    name: &str,
    plugin: usize,
    plan: &Arc<Plan>,
) -> Result<FunctionRef> {
    match plan.functions.iter().find(|function| function.name == name) {
        Some(function) => Ok(FunctionRef {
            plugin,
            plan: plan.clone(),
            number: function.number,
        }),
        None => {
            let known: Vec<&str> = plan.functions.iter().map(|f| f.name.as_str()).collect();
            let message = format!(
                "component {component} has no function `{name}`; it has {}",
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
        Error::new(
            code::UNKNOWN_UID,
            format!(
                "its input `{input}` is no uid of the job; there are {}",
                known.join(", ")
            ),
        )
    })
}
