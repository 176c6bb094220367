use std::sync::Arc;

use axum::extract::{Request, State};
use http::HeaderMap;
use http::StatusCode;
use natterjack_nats_config::contract::{HoldBody, Id};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::answer::{Answer, json};
use super::form::{header_key, read_json};
use super::params::{InRoom, Key, OfUser};
use super::routes::{Path, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops;

type Door = State<Arc<DoorState>>;

/// Why something is held.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldReason {
    /// At most 256 bytes, for the audit.
    #[serde(default)]
    reason: Option<String>,
}

/// What is held.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes an answer, and is what the tests read it as")]
pub(super) struct Holds {
    holds: Vec<Held>,
}

/// A hold on a room, or on what a user wrote.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes an answer, and is what the tests read it as")]
pub(super) struct Held {
    #[serde(default)]
    #[schema(nullable = false)]
    room: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    user: Option<String>,
    seq: u64,
    at: String,
    by: String,
    #[serde(default)]
    #[schema(nullable = false)]
    reason: Option<String>,
}

#[utoipa::path(
    put,
    path = "/v1/holds/rooms/{room}",
    tag = "managing",
    params(InRoom, Key),
    request_body = HoldReason,
    responses((status = 200, description = "It is held, and the archive knows", body = openapi::Receipt)),
)]
pub(super) async fn hold_room(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    hold(&door, &caller, room(path.id("room")?), request).await
}

#[utoipa::path(
    delete,
    path = "/v1/holds/rooms/{room}",
    tag = "managing",
    params(InRoom, Key),
    responses((status = 200, description = "It may grow old again", body = openapi::Receipt)),
)]
pub(super) async fn release_room(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    release(&door, &caller, room(path.id("room")?), &headers).await
}

#[utoipa::path(
    put,
    path = "/v1/holds/users/{user}",
    tag = "managing",
    params(OfUser, Key),
    request_body = HoldReason,
    responses((status = 200, description = "It is held, and the archive knows", body = openapi::Receipt)),
)]
pub(super) async fn hold_user(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    hold(&door, &caller, user(path.id("user")?), request).await
}

#[utoipa::path(
    delete,
    path = "/v1/holds/users/{user}",
    tag = "managing",
    params(OfUser, Key),
    responses((status = 200, description = "It may grow old again", body = openapi::Receipt)),
)]
pub(super) async fn release_user(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    release(&door, &caller, user(path.id("user")?), &headers).await
}

#[utoipa::path(
    get,
    path = "/v1/holds",
    tag = "managing",
    responses((status = 200, description = "What is held in the tenant", body = Holds)),
)]
pub(super) async fn list(State(door): Door, caller: Caller) -> Answer {
    let page = ops::holds(&door.bridge, &caller.who).await?;
    json(StatusCode::OK, &json!({"holds": page.holds}))
}

async fn hold(door: &DoorState, caller: &Caller, what: HoldBody, request: Request) -> Answer {
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let HoldReason { reason } = read_json(&headers, &body)?;
    let what = HoldBody { reason, ..what };
    let receipt = ops::put_hold(&door.bridge, &caller.who, &what, header_key(&headers)?).await?;
    json(StatusCode::OK, &receipt)
}

async fn release(door: &DoorState, caller: &Caller, what: HoldBody, headers: &HeaderMap) -> Answer {
    let what = HoldBody { held: false, ..what };
    let receipt = ops::put_hold(&door.bridge, &caller.who, &what, header_key(headers)?).await?;
    json(StatusCode::OK, &receipt)
}

fn room(id: Id) -> HoldBody {
    HoldBody {
        room: Some(id),
        user: None,
        held: true,
        reason: None,
    }
}

fn user(id: Id) -> HoldBody {
    HoldBody {
        room: None,
        user: Some(id),
        held: true,
        reason: None,
    }
}
