//! Reads the options of a plan into the struct of a connector. Every refusal is one sentence that
//! names what exists.
//!
//! Called by the factories of the crate and by the connectors for values that the type alone does
//! not check.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use streamrt_types::{Error, code, parse_bytes};
use streamrt_wit::Options;

/// Reads the options of `connector`.
///
/// # Errors
/// `Invalid` for an option that is missing, unknown, or of another type.
pub fn read<T: DeserializeOwned>(connector: &str, options: &Options) -> Result<T, Error> {
    serde_json::from_value(serde_json::Value::Object(options.clone()))
        .map_err(|e| refuse(connector, &sentence(&e)))
}

/// Translates serde's words into ours: what it calls a field is an option here.
fn sentence(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace("unknown field", "unknown option")
        .replace("missing field", "missing option")
}

/// Reads a size in bytes: a number, or a text such as `64MiB`.
///
/// # Errors
/// If it is neither.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a size must be a number of bytes, or a text such as `64MiB`"
    )]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Text(text) => parse_bytes("the size", &text)
            .map(|bytes| bytes as u64)
            .map_err(|e| D::Error::custom(e.message())),
    }
}

/// A bad option of a connector.
pub fn refuse(connector: &str, reason: &str) -> Error {
    Error::new(
        code::BAD_OPTION,
        format!("connector `{connector}`: {reason}"),
    )
}

/// An error about something that this build was made without.
#[cfg(not(all(feature = "parquet", feature = "postgres")))]
pub fn left_out(connector: &str, what: &str, feature: &str) -> Error {
    refuse(
        connector,
        &format!("{what} is not in this build of streamrt; build it with `--features {feature}`"),
    )
}

/// An error about a connector that does not exist.
pub fn unknown(kind: &str, connector: &str, known: &str) -> Error {
    Error::new(
        code::BAD_OPTION,
        format!("there is no {kind} connector `{connector}`; there are {known}"),
    )
}

/// The single ASCII character of a delimiter.
///
/// # Errors
/// `Invalid` if it is not one: beyond ASCII, a cut between two bytes could fall into a character.
pub fn delimiter(connector: &str, text: &str) -> Result<u8, Error> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err(refuse(
            connector,
            &format!(
                "`delimiter` is `{text}`, but it must be one ASCII character, no quote and no line end"
            ),
        )),
    }
}
