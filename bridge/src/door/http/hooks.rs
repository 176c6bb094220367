//! Incoming webhooks over HTTP, as Slack has them: Grafana, Alertmanager, Jenkins and many others post to such an address.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use natterjack_nats_config::contract::{Actor, By, Id, Kind, MemberBody, Problem, ProblemCode, RoomKind, SendPayload};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json as object};
use uuid::Uuid;

use super::answer::{Answer, json};
use super::form::{header_key, read_json};
use super::params::InRoom;
use super::query::Fields;
use super::routes::{Path, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::door::hook::Hook;
use crate::ops;

/// Where hooks post to; what follows is a secret.
const PREFIX: &str = "/v1/hooks/";
/// Of what is posted, this is passed on; what is for Slack's own channels and icons is not.
const PASSED_ON: [&str; 4] = ["text", "attachments", "blocks", "username"];
/// Random digits in a hook's name.
const DIGITS: usize = 12;

type Door = State<Arc<DoorState>>;

/// `POST /v1/rooms/{room}/hooks`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewHook {
    #[serde(default)]
    name: Option<Id>,
}

/// `POST /v1/rooms/{room}/hooks`
#[utoipa::path(
    post,
    path = "/v1/rooms/{room}/hooks",
    tag = "rooms",
    params(InRoom),
    request_body = openapi::NewHook,
    responses((status = 201, description = "A hook; its address is shown this once", body = openapi::HookMade)),
)]
pub(super) async fn make(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let room = path.id("room")?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let NewHook { name } = read_json(&headers, &body)?;
    // The writer decides who becomes a member; a hook goes on when whoever made it has gone, so it takes more than that.
    ops::check_manages(&door.bridge, &caller.who, &room)?;
    let role = role_in(ops::show_room(&door.bridge, &caller.who, &room)?.kind)?;
    let user = user(name.as_ref())?;
    let member = MemberBody {
        user: user.clone(),
        role: Some(role.parse().map_err(|_| internal())?),
        visible_from: None,
    };
    let changed = ops::put_member(&door.bridge, &caller.who, room.clone(), member, None).await?;
    let mut who = caller.who.principal.clone();
    who.user = user.clone();
    let since = changed.receipt.seq;
    let secret = door.hooks.secret(&Hook { who, room, since });
    let made = object!({"hook": user, "path": format!("{PREFIX}{secret}"), "receipt": changed.receipt});
    json(StatusCode::CREATED, &made)
}

/// What a hook is in a room of a kind, so that it may post and nothing else.
fn role_in(kind: RoomKind) -> Result<&'static str, Problem> {
    match kind {
        RoomKind::Device => Ok("device"),
        RoomKind::Announcement => Err(Problem::new(
            ProblemCode::Conflict,
            "in an announcement room only moderators post; make the hook in a room of kind group or device",
        )),
        _ => Ok("member"),
    }
}

/// `POST /v1/hooks/{hook}`
#[utoipa::path(
    post,
    path = "/v1/hooks/{hook}",
    tag = "sending",
    params(("hook" = String, Path, description = "The secret part of the address", max_length = 512)),
    request_body(
        content(
            (openapi::HookPost = "application/json"),
            (String = "application/x-www-form-urlencoded"),
        ),
    ),
    responses((status = 200, description = "It stands in the log", body = String, content_type = "text/plain")),
)]
pub(super) async fn post(State(door): Door, path: Path, request: Request) -> Answer {
    let hook = door.hooks.read(path.text("hook")?).ok_or_else(no_such_hook)?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let payload = read(&headers, &body)?;
    if !ops::is_since(&door.bridge, &hook.who, &hook.room, hook.since).await? {
        return Err(no_such_hook().into());
    }
    // An address is no token: it ends with the membership.
    let actor = Actor {
        principal: hook.who,
        by: By::Connection,
    };
    let sent = ops::send(&door.bridge, &actor, hook.room, Kind::Msg, payload).await;
    sent.map_err(|problem| match problem.code {
        ProblemCode::NotFound => no_such_hook(),
        ProblemCode::Forbidden => Problem::new(
            ProblemCode::Forbidden,
            "the hook may not post there any more: the room's kind or the hook's role was changed",
        ),
        _ => problem,
    })?;
    let mut response = Response::new("ok".into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// A path as it may be logged.
pub(super) fn shown(uri: &Uri) -> String {
    let path = uri.path();
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    if decoded.contains(PREFIX.trim_end_matches('/')) {
        return format!("{PREFIX}…");
    }
    path.to_owned()
}

fn no_such_hook() -> Problem {
    Problem::new(ProblemCode::NotFound, "there is no such hook, or it was revoked")
}

fn internal() -> Problem {
    Problem::new(ProblemCode::Internal, "a hook cannot be made")
}

/// A user that nobody is: nobody can take the name before.
fn user(name: Option<&Id>) -> Result<Id, Problem> {
    let number = Uuid::now_v7().simple().to_string();
    // It begins with the time and ends at random.
    let digits = number.get(number.len() - DIGITS..).unwrap_or(&number);
    let user = name.map_or(format!("hook-{digits}"), |name| format!("hook-{name}-{digits}"));
    user.parse()
        .map_err(|_| Problem::invalid("`name` is longer than 46 characters"))
}

/// What was posted: JSON, or a form with it in `payload`.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<SendPayload, Problem> {
    let posted: Map<String, Value> = match std::str::from_utf8(body).ok().filter(|_| is_form(headers, body)) {
        Some(form) => {
            let payload = Fields::parse(form, &["payload"])?.take("payload");
            read_json(&HeaderMap::new(), payload.unwrap_or_default().as_bytes())?
        }
        None => read_json(headers, body)?,
    };
    let body =
        message(posted).ok_or_else(|| Problem::invalid("there is no `text`, and no `attachments` or `blocks`"))?;
    let body = to_raw_value(&body).map_err(|error| Problem::invalid(error.to_string()))?;
    let mut payload = SendPayload::of_body(body);
    payload.key = header_key(headers)?;
    payload.checked().map_err(|error| Problem::invalid(error.to_string()))
}

fn is_form(headers: &HeaderMap, body: &[u8]) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = media.is_some_and(|media| media.starts_with("application/x-www-form-urlencoded"));
    is_form && !body.trim_ascii_start().starts_with(b"{")
}

/// The message's body: what was posted, with a `text` for clients that know nothing else.
fn message(mut posted: Map<String, Value>) -> Option<Map<String, Value>> {
    posted.retain(|name, _| PASSED_ON.contains(&name.as_str()));
    let is_there = |name: &str| posted.get(name).is_some_and(|value| !value.is_null());
    if !["text", "attachments", "blocks"].into_iter().any(is_there) {
        return None;
    }
    let text = posted
        .get("text")
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    let text = text.map_or_else(|| in_short(&posted), str::to_owned);
    posted.insert("text".to_owned(), text.into());
    Some(posted)
}

/// What attachments and blocks say in words.
fn in_short(posted: &Map<String, Value>) -> String {
    let list = |name: &str| posted.get(name).and_then(Value::as_array).into_iter().flatten();
    let of_attachment = |attachment: &Value| {
        let texts = ["title", "text"].map(|name| attachment.get(name).and_then(Value::as_str));
        let texts: Vec<&str> = texts.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        let fallback = attachment.get("fallback").and_then(Value::as_str);
        if texts.is_empty() {
            fallback.map(str::to_owned)
        } else {
            Some(texts.join("\n"))
        }
    };
    let of_block = |block: &Value| block.pointer("/text/text").and_then(Value::as_str).map(str::to_owned);
    let attachments = list("attachments").filter_map(of_attachment);
    attachments
        .chain(list("blocks").filter_map(of_block))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(media: &str, body: &str) -> Result<Value, ProblemCode> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, media.parse().unwrap());
        let payload = read(&headers, body.as_bytes()).map_err(|problem| problem.code)?;
        Ok(serde_json::from_str(payload.body.get()).unwrap())
    }

    #[test]
    fn what_others_post_to_slack_is_a_message_with_a_text() {
        let (json, form) = ("application/json", "application/x-www-form-urlencoded");
        for (media, body, expected) in [
            (
                json,
                r##"{"text":"hi","channel":"#x","icon_emoji":":x:"}"##,
                object!({"text": "hi"}),
            ),
            (form, "payload=%7B%22text%22%3A%22hi%22%7D", object!({"text": "hi"})),
            // curl -d
            (form, r#"{"text":"hi"}"#, object!({"text": "hi"})),
            (
                json,
                r#"{"username":"Grafana","attachments":[{"title":"[FIRING]","text":"cpu","fallback":"f"},{"fallback":"g"}]}"#,
                object!({
                    "username": "Grafana",
                    "attachments": [{"title": "[FIRING]", "text": "cpu", "fallback": "f"}, {"fallback": "g"}],
                    "text": "[FIRING]\ncpu\ng",
                }),
            ),
            (
                json,
                r#"{"blocks":[{"type":"section","text":{"type":"mrkdwn","text":"*b*"}},{"type":"divider"}]}"#,
                object!({
                    "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "*b*"}}, {"type": "divider"}],
                    "text": "*b*",
                }),
            ),
        ] {
            assert_eq!(posted(media, body), Ok(expected), "{body}");
        }
        for (media, body, code) in [
            (json, "{}", ProblemCode::InvalidRequest),
            (json, r#"{"channel":"x"}"#, ProblemCode::InvalidRequest),
            (json, r#""text""#, ProblemCode::InvalidRequest),
            (json, "", ProblemCode::InvalidRequest),
            (form, "text=hi", ProblemCode::InvalidRequest),
            (form, "payload=x", ProblemCode::InvalidRequest),
            (form, "", ProblemCode::InvalidRequest),
            ("image/png", "x", ProblemCode::UnsupportedMediaType),
        ] {
            assert_eq!(posted(media, body), Err(code), "{body}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        for path in [
            "/v1/hooks/abc",
            "/v1/hooks/abc/def",
            "/x/v1/hooks/abc",
            "/v1/hooks",
            "/v1/hook%73/abc",
            "/v1%2fhooks/abc",
        ] {
            assert_eq!(shown(&Uri::from_static(path)), "/v1/hooks/…", "{path}");
        }
        assert_eq!(shown(&Uri::from_static("/v1/rooms/x?y")), "/v1/rooms/x");
    }
}
