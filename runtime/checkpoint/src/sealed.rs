//! JSON documents that carry their own checksum as the first field: `{"checksum":"64
//! digits","version":1,...}`.
//!
//! The checksum is blake3 over all bytes after it, so a document is either the one that was
//! written, to the byte, or an error.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use streamrt_types::{Error, Result, code};

const HEAD: &[u8] = b"{\"checksum\":\"";
const MIDDLE: &[u8] = b"\",";
const CHECKSUM_BYTES: usize = 2 * blake3::OUT_LEN;

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The bytes of a struct, which has a field `version`.
///
/// # Errors
/// `Internal` if the value has no JSON.
pub fn seal(value: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(value)
        .map_err(|cause| Error::internal("a document has no JSON").with_source(cause))?;
    let Some((b'{', body)) = json.split_first().map(|(&first, body)| (first, body)) else {
        return Err(Error::internal("a document is no JSON object"));
    };
    Ok([HEAD, checksum(body).as_bytes(), MIDDLE, body].concat())
}

/// Reads what [`seal`] wrote. `path` and `what` are for messages.
///
/// # Errors
/// `Data` (S7001) if a byte is not the one that was written, `Invalid` (S7002) if the version is
/// newer than `newest` or the document is of another kind.
pub fn unseal<T: DeserializeOwned>(path: &str, what: &str, bytes: &[u8], newest: u32) -> Result<T> {
    let torn = || {
        format!(
            "{what} `{path}` is torn or changed, or streamrt did not write it ({} bytes)",
            bytes.len()
        )
    };
    let body = body_of(bytes).ok_or_else(|| Error::new(code::SNAPSHOT_DAMAGED, torn()))?;
    let json = [b"{", body].concat();
    let foreign = |cause| {
        Error::new(
            code::SNAPSHOT_FOREIGN,
            format!("`{path}` is whole, but it is not {what}"),
        )
        .with_source(cause)
    };
    let Version { version } = serde_json::from_slice(&json).map_err(foreign)?;
    if version > newest {
        let message = format!(
            "{what} `{path}` is of version {version}, but this streamrt knows versions up to {newest}"
        );
        return Err(Error::new(code::SNAPSHOT_FOREIGN, message));
    }
    serde_json::from_slice(&json).map_err(foreign)
}

fn body_of(bytes: &[u8]) -> Option<&[u8]> {
    let (written, rest) = bytes.strip_prefix(HEAD)?.split_at_checked(CHECKSUM_BYTES)?;
    let body = rest.strip_prefix(MIDDLE)?;
    (checksum(body).as_bytes() == written).then_some(body)
}

/// blake3, as 64 hexadecimal digits.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(bytes: &[u8]) -> Result<Value> {
        unseal("p", "the entry", bytes, 1)
    }

    #[test]
    fn a_sealed_document_is_json_and_comes_back() {
        let sealed = seal(&json!({"version": 1, "name": "x"})).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&sealed).unwrap()["name"],
            "x"
        );
        assert_eq!(read(&sealed).unwrap(), json!({"version": 1, "name": "x"}));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_read() {
        let sealed = seal(&json!({"version": 1, "name": "x"})).unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(
                    read(&changed).unwrap_err().code(),
                    code::SNAPSHOT_DAMAGED,
                    "byte {at}, bit {bit}"
                );
            }
            assert_eq!(
                read(&sealed[..at]).unwrap_err().code(),
                code::SNAPSHOT_DAMAGED,
                "cut at {at}"
            );
        }
    }

    #[test]
    fn newer_and_foreign_documents_say_so() {
        let newer = read(&seal(&json!({"version": 2})).unwrap()).unwrap_err();
        assert_eq!(newer.code(), code::SNAPSHOT_FOREIGN);
        assert_eq!(
            newer.message(),
            "the entry `p` is of version 2, but this streamrt knows versions up to 1"
        );
        assert_eq!(
            read(&seal(&json!({"other": 2})).unwrap())
                .unwrap_err()
                .message(),
            "`p` is whole, but it is not the entry"
        );
    }
}
