//! An error as it is kept and sent: plain data with its stable code.

use serde::{Deserialize, Serialize};
use streamrt_rpc::{Consequence, WireError};
use streamrt_types::{Error, without_passwords};
use utoipa::ToSchema;

/// Why something did not come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// A stable code, as `S6004`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// What is below it, the outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// The likely fix.
    #[serde(default)]
    pub fix: String,
}

impl Failure {
    /// The message with its causes, on one line.
    pub fn with_causes(&self) -> String {
        let causes = self.causes.iter().map(|cause| format!(": {cause}"));
        causes.fold(self.message.clone(), |text, cause| text + &cause)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        Failure {
            code: error.code().id.to_owned(),
            message: without_passwords(error.message()),
            causes: error
                .causes()
                .iter()
                .map(|cause| without_passwords(cause))
                .collect(),
            fix: error.code().fix.to_owned(),
        }
    }
}

impl From<Failure> for Error {
    /// One of a newer version, whose code is not known here, becomes an internal error.
    fn from(failure: Failure) -> Error {
        let Failure {
            code,
            message,
            causes,
            ..
        } = failure;
        let consequence = Consequence::Permanent;
        Error::from(WireError {
            code,
            message,
            causes,
            consequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_types::code;

    #[test]
    fn an_error_comes_back_with_its_causes() {
        let error = Error::new(code::FILE_IO, "`out` cannot be written")
            .with_source(Error::new(code::STORE, "the store").with_source(Error::internal("why")));
        let failure = Failure::from(&error);
        assert_eq!(
            (failure.code.as_str(), &failure.causes[..]),
            ("S3002", &["the store".to_owned(), "why".to_owned()][..])
        );
        let back = Error::from(failure.clone());
        assert_eq!(Failure::from(&back), failure);
    }

    #[test]
    fn no_password_is_kept() {
        let error = Error::new(code::CONNECT, "no answer from pg://me:secret@h/d");
        assert_eq!(
            Failure::from(&error).message,
            "no answer from pg://me:***@h/d"
        );
    }
}
