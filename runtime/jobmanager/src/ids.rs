//! What jobs are called.

use serde::{Deserialize, Serialize};
use std::fmt;
use streamrt_checkpoint::unique_token;

const DIGITS: usize = 32;

/// 128 bits at random, written as 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(String);

impl JobId {
    /// One that nobody else has.
    pub fn random() -> JobId {
        JobId(unique_token())
    }

    /// None if the text is no id.
    pub fn parse(text: &str) -> Option<JobId> {
        let is_id = text.len() == DIGITS
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| JobId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_32_hex_digits() {
        let id = JobId::random();
        assert_eq!(JobId::parse(id.as_str()), Some(id.clone()));
        assert_ne!(JobId::random(), id);
        for text in ["", "1f", &"1F".repeat(16), &"../".repeat(11)[..32]] {
            assert_eq!(JobId::parse(text), None, "{text}");
        }
    }
}
