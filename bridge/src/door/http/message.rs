//! One message over HTTP: shown, edited, deleted.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use natterjack_nats_config::contract::{Id, Kind, Problem, SendPayload};

use super::answer::{Answer, json, json_bytes};
use super::form::{header_key, read_message};
use super::params::{Acknowledged, Key, KeyOrBody, OfMessage};
use super::query::Fields;
use super::routes::{Path, internal, read_body};
use super::send::{ack, receipt};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops;

type Door = State<Arc<DoorState>>;

/// `GET /v1/rooms/{room}/messages/{id}`
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/messages/{id}",
    tag = "reading",
    params(OfMessage),
    responses((status = 200, description = "The message, and its edits", body = openapi::MessageShown)),
)]
pub(super) async fn show(State(door): Door, caller: Caller, path: Path) -> Answer {
    let shown = ops::message(&door.bridge, &caller.who, path.id("room")?, path.text("id")?).await?;
    let body = serde_json::to_vec(&shown).map_err(|error| internal(&error))?;
    Ok(json_bytes(StatusCode::OK, body.into()))
}

/// `PATCH /v1/rooms/{room}/messages/{id}`
#[utoipa::path(
    patch,
    path = "/v1/rooms/{room}/messages/{id}",
    tag = "sending",
    params(OfMessage, Acknowledged, KeyOrBody),
    request_body(
        content(
            (openapi::Edit = "application/json"),
            (String = "text/plain"),
            (String = "application/x-www-form-urlencoded"),
        ),
    ),
    responses((status = 200, description = "The edit stands in the log", body = openapi::Receipt)),
)]
pub(super) async fn edit(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let (room, id) = (path.id("room")?, path.text("id")?.to_owned());
    let ack = ack(&request)?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let payload = read_message(&headers, None, &body)?;
    if payload.reply_to.is_some() || payload.target.is_some() || payload.on_behalf_of.is_some() {
        return Err(Problem::invalid("an edit has `body`, `key` and `if_last` and nothing else").into());
    }
    let sent = change(&door, &caller, room, (Kind::Edit, id), payload)?;
    json(StatusCode::OK, &receipt(&door, sent, ack).await?)
}

/// `DELETE /v1/rooms/{room}/messages/{id}`
#[utoipa::path(
    delete,
    path = "/v1/rooms/{room}/messages/{id}",
    tag = "sending",
    params(OfMessage, Acknowledged, Key),
    responses((status = 200, description = "The deletion stands in the log", body = openapi::Receipt)),
)]
pub(super) async fn remove(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let (room, id) = (path.id("room")?, path.text("id")?.to_owned());
    let ack = ack(&request)?;
    Fields::parse(request.uri().query().unwrap_or_default(), &["ack"])?;
    let payload = bodiless(header_key(request.headers())?)?;
    let sent = change(&door, &caller, room, (Kind::Delete, id), payload)?;
    json(StatusCode::OK, &receipt(&door, sent, ack).await?)
}

/// What has nothing to say but what it is about.
pub(super) fn bodiless(key: Option<String>) -> Result<SendPayload, Problem> {
    let payload = SendPayload::from_json(br#"{"body":{}}"#);
    let payload = payload.and_then(|payload| match key {
        Some(key) => payload.with_key(key),
        None => Ok(payload),
    });
    payload.map_err(|error| Problem::invalid(error.to_string()))
}

pub(super) fn change(
    door: &DoorState,
    caller: &Caller,
    room: Id,
    (kind, target): (Kind, String),
    payload: SendPayload,
) -> Result<ops::Sent, Problem> {
    let payload = SendPayload {
        target: Some(target),
        ..payload
    };
    let payload = payload.checked().map_err(|error| Problem::invalid(error.to_string()))?;
    ops::begin_send(&door.bridge, &caller.who, room, kind, payload)
}
