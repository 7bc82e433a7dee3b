//! Messages as bytes: a version, a length, who means whom, and the body in postcard.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use streamrt_types::{Error, Result, code};

/// The newest version of messages that this program reads, and the one that it writes.
pub const VERSION: u16 = 1;

/// Version and length of what follows, both in little-endian order.
const HEAD_BYTES: usize = 6;

/// The largest message: a manifest of a job with every key group is some megabytes.
const BODY_BYTES_MAX: usize = 256 << 20;

/// A message with its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<M> {
    /// 32 hex digits.
    pub job: String,
    /// The number of the leader that sent it, or to whom it is sent.
    pub epoch: u64,
    /// The generation of the attempt.
    pub generation: u64,
    pub sender: String,
    /// Rises by one with each message of a sender.
    pub sequence: u64,
    pub message: M,
}

/// The bytes of a message.
///
/// # Errors
/// `Internal` if it is larger than a message may be.
pub fn encode<M: Serialize>(envelope: &Envelope<M>) -> Result<Vec<u8>> {
    let body = postcard::to_stdvec(envelope)
        .map_err(|e| Error::internal("a message cannot be encoded").with_source(e))?;
    let length = u32::try_from(body.len()).ok();
    let length = length.filter(|length| *length as usize <= BODY_BYTES_MAX);
    let length = length.ok_or_else(|| Error::internal("a message is too large"))?;
    let head = VERSION
        .to_le_bytes()
        .into_iter()
        .chain(length.to_le_bytes());
    Ok(head.chain(body).collect())
}

/// The message in these bytes, all of which belong to it.
///
/// # Errors
/// S8004 if they are none that this version can read.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<Envelope<M>> {
    let refuse = |what: String| Error::new(code::BAD_MESSAGE, what);
    let (head, body) = bytes
        .split_at_checked(HEAD_BYTES)
        .ok_or_else(|| refuse(format!("a message of {} bytes has no head", bytes.len())))?;
    let version = u16::from_le_bytes([head[0], head[1]]);
    if version == 0 || version > VERSION {
        return Err(refuse(format!(
            "a message is of version {version}, but this streamrt knows versions up to {VERSION}"
        )));
    }
    let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
    if length != body.len() || length > BODY_BYTES_MAX {
        return Err(refuse(format!(
            "a message says that it has {length} bytes, but {} came",
            body.len()
        )));
    }
    let (envelope, rest) = postcard::take_from_bytes(body)
        .map_err(|e| refuse("a message cannot be read".to_owned()).with_source(e))?;
    match rest.len() {
        0 => Ok(envelope),
        n => Err(refuse(format!("a message has {n} bytes too many"))),
    }
}
