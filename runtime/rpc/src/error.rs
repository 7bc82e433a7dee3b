//! An error on its way from one process to another.

use serde::{Deserialize, Serialize};
use std::fmt;
use streamrt_types::{CODES, Error, ErrorKind, code};

/// What an error means for the job that it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Consequence {
    /// It would happen again in the same way.
    Permanent,
    /// Another attempt may succeed.
    MayPass,
    /// Somebody else leads the job.
    Fenced,
}

/// An [`Error`] as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WireError {
    /// The id of a stable code, such as `S3001`.
    pub code: String,
    pub message: String,
    /// The messages of what caused it, the nearest first.
    pub causes: Vec<String>,
    pub consequence: Consequence,
}

impl WireError {
    pub fn new(code: streamrt_types::Code, message: impl Into<String>) -> WireError {
        WireError::from(&Error::new(code, message))
    }

    /// Whether it has this code.
    pub fn is(&self, code: streamrt_types::Code) -> bool {
        self.code == code.id
    }

    /// The code of this version of the program; an unknown one counts as internal.
    pub fn known_code(&self) -> streamrt_types::Code {
        CODES
            .iter()
            .find(|code| code.id == self.code)
            .copied()
            .unwrap_or(code::INTERNAL)
    }

    pub fn kind(&self) -> ErrorKind {
        self.known_code().kind
    }

    /// The message with its causes, in one line.
    pub fn with_causes(&self) -> String {
        Error::from(self.clone()).with_causes()
    }
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> WireError {
        let first = std::error::Error::source(error);
        let causes = std::iter::successors(first, |cause| cause.source());
        let consequence = match error.kind() {
            ErrorKind::Fenced => Consequence::Fenced,
            // A file that is missing stays missing.
            _ if error.code() == code::FILE_MISSING => Consequence::Permanent,
            ErrorKind::Unavailable | ErrorKind::Internal => Consequence::MayPass,
            ErrorKind::Invalid | ErrorKind::UserCode | ErrorKind::Data => Consequence::Permanent,
        };
        WireError {
            code: error.code().id.to_owned(),
            message: error.message().to_owned(),
            causes: causes.map(ToString::to_string).collect(),
            consequence,
        }
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> WireError {
        WireError::from(&error)
    }
}

impl From<WireError> for Error {
    fn from(wire: WireError) -> Error {
        let error = Error::new(wire.known_code(), wire.message);
        let cause = |below: Option<Box<Cause>>, message| Some(Box::new(Cause { message, below }));
        match wire.causes.into_iter().rev().fold(None, cause) {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }
}

/// A cause whose type stayed in the other process.
#[derive(Debug)]
struct Cause {
    message: String,
    below: Option<Box<Cause>>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.below.as_deref().map(|below| below as _)
    }
}
