//! The exchange: how batches get from the tasks of one vertex to the tasks of the next, in process
//! by reference.
//!
//! A sender has one [`ResultPartition`] per edge, a receiver one [`InputGate`] for all its
//! channels. Between the two are queues of bounded size: a full one blocks the sender, and that is
//! all there is to back-pressure. No task sees another one's state.

mod channel;
mod gate;
mod partition;
mod valve;

pub use channel::{ChannelSender, Disconnected, GateWaker};
pub use gate::{GateEvent, InputGate};
pub use partition::{Partitioner, RefuseRow, ResultPartition};
