//! Reactions and pins over HTTP.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::{HeaderMap, StatusCode};
use natterjack_nats_config::contract::{Kind, ReactBody, SendPayload};
use serde_json::value::to_raw_value;

use super::answer::{Answer, json};
use super::form::header_key;
use super::message::{bodiless, change};
use super::params::{Key, Listed, OfMessage};
use super::query::Fields;
use super::routes::{Path, internal};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, ReactionsAsk};

type Door = State<Arc<DoorState>>;

/// `PUT /v1/rooms/{room}/messages/{id}/reactions/{emoji}`
#[utoipa::path(
    put,
    path = "/v1/rooms/{room}/messages/{id}/reactions/{emoji}",
    tag = "sending",
    params(
        OfMessage,
        ("emoji" = String, Path, description = "The reaction, 1 to 64 bytes", min_length = 1, max_length = 64),
        Key,
    ),
    responses((status = 200, description = "The reaction stands in the log", body = openapi::Receipt)),
)]
pub(super) async fn react(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    ask(&door, &caller, (Kind::React, &path), &headers).await
}

/// `DELETE /v1/rooms/{room}/messages/{id}/reactions/{emoji}`
#[utoipa::path(
    delete,
    path = "/v1/rooms/{room}/messages/{id}/reactions/{emoji}",
    tag = "sending",
    params(
        OfMessage,
        ("emoji" = String, Path, description = "The reaction, 1 to 64 bytes", min_length = 1, max_length = 64),
        Key,
    ),
    responses((status = 200, description = "It stands in the log that the reaction was taken back", body = openapi::Receipt)),
)]
pub(super) async fn unreact(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    ask(&door, &caller, (Kind::Unreact, &path), &headers).await
}

/// `PUT /v1/rooms/{room}/messages/{id}/pin`
#[utoipa::path(
    put,
    path = "/v1/rooms/{room}/messages/{id}/pin",
    tag = "sending",
    params(OfMessage, Key),
    responses((status = 200, description = "The pin stands in the log", body = openapi::Receipt)),
)]
pub(super) async fn pin(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    ask(&door, &caller, (Kind::Pin, &path), &headers).await
}

/// `DELETE /v1/rooms/{room}/messages/{id}/pin`
#[utoipa::path(
    delete,
    path = "/v1/rooms/{room}/messages/{id}/pin",
    tag = "sending",
    params(OfMessage, Key),
    responses((status = 200, description = "It stands in the log that it is pinned no more", body = openapi::Receipt)),
)]
pub(super) async fn unpin(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    ask(&door, &caller, (Kind::Unpin, &path), &headers).await
}

/// `GET /v1/rooms/{room}/messages/{id}/reactions`
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/messages/{id}/reactions",
    tag = "reading",
    params(
        OfMessage,
        ("emoji" = Option<String>, Query, description = "Only this reaction"),
        Listed,
    ),
    responses((status = 200, description = "Who reacted, by reaction", body = openapi::ReactionsPage)),
)]
pub(super) async fn list(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let mut fields = Fields::parse(request.uri().query().unwrap_or_default(), &["emoji", "limit", "next"])?;
    let ask = ReactionsAsk {
        room: path.id("room")?,
        id: path.text("id")?.to_owned(),
        limit: fields.number("limit")?,
        emoji: fields.take("emoji"),
        next: fields.take("next"),
    };
    json(StatusCode::OK, &ops::reactions(&door.bridge, &caller.who, ask).await?)
}

async fn ask(door: &DoorState, caller: &Caller, (kind, path): (Kind, &Path), headers: &HeaderMap) -> Answer {
    let mut payload = bodiless(header_key(headers)?)?;
    if matches!(kind, Kind::React | Kind::Unreact) {
        let body = ReactBody {
            emoji: path.text("emoji")?.to_owned(),
        };
        payload = SendPayload {
            body: to_raw_value(&body).map_err(|error| internal(&error))?,
            ..payload
        };
    }
    let target = path.text("id")?.to_owned();
    let sent = change(door, caller, path.id("room")?, (kind, target), payload)?;
    json(StatusCode::OK, &sent.receipt(&door.bridge).await?)
}
