//! The `JobGraph`: operators chained into vertices, each of which becomes tasks.
//!
//! 1. A node joins the vertex of its input if the edge is forward, the only one, both have the same
//!    parallelism, and chaining is not switched off. 2. A source is two vertices: the enumerator
//!    (parallelism 1) and the readers. 3. Functions of one plugin that follow each other in a
//!    vertex, where only the second reads the first's main output, are fused into one operator: one
//!    guest call for all.
//!
//! # Source
//! Flink's `StreamingJobGraphGenerator`, for rule 1.

use crate::stream::{EdgePartitioner, StreamGraph};
use std::collections::{BTreeMap, BTreeSet};
use streamrt_types::Target;
use streamrt_wit::{Body, Function, FunctionKind, OutputColumns, Schema};

/// What feeds a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Finds the splits of this source node, and sends each to a reader.
    Enumerator { node: usize },
    /// Reads splits of this source node; operator 0 of the chain passes its rows on.
    Reader { node: usize },
    /// Reads the channels of other vertices.
    Gate,
}

/// An operator of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainedOperator {
    /// The stream node; several if functions are fused.
    pub nodes: Vec<usize>,
    /// Ports carry the number of the fused function in bits 8 to 15.
    pub targets: Vec<(u16, Target)>,
}

/// An edge to another vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub to: usize,
    pub partitioner: EdgePartitioner,
    /// Which input of the receiver it leads to.
    pub input: u16,
}

/// A chain that runs as `parallelism` tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobVertex {
    pub name: String,
    pub parallelism: u32,
    pub head: Head,
    pub operators: Vec<ChainedOperator>,
    pub exits: Vec<Exit>,
}

/// The chained graph.
#[derive(Debug, Clone)]
pub struct JobGraph {
    pub stream: StreamGraph,
    /// Senders before their receivers.
    pub vertices: Vec<JobVertex>,
}

impl JobVertex {
    /// How a subtask is called, as in `count (2/4)`; `index` counts from 0.
    pub fn subtask_name(&self, index: u32) -> String {
        format!("{} ({}/{})", self.name, index + 1, self.parallelism)
    }
}

impl JobGraph {
    /// Chains a checked graph. `parallelism` applies to nodes that name none.
    pub fn new(stream: StreamGraph, parallelism: u32) -> JobGraph {
        let mut n_readers = vec![0; stream.nodes.len()];
        stream
            .nodes
            .iter()
            .flat_map(|node| &node.inputs)
            .filter(|edge| edge.port == 0)
            .for_each(|edge| n_readers[edge.from] += 1);
        let graph = JobGraph {
            stream,
            vertices: Vec::new(),
        };
        let mut builder = Builder {
            graph,
            places: Vec::new(),
            parallelism,
            n_readers,
            known: BTreeMap::new(),
        };
        for node in 0..builder.graph.stream.nodes.len() {
            builder.place(node);
        }
        builder.graph
    }

    /// The pipelined regions: the vertices that edges connect, each list in ascending order. A
    /// failure in one of them does not affect the others.
    ///
    /// # Source
    /// Flink's failover regions. **Ours:** a region has all subtasks of its vertices, because the
    /// readers of a source share its enumerator.
    pub fn regions(&self) -> Vec<Vec<usize>> {
        // Each vertex points to one of its region that does not come after it; the first one of a
        // region to itself.
        let mut first: Vec<usize> = (0..self.vertices.len()).collect();
        for (vertex, exit) in self
            .vertices
            .iter()
            .enumerate()
            .flat_map(|(v, vertex)| vertex.exits.iter().map(move |exit| (v, exit)))
        {
            let (one, other) = (first_of(&mut first, vertex), first_of(&mut first, exit.to));
            first[one.max(other)] = one.min(other);
        }
        let mut regions = BTreeMap::<usize, Vec<usize>>::new();
        (0..first.len()).for_each(|vertex| {
            regions
                .entry(first_of(&mut first, vertex))
                .or_default()
                .push(vertex)
        });
        regions.into_values().collect()
    }
}

/// The first vertex of a region; paths are halved on the way.
fn first_of(first: &mut [usize], mut vertex: usize) -> usize {
    while first[vertex] != vertex {
        first[vertex] = first[first[vertex]];
        vertex = first[vertex];
    }
    vertex
}

/// Where a node ended up.
#[derive(Clone, Copy)]
struct Place {
    vertex: usize,
    operator: usize,
    /// Its number among the fused functions.
    function: usize,
}

/// Operators of a chain: each hands its rows to the next one, so the stack of the task grows with
/// their number.
const OPERATORS_MAX: usize = 100;

/// The most bytes in the name of a vertex with several operators, and how a longer one ends.
const NAME_BYTES_MAX: usize = 1_000;
const MORE: &str = " -> ...";

fn names(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.iter().map(|field| field.name.as_str())
}

struct Builder {
    graph: JobGraph,
    places: Vec<Place>,
    parallelism: u32,
    /// The number of readers of each node's main output.
    n_readers: Vec<usize>,
    /// The columns that the guest has after the functions that an operator, by vertex and number,
    /// has so far.
    known: BTreeMap<(usize, usize), BTreeSet<String>>,
}

impl Builder {
    fn place(&mut self, node: usize) {
        let place = match self.chain_to(node) {
            Some(sender) if self.fuses(sender, node) => self.fuse(sender, node),
            Some(sender) => self.append(sender.vertex, node),
            None => self.new_vertex(node),
        };
        self.places.push(place);
        self.note_columns(place, node);
        self.connect(node, place);
    }

    fn parallelism_of(&self, node: usize) -> u32 {
        self.graph.stream.nodes[node]
            .parallelism
            .unwrap_or(self.parallelism)
    }

    fn chain_to(&self, node: usize) -> Option<Place> {
        let receiver = &self.graph.stream.nodes[node];
        let [edge] = &receiver.inputs[..] else {
            return None;
        };
        let equal = self.parallelism_of(edge.from) == self.parallelism_of(node);
        let sender = self.places[edge.from];
        let has_room = self.graph.vertices[sender.vertex].operators.len() < OPERATORS_MAX
            || self.fuses(sender, node);
        (edge.partitioner == EdgePartitioner::Forward && equal && receiver.chaining && has_room)
            .then_some(sender)
    }

    /// The plugin of a node whose function can follow another one in a chain, or precede it.
    fn plugin_of(&self, node: usize, behind: bool) -> Option<usize> {
        let stream = &self.graph.stream;
        let (Body::Function { function }, key) =
            (&stream.nodes[node].body, &stream.nodes[node].key)
        else {
            return None;
        };
        let function = &stream.functions[*function as usize];
        let keyed = function.function().kind == FunctionKind::Process && !key.is_empty();
        // Only the function at the head of a chain has state.
        let in_front = keyed || !function.function().states.is_empty();
        (!behind || !in_front).then_some(function.plugin)
    }

    fn fuses(&self, sender: Place, node: usize) -> bool {
        let stream = &self.graph.stream;
        let edge = &stream.nodes[node].inputs[0];
        let fused = &self.graph.vertices[sender.vertex].operators[sender.operator].nodes;
        let is_last = fused.last() == Some(&edge.from);
        let plugin = self.plugin_of(node, true);
        let same_plugin = plugin.is_some() && plugin == self.plugin_of(edge.from, false);
        edge.port == 0
            && self.n_readers[edge.from] == 1
            && is_last
            && fused.len() < 256
            && same_plugin
            && self.reaches(sender, node)
    }

    /// Whether the guest has every column that the node reads after the fused functions.
    fn reaches(&self, sender: Place, node: usize) -> bool {
        let known = self.known.get(&(sender.vertex, sender.operator));
        known
            .is_some_and(|known| names(&self.function(node).input).all(|name| known.contains(name)))
    }

    fn function(&self, node: usize) -> &Function {
        self.graph.stream.functions_of(node)[0].function()
    }

    /// Records the columns that the guest has after the function of a node: those that the first of
    /// an operator's functions reads and those that they have added, or, after one that replaces
    /// the columns, its own.
    fn note_columns(&mut self, place: Place, node: usize) {
        if !matches!(self.graph.stream.nodes[node].body, Body::Function { .. }) {
            return;
        }
        let mut known = self
            .known
            .remove(&(place.vertex, place.operator))
            .unwrap_or_default();
        let function = self.function(node);
        if place.function == 0 {
            known.extend(names(&function.input).map(str::to_owned));
        }
        match function.outputs.first().map(|port| &port.columns) {
            Some(OutputColumns::Extend { schema }) => {
                known.extend(names(schema).map(str::to_owned))
            }
            Some(OutputColumns::Replace { schema }) => {
                known = names(schema).map(str::to_owned).collect()
            }
            Some(OutputColumns::Forward) | None => {}
        }
        self.known.insert((place.vertex, place.operator), known);
    }

    fn fuse(&mut self, sender: Place, node: usize) -> Place {
        let fused = &mut self.graph.vertices[sender.vertex].operators[sender.operator].nodes;
        fused.push(node);
        Place {
            function: fused.len() - 1,
            ..sender
        }
    }

    fn append(&mut self, vertex: usize, node: usize) -> Place {
        let uid = &self.graph.stream.nodes[node].uid;
        let chain = &mut self.graph.vertices[vertex];
        // Nobody reads the name of a longer chain, and each of its operators would copy it.
        if chain.name.len() + uid.len() <= NAME_BYTES_MAX {
            chain.name = format!("{} -> {uid}", chain.name);
        } else if !chain.name.ends_with(MORE) {
            chain.name += MORE;
        }
        chain.operators.push(ChainedOperator {
            nodes: vec![node],
            targets: Vec::new(),
        });
        Place {
            vertex,
            operator: chain.operators.len() - 1,
            function: 0,
        }
    }

    fn new_vertex(&mut self, node: usize) -> Place {
        let stream_node = &self.graph.stream.nodes[node];
        let (uid, parallelism) = (stream_node.uid.clone(), self.parallelism_of(node));
        let is_source = matches!(stream_node.body, Body::Source { .. });
        if is_source {
            let exits = vec![Exit {
                to: self.graph.vertices.len() + 1,
                partitioner: EdgePartitioner::Rebalance,
                input: 0,
            }];
            let head = Head::Enumerator { node };
            self.graph.vertices.push(JobVertex {
                name: format!("{uid} (splits)"),
                parallelism: 1,
                head,
                operators: Vec::new(),
                exits,
            });
        }
        let head = if is_source {
            Head::Reader { node }
        } else {
            Head::Gate
        };
        let operators = vec![ChainedOperator {
            nodes: vec![node],
            targets: Vec::new(),
        }];
        self.graph.vertices.push(JobVertex {
            name: uid,
            parallelism,
            head,
            operators,
            exits: Vec::new(),
        });
        Place {
            vertex: self.graph.vertices.len() - 1,
            operator: 0,
            function: 0,
        }
    }

    /// Connects the ports that the node reads to where it is now.
    fn connect(&mut self, node: usize, place: Place) {
        for edge in self.graph.stream.nodes[node].inputs.clone() {
            let from = self.places[edge.from];
            if from.vertex == place.vertex && from.operator == place.operator {
                continue;
            }
            let port = (from.function as u16) << 8 | edge.port;
            let parallelism = (
                self.graph.vertices[from.vertex].parallelism,
                self.graph.vertices[place.vertex].parallelism,
            );
            let sender = &mut self.graph.vertices[from.vertex];
            let target = if from.vertex == place.vertex {
                Target::Operator(place.operator)
            } else {
                // A forward edge between different parallelisms has no partner to forward to.
                let unequal =
                    edge.partitioner == EdgePartitioner::Forward && parallelism.0 != parallelism.1;
                let partitioner = if unequal {
                    EdgePartitioner::Rebalance
                } else {
                    edge.partitioner
                };
                sender.exits.push(Exit {
                    to: place.vertex,
                    partitioner,
                    input: edge.input,
                });
                Target::Exit(sender.exits.len() - 1)
            };
            sender.operators[from.operator].targets.push((port, target));
        }
    }
}
