//! Answers: JSON with its length, problems with their headers, and what every answer carries.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use natterjack_nats_config::contract::{Problem, ProblemCode};
use serde::Serialize;

/// Names the request in answers and logs.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How much `Retry-After` is spread, in milliseconds, so that those who were refused together do not return together.
const JITTER_MS: u64 = 2000;

/// A refusal; it becomes problem+json when the request's id is known.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(pub(crate) Problem);

/// What a handler gives back.
pub(crate) type Answer = Result<Response, Refusal>;

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(&self.0);
        response.extensions_mut().insert(self);
        response
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(json_bytes(status, bytes.into())),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be encoded");
            Err(Refusal(Problem::new(
                ProblemCode::Internal,
                "the answer cannot be encoded",
            )))
        }
    }
}

/// An answer that is JSON already.
pub(crate) fn json_bytes(status: StatusCode, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Gives an answer what every answer has; problems get their body here. After the last one the connection ends.
pub(crate) fn finish(response: Response, request_id: &HeaderValue, is_last: bool) -> Response {
    let mut response = match response.extensions().get::<Refusal>() {
        Some(Refusal(problem)) => problem_response(problem.clone(), request_id, response.headers()),
        None if response.status().is_client_error() || response.status().is_server_error() => {
            problem_response(problem_of(response.status()), request_id, response.headers())
        }
        None => response,
    };
    if is_last && !response.headers().contains_key(CONNECTION) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id.clone());
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("Accept, Authorization, Origin"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn problem_response(mut problem: Problem, request_id: &HeaderValue, given: &http::HeaderMap) -> Response {
    problem.request_id = request_id.to_str().ok().map(Into::into);
    if problem.code == ProblemCode::Overloaded {
        let spread = problem
            .request_id
            .as_deref()
            .unwrap_or_default()
            .bytes()
            .fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        problem.retry_after_ms = Some(1000 + spread % JITTER_MS);
    }
    let mut response = Response::new(Body::from(problem.to_json()));
    *response.status_mut() = status(&problem);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(allow) = given.get(ALLOW) {
        headers.insert(ALLOW, allow.clone());
    }
    if let Some(ms) = problem.retry_after_ms {
        headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    let challenge = match problem.code {
        ProblemCode::TokenMissing => Some("Bearer realm=\"natterjack\""),
        ProblemCode::TokenInvalid | ProblemCode::TokenExpired => {
            Some("Bearer realm=\"natterjack\", error=\"invalid_token\"")
        }
        _ => None,
    };
    if let Some(challenge) = challenge {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}

/// For what was refused before it reached us.
fn problem_of(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(ProblemCode::NotFound, "there is nothing at this path; see /v1/…"),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(
            ProblemCode::MethodNotAllowed,
            "this path does not have this method; the header `Allow` names those it has",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(ProblemCode::TooLarge, "the request is too large"),
        status if status.is_client_error() => Problem::invalid("the request cannot be read"),
        _ => Problem::new(
            ProblemCode::Internal,
            "a fault of ours; the request's id helps to find it in the logs",
        ),
    }
}

fn status(problem: &Problem) -> StatusCode {
    StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
