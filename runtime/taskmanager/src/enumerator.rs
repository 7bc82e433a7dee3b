//! The loop of a source's enumerator: finds splits, deals them to the readers in turn, and tells the end of each listing.
//!
//! On its edge, status IDLE says that a listing is complete, and the end of the input that no split will follow.

use crate::control::Control;
use crate::exits::TaskExits;
use crate::split_rows;
use std::sync::Arc;
use std::time::Duration;
use streamrt_exchange::InputGate;
use streamrt_operator::{Enumeration, Exits, Source, Split};
use streamrt_types::{Result, Status};

/// Runs until the source has no more splits, or the job is stopped. `mailbox` is a gate without channels, to wait at.
///
/// # Errors
/// What the connector says, or that the job was cancelled.
pub fn run(source: &Arc<dyn Source>, parallelism: u32, exits: &mut TaskExits, mailbox: &InputGate, control: &Control) -> Result<()> {
    let mut enumerator = source.enumerator()?;
    let mut n_splits = 0u32;
    let mut status = Status::Active;
    exits.status(0, status)?;
    while !control.is_stopped() {
        match enumerator.poll(parallelism)? {
            Enumeration::Finished => break,
            Enumeration::Splits(splits) => {
                if status == Status::Idle {
                    status = Status::Active;
                    exits.status(0, status)?;
                }
                for split in splits {
                    // One batch for each split, so that rebalancing deals them one by one.
                    exits.batch(0, split_rows::to_batch(&[Split { number: n_splits, ..split }])?)?;
                    n_splits += 1;
                }
            }
            Enumeration::Idle { ms } => {
                if status == Status::Active {
                    status = Status::Idle;
                    exits.status(0, status)?;
                }
                mailbox.wait(Duration::from_millis(ms));
            }
        }
        if control.is_cancelled() {
            return Err(Control::cancelled());
        }
    }
    exits.end_of_input()
}
