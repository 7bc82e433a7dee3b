//! The `StreamGraph`: what the user wrote, checked, with a schema on every edge.
//!
//! 1. uids: present, distinct. 2. inputs: known, no cycle; nodes are brought into an order in which
//!    inputs come first.
//! 3. schemas: computed from the sources on; each node's demands are checked against its input
//!    (`stream_schema`).

use crate::limits::{self, Columns};
use crate::spec::{FunctionRef, JobSpec, functions_of};
use crate::stream_schema;
use arrow_schema::{Field, SchemaRef};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use streamrt_types::{Error, Result, code};
use streamrt_wit::{Body, FunctionKind, Node, OutputColumns, Partitioning};

/// How rows are spread over the receiver's subtasks; key columns as indices into the edge's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgePartitioner {
    Forward,
    Hash(Vec<usize>),
    Rebalance,
    Broadcast,
    Global,
}

/// An edge, kept at its receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamEdge {
    /// Index of the sender in `StreamGraph::nodes`.
    pub from: usize,
    pub port: u16,
    pub partitioner: EdgePartitioner,
    /// Which input of the receiver it leads to: 0, or 1 for the broadcast side of a
    /// broadcast-process function.
    pub input: u16,
}

/// A checked node.
#[derive(Debug, Clone)]
pub struct StreamNode {
    pub uid: String,
    /// `None` means the job's.
    pub parallelism: Option<u32>,
    pub chaining: bool,
    pub body: Body,
    pub inputs: Vec<StreamEdge>,
    /// `None` for a source.
    pub input_schema: Option<SchemaRef>,
    /// The schema of the second input, for a broadcast-process function.
    pub second_schema: Option<SchemaRef>,
    /// Key columns of the input; empty if it is not keyed.
    pub key: Vec<usize>,
    /// Schemas by port.
    pub outputs: Vec<SchemaRef>,
    /// Columns that key projections have added on the way: they carry keys, and sinks do not get
    /// them.
    pub hidden: Vec<String>,
}

/// All nodes, inputs before the nodes that read them.
#[derive(Debug, Clone)]
pub struct StreamGraph {
    pub name: String,
    pub nodes: Vec<StreamNode>,
    pub functions: Vec<FunctionRef>,
}

impl StreamGraph {
    /// Checks a job.
    ///
    /// # Errors
    /// `Invalid`, with the uid of the wrong node.
    pub fn new(spec: &JobSpec) -> Result<StreamGraph> {
        if spec.nodes.is_empty() {
            let message =
                "the job has no nodes; a component without a graph is wired by a job.toml";
            return Err(Error::new(code::INVALID_JOB, message));
        }
        limits::check_nodes(&spec.nodes)?;
        check_uids(&spec.nodes)?;
        let order = topological_order(&spec.nodes)?;
        let mut graph = StreamGraph {
            name: spec.name.clone(),
            nodes: Vec::new(),
            functions: spec.functions.clone(),
        };
        let position: BTreeMap<u32, usize> = order
            .iter()
            .enumerate()
            .map(|(i, &n)| (spec.nodes[n].id, i))
            .collect();
        let mut columns = Columns::default();
        for &n in &order {
            let checked = graph
                .check_node(&spec.nodes[n], &position)
                .and_then(|node| {
                    node.outputs
                        .iter()
                        .try_for_each(|output| columns.add(output.fields().len()))?;
                    Ok(node)
                });
            graph
                .nodes
                .push(checked.map_err(|e| e.at(place_of(&spec.nodes[n])))?);
        }
        match graph.dead_end() {
            Some(dead) => {
                let error = Error::new(code::INVALID_JOB, "nothing reads its output; add a sink");
                Err(error.at(place_of(&spec.nodes[order[dead]])))
            }
            None => Ok(graph),
        }
    }

    /// The functions that node `node` calls.
    pub fn functions_of(&self, node: usize) -> Vec<&FunctionRef> {
        functions_of(&self.nodes[node].body)
            .into_iter()
            .map(|n| &self.functions[n as usize])
            .collect()
    }

    fn check_node(&self, node: &Node, position: &BTreeMap<u32, usize>) -> Result<StreamNode> {
        if let Some(number) = functions_of(&node.body)
            .into_iter()
            .find(|n| *n as usize >= self.functions.len())
        {
            return Err(Error::new(
                code::INVALID_JOB,
                format!("there is no function {number} in the plan"),
            ));
        }
        if node.parallelism == Some(0) {
            return Err(Error::new(
                code::INVALID_JOB,
                "the parallelism is 0, but it must be at least 1",
            ));
        }
        let wrong = functions_of(&node.body)
            .into_iter()
            .map(|n| self.functions[n as usize].function())
            .find(|f| !f.kind.is_sink() && !f.grants.is_empty());
        if let Some(function) = wrong {
            return Err(Error::new(
                code::INVALID_JOB,
                format!(
                    "function {} asks for a folder, which only sinks may",
                    function.number
                ),
            ));
        }
        let is_source = matches!(node.body, Body::Source { .. });
        if is_source != node.inputs.is_empty() {
            let message = if is_source {
                "a source has no inputs"
            } else {
                "the node has no input"
            };
            return Err(Error::new(code::INVALID_JOB, message));
        }
        let (input_schema, mut inputs) = self.edges(node, 0, position)?;
        let (second_schema, second) = self.edges(node, 1, position)?;
        let key = match inputs.first().map(|edge| &edge.partitioner) {
            Some(EdgePartitioner::Hash(columns)) => columns.clone(),
            _ => Vec::new(),
        };
        let function = |n: u32| self.functions[n as usize].function();
        stream_schema::check_second_input(node, second_schema.as_ref(), &second, &function)?;
        let outputs = stream_schema::outputs(node, input_schema.as_ref(), &key, &function)?;
        inputs.extend(second);
        let hidden = self.hidden(node, &inputs, input_schema.as_ref());
        Ok(StreamNode {
            hidden,
            uid: node.uid.clone(),
            parallelism: node.parallelism,
            chaining: node.chaining,
            body: node.body.clone(),
            inputs,
            input_schema,
            second_schema,
            key,
            outputs,
        })
    }

    /// Each once, and only those that are still there: united inputs have the same ones, and a
    /// function that replaces the columns drops them.
    fn hidden(&self, node: &Node, inputs: &[StreamEdge], input: Option<&SchemaRef>) -> Vec<String> {
        let there: BTreeSet<&str> = input
            .iter()
            .flat_map(|schema| schema.fields())
            .map(|field| field.name().as_str())
            .collect();
        let of_inputs = inputs
            .iter()
            .flat_map(|edge| &self.nodes[edge.from].hidden)
            .filter(|name| there.contains(name.as_str()));
        let mut seen = BTreeSet::new();
        let mut hidden: Vec<String> = of_inputs
            .filter(|name| seen.insert(name.as_str()))
            .cloned()
            .collect();
        let Body::Function { function } = node.body else {
            return hidden;
        };
        let function = self.functions[function as usize].function();
        let columns = function.outputs.first().map(|port| &port.columns);
        if let (FunctionKind::KeyProjection, Some(OutputColumns::Extend { schema })) =
            (function.kind, columns)
        {
            hidden.extend(schema.iter().map(|field| field.name.clone()));
        }
        hidden
    }

    /// Resolves the edges of one input of a node; several are a union and must agree in schema and
    /// partitioning.
    fn edges(
        &self,
        node: &Node,
        number: u16,
        position: &BTreeMap<u32, usize>,
    ) -> Result<(Option<SchemaRef>, Vec<StreamEdge>)> {
        let (mut schema, mut edges): (Option<SchemaRef>, Vec<StreamEdge>) = (None, Vec::new());
        for input in node.inputs.iter().filter(|input| input.input == number) {
            let from = position[&input.node];
            let sender = &self.nodes[from];
            let Some(found) = sender.outputs.get(input.port as usize) else {
                return Err(Error::new(
                    code::UNKNOWN_UID,
                    format!("node `{}` has no output port {}", sender.uid, input.port),
                ));
            };
            if let Some(first) = schema.as_ref().filter(|first| *first != found) {
                let first_sender = &self.nodes[edges[0].from].uid;
                let (first, found) = (columns(first), columns(found));
                let message = format!(
                    "its inputs have different columns: {first} of `{first_sender}` and {found} of `{}`",
                    sender.uid
                );
                return Err(Error::new(code::SCHEMA_MISMATCH, message));
            }
            if edges
                .iter()
                .any(|edge| edge.from == from && edge.port == input.port)
            {
                return Err(Error::new(
                    code::INVALID_JOB,
                    format!(
                        "it reads the output of `{}` twice; a flat-map gives each row twice",
                        sender.uid
                    ),
                ));
            }
            edges.push(StreamEdge {
                from,
                port: input.port,
                partitioner: partitioner(&input.partitioning, found)?,
                input: number,
            });
            schema = Some(found.clone());
        }
        if edges
            .windows(2)
            .any(|pair| pair[0].partitioner != pair[1].partitioner)
        {
            return Err(Error::new(
                code::INVALID_JOB,
                "its inputs are partitioned in different ways",
            ));
        }
        Ok((schema, edges))
    }

    /// A node whose main results go nowhere, which is a mistake; side outputs may be ignored.
    fn dead_end(&self) -> Option<usize> {
        let used: BTreeSet<usize> = self
            .nodes
            .iter()
            .flat_map(|node| node.inputs.iter().map(|edge| edge.from))
            .collect();
        self.nodes
            .iter()
            .enumerate()
            .find(|(i, node)| !node.body.is_sink() && !used.contains(i))
            .map(|(i, _)| i)
    }
}

/// A node as messages name it, with its place in the user's program where that is known.
fn place_of(node: &Node) -> String {
    let place = node
        .place
        .as_ref()
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    format!("node `{}`{place}", node.uid)
}

/// The columns of an edge in words, with their types.
fn columns(schema: &SchemaRef) -> String {
    let optional = |nullable: bool| if nullable { "?" } else { "" };
    let column = |f: &Field| {
        format!(
            "{}: {}{}",
            f.name(),
            f.data_type(),
            optional(f.is_nullable())
        )
    };
    format!(
        "({})",
        schema
            .fields()
            .iter()
            .map(|f| column(f))
            .collect::<Vec<_>>()
            .join(", ")
    )
}

fn partitioner(partitioning: &Partitioning, schema: &SchemaRef) -> Result<EdgePartitioner> {
    Ok(match partitioning {
        Partitioning::Forward => EdgePartitioner::Forward,
        Partitioning::Rebalance => EdgePartitioner::Rebalance,
        Partitioning::Broadcast => EdgePartitioner::Broadcast,
        Partitioning::Global => EdgePartitioner::Global,
        Partitioning::Hash { columns } if columns.is_empty() => {
            return Err(Error::new(code::INVALID_JOB, "the key has no columns"));
        }
        Partitioning::Hash { columns } => EdgePartitioner::Hash(
            columns
                .iter()
                .map(|name| stream_schema::column(schema, name))
                .collect::<Result<_>>()?,
        ),
    })
}

fn check_uids(nodes: &[Node]) -> Result<()> {
    let (mut uids, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for node in nodes {
        if node.uid.trim().is_empty() {
            return Err(Error::new(
                code::MISSING_UID,
                format!("node {} has no uid", node.id),
            ));
        }
        if !uids.insert(&node.uid) {
            return Err(Error::new(
                code::DOUBLED_UID,
                format!("the uid `{}` is given to two nodes", node.uid),
            ));
        }
        if !ids.insert(node.id) {
            return Err(Error::new(
                code::INVALID_JOB,
                format!(
                    "node `{}`: the id {} is given to two nodes",
                    node.uid, node.id
                ),
            ));
        }
    }
    Ok(())
}

/// The nodes on cycles: what remains of the leftover nodes once those that merely hang on a cycle
/// are removed.
fn cycle(nodes: &[Node], index: &BTreeMap<u32, usize>, done: &[usize]) -> Vec<usize> {
    let mut left = vec![true; nodes.len()];
    done.iter().for_each(|i| left[*i] = false);
    let inputs = |i: usize| nodes[i].inputs.iter().map(|input| index[&input.node]);
    let mut n_readers = vec![0usize; nodes.len()];
    (0..nodes.len())
        .filter(|i| left[*i])
        .flat_map(inputs)
        .for_each(|input| n_readers[input] += 1);
    let mut unread: Vec<usize> = (0..nodes.len())
        .filter(|i| left[*i] && n_readers[*i] == 0)
        .collect();
    while let Some(i) = unread.pop() {
        left[i] = false;
        unread.extend(inputs(i).filter(|input| is_last(&mut n_readers[*input]) && left[*input]));
    }
    (0..nodes.len()).filter(|i| left[*i]).collect()
}

/// The nodes that read each node, once per edge.
fn users(nodes: &[Node], index: &BTreeMap<u32, usize>) -> Result<Vec<Vec<usize>>> {
    let mut users = vec![Vec::new(); nodes.len()];
    for (i, node, input) in nodes
        .iter()
        .enumerate()
        .flat_map(|(i, node)| node.inputs.iter().map(move |input| (i, node, input)))
    {
        let missing = || {
            format!(
                "node `{}`: its input is node {}, which is not there",
                node.uid, input.node
            )
        };
        let from = index
            .get(&input.node)
            .ok_or_else(|| Error::new(code::UNKNOWN_UID, missing()))?;
        users[*from].push(i);
    }
    Ok(users)
}

/// Counts down by one, and returns whether it was the last.
fn is_last(n: &mut usize) -> bool {
    *n -= 1;
    *n == 0
}

/// Kahn's algorithm; among the free nodes, the user's order decides.
fn topological_order(nodes: &[Node]) -> Result<Vec<usize>> {
    let index: BTreeMap<u32, usize> = nodes
        .iter()
        .enumerate()
        .map(|(i, node)| (node.id, i))
        .collect();
    let users = users(nodes, &index)?;
    let mut n_missing: Vec<usize> = nodes.iter().map(|node| node.inputs.len()).collect();
    let mut free: BinaryHeap<Reverse<usize>> = (0..nodes.len())
        .filter(|i| n_missing[*i] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(next)) = free.pop() {
        order.push(next);
        users[next]
            .iter()
            .filter(|user| is_last(&mut n_missing[**user]))
            .for_each(|user| free.push(Reverse(*user)));
    }
    if order.len() == nodes.len() {
        return Ok(order);
    }
    let names: Vec<String> = cycle(nodes, &index, &order)
        .into_iter()
        .map(|i| format!("`{}`", nodes[i].uid))
        .collect();
    Err(Error::new(
        code::CYCLE,
        format!("the job graph has a cycle through {}", names.join(", ")),
    ))
}
