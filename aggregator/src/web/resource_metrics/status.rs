//! Why something is not answered, as clients of Kubernetes read it: a `Status`.

use super::request::GROUP;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};
use serde::Serialize;
use skpr_proto::{ErrorKind, Failure};

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
    /// The kind and the name of what there is not.
    missing: Option<(&'static str, String)>,
}

impl Refusal {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, reason, message: message.into(), missing: None }
    }

    pub(super) fn of(kind: ErrorKind, message: &str) -> Refusal {
        match kind {
            // As the API server says it, who tells a stranger nothing.
            ErrorKind::NotLoggedIn => Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"),
            ErrorKind::NotAllowed => Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message),
            ErrorKind::Unavailable => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
            }
            ErrorKind::Failed
            | ErrorKind::Usage
            | ErrorKind::NotFound
            | ErrorKind::InvalidConfiguration
            | ErrorKind::DeployFailed
            | ErrorKind::TimedOut
            | ErrorKind::Locked => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message),
        }
    }

    pub(super) fn not_found(kind: &'static str, name: String) -> Refusal {
        let message = format!("{kind}.{GROUP} \"{name}\" not found");
        Refusal { missing: Some((kind, name)), ..Refusal::new(StatusCode::NOT_FOUND, "NotFound", message) }
    }

    pub(super) fn no_such_path() -> Refusal {
        let message = "the server could not find the requested resource";
        Refusal::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(super) fn not_a_read() -> Refusal {
        let message = "the server does not allow this method on the requested resource";
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(super) fn only_json() -> Refusal {
        let message = "only the following media types are accepted: application/json";
        Refusal::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(super) fn not_understood(message: String) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::of(failure.kind, &failure.message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let details = self.missing.map(|(kind, name)| StatusDetails {
            name: Some(name),
            group: Some(GROUP.to_owned()),
            kind: Some(kind.to_owned()),
            ..StatusDetails::default()
        });
        let status = Status {
            status: Some("Failure".to_owned()),
            code: Some(i32::from(self.code.as_u16())),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message),
            details,
            ..Status::default()
        };
        with(self.code, &status)
    }
}

pub(super) fn with(code: StatusCode, answer: &impl Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(json) => (code, [(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
