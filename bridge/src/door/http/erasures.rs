use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use natterjack_nats_config::contract::{Problem, Seq};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::DoorState;
use super::answer::{Answer, json};
use super::form::{header_key, read_json};
use super::params::{KeyOrBody, OfErasure};
use super::query::Fields;
use super::routes::{Path, read_body};
use crate::door::auth::Caller;
use crate::ops::{self, EraseAsk};

type Door = State<Arc<DoorState>>;

/// What is to be erased: all that `user` wrote, or in `room` the `message` of that id.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes a request")]
pub(super) struct ToErase {
    #[serde(default)]
    #[schema(nullable = false)]
    user: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    room: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    message: Option<String>,
    /// At most 256 bytes, for the audit. Who hears of the erasure reads it.
    #[serde(default)]
    #[schema(nullable = false)]
    reason: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    key: Option<String>,
}

/// What became of an erasure.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes an answer, and is what the tests read it as")]
pub(super) struct Erasure {
    /// The event that asks for it; by it the receipt is asked for.
    seq: u64,
    at: String,
    by: String,
    #[serde(default)]
    #[schema(nullable = false)]
    reason: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    user: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    room: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    message: Option<String>,
    state: ErasureState,
    counted: Counted,
    pending: Vec<PendingPart>,
}

/// `done` once nothing within reach has it any more.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ErasureState {
    Pending,
    Done,
}

/// What was erased in the archive so far.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes an answer, and is what the tests read it as")]
pub(super) struct Counted {
    messages: u64,
    edits: u64,
    reactions: u64,
    /// Entries of the index of words.
    search: u64,
}

/// Something that still has it.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes an answer, and is what the tests read it as")]
pub(super) struct PendingPart {
    /// `archive`, `log` or `rooms`.
    part: String,
    /// The last event that has to go.
    upto: u64,
    /// What ends it.
    until: String,
}

/// Receipts, the newest first.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes an answer, and is what the tests read it as")]
pub(super) struct Erasures {
    erasures: Vec<Erasure>,
    /// What to ask next as `before`; none when there is no more.
    #[schema(required)]
    next: Option<u64>,
}

#[utoipa::path(
    post,
    path = "/v1/erasures",
    tag = "managing",
    params(KeyOrBody),
    request_body = ToErase,
    responses((status = 202, description = "It stands in the log, and nobody is shown it any more", body = Erasure)),
)]
pub(super) async fn erase(State(door): Door, caller: Caller, request: Request) -> Answer {
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let mut ask: EraseAsk = read_json(&headers, &body)?;
    if let Some(key) = header_key(&headers)? {
        ask.set_key(key);
    }
    let erasure = ops::erase(&door.bridge, &caller.who, ask).await?;
    json(StatusCode::ACCEPTED, &erasure)
}

#[utoipa::path(
    get,
    path = "/v1/erasures",
    tag = "managing",
    params(("before" = Option<u64>, Query, description = "Those before this `seq`")),
    responses((status = 200, description = "Receipts, the newest first: of all for those who may erase or audit, else one's own", body = Erasures)),
)]
pub(super) async fn list(State(door): Door, caller: Caller, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["before"])?;
    let before = fields.number("before")?.map(Seq);
    let (erasures, next) = ops::erasures(&door.bridge, &caller.who, (None, before)).await?;
    json(StatusCode::OK, &json!({"erasures": erasures, "next": next}))
}

#[utoipa::path(
    get,
    path = "/v1/erasures/{seq}",
    tag = "managing",
    params(OfErasure),
    responses((status = 200, description = "What became of it", body = Erasure)),
)]
pub(super) async fn show(State(door): Door, caller: Caller, path: Path) -> Answer {
    let seq = path
        .text("seq")?
        .parse()
        .map_err(|_| Problem::invalid("`seq` is a number"))?;
    json(
        StatusCode::OK,
        &ops::erasure(&door.bridge, &caller.who, Seq(seq)).await?,
    )
}
