//! Messages read over HTTP: pages of history, and search.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use natterjack_nats_config::contract::{Problem, Seq};

use super::answer::{Answer, json};
use super::params::{InRoom, OfMessage, Paged};
use super::query::{Fields, id};
use super::routes::{Path, internal, with_etag};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, HistoryAsk, SearchAsk, ThreadAsk};

type Door = State<Arc<DoorState>>;

/// `GET /v1/rooms/{room}/messages`
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/messages",
    tag = "reading",
    params(InRoom, Paged),
    responses(
        (status = 200, description = "A page, oldest first", body = openapi::HistoryPage),
        (status = 304, description = "As the `ETag` says"),
    ),
)]
pub(super) async fn history(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    page(&door, &caller, &path, request, false).await
}

/// `GET /v1/rooms/{room}/pins`
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/pins",
    tag = "reading",
    params(InRoom, Paged),
    responses(
        (status = 200, description = "The pinned messages, oldest first", body = openapi::HistoryPage),
        (status = 304, description = "As the `ETag` says"),
    ),
)]
pub(super) async fn pins(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    page(&door, &caller, &path, request, true).await
}

/// A page of a room's messages: of all, or of the pinned ones.
async fn page(door: &DoorState, caller: &Caller, path: &Path, request: Request, pinned: bool) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["before", "after", "limit"])?;
    let ask = HistoryAsk {
        room: path.id("room")?,
        before: fields.number("before")?.map(Seq),
        after: fields.number("after")?.map(Seq),
        limit: fields.number("limit")?,
        pinned,
    };
    let page = ops::history(&door.bridge, &caller.who, ask).await?;
    let body = serde_json::to_vec(&page.shown()).map_err(|error| internal(&error))?;
    Ok(with_etag(request.headers(), body.into()))
}

/// `GET /v1/rooms/{room}/threads/{id}`
#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/threads/{id}",
    tag = "reading",
    params(OfMessage, Paged),
    responses(
        (status = 200, description = "The message, and a page of the answers to it, oldest first", body = openapi::Thread),
        (status = 304, description = "As the `ETag` says"),
    ),
)]
pub(super) async fn thread(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["before", "after", "limit"])?;
    let ask = ThreadAsk {
        room: path.id("room")?,
        id: path.text("id")?.to_owned(),
        before: fields.number("before")?.map(Seq),
        after: fields.number("after")?.map(Seq),
        limit: fields.number("limit")?,
    };
    let thread = ops::thread(&door.bridge, &caller.who, ask).await?;
    let body = serde_json::to_vec(&thread).map_err(|error| internal(&error))?;
    Ok(with_etag(request.headers(), body.into()))
}

/// `GET /v1/search`
#[utoipa::path(
    get,
    path = "/v1/search",
    tag = "reading",
    params(
        ("q" = String, Query, description = "Words; a message must have all of them"),
        ("room" = Option<String>, Query, description = "Only this room"),
        ("from" = Option<String>, Query, description = "Only this sender's messages"),
        ("limit" = Option<u64>, Query, description = "1 to 100; 20 by default"),
    ),
    responses((status = 200, description = "Messages with all the words, the best first", body = openapi::SearchPage)),
)]
pub(super) async fn search(State(door): Door, caller: Caller, request: Request) -> Answer {
    let mut fields = Fields::parse(
        request.uri().query().unwrap_or_default(),
        &["q", "room", "from", "limit"],
    )?;
    let given = |name: &'static str| fields.text(name).map(|text| id(name, text)).transpose();
    let ask = SearchAsk {
        room: given("room")?,
        from: given("from")?,
        limit: fields.number("limit")?,
        q: fields
            .take("q")
            .ok_or_else(|| Problem::invalid("`q` is missing: the words to find"))?,
    };
    json(StatusCode::OK, &ops::search(&door.bridge, &caller.who, ask).await?)
}
