//! Where an output port of an operator leads inside a task; written by the planner, followed by the
//! operator chain.

/// The other end of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Another operator of the same chain, by its number.
    Operator(usize),
    /// An output of the task, by its number.
    Exit(usize),
}
