//! API keys over HTTP.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use natterjack_nats_config::contract::Id;
use serde_json::json as object;

use super::answer::{Answer, json};
use super::form::read_json;
use super::query::{Fields, id};
use super::routes::{Path, listing_of, next_of, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, NewKey};

type Door = State<Arc<DoorState>>;

/// `POST /v1/keys`
#[utoipa::path(
    post,
    path = "/v1/keys",
    tag = "managing",
    request_body = openapi::NewKey,
    responses((status = 201, description = "A key; it is shown this once", body = openapi::MadeKey)),
)]
pub(super) async fn make(State(door): Door, caller: Caller, request: Request) -> Answer {
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let asked: NewKey = read_json(&headers, &body)?;
    let made = ops::make_key(&door.bridge, &caller.who, asked).await?;
    let mut answer = json(StatusCode::CREATED, &made)?;
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// `GET /v1/keys`
#[utoipa::path(
    get,
    path = "/v1/keys",
    tag = "managing",
    params(
        ("user" = Option<String>, Query, description = "Whose; the caller's own by default"),
        ("limit" = Option<u64>, Query, description = "1 to 200; 100 by default"),
        ("next" = Option<String>, Query, description = "Where the page begins, as the one before told"),
    ),
    responses((status = 200, description = "A page of keys, in the order of their ids", body = openapi::KeysPage)),
)]
pub(super) async fn list(State(door): Door, caller: Caller, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["user", "limit", "next"])?;
    let user: Option<Id> = fields.text("user").map(|text| id("user", text)).transpose()?;
    let (keys, next) = ops::keys(&door.bridge, &caller.who, user.as_ref(), &listing_of(&fields)?)?;
    json(
        StatusCode::OK,
        &object!({"keys": keys, "next": next.map(|id| next_of(&id))}),
    )
}

/// `DELETE /v1/keys/{id}`
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    tag = "managing",
    params(("id" = String, Path, description = "The key's id", pattern = "^[0-9a-f]{24}$")),
    responses((status = 200, description = "Its end stands in the log", body = openapi::Revoked)),
)]
pub(super) async fn revoke(State(door): Door, caller: Caller, path: Path) -> Answer {
    let id = path.id("id")?;
    json(StatusCode::OK, &ops::revoke_key(&door.bridge, &caller.who, &id).await?)
}
