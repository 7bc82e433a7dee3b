//! The plan: what a plugin's `describe` returns, as JSON. `plan.schema.json` beside the WIT
//! describes the same for other languages.
//!
//! A plan is a graph of nodes, and the functions that some of the nodes call. A plugin that only
//! offers functions (to be wired by a `job.toml`) leaves the graph empty and names its functions.
//! Unknown fields are an error, so that a newer SDK is never half understood.

use serde::{Deserialize, Serialize};

/// Version of the plan's JSON that this crate writes and reads.
pub const PLAN_VERSION: u32 = 1;

/// What a plugin holds: the job, and the functions that it registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Plan {
    pub version: u32,
    /// In the order of the user's program; inputs come before the nodes that use them.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// In the order of registration; `functions[i].number == i`.
    #[serde(default)]
    pub functions: Vec<Function>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            version: PLAN_VERSION,
            nodes: Vec::new(),
            functions: Vec::new(),
        }
    }
}

impl Plan {
    /// Reads a plan. The error is a sentence with line and column.
    pub fn from_json(text: &str) -> Result<Plan, String> {
        let plan: Plan = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if plan.version != PLAN_VERSION {
            return Err(format!(
                "the plan has version {}, this host reads version {PLAN_VERSION}",
                plan.version
            ));
        }
        match plan
            .functions
            .iter()
            .zip(0u32..)
            .find(|(function, i)| function.number != *i)
        {
            Some((function, i)) => Err(format!(
                "function {i} of the plan carries the number {}",
                function.number
            )),
            None => Ok(plan),
        }
    }

    /// Writes the plan as one line of JSON. Equal plans give equal text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a plan has only string keys and no failing types")
    }
}

/// One operator as the user wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Node {
    /// Unique in the plan.
    pub id: u32,
    /// The identity of its state across versions of the job, and the name that a user sees. Empty
    /// is an error at build time.
    pub uid: String,
    /// Where the user's program makes it, such as `src/lib.rs:12:10`. It serves reports only: plans
    /// that differ in nothing else are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// `None` means the job's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// If false, it never shares a task with the operator before it.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub chaining: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    pub body: Body,
    /// Output ports in order; port 0 is the main one. A sink has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputPort>,
}

fn yes() -> bool {
    true
}

/// An edge, named by where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    pub node: u32,
    #[serde(default)]
    pub port: u16,
    #[serde(default)]
    pub partitioning: Partitioning,
    /// Which input of the receiver it leads to: 0, or 1 for the broadcast side of a
    /// broadcast-process function.
    #[serde(default, skip_serializing_if = "is_first")]
    pub input: u16,
}

fn is_first(input: &u16) -> bool {
    *input == 0
}

/// Which subtask of the receiver gets a row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum Partitioning {
    /// The subtask of the same number; becomes rebalance where the parallelism differs.
    #[default]
    Forward,
    /// Chosen by the key group of these columns, which are also the key of the receiver.
    Hash { columns: Vec<String> },
    /// Each subtask in turn.
    Rebalance,
    /// Every subtask gets every row.
    Broadcast,
    /// All rows go to subtask 0.
    Global,
}

/// A named output of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OutputPort {
    /// Empty for the main output, otherwise the name of the side output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub columns: OutputColumns,
}

/// The columns of an output in terms of the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum OutputColumns {
    /// The input row as it was.
    Forward,
    /// The input row, followed by these.
    Extend { schema: Schema },
    /// Only these.
    Replace { schema: Schema },
}

/// Fields in order.
pub type Schema = Vec<Field>;

/// One column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: DataType,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nullable: bool,
}

impl Field {
    /// A column that holds no nulls.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Field {
        Field {
            name: name.into(),
            data_type,
            nullable: false,
        }
    }
}

/// Types of columns. Strings and binaries have 32-bit offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataType {
    Bool,
    I32,
    I64,
    U32,
    U64,
    F32,
    F64,
    String,
    Binary,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "kind"
)]
pub enum Body {
    /// A native source of the host.
    Source {
        /// `file`, `socket` or `datagen`.
        connector: String,
        /// The options in the connector's documentation.
        #[serde(default)]
        options: Options,
        schema: Schema,
    },
    /// Event time and watermarks.
    Timestamps {
        time: TimeSource,
        generator: Generator,
        /// A split that is silent for this long no longer holds the watermark back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_ms: Option<u64>,
    },
    /// A map, filter, flat-map, key projection or process function of the plugin.
    Function { function: u32 },
    /// A running built-in aggregate by the key of the input: one row out per row in.
    Aggregate {
        aggregates: Vec<BuiltinAggregate>,
        columns: Vec<ResultColumn>,
    },
    /// Windows by the key of the input.
    Window {
        assigner: WindowAssigner,
        #[serde(default)]
        allowed_lateness_ms: u64,
        contents: WindowContents,
    },
    /// A native sink of the host.
    Sink {
        /// `file`, `print` or `blackhole`.
        connector: String,
        #[serde(default)]
        options: Options,
    },
    /// A two-phase or write-ahead sink of the plugin.
    FunctionSink {
        function: u32,
        /// The maximum size in bytes of a transaction of a write-ahead sink; `None` means 64 MiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        write_ahead_bytes: Option<u64>,
    },
}

impl Body {
    /// Whether rows end here.
    pub fn is_sink(&self) -> bool {
        matches!(self, Body::Sink { .. } | Body::FunctionSink { .. })
    }
}

/// Options of a connector, by name.
pub type Options = serde_json::Map<String, serde_json::Value>;

/// Where the event time of a row comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum TimeSource {
    /// A column of type i64.
    Column { column: String, unit: TimeUnit },
    /// A function of kind timestamps. Its output kind is `replace`: column 0 is the time in ms, and
    /// for a punctuated generator column 1 is the watermark or null.
    Function { function: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeUnit {
    Seconds,
    Milliseconds,
    Microseconds,
}

/// How a watermark follows from the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "kind"
)]
pub enum Generator {
    /// `greatest time - bound - 1`; use a bound of 0 for rows in time order.
    Bounded { bound_ms: u64 },
    /// What the timestamps function returns for the row.
    Punctuated,
}

/// How rows come to windows. Sizes in ms. `processing_time` windows go by the clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "kind"
)]
pub enum WindowAssigner {
    Tumbling {
        size_ms: i64,
        #[serde(default)]
        offset_ms: i64,
        #[serde(default)]
        processing_time: bool,
    },
    Sliding {
        size_ms: i64,
        slide_ms: i64,
        #[serde(default)]
        offset_ms: i64,
        #[serde(default)]
        processing_time: bool,
    },
    Session {
        gap_ms: i64,
        #[serde(default)]
        processing_time: bool,
    },
    /// One window for ever; its default trigger never fires, but the end of a bounded input does.
    Global,
    /// Fires and empties itself at every n-th row of a key.
    Count { rows: u64 },
}

/// What a window keeps and emits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum WindowContents {
    /// Aggregates of the host, computed by column.
    Builtin {
        aggregates: Vec<BuiltinAggregate>,
        columns: Vec<ResultColumn>,
    },
    /// An aggregate (or reduce) function of the plugin, and optionally a window-process function
    /// that gets its result.
    Aggregate {
        function: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<u32>,
    },
    /// A window-process function that gets all rows.
    Process { function: u32 },
}

/// One aggregate of the host over one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BuiltinAggregate {
    pub function: AggregateFunction,
    /// `None` only for `count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

/// Nulls do not take part. Sum is i64, u64 or f64 (overflow is an error), count is i64, average
/// f64; the others have the column's type. First and last go by event time, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AggregateFunction {
    Count,
    Sum,
    Min,
    Max,
    Avg,
    First,
    Last,
}

/// A column of an aggregate's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ResultColumn {
    pub name: String,
    pub from: ResultSource,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum ResultSource {
    /// A key column of the input.
    Key { column: String },
    /// First ms of the window.
    WindowStart,
    /// First ms after the window.
    WindowEnd,
    /// The n-th of the node's aggregates.
    Aggregate { index: u32 },
}

/// A function of the plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Function {
    /// Its place in the order of registration.
    pub number: u32,
    pub kind: FunctionKind,
    /// The uid of the node that calls it, or in a library the name that a `job.toml` uses.
    pub name: String,
    /// The columns that it reads, in the order in which they are sent.
    #[serde(default)]
    pub input: Schema,
    /// One entry per output port.
    #[serde(default)]
    pub outputs: Vec<OutputPort>,
    /// The key columns that it wants to see in `slots`, possibly an empty list; `None` if it is not
    /// keyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Schema>,
    /// Whether rows come with their event time, and with marks.
    #[serde(default)]
    pub time: bool,
    /// Whether it registers timers. Only a keyed process function may.
    #[serde(default)]
    pub timers: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateDescriptor>,
    /// For an aggregate: the accumulator, between `accumulate` and `result`. For a reduce: the
    /// input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accumulator: Option<Schema>,
    /// Names of the folders that it wants to be granted. Only sinks may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// For a broadcast-process: the columns that it reads from its second input, in the order in
    /// which they are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub second_input: Schema,
}

/// The WIT lists the codes at `open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FunctionKind {
    Map,
    Filter,
    FlatMap,
    KeyProjection,
    Timestamps,
    Process,
    Aggregate,
    Reduce,
    WindowProcess,
    CoProcess,
    BroadcastProcess,
    Trigger,
    Evictor,
    WindowAssigner,
    Partitioner,
    TwoPhaseSink,
    WriteAheadSink,
}

impl FunctionKind {
    /// Whether it is opened through the interface `two-phase-sink`.
    pub fn is_sink(self) -> bool {
        matches!(
            self,
            FunctionKind::TwoPhaseSink | FunctionKind::WriteAheadSink
        )
    }
}

/// A named piece of state of a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StateDescriptor {
    /// Unique in the function.
    pub name: String,
    pub kind: StateKind,
    /// For map and broadcast state: the columns of the map's key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Schema,
    /// The value, the list's element, or the map's value.
    pub value: Schema,
    /// How long an entry lives after its last access, by the clock of the host. `None` means for
    /// ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Which accesses restart an entry's time to live.
    #[serde(default, skip_serializing_if = "TtlUpdate::is_default")]
    pub ttl_update: TtlUpdate,
    /// Whether a read may return an expired entry.
    #[serde(default, skip_serializing_if = "TtlVisibility::is_default")]
    pub ttl_visibility: TtlVisibility,
}

/// Which accesses restart an entry's time to live.
///
/// # Source
/// Flink's `StateTtlConfig.UpdateType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TtlUpdate {
    /// Creating and writing it.
    #[default]
    OnCreateAndWrite,
    /// Reading it as well.
    OnReadAndWrite,
}

impl TtlUpdate {
    fn is_default(&self) -> bool {
        *self == TtlUpdate::default()
    }
}

/// Whether a read may return an expired entry.
///
/// # Source
/// Flink's `StateTtlConfig.StateVisibility`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TtlVisibility {
    /// Never.
    #[default]
    NeverReturnExpired,
    /// As long as it has not been cleaned up.
    ReturnExpiredIfNotCleanedUp,
}

impl TtlVisibility {
    fn is_default(&self) -> bool {
        *self == TtlVisibility::default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateKind {
    Value,
    List,
    Map,
    Reducing,
    Aggregating,
    /// Operator state: each subtask has a list; after a change of parallelism all elements are
    /// redistributed in contiguous blocks.
    OperatorList,
    /// Operator state: each subtask has a list, and starts again with the elements of all.
    UnionList,
    /// Operator state: each subtask has a map, which is the same in all of them if they process the
    /// same rows.
    Broadcast,
}

impl StateKind {
    /// Whether it belongs to a subtask rather than to a key.
    pub fn is_operator_state(self) -> bool {
        matches!(
            self,
            StateKind::OperatorList | StateKind::UnionList | StateKind::Broadcast
        )
    }
}
