//! Refusals in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.

use crate::engine::job::EngineFailure;
use crate::engine::queue::Refusal;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Why a request is not answered.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: ErrorBody,
    pub(crate) retry_after: Option<Duration>,
}

/// The body of every error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorResponse {
    pub(crate) error: ErrorBody,
}

/// An error in OpenAI's form.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// The problem and its remedy.
    pub(crate) message: String,
    /// The kind of error.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub(crate) kind: &'static str,
    /// The field that is wrong.
    pub(crate) param: Option<String>,
    /// A code for programs.
    #[schema(value_type = Option<String>)]
    pub(crate) code: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        let body = ErrorBody { message: message.into(), kind, param: None, code: Some(code) };
        Self { status, body, retry_after: None }
    }

    /// A value that cannot be used.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::bad("invalid_value", message).about(param)
    }

    /// A field that would change the answer and is not supported.
    pub(crate) fn unsupported(param: &str) -> Self {
        Self::bad("unsupported_parameter", format!("{param} is not supported")).about(param)
    }

    /// A bad request.
    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "body_too_large", message)
    }

    pub(crate) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", code, message)
    }

    pub(crate) fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", code, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let code = if message.contains("NaN") { "not_finite" } else { "internal" };
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", code, message)
    }

    fn unavailable(code: &'static str, message: &str, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", code, message);
        Self { retry_after: Some(retry_after), ..error }
    }

    pub(crate) fn stopping() -> Self {
        Self::unavailable("stopping", "the server is stopping", Duration::from_secs(10))
    }

    /// The same about the field `param`.
    pub(crate) fn about(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stopping => Self::stopping(),
            Refusal::Full(after) => {
                let message = format!("the queue is full; try again in {} s", after.as_secs_f64().ceil());
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", message);
                Self { retry_after: Some(after), ..error }
            }
        }
    }
}

impl From<EngineFailure> for ApiError {
    fn from(failure: EngineFailure) -> Self {
        match failure {
            EngineFailure::Stopping => Self::stopping(),
            EngineFailure::Internal(what) => Self::internal(what),
            EngineFailure::QueueTimeout => Self::unavailable(
                "queue_timeout",
                "the request waited too long in the queue; try again later",
                Duration::from_secs(10),
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, body, retry_after } = self;
        let mut response = (status, axum::Json(ErrorResponse { error: body })).into_response();
        let headers = response.headers_mut();
        if let Some(after) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil() as u64));
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            // OpenAI's clients repeat the request otherwise, and it would fail again.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
