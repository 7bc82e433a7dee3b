//! The types of a chain of functions, derived from the plan once, so that no call looks anything up
//! by name.
//!
//! Made when a chain is made; read when outputs and state requests are checked.

use arrow_schema::SchemaRef;
use streamrt_types::{Error, Result, arrow_schema};
use streamrt_wit::{Function, OutputColumns, Plan, Schema, StateDescriptor, StateKind};

/// The types of the functions of a chain, in order.
pub(crate) struct Signature {
    pub functions: Vec<FunctionTypes>,
}

pub(crate) struct FunctionTypes {
    /// The uid of its node; for reports.
    pub name: String,
    pub ports: Vec<PortTypes>,
    pub states: Vec<StateTypes>,
    /// The accumulator of an aggregate or reduce function.
    pub accumulator: Option<SchemaRef>,
    pub timers: bool,
}

pub(crate) struct PortTypes {
    /// Empty for the main output.
    pub name: String,
    /// The columns that are sent; `None` if the input is forwarded.
    pub columns: Option<SchemaRef>,
}

pub(crate) struct StateTypes {
    pub name: String,
    pub kind: StateKind,
    pub has_ttl: bool,
    pub key: SchemaRef,
    pub value: SchemaRef,
    /// The key's columns, followed by the value's.
    pub entry: SchemaRef,
}

impl Signature {
    /// # Errors
    /// `Internal` if the plan has no function with such a number, or there is none at all.
    pub fn new(plan: &Plan, numbers: &[u32]) -> Result<Signature> {
        let function = |number: &u32, before: &mut Option<Schema>| {
            let function = plan.functions.get(*number as usize);
            function
                .map(|function| FunctionTypes::new(function, before))
                .ok_or_else(|| Error::internal(format!("the plan has no function {number}")))
        };
        let mut before = None;
        let functions: Vec<FunctionTypes> = numbers
            .iter()
            .map(|number| function(number, &mut before))
            .collect::<Result<_>>()?;
        if functions.is_empty() {
            Err(Error::internal("a chain has at least one function"))
        } else {
            Ok(Signature { functions })
        }
    }

    /// The types of an instance that only describes.
    pub fn empty() -> Signature {
        Signature {
            functions: Vec::new(),
        }
    }

    /// The first function, the only one that may be keyed.
    pub fn first(&self) -> Option<&FunctionTypes> {
        self.functions.first()
    }

    /// The functions' names, as a place in messages.
    pub fn place(&self) -> String {
        self.functions
            .iter()
            .map(|function| function.name.as_str())
            .collect::<Vec<_>>()
            .join(" -> ")
    }
}

impl FunctionTypes {
    /// `before` are the columns that the guest has before the function and the host does not;
    /// afterwards those after it.
    fn new(function: &Function, before: &mut Option<Schema>) -> FunctionTypes {
        let port = |port: &streamrt_wit::OutputPort| {
            let columns = sent(before.as_ref(), &port.columns);
            PortTypes {
                name: port.name.clone(),
                columns: columns.as_ref().map(arrow_schema),
            }
        };
        let ports = function.outputs.iter().map(port).collect();
        if let Some(main) = function.outputs.first() {
            *before = sent(before.as_ref(), &main.columns);
        }
        FunctionTypes {
            name: function.name.clone(),
            ports,
            states: function.states.iter().map(StateTypes::new).collect(),
            accumulator: function.accumulator.as_ref().map(arrow_schema),
            timers: function.timers,
        }
    }
}

/// The columns that a port sends. In a chain, only the guest has what earlier functions have added
/// or replaced, so it is sent as well.
fn sent(before: Option<&Schema>, columns: &OutputColumns) -> Option<Schema> {
    match columns {
        OutputColumns::Forward => before.cloned(),
        OutputColumns::Replace { schema } => Some(schema.clone()),
        OutputColumns::Extend { schema } => Some(
            before
                .into_iter()
                .flatten()
                .chain(schema)
                .cloned()
                .collect(),
        ),
    }
}

impl StateTypes {
    fn new(state: &StateDescriptor) -> StateTypes {
        StateTypes {
            name: state.name.clone(),
            kind: state.kind,
            has_ttl: state.ttl_ms.is_some(),
            key: arrow_schema(&state.key),
            value: arrow_schema(&state.value),
            entry: arrow_schema(&[state.key.clone(), state.value.clone()].concat()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_wit::{DataType, Field};

    fn schema(names: &[&str]) -> Schema {
        names
            .iter()
            .map(|name| Field::new(*name, DataType::I64))
            .collect()
    }

    /// Follows the main ports of a chain and compares what the last one sends.
    fn check(chain: &[OutputColumns], expected: Option<&[&str]>) {
        let last = chain.iter().fold(None, |before: Option<Schema>, columns| {
            sent(before.as_ref(), columns)
        });
        assert_eq!(last, expected.map(schema), "{chain:?}");
    }

    #[test]
    fn a_chain_sends_what_the_host_has_not_got() {
        let replace = |names| OutputColumns::Replace {
            schema: schema(names),
        };
        let extend = |names| OutputColumns::Extend {
            schema: schema(names),
        };
        check(&[OutputColumns::Forward, OutputColumns::Forward], None);
        check(
            &[replace(&["a", "b"]), OutputColumns::Forward],
            Some(&["a", "b"]),
        );
        check(&[extend(&["k"]), OutputColumns::Forward], Some(&["k"]));
        check(&[extend(&["k"]), extend(&["l"])], Some(&["k", "l"]));
        check(&[replace(&["a"]), extend(&["k"])], Some(&["a", "k"]));
        check(&[extend(&["k"]), replace(&["a"])], Some(&["a"]));
    }
}
