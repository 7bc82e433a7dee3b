//! The environment that `job` builds its graph in. It collects nodes, functions and mistakes;
//! `describe` turns it into the plan.
//!
//! Invariant: the same arguments give the same plan, because `job` is run once for the plan and
//! once in every instance.

use crate::args::Args;
use crate::chain::Maker;
use crate::connector::Source;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::stream::Stream;
use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::panic::Location;
use std::rc::Rc;
use streamrt_wit::{Body, Function, FunctionKind, Input, Node, OutputColumns, OutputPort, Plan};

/// Where a job puts its sources, operators and sinks together, and reads its arguments.
pub struct Env {
    graph: Graph,
    args: Args,
}

impl Env {
    pub(crate) fn new(args: &[String]) -> Env {
        Env {
            graph: Graph::default(),
            args: Args::new(args),
        }
    }

    /// Begins a stream at a source of the host. `uid` names the source in reports and keeps its
    /// state across versions of the job.
    #[track_caller]
    pub fn source<S: Source>(&mut self, uid: &str, source: S) -> Stream<S::Record> {
        let outputs = vec![main_port(OutputColumns::Replace {
            schema: S::Record::schema(),
        })];
        let body = Body::Source {
            connector: S::CONNECTOR.to_owned(),
            options: source.options(),
            schema: S::Record::schema(),
        };
        let node = self.graph.node(uid, Vec::new(), body, outputs);
        Stream::of(&self.graph, node, 0)
    }

    /// All arguments after `--` on the command line, for a job that reads them by itself. Otherwise
    /// everything that is given must be read by one of the methods below before the job function
    /// returns: what is not is refused, with the name that it is closest to.
    pub fn args(&self) -> &[String] {
        self.args.all()
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

    /// Whether `--name VALUE` is among the arguments.
    pub fn has(&self, name: &str) -> bool {
        self.args.find(name).is_some()
    }

    /// Whether `--name` is among the arguments, without a value or with `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.args.flag(name)
    }

    pub(crate) fn finish(self) -> Result<Built> {
        self.args.check()?;
        self.graph.built()
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
    /// In the order in which they were made.
    mistakes: Vec<Error>,
}

impl Graph {
    #[track_caller]
    pub(crate) fn node(
        &self,
        uid: &str,
        inputs: Vec<Input>,
        body: Body,
        outputs: Vec<OutputPort>,
    ) -> u32 {
        let place = Location::caller().to_string();
        let nodes = &mut self.0.borrow_mut().plan.nodes;
        let id = nodes.len() as u32;
        nodes.push(Node {
            id,
            uid: uid.to_owned(),
            place: Some(place),
            parallelism: None,
            chaining: true,
            inputs,
            body,
            outputs,
        });
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

    /// Whether a function of this name was registered.
    pub(crate) fn has_function(&self, name: &str) -> bool {
        self.0
            .borrow()
            .plan
            .functions
            .iter()
            .any(|function| function.name == name)
    }

    /// Takes the graph out.
    pub(crate) fn built(&self) -> Result<Built> {
        self.0.take().built()
    }

    /// Notes a mistake in the job. Its place is where the user called the verb.
    #[track_caller]
    pub(crate) fn mistake(&self, error: Error) {
        self.0
            .borrow_mut()
            .mistakes
            .push(error.at(&Location::caller().to_string()));
    }

    #[track_caller]
    pub(crate) fn check<V: Default>(&self, result: Result<V>) -> V {
        // A closure would be a place of its own.
        match result {
            Ok(value) => value,
            Err(error) => {
                self.mistake(error);
                V::default()
            }
        }
    }

    pub(crate) fn uid(&self, node: u32) -> String {
        self.edit(node, |node| node.uid.clone())
    }

    /// Lets `edit` change a node that this graph made.
    pub(crate) fn edit<R>(&self, node: u32, edit: impl FnOnce(&mut Node) -> R) -> R {
        edit(&mut self.0.borrow_mut().plan.nodes[node as usize])
    }

    /// The number of the side output `name` of a node, which is added if it is new.
    #[track_caller]
    pub(crate) fn side_port(&self, node: u32, name: &str, columns: OutputColumns) -> u16 {
        let (port, mistake) = self.0.borrow_mut().side_port(
            node,
            OutputPort {
                name: name.to_owned(),
                columns,
            },
        );
        if let Some(mistake) = mistake {
            self.mistake(mistake);
        }
        port
    }
}

impl Parts {
    /// The number of a side output, and what is wrong with it.
    fn side_port(&mut self, node: u32, port: OutputPort) -> (u16, Option<Error>) {
        let node = &mut self.plan.nodes[node as usize];
        let (uid, name) = (&node.uid, &port.name);
        if let Some(known) = node.outputs.iter().position(|known| known.name == *name) {
            let same = node.outputs[known] == port;
            return (
                known as u16,
                (!same).then(|| {
                    Error::columns(format!(
                        "{uid}: the side output {name} is used with two types"
                    ))
                }),
            );
        }
        let number = if let Body::Function { function } = node.body {
            Some(function as usize)
        } else {
            None
        };
        let function = number.and_then(|number| self.plan.functions.get_mut(number));
        let process = function.filter(|function| {
            matches!(
                function.kind,
                FunctionKind::Process | FunctionKind::BroadcastProcess
            )
        });
        let none = || {
            Error::job(format!(
                "{uid}: it has no side output {name}: only process functions have side outputs"
            ))
        };
        let mistake = process.is_none().then(none);
        process
            .into_iter()
            .for_each(|function| function.outputs.push(port.clone()));
        node.outputs.push(port);
        (node.outputs.len() as u16 - 1, mistake)
    }

    fn built(mut self) -> Result<Built> {
        let mut places = HashMap::new();
        for node in &self.plan.nodes {
            let place = node.place.as_deref().unwrap_or_default();
            if node.uid.is_empty() {
                self.mistakes.push(
                    Error::missing_uid("the uid of an operator is empty: its state is found by it")
                        .at(place),
                );
            } else if let Some(first) = places.insert(node.uid.as_str(), place) {
                self.mistakes.push(
                    Error::doubled_uid(format!(
                        "the uid {} is used twice, first at {first}",
                        node.uid
                    ))
                    .at(place),
                );
            }
        }
        let all = self.mistakes.into_iter().reduce(Error::and);
        all.map_or(
            Ok(Built {
                plan: self.plan,
                makers: self.makers,
            }),
            Err,
        )
    }
}

pub(crate) fn main_port(columns: OutputColumns) -> OutputPort {
    OutputPort {
        name: String::new(),
        columns,
    }
}

pub(crate) fn replace<T: Record>() -> OutputColumns {
    OutputColumns::Replace {
        schema: T::schema(),
    }
}

/// A type without a value, for the record type of a stream.
pub(crate) type Of<T> = PhantomData<fn() -> T>;
