//! Who may not be in a room.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::{HeaderMap, StatusCode};
use natterjack_nats_config::contract::BanBody;
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, json};
use super::form::{header_key, read_json};
use super::params::{InRoom, KeyOrBody, Listed, OfMember};
use super::routes::{Path, listing, next_of, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops;

type Door = State<Arc<DoorState>>;

/// `PUT …/bans/{user}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BanPut {
    #[serde(default)]
    reason: Option<String>,
}

#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/bans",
    tag = "rooms",
    params(InRoom, Listed),
    responses((status = 200, description = "Who may not be in it", body = openapi::BansPage)),
)]
pub(super) async fn list(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let (bans, next) = ops::bans(&door.bridge, &caller.who, &path.id("room")?, &listing(&request)?)?;
    json(
        StatusCode::OK,
        &json!({"bans": bans, "next": next.map(|id| next_of(&id))}),
    )
}

#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/bans/{user}",
    tag = "rooms",
    params(OfMember),
    responses((status = 200, description = "That the user may not be in it, and why", body = openapi::Ban)),
)]
pub(super) async fn show(State(door): Door, caller: Caller, path: Path) -> Answer {
    let ban = ops::show_ban(&door.bridge, &caller.who, &path.id("room")?, &path.id("user")?)?;
    json(StatusCode::OK, &ban)
}

#[utoipa::path(
    put,
    path = "/v1/rooms/{room}/bans/{user}",
    tag = "rooms",
    params(OfMember, KeyOrBody),
    request_body = openapi::BanPut,
    responses((status = 200, description = "It stands in the log", body = openapi::Changed)),
)]
pub(super) async fn put(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let (room, user) = (path.id("room")?, path.id("user")?);
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let BanPut { reason } = if body.is_empty() {
        BanPut { reason: None }
    } else {
        read_json(&headers, &body)?
    };
    let body = BanBody {
        user,
        banned: true,
        reason,
    };
    let changed = ops::put_ban(&door.bridge, &caller.who, room, body, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}

#[utoipa::path(
    delete,
    path = "/v1/rooms/{room}/bans/{user}",
    tag = "rooms",
    params(OfMember, KeyOrBody),
    responses((status = 200, description = "It stands in the log", body = openapi::Changed)),
)]
pub(super) async fn lift(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    let (room, user) = (path.id("room")?, path.id("user")?);
    let body = BanBody {
        user,
        banned: false,
        reason: None,
    };
    let changed = ops::put_ban(&door.bridge, &caller.who, room, body, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}
