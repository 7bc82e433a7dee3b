//! The single error type of the engine: a kind by which machines decide, a code that people look
//! up, and a sentence.

use crate::code::Code;
use std::fmt;

/// What is to be done about an error; the scheduler decides from this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Something outside does not answer: trying again may help.
    Unavailable,
    /// The job, its files or its configuration are wrong: trying again does not help.
    Invalid,
    /// A plugin failed.
    UserCode,
    /// State or a checkpoint is bad.
    Data,
    /// Somebody else leads now.
    Fenced,
    /// Our bug.
    Internal,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its place in the message: lowercase, no full stop, the cause kept apart in
/// `source`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    code: Code,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error. The kind follows from the code.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind: code.kind,
            code,
            message: message.into(),
            source: None,
        }))
    }

    /// A broken promise inside the engine.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(crate::code::INTERNAL, message)
    }

    /// Keeps what caused it.
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Puts a place in front of the message: `place: message`.
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// Appends something to the message: `message; more`.
    pub fn and(mut self, more: impl fmt::Display) -> Error {
        self.0.message = format!("{}; {more}", self.0.message);
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What is below it, each sentence once: some libraries repeat the text of the inner error in
    /// the outer one.
    pub fn causes(&self) -> Vec<String> {
        let mut said = self.message().to_owned();
        let mut causes = Vec::new();
        for cause in std::iter::successors(std::error::Error::source(self), |cause| cause.source())
        {
            let sentence = cause.to_string();
            causes.extend((!said.contains(&sentence)).then(|| sentence.clone()));
            said = sentence;
        }
        causes
    }

    /// The message and what caused it, for a line that shows nothing else.
    pub fn with_causes(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source())
            .map(ToString::to_string);
        // Some libraries repeat the text of the inner error in the outer one.
        causes.fold(self.message().to_owned(), |said, cause| {
            if said.contains(&cause) {
                said
            } else {
                format!("{said}: {cause}")
            }
        })
    }
}

/// Why stdout cannot be written: if its reader has gone, as with `| head`, nobody is at fault, and
/// trying again does not help.
pub fn stdout_error(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Error::new(
            crate::code::STDOUT_CLOSED,
            "nobody reads standard output any more",
        ),
        _ => Error::new(crate::code::FILE_IO, "standard output cannot be written"),
    }
    .with_source(error)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.0.code.id, self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|e| e as &(dyn std::error::Error + 'static))
    }
}
