//! What is read of a room, over HTTP.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use natterjack_nats_config::contract::{Kind, Problem, ReadUpTo, SendPayload, Seq};
use serde::Deserialize;
use serde_json::value::to_raw_value;

use super::answer::{Answer, json};
use super::form::{header_key, read_json};
use super::params::{InRoom, Key};
use super::routes::{Path, internal, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops;

type Door = State<Arc<DoorState>>;

/// `PUT …/read`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    seq: Seq,
}

/// `PUT /v1/rooms/{room}/read`
#[utoipa::path(
    put,
    path = "/v1/rooms/{room}/read",
    tag = "sending",
    params(InRoom, Key),
    request_body = openapi::ReadUpTo,
    responses((status = 200, description = "The mark stands in the log", body = openapi::Receipt)),
)]
pub(super) async fn mark(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let room = path.id("room")?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let Read { seq } = read_json(&headers, &body)?;
    let body = to_raw_value(&ReadUpTo { seq }).map_err(|error| internal(&error))?;
    let mut payload = SendPayload::of_body(body);
    if let Some(key) = header_key(&headers)? {
        payload = payload
            .with_key(key)
            .map_err(|error| Problem::invalid(error.to_string()))?;
    }
    let receipt = ops::send(&door.bridge, &caller.who, room, Kind::Read, payload).await?;
    json(StatusCode::OK, &receipt)
}
