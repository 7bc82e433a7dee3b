//! The types of a chain of functions, worked out of the plan once, so that no call looks anything up by name.
//!
//! Made when a chain is made; read when outputs and state requests are checked.

use arrow_schema::SchemaRef;
use streamrt_types::{Error, Result, arrow_schema};
use streamrt_wit::{Function, OutputColumns, Plan, StateDescriptor, StateKind};

/// Of the functions of a chain, in order.
pub(crate) struct Signature {
    pub functions: Vec<FunctionTypes>,
}

pub(crate) struct FunctionTypes {
    /// The uid of its node; for reports.
    pub name: String,
    pub ports: Vec<PortTypes>,
    pub states: Vec<StateTypes>,
    /// Of an aggregate or reduce function.
    pub accumulator: Option<SchemaRef>,
    pub timers: bool,
}

pub(crate) struct PortTypes {
    /// Empty for the main output.
    pub name: String,
    /// The columns that are sent; `None`: none, because the input is forwarded.
    pub columns: Option<SchemaRef>,
}

pub(crate) struct StateTypes {
    pub name: String,
    pub kind: StateKind,
    pub key: SchemaRef,
    pub value: SchemaRef,
    /// The key's columns, and the value's behind them.
    pub entry: SchemaRef,
}

impl Signature {
    /// # Errors
    /// `Internal` if the plan has no function of such a number, or there is none at all.
    pub fn new(plan: &Plan, numbers: &[u32]) -> Result<Signature> {
        let function = |number: &u32| {
            let function = plan.functions.get(*number as usize);
            function.map(FunctionTypes::new).ok_or_else(|| Error::internal(format!("the plan has no function {number}")))
        };
        let functions: Vec<FunctionTypes> = numbers.iter().map(function).collect::<Result<_>>()?;
        if functions.is_empty() { Err(Error::internal("a chain has at least one function")) } else { Ok(Signature { functions }) }
    }

    /// The types of an instance that only describes.
    pub fn empty() -> Signature {
        Signature { functions: Vec::new() }
    }

    /// The function in front, the only one that may be keyed.
    pub fn first(&self) -> Option<&FunctionTypes> {
        self.functions.first()
    }

    /// The functions' names, as a place in messages.
    pub fn place(&self) -> String {
        self.functions.iter().map(|function| function.name.as_str()).collect::<Vec<_>>().join(" -> ")
    }
}

impl FunctionTypes {
    fn new(function: &Function) -> FunctionTypes {
        let port = |port: &streamrt_wit::OutputPort| PortTypes { name: port.name.clone(), columns: sent(&port.columns) };
        FunctionTypes {
            name: function.name.clone(),
            ports: function.outputs.iter().map(port).collect(),
            states: function.states.iter().map(StateTypes::new).collect(),
            accumulator: function.accumulator.as_ref().map(arrow_schema),
            timers: function.timers,
        }
    }
}

fn sent(columns: &OutputColumns) -> Option<SchemaRef> {
    match columns {
        OutputColumns::Forward => None,
        OutputColumns::Extend { schema } | OutputColumns::Replace { schema } => Some(arrow_schema(schema)),
    }
}

impl StateTypes {
    fn new(state: &StateDescriptor) -> StateTypes {
        StateTypes {
            name: state.name.clone(),
            kind: state.kind,
            key: arrow_schema(&state.key),
            value: arrow_schema(&state.value),
            entry: arrow_schema(&[state.key.clone(), state.value.clone()].concat()),
        }
    }
}
