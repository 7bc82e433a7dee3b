//! What a JobMaster and a TaskManager say to each other: plain data, which knows neither threads nor
//! sockets.
//!
//! A JobMaster asks for one step after the other ([`ToTaskManager`]); each has a number, which the
//! answer repeats, so that an answer to an older question changes nothing. What tasks report
//! carries the generation of their region ([`FromTaskManager`]). In one process messages go through
//! channels as they are; between processes they are put into an [`Envelope`].

mod envelope;
mod error;
mod messages;
mod plan;
#[cfg(test)]
mod tests;

pub use envelope::{Envelope, VERSION, decode, encode};
pub use error::{Consequence, WireError};
pub use messages::{
    Answered, FromTaskManager, Opened, Restore, Scope, SubtaskReport, ToTaskManager, Wish,
};
pub use plan::{Component, JobPlan};
