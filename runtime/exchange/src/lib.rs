//! The exchange: how batches get from the tasks of one vertex to the tasks of the next, in process
//! by reference.
//!
//! A sender has a [`ResultPartition`] for each edge, a receiver one [`InputGate`] for all its
//! channels. Between the two stand queues of bounded size: a full one blocks the sender, which is
//! all there is to back-pressure. No task sees another one's state.

mod channel;
mod gate;
mod partition;
mod valve;

pub use channel::{ChannelSender, Disconnected, GateWaker};
pub use gate::{GateEvent, InputGate};
pub use partition::{Partitioner, RefuseRow, ResultPartition};
