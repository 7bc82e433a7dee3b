//! How a request under `/v1` is refused: a status, and a [`Failure`] as JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use streamrt_jobmanager::Failure;
use streamrt_types::{Code, Error, ErrorKind, code};

/// See the module.
pub(crate) struct Failed {
    status: StatusCode,
    failure: Failure,
}

/// Codes whose status does not follow from their kind.
const STATUS: [(Code, StatusCode); 6] = [
    (code::NO_JOB, StatusCode::NOT_FOUND),
    (code::NO_COMPONENT, StatusCode::CONFLICT),
    (code::JOB_EXISTS, StatusCode::CONFLICT),
    (code::JOB_ENDED, StatusCode::CONFLICT),
    (code::CHECKPOINT_FAILED, StatusCode::CONFLICT),
    (code::COMPONENT_LIMIT, StatusCode::PAYLOAD_TOO_LARGE),
];

impl Failed {
    pub fn with_status(status: StatusCode, error: &Error) -> Failed {
        Failed {
            status,
            failure: error.into(),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        let known = STATUS.iter().find(|(code, _)| *code == error.code());
        let of_kind = match error.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::UserCode => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Fenced => StatusCode::CONFLICT,
            ErrorKind::Data | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failed::with_status(known.map_or(of_kind, |(_, status)| *status), &error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.status, Json(self.failure)).into_response()
    }
}
