//! Where a test wants it, every message goes through bytes and back, as between two processes, so
//! that what cannot travel is found while there is one process.

use serde::{Serialize, de::DeserializeOwned};
use std::sync::OnceLock;
use streamrt_rpc::{Envelope, decode, encode};
use streamrt_types::Result;

/// Set by the tests that run this program.
const VARIABLE: &str = "STREAMRT_TEST_WIRE";

/// The message itself, or, in tests, what another process would have got.
///
/// # Panics
/// In tests, if it cannot be encoded or decoded.
pub(crate) fn pass<M: Serialize + DeserializeOwned>(message: M) -> M {
    static IS_TEST: OnceLock<bool> = OnceLock::new();
    let is_test = IS_TEST.get_or_init(|| cfg!(test) || std::env::var_os(VARIABLE).is_some());
    match is_test {
        false => message,
        true => travelled(message).unwrap_or_else(|error| panic!("{}", error.with_causes())),
    }
}

fn travelled<M: Serialize + DeserializeOwned>(message: M) -> Result<M> {
    let envelope = Envelope {
        job: String::new(),
        epoch: 0,
        generation: 0,
        sender: String::new(),
        sequence: 0,
        message,
    };
    Ok(decode::<M>(&encode(&envelope)?)?.message)
}
