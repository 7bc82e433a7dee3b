//! What flows through a channel, in order.

use crate::batch::Batch;
use crate::time::Watermark;

/// Whether a channel takes part in the minimum of the watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Active,
    /// Nothing comes for now; the channel leaves the minimum.
    Idle,
    /// The input is at its end: what follows are the pieces in which the final watermark is carried
    /// out, and then that. Others that are idle have it to carry out too, so until then they hold
    /// time back.
    Ending,
    /// Nothing will ever come again; the channel leaves the minimum until all channels are
    /// finished.
    Finished,
}

/// Separates the rows that a checkpoint holds from those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint's number; numbers of one job ascend.
    pub checkpoint: u64,
}

/// An element of a channel. The first one of every channel is its status.
#[derive(Debug, Clone)]
pub enum StreamElement {
    Batch(Batch),
    /// A watermark that no batch carries.
    Watermark(Watermark),
    Status(Status),
    Barrier(Barrier),
    /// No row of this split of a source follows on the channel. It is sent where watermarks are
    /// made after an exchange.
    SplitFinished(u64),
    /// Nothing follows. The final watermark, if there is one, came before.
    EndOfInput,
}
