//! Sending over HTTP: one message, many, and what is not kept.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use http::header::{HeaderValue, LOCATION};
use natterjack_nats_config::contract::{Id, Kind, Problem, ProblemCode, Receipt, SendPayload};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::{Answer, json};
use super::form::{read_json, read_message};
use super::params::{Acknowledged, InRoom, KeyOrBody};
use super::query::Fields;
use super::routes::{Path, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, Sent};

/// The most messages in a batch.
const MAX_BATCH: usize = 100;
/// The largest body of a batch, in bytes: what goes to the writer at once.
const MAX_BATCH_BYTES: usize = 512 * 1024;

type Door = State<Arc<DoorState>>;

/// What a sender waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// The log's flush to disk.
    Log,
    /// The archive's commit too.
    Db,
}

/// `POST …/messages:batch`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    messages: Vec<Box<RawValue>>,
}

/// What became of one message of a batch: what it would have been answered alone.
#[derive(Serialize)]
struct OneResult {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// `POST /v1/rooms/{room}/messages`
#[utoipa::path(
    post,
    path = "/v1/rooms/{room}/messages",
    tag = "sending",
    params(InRoom, Acknowledged, KeyOrBody),
    request_body(
        content(
            (openapi::Message = "application/json"),
            (String = "text/plain"),
            (String = "application/x-www-form-urlencoded"),
        ),
    ),
    responses(
        (status = 201, description = "It stands in the log", body = openapi::Receipt),
        (status = 200, description = "It stood there already", body = openapi::Receipt),
    ),
)]
pub(super) async fn send(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    send_with(&door, &caller, &path, None, request).await
}

/// `PUT /v1/rooms/{room}/messages/by-key/{key}`
#[utoipa::path(
    put,
    path = "/v1/rooms/{room}/messages/by-key/{key}",
    tag = "sending",
    params(
        InRoom,
        ("key" = String, Path, description = "The key", min_length = 1, max_length = 128),
        Acknowledged,
    ),
    request_body(
        content(
            (openapi::Message = "application/json"),
            (String = "text/plain"),
            (String = "application/x-www-form-urlencoded"),
        ),
    ),
    responses(
        (status = 201, description = "It stands in the log", body = openapi::Receipt),
        (status = 200, description = "It stood there already", body = openapi::Receipt),
    ),
)]
pub(super) async fn send_by_key(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let key = path.text("key")?.to_owned();
    send_with(&door, &caller, &path, Some(key), request).await
}

async fn send_with(door: &DoorState, caller: &Caller, path: &Path, key: Option<String>, request: Request) -> Answer {
    let room = path.id("room")?;
    let ack = ack(&request)?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let payload = read_message(&headers, key, &body)?;
    let location = room.clone();
    let sent = ops::begin_send(&door.bridge, &caller.who, room, Kind::Msg, payload)?;
    let receipt = receipt(door, sent, ack).await?;
    let mut response = json(status(&receipt), &receipt)?;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/rooms/{location}/messages/{}", receipt.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `POST /v1/rooms/{room}/messages:batch`
#[utoipa::path(
    post,
    path = "/v1/rooms/{room}/messages:batch",
    tag = "sending",
    params(InRoom, Acknowledged),
    request_body = openapi::Batch,
    responses((status = 200, description = "A result for each", body = openapi::BatchResults)),
)]
pub(super) async fn batch(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let room = path.id("room")?;
    let ack = ack(&request)?;
    let (headers, body) = read_body(request, MAX_BATCH_BYTES.max(door.max_body_bytes)).await?;
    let Batch { messages } = read_json(&headers, &body)?;
    if !(1..=MAX_BATCH).contains(&messages.len()) {
        let detail = format!("`messages` must hold 1 to {MAX_BATCH}; there are {}", messages.len());
        return Err(Problem::invalid(detail).into());
    }
    // All are on their way, in their order, before the first is waited for.
    let begun: Vec<_> = messages
        .iter()
        .map(|message| begin(&door, &caller, &room, message.get()))
        .collect();
    let mut results = Vec::with_capacity(begun.len());
    for begun in begun {
        let outcome = match begun {
            Ok(sent) => receipt(&door, sent, ack).await,
            Err(problem) => Err(problem),
        };
        results.push(OneResult::of(outcome));
    }
    json(StatusCode::OK, &serde_json::json!({ "results": results }))
}

fn begin(door: &DoorState, caller: &Caller, room: &Id, message: &str) -> Result<Sent, Problem> {
    if message.len() > door.max_body_bytes {
        let detail = format!("the message is larger than {} bytes", door.max_body_bytes);
        return Err(Problem::new(ProblemCode::TooLarge, detail));
    }
    let payload = SendPayload::from_json(message.as_bytes()).map_err(|error| Problem::invalid(error.to_string()))?;
    ops::begin_send(&door.bridge, &caller.who, room.clone(), Kind::Msg, payload)
}

pub(super) async fn receipt(door: &DoorState, sent: Sent, ack: Ack) -> Result<Receipt, Problem> {
    match ack {
        Ack::Log => sent.receipt(&door.bridge).await,
        Ack::Db => sent.archived(&door.bridge).await,
    }
}

/// `POST /v1/rooms/{room}/typing`
#[utoipa::path(
    post,
    path = "/v1/rooms/{room}/typing",
    tag = "sending",
    params(InRoom),
    responses((status = 202, description = "It was told and is not kept", body = openapi::Receipt)),
)]
pub(super) async fn typing(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let room = path.id("room")?;
    Fields::parse(request.uri().query().unwrap_or_default(), &[])?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let payload = if body.is_empty() {
        SendPayload::from_native_of(Kind::Typing, &body).map_err(|error| Problem::invalid(error.to_string()))?
    } else {
        read_message(&headers, None, &body)?
    };
    let sent = ops::begin_tell(&door.bridge, &caller.who, room, Kind::Typing, payload)?;
    json(StatusCode::ACCEPTED, &sent.receipt(&door.bridge).await?)
}

pub(super) fn ack(request: &Request) -> Result<Ack, Problem> {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["ack"])?;
    match fields.text("ack") {
        None | Some("" | "log") => Ok(Ack::Log),
        Some("db") => Ok(Ack::Db),
        Some(_) => Err(Problem::invalid("`ack` must be log or db")),
    }
}

fn status(receipt: &Receipt) -> StatusCode {
    if receipt.duplicate {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    }
}

impl OneResult {
    fn of(outcome: Result<Receipt, Problem>) -> Self {
        match outcome {
            Ok(receipt) => Self {
                status: status(&receipt).as_u16(),
                receipt: Some(receipt),
                problem: None,
            },
            Err(problem) => Self {
                status: problem.status,
                receipt: None,
                problem: Some(problem),
            },
        }
    }
}
