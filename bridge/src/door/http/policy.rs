//! Rooms of two, and why somebody may do something or not.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use http::header::{HeaderValue, LOCATION};
use natterjack_nats_config::contract::Problem;

use super::answer::{Answer, json};
use super::form::read_json;
use super::query::{Fields, id};
use super::routes::{Path, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, ExplainAsk};

type Door = State<Arc<DoorState>>;

#[utoipa::path(
    put,
    path = "/v1/direct/{user}",
    tag = "rooms",
    params(("user" = String, Path, description = "The other one's id", pattern = "^[A-Za-z0-9_-]{1,64}$")),
    responses(
        (status = 201, description = "The one room of the two, which is new", body = openapi::Room),
        (status = 200, description = "The one room of the two", body = openapi::Room),
    ),
)]
pub(super) async fn direct(State(door): Door, caller: Caller, path: Path) -> Answer {
    let (room, is_new) = ops::put_direct(&door.bridge, &caller.who, path.id("user")?).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, &room)?;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/rooms/{}", room.id())) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

#[utoipa::path(
    get,
    path = "/v1/auth/explain",
    tag = "managing",
    params(
        ("permission" = String, Query, description = "A permission's verb, such as `room.send`"),
        ("user" = Option<String>, Query, description = "About whom; the caller by default"),
        ("room" = Option<String>, Query, description = "In which room; without one in the tenant"),
    ),
    responses((status = 200, description = "The decision, its rule, and what it rests on", body = openapi::Explained)),
)]
pub(super) async fn explain(State(door): Door, caller: Caller, request: Request) -> Answer {
    let known = ["user", "permission", "room"];
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &known)?;
    let given = |name: &'static str| fields.text(name).map(|text| id(name, text)).transpose();
    let permission = fields.text("permission").map(str::to_owned);
    let ask = ExplainAsk {
        user: given("user")?,
        room: given("room")?,
        permission: permission.ok_or_else(|| Problem::invalid("`permission` is missing: such as room.send"))?,
    };
    json(StatusCode::OK, &ops::explain(&door.bridge, &caller.who, ask)?)
}

#[utoipa::path(
    post,
    path = "/v1/auth/explain",
    tag = "managing",
    request_body = openapi::ExplainAsk,
    responses((status = 200, description = "The decision, its rule, and what it rests on", body = openapi::Explained)),
)]
pub(super) async fn explain_posted(State(door): Door, caller: Caller, request: Request) -> Answer {
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let ask: ExplainAsk = read_json(&headers, &body)?;
    json(StatusCode::OK, &ops::explain(&door.bridge, &caller.who, ask)?)
}
