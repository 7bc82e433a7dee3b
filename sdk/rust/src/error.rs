//! Why user code, or the building of a job, did not work. Every error is one sentence; its code is
//! one of the WIT's.

use std::fmt::{self, Debug, Display, Formatter};
use streamrt_wit::codes;

/// `Result` with the SDK's [`Error`], unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A sentence for a person, and the code of the WIT that says whose fault it is.
///
/// Any `std::error::Error` becomes one by `?`; for that reason it does not implement that trait
/// itself.
#[derive(Clone, PartialEq)]
pub struct Error {
    code: u16,
    message: String,
}

impl Error {
    /// User code refuses its input: the record meets the job's poison policy.
    pub fn new(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::USER,
            message: message.into(),
        }
    }

    /// The arguments of the job are wrong.
    pub fn arguments(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::ARGUMENTS,
            message: message.into(),
        }
    }

    /// Something outside did not answer, or failed: the job is tried again as its restart strategy
    /// says. Meant for sinks.
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::UNAVAILABLE,
            message: message.into(),
        }
    }

    /// A transaction of a sink cannot be committed any more: results are lost, and the job ends for
    /// good.
    pub fn lost(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::LOST,
            message: message.into(),
        }
    }

    /// The job is put together wrongly.
    pub(crate) fn job(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::JOB,
            message: message.into(),
        }
    }

    pub(crate) fn missing_uid(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::MISSING_UID,
            message: message.into(),
        }
    }

    pub(crate) fn doubled_uid(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::DOUBLED_UID,
            message: message.into(),
        }
    }

    /// Columns or their types do not fit together.
    pub(crate) fn columns(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::COLUMNS,
            message: message.into(),
        }
    }

    /// Puts a place in the user's program in front of the sentence.
    pub(crate) fn at(self, place: &str) -> Error {
        Error {
            message: format!("{place}: {}", self.message),
            ..self
        }
    }

    /// Adds another error, on a line of its own; the code stays that of the first.
    pub(crate) fn and(self, other: Error) -> Error {
        Error {
            message: format!("{}\n{}", self.message, other.message),
            ..self
        }
    }

    pub(crate) fn unknown(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::UNKNOWN,
            message: message.into(),
        }
    }

    pub(crate) fn host(message: impl Into<String>) -> Error {
        Error {
            code: codes::error::HOST,
            message: message.into(),
        }
    }

    pub(crate) fn coded(code: u16, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }

    /// A code of `error` in the WIT: 1 user code, 2 arguments, 3 unknown call, 4 broken promise of
    /// the host, 5 state, 6 something outside is unavailable, 7 a transaction is lost, 8 there is
    /// no such file, 9 it is refused, 10 to 13 the job is put together wrongly.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Whether it means that there is no such file or folder.
    pub fn is_missing(&self) -> bool {
        self.code == codes::error::MISSING
    }

    /// The sentence. For a mistake in a job it begins with the place in the program, and each
    /// further mistake has a line of its own.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Debug for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        Error::new(error.to_string())
    }
}

/// What a job or a function may return: nothing, or a [`Result`] of nothing.
pub trait Outcome {
    /// As a result.
    ///
    /// # Errors
    /// The error in the result.
    fn into_result(self) -> Result<()>;
}

impl Outcome for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl Outcome for Result<()> {
    fn into_result(self) -> Result<()> {
        self
    }
}
