//! Who the caller is, and whom they may know of, over HTTP.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use natterjack_nats_config::clock;
use serde::Serialize;
use serde_json::json;

use super::answer::{Answer, json};
use super::params::Listed;
use super::query::Fields;
use super::routes::{listing_of, next_of};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops;

type Door = State<Arc<DoorState>>;

/// `GET /v1/me`
#[derive(Serialize)]
struct Me {
    #[serde(flatten)]
    who: ops::Me,
    /// When the token expires: RFC 3339, UTC.
    expires_at: String,
    /// Seconds until then.
    expires_in: u64,
}

/// `GET /v1/me`
#[utoipa::path(
    get,
    path = "/v1/me",
    tag = "rooms",
    responses((status = 200, description = "Who the token says, and what they may do", body = openapi::Me)),
)]
pub(super) async fn me(State(door): Door, caller: Caller) -> Answer {
    let me = Me {
        who: ops::me(&door.bridge, &caller.who, Some(door.max_body_bytes))?,
        expires_at: clock::format_ms(caller.expires_at_ms),
        expires_in: caller.expires_in().as_secs(),
    };
    json(StatusCode::OK, &me)
}

/// `GET /v1/users`
#[utoipa::path(
    get,
    path = "/v1/users",
    tag = "rooms",
    params(
        ("q" = Option<String>, Query, description = "Part of an id, in whatever capitals; everybody by default"),
        Listed,
    ),
    responses((
        status = 200,
        description = "Who shares a room with the caller; for an administrator everybody in the tenant",
        body = openapi::UsersPage,
    )),
)]
pub(super) async fn users(State(door): Door, caller: Caller, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["q", "limit", "next"])?;
    let listing = listing_of(&fields)?;
    let (users, next) = ops::users(
        &door.bridge,
        &caller.who,
        fields.text("q").unwrap_or_default(),
        &listing,
    )?;
    json(
        StatusCode::OK,
        &json!({"users": users, "next": next.map(|id| next_of(&id))}),
    )
}
