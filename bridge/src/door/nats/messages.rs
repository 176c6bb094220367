//! One message over NATS: shown, edited, deleted.

use bytes::Bytes;
use natterjack_nats_config::contract::{Actor, Id, Kind, Problem, ProblemCode, SendPayload, check_depth};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{json, read};
use crate::ops::{self, Bridge};

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

/// Answers `messages.{verb}`.
pub(super) async fn call(bridge: &Bridge, who: &Actor, verb: &str, payload: &[u8]) -> Result<Bytes, Problem> {
    match verb {
        "get" => {
            let MessageOf { room, id } = read(payload)?;
            json(&ops::message(bridge, who, room, &id).await?)
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
