//! One message over NATS: shown, edited, deleted.

use bytes::Bytes;
use natterjack_nats_config::contract::{Actor, Id, Kind, Problem, ProblemCode, SendPayload, Seq, check_depth};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{json, read};
use crate::ops::{self, Bridge, ReactionsAsk, ThreadAsk};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageOf {
    room: Id,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeOf {
    room: Id,
    id: String,
    #[serde(default)]
    body: Option<Box<RawValue>>,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThreadOf {
    room: Id,
    id: String,
    #[serde(default)]
    before: Option<Seq>,
    #[serde(default)]
    after: Option<Seq>,
    #[serde(default)]
    limit: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReactionsOf {
    room: Id,
    id: String,
    #[serde(default)]
    emoji: Option<String>,
    #[serde(default)]
    limit: Option<u64>,
    #[serde(default)]
    next: Option<String>,
}

/// Answers `threads.get`.
pub(super) async fn thread(bridge: &Bridge, who: &Actor, payload: &[u8]) -> Result<Bytes, Problem> {
    let of: ThreadOf = read(payload)?;
    let ask = ThreadAsk {
        room: of.room,
        id: of.id,
        before: of.before,
        after: of.after,
        limit: of.limit,
    };
    json(&ops::thread(bridge, who, ask).await?)
}

/// Answers `messages.{verb}`.
pub(super) async fn call(bridge: &Bridge, who: &Actor, verb: &str, payload: &[u8]) -> Result<Bytes, Problem> {
    match verb {
        "get" => {
            let MessageOf { room, id } = read(payload)?;
            json(&ops::message(bridge, who, room, &id).await?)
        }
        "reactions" => {
            let of: ReactionsOf = read(payload)?;
            let ask = ReactionsAsk {
                room: of.room,
                id: of.id,
                emoji: of.emoji,
                limit: of.limit,
                next: of.next,
            };
            json(&ops::reactions(bridge, who, ask).await?)
        }
        _ => match Kind::parse(verb).filter(|kind| kind.has_target()) {
            Some(kind) => change(bridge, who, kind, payload).await,
            None => Err(Problem::new(ProblemCode::NotFound, "there is no such service")),
        },
    }
}

async fn change(bridge: &Bridge, who: &Actor, kind: Kind, payload: &[u8]) -> Result<Bytes, Problem> {
    let invalid = |error: &dyn std::fmt::Display| Problem::invalid(format!("the request: {error}"));
    check_depth(payload).map_err(|error| invalid(&error))?;
    let ChangeOf { room, id, body, key } = read(payload)?;
    let body = match body {
        None if kind.needs_no_body() => RawValue::from_string("{}".to_owned()).ok(),
        body => body,
    };
    let payload = SendPayload {
        key,
        target: Some(id),
        ..SendPayload::of_body(body.ok_or_else(|| Problem::invalid("`body` is missing"))?)
    };
    let payload = payload.checked().map_err(|error| invalid(&error))?;
    json(&ops::send(bridge, who, room, kind, payload).await?)
}
