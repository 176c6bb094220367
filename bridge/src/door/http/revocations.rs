use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;

use super::answer::{Answer, json};
use super::form::{header_key, read_json};
use super::routes::read_body;
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, Revocation};

#[utoipa::path(
    post,
    path = "/v1/revocations",
    tag = "managing",
    params((
        "Idempotency-Key" = Option<String>,
        Header,
        description = "Makes it safe to send again; also `key` in the body",
    )),
    request_body = openapi::Revocation,
    responses((status = 200, description = "It stands in the log", body = openapi::Revoked)),
)]
pub(super) async fn revoke(State(door): State<Arc<DoorState>>, caller: Caller, request: Request) -> Answer {
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let what: Revocation = read_json(&headers, &body)?;
    let revoked = ops::revoke(&door.bridge, &caller.who, what, header_key(&headers)?).await?;
    json(StatusCode::OK, &revoked)
}
