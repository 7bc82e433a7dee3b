//! The environment that `job` builds its graph in. It collects nodes, functions and mistakes; `describe` turns it into the plan.
//!
//! Invariant: the same arguments give the same plan, because `job` is run once for the plan and once in every instance.

use crate::chain::Maker;
use crate::connector::Source;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::stream::Stream;
use std::cell::RefCell;
use std::collections::HashSet;
use std::marker::PhantomData;
use std::rc::Rc;
use streamrt_wit::{Body, Function, FunctionKind, Input, Node, OutputColumns, OutputPort, Partitioning, Plan};

/// Where a job puts its sources, operators and sinks together, and reads its arguments.
pub struct Env {
    graph: Graph,
    args: Args,
}

impl Env {
    pub(crate) fn new(args: &[String]) -> Env {
        Env { graph: Graph::default(), args: Args(args.to_vec()) }
    }

    /// Begins a stream at a source of the host. `uid` names the source in reports and keeps its state across versions of the job.
    pub fn source<S: Source>(&mut self, uid: &str, source: S) -> Stream<S::Record> {
        let outputs = vec![main_port(OutputColumns::Replace { schema: S::Record::schema() })];
        let body = Body::Source { connector: S::CONNECTOR.to_owned(), options: source.options(), schema: S::Record::schema() };
        let node = self.graph.node(uid, Vec::new(), body, outputs);
        Stream::of(&self.graph, node, 0)
    }

    /// All arguments behind `--` on the command line.
    pub fn args(&self) -> &[String] {
        &self.args.0
    }

    /// The value of `--name VALUE` or `--name=VALUE`.
    ///
    /// # Errors
    /// If the argument is missing, with a sentence that names it.
    pub fn arg(&self, name: &str) -> Result<String> {
        self.args.get(name)
    }

    /// The value of `--name VALUE`, or `default`.
    pub fn arg_or(&self, name: &str, default: &str) -> String {
        self.args.find(name).unwrap_or(default).to_owned()
    }

    /// The value of `--name VALUE` read as a number or another type, or `default`.
    ///
    /// # Errors
    /// If the value is there and cannot be read.
    pub fn parse_or<V: std::str::FromStr>(&self, name: &str, default: V) -> Result<V> {
        self.args.parse_or(name, default)
    }

    /// Whether `--name` is among the arguments.
    pub fn flag(&self, name: &str) -> bool {
        self.args.flag(name)
    }

    pub(crate) fn finish(self) -> Result<Built> {
        self.graph.built()
    }
}

/// Arguments as `--name value`, `--name=value` and `--flag`.
#[derive(Default)]
pub(crate) struct Args(pub(crate) Vec<String>);

impl Args {
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().enumerate().find_map(|(i, arg)| match arg.strip_prefix("--")?.strip_prefix(name)? {
            "" => self.0.get(i + 1).map(String::as_str),
            rest => rest.strip_prefix('='),
        })
    }

    pub(crate) fn get(&self, name: &str) -> Result<String> {
        self.find(name).map(str::to_owned).ok_or_else(|| Error::arguments(format!("the argument --{name} is missing")))
    }

    pub(crate) fn parse_or<V: std::str::FromStr>(&self, name: &str, default: V) -> Result<V> {
        match self.find(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| Error::arguments(format!("the argument --{name} cannot be read: {text}"))),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|arg| arg.strip_prefix("--") == Some(name))
    }
}

/// A plan, and what makes its functions run.
pub struct Built {
    pub(crate) plan: Plan,
    /// `makers[i]` belongs to `plan.functions[i]`; each can be used once.
    pub(crate) makers: Vec<Option<Maker>>,
}

/// The graph under construction, shared by the streams that point into it.
#[derive(Clone, Default)]
pub(crate) struct Graph(Rc<RefCell<Parts>>);

#[derive(Default)]
struct Parts {
    plan: Plan,
    makers: Vec<Option<Maker>>,
    mistakes: Vec<Error>,
}

impl Graph {
    pub(crate) fn node(&self, uid: &str, inputs: Vec<Input>, body: Body, outputs: Vec<OutputPort>) -> u32 {
        let nodes = &mut self.0.borrow_mut().plan.nodes;
        let id = nodes.len() as u32;
        nodes.push(Node { id, uid: uid.to_owned(), parallelism: None, chaining: true, inputs, body, outputs });
        id
    }

    /// Registers a function, and returns its number.
    pub(crate) fn function(&self, mut function: Function, maker: Maker) -> u32 {
        let mut parts = self.0.borrow_mut();
        function.number = parts.plan.functions.len() as u32;
        let number = function.number;
        parts.plan.functions.push(function);
        parts.makers.push(Some(maker));
        number
    }

    /// Takes the graph away.
    pub(crate) fn built(&self) -> Result<Built> {
        self.0.take().built()
    }

    pub(crate) fn mistake(&self, error: Error) {
        self.0.borrow_mut().mistakes.push(error);
    }

    pub(crate) fn check<V: Default>(&self, result: Result<V>) -> V {
        result.unwrap_or_else(|error| {
            self.mistake(error);
            V::default()
        })
    }

    pub(crate) fn uid(&self, node: u32) -> String {
        self.edit(node, |node| node.uid.clone())
    }

    /// Lets `edit` change a node that this graph made.
    pub(crate) fn edit<R>(&self, node: u32, edit: impl FnOnce(&mut Node) -> R) -> R {
        edit(&mut self.0.borrow_mut().plan.nodes[node as usize])
    }

    /// The number of the side output `name` of a node, which is added if it is new.
    pub(crate) fn side_port(&self, node: u32, name: &str, columns: OutputColumns) -> u16 {
        let parts = &mut *self.0.borrow_mut();
        let node = &mut parts.plan.nodes[node as usize];
        let port = OutputPort { name: name.to_owned(), columns };
        if let Some(known) = node.outputs.iter().position(|port| port.name == name) {
            if node.outputs[known] != port {
                parts.mistakes.push(Error::new(format!("{}: the side output {name} is used with two types", node.uid)));
            }
            return known as u16;
        }
        let functions = &mut parts.plan.functions;
        let function = if let Body::Function { function } = node.body { functions.get_mut(function as usize) } else { None };
        match function.filter(|function| matches!(function.kind, FunctionKind::Process | FunctionKind::BroadcastProcess)) {
            Some(function) => function.outputs.push(port.clone()),
            None => {
                let sentence = format!("{}: it has no side output {name}: only process functions have side outputs", node.uid);
                parts.mistakes.push(Error::new(sentence));
            }
        }
        node.outputs.push(port);
        node.outputs.len() as u16 - 1
    }
}

impl Parts {
    fn built(mut self) -> Result<Built> {
        let mut uids = HashSet::new();
        for node in &self.plan.nodes {
            if node.uid.is_empty() {
                self.mistakes.push(Error::new(format!("operator {} has an empty uid", node.id)));
            } else if !uids.insert(node.uid.as_str()) {
                self.mistakes.push(Error::new(format!("the uid {} is used twice", node.uid)));
            }
        }
        match self.mistakes.into_iter().next() {
            Some(first) => Err(first),
            None => Ok(Built { plan: self.plan, makers: self.makers }),
        }
    }
}

pub(crate) fn main_port(columns: OutputColumns) -> OutputPort {
    OutputPort { name: String::new(), columns }
}

pub(crate) fn replace<T: Record>() -> OutputColumns {
    OutputColumns::Replace { schema: T::schema() }
}

/// A type without a value, for the record type of a stream.
pub(crate) type Of<T> = PhantomData<fn() -> T>;

/// An edge from a stream.
pub(crate) fn edge(node: u32, port: u16, partitioning: Partitioning) -> Vec<Input> {
    vec![Input { node, port, partitioning, input: 0 }]
}
