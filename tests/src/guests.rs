//! Guest programs for the tests of the plugin host, assembled from the text in `tests/guests`.
//!
//! [`even`] is the example of a plugin without an SDK. A [`Misbehaving`] guest behaves until a
//! batch begins with [`POISON`]: so a test sees both that a fault is reported and that the next
//! batch is answered.

use streamrt_wit::{
    DataType, Field, Function, FunctionKind, OPERATOR_INTERFACE, OutputColumns, OutputPort, Plan,
    StateDescriptor,
};

/// A batch that begins with this number makes a misbehaving guest misbehave.
pub const POISON: i64 = 13;

/// The text of the example, for tests that change it.
pub const EVEN: &str = include_str!("../guests/even.wat");

/// Assembles text; panics with the place if it is wrong.
pub fn assemble(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|e| panic!("the guest cannot be assembled: {e}"))
}

/// Keeps the rows whose column `n` is even.
pub fn even() -> Vec<u8> {
    assemble(EVEN)
}

/// A guest whose `describe` returns this text, whatever it is. The arguments of the job have room
/// for some hundred bytes.
pub fn describing(plan: &str) -> Vec<u8> {
    let bytes: String = plan.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = include_str!("../guests/describing.wat")
        .replace("{PAGES}", &(plan.len() / 65_536 + 2).to_string())
        .replace("{PLAN-LENGTH}", &plan.len().to_string())
        .replace("{PLAN}", &bytes);
    assemble(&text)
}

/// A guest that doubles `n` and adds an empty text `s`, and that can do something else as well.
/// Texts are in WebAssembly's text format, and may use what `tests/guests/misbehaving.wat` defines.
#[derive(Debug, Clone, Default)]
pub struct Misbehaving {
    /// Instructions that run before a poisoned batch is answered. Locals: `$rows`, `$n` (the
    /// address of the input), `$text` (of the offsets of `s`), `$n-buffers`. Buffers of the answer:
    /// 0 is `n`, 1 the offsets of `s`, 2 its bytes. The section is at 8192, the result at 0.
    pub misbehave: String,
    /// Instructions that run before a chain is opened.
    pub open: String,
    /// Instructions that run before it describes itself.
    pub describe: String,
    /// Functions, tables and data of its own.
    pub definitions: String,
    /// Imports of the component, their lowered functions, how these are handed to the core module
    /// and how it imports them.
    pub import: Import,
    /// The states of its function.
    pub states: Vec<StateDescriptor>,
    /// Written instead of the plan.
    pub plan_text: Option<String>,
}

/// An import beyond those of every misbehaving guest, at the four places where it has to be
/// mentioned.
#[derive(Debug, Clone, Default)]
pub struct Import {
    pub component: String,
    pub lowered: String,
    pub exports: String,
    pub core: String,
}

impl Misbehaving {
    pub fn new(misbehave: &str) -> Misbehaving {
        Misbehaving {
            misbehave: misbehave.into(),
            ..Misbehaving::default()
        }
    }

    pub fn with_definitions(self, definitions: &str) -> Misbehaving {
        Misbehaving {
            definitions: definitions.into(),
            ..self
        }
    }

    /// What its `describe` returns.
    pub fn plan(&self) -> Plan {
        let schema = vec![
            Field::new("n", DataType::I64),
            Field::new("s", DataType::String),
        ];
        let function = Function {
            number: 0,
            kind: FunctionKind::Map,
            name: "double".into(),
            input: vec![Field::new("n", DataType::I64)],
            outputs: vec![OutputPort {
                name: String::new(),
                columns: OutputColumns::Replace { schema },
            }],
            key: None,
            time: false,
            timers: false,
            states: self.states.clone(),
            accumulator: None,
            grants: Vec::new(),
            second_input: Vec::new(),
        };
        Plan {
            functions: vec![function],
            ..Plan::default()
        }
    }

    /// The component.
    pub fn component(&self) -> Vec<u8> {
        self.component_of(OPERATOR_INTERFACE)
    }

    /// The component, with its one export under this name.
    pub fn component_of(&self, operator: &str) -> Vec<u8> {
        let plan = self
            .plan_text
            .clone()
            .unwrap_or_else(|| self.plan().to_json());
        let text = include_str!("../guests/misbehaving.wat")
            .replace("{PLAN-LENGTH}", &plan.len().to_string())
            .replace("{PLAN}", &plan.replace('"', "\\\""))
            .replace("{IMPORTS}", &self.import.component)
            .replace("{LOWERED}", &self.import.lowered)
            .replace("{LOWERED-EXPORTS}", &self.import.exports)
            .replace("{CORE-IMPORTS}", &self.import.core)
            .replace("{DEFINITIONS}", &self.definitions)
            .replace("{MISBEHAVE}", &self.misbehave)
            .replace("{OPEN}", &self.open)
            .replace("{DESCRIBE}", &self.describe)
            .replace("{OPERATOR}", operator);
        assemble(&text)
    }
}
