//! What is said over `GET /v1/ws`: a JSON object in each text message.

use bytes::{BufMut, Bytes, BytesMut};
use natterjack_nats_config::contract::{Id, Kind, Problem, ReadUpTo, Receipt, SendPayload, Seq, check_depth};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::feed::Filter;

/// The longest `ref`, in bytes.
const MAX_REF_BYTES: usize = 128;

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Ask {
    /// Append to a room.
    Send { room: Id, kind: Kind, payload: SendPayload },
    /// Tell a room what is not kept.
    Tell { room: Id, kind: Kind, payload: SendPayload },
    /// Read on elsewhere: of these rooms, behind this cursor.
    Subscribe { rooms: Filter, cursor: String },
    /// Answer.
    Ping,
}

/// A client's frame: what it asks for, and the name under which it waits for the answer.
pub(super) struct Asked {
    pub(super) reference: Option<String>,
    pub(super) ask: Result<Ask, Problem>,
}

#[derive(Deserialize)]
struct Head {
    op: String,
    #[serde(rename = "ref", default)]
    reference: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    #[serde(rename = "op")]
    _op: String,
    #[serde(rename = "ref", default)]
    _ref: Option<String>,
    room: Id,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    body: Option<Box<RawValue>>,
    #[serde(default)]
    reply_to: Option<String>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    if_last: Option<Seq>,
    #[serde(rename = "as", default)]
    on_behalf_of: Option<Id>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "op")]
    _op: String,
    #[serde(rename = "ref", default)]
    _ref: Option<String>,
    room: Id,
    seq: Seq,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    #[serde(rename = "op")]
    _op: String,
    #[serde(rename = "ref", default)]
    _ref: Option<String>,
    #[serde(default)]
    rooms: Vec<Id>,
    #[serde(default)]
    cursor: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ping {
    #[serde(rename = "op")]
    _op: String,
    #[serde(rename = "ref", default)]
    _ref: Option<String>,
}

impl Asked {
    /// Reads a client's frame. What is wrong with it is told under its `ref`, as far as that can be read.
    pub(super) fn read(text: &str) -> Self {
        let head = match check_depth(text.as_bytes()) {
            Ok(()) => read::<Head>(text),
            Err(error) => Err(Problem::invalid(format!("the frame: {error}"))),
        };
        let head = match head {
            Ok(head) => head,
            Err(problem) => {
                return Self {
                    reference: None,
                    ask: Err(problem),
                };
            }
        };
        if head.reference.as_ref().is_some_and(|text| text.len() > MAX_REF_BYTES) {
            return Self {
                reference: None,
                ask: Err(Problem::invalid(format!("`ref` is longer than {MAX_REF_BYTES} bytes"))),
            };
        }
        Self {
            ask: Ask::read(&head.op, text),
            reference: head.reference,
        }
    }
}

impl Ask {
    fn read(op: &str, text: &str) -> Result<Self, Problem> {
        match op {
            "send" => Self::send(read(text)?),
            "read" => Self::mark(read(text)?),
            "typing" => Self::tell(Kind::Typing, read(text)?),
            "presence" => Self::tell(Kind::Presence, read(text)?),
            "signal" => Self::tell(Kind::Signal, read(text)?),
            "subscribe" => read::<Subscribe>(text).map(|asked| Self::Subscribe {
                rooms: asked.rooms.into_iter().collect(),
                cursor: asked.cursor,
            }),
            "ping" => read::<Ping>(text).map(|_| Self::Ping),
            _ => Err(Problem::invalid(
                "`op` must be send, read, typing, presence, signal, subscribe or ping",
            )),
        }
    }

    fn send(send: Send) -> Result<Self, Problem> {
        let kind = send.kind.unwrap_or(Kind::Msg);
        if !kind.is_message() && !kind.has_target() {
            return Err(Problem::invalid(
                "`kind` must be msg, command, reply, edit, delete, react, unreact, pin or unpin",
            ));
        }
        let body = match send.body {
            None if kind.needs_no_body() => RawValue::from_string("{}".to_owned()).ok(),
            body => body,
        };
        let payload = SendPayload {
            key: send.key,
            body: body.ok_or_else(|| Problem::invalid("`body` is missing"))?,
            reply_to: send.reply_to,
            target: send.target,
            if_last: send.if_last,
            on_behalf_of: send.on_behalf_of,
        };
        Ok(Self::Send {
            room: send.room,
            kind,
            payload: payload.checked().map_err(|error| Problem::invalid(error.to_string()))?,
        })
    }

    fn mark(asked: Read) -> Result<Self, Problem> {
        let body = to_raw_value(&ReadUpTo { seq: asked.seq }).map_err(|error| Problem::invalid(error.to_string()))?;
        let payload = SendPayload {
            key: asked.key,
            ..SendPayload::of_body(body)
        };
        Ok(Self::Send {
            room: asked.room,
            kind: Kind::Read,
            payload: payload.checked().map_err(|error| Problem::invalid(error.to_string()))?,
        })
    }

    fn tell(kind: Kind, told: Send) -> Result<Self, Problem> {
        let is_more = told.kind.is_some() || told.reply_to.is_some() || told.target.is_some() || told.if_last.is_some();
        if is_more || told.on_behalf_of.is_some() {
            return Err(Problem::invalid(
                "what is not kept has `room`, `key` and `body` and nothing else",
            ));
        }
        let payload = match told.body {
            Some(body) => SendPayload {
                key: told.key,
                ..SendPayload::of_body(body)
            }
            .checked(),
            None => SendPayload::from_native_of(kind, &[]),
        };
        Ok(Self::Tell {
            room: told.room,
            kind,
            payload: payload.map_err(|error| Problem::invalid(error.to_string()))?,
        })
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::invalid(format!("the frame: {error}")))
}

/// `{"op":"event","cursor":…,"event":…}`: the event's bytes stand in it as they are.
pub(super) fn event(cursor: &str, event: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(event.len() + cursor.len() + 48);
    frame.put_slice(b"{\"op\":\"event\",\"cursor\":\"");
    frame.put_slice(cursor.as_bytes());
    frame.put_slice(b"\",\"event\":");
    frame.put_slice(event);
    frame.put_u8(b'}');
    frame.freeze()
}

/// `{"op":"ephemeral","event":…}`: what is not kept has no cursor.
pub(super) fn ephemeral(event: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(event.len() + 32);
    frame.put_slice(b"{\"op\":\"ephemeral\",\"event\":");
    frame.put_slice(event);
    frame.put_u8(b'}');
    frame.freeze()
}

/// `{"op":"cursor","cursor":…}`
pub(super) fn cursor(reference: Option<&str>, cursor: &str) -> Bytes {
    with_ref(json!({"op": "cursor", "cursor": cursor}), reference)
}

/// `{"op":"receipt","ref":…,"receipt":…}`
pub(super) fn receipt(reference: Option<&str>, receipt: &Receipt) -> Bytes {
    with_ref(json!({"op": "receipt", "receipt": receipt}), reference)
}

/// `{"op":"error","ref":…,"problem":…}`
pub(super) fn error(reference: Option<&str>, problem: &Problem) -> Bytes {
    with_ref(json!({"op": "error", "problem": problem}), reference)
}

/// `{"op":"pong","ref":…}`
pub(super) fn pong(reference: Option<&str>) -> Bytes {
    with_ref(json!({"op": "pong"}), reference)
}

fn with_ref(mut frame: serde_json::Value, reference: Option<&str>) -> Bytes {
    if let (Some(reference), Some(object)) = (reference, frame.as_object_mut()) {
        object.insert("ref".to_owned(), reference.into());
    }
    frame.to_string().into()
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::ProblemCode;

    use super::*;

    #[test]
    fn frames_are_read() {
        let asked =
            Asked::read(r#"{"op":"send","ref":"1","room":"lobby","key":"k","body":{ "text":"hi"},"if_last":7}"#);
        assert_eq!(asked.reference.as_deref(), Some("1"));
        let Ok(Ask::Send { room, kind, payload }) = asked.ask else {
            panic!("{:?}", asked.ask)
        };
        assert_eq!(
            (room.as_str(), kind, payload.body.get()),
            ("lobby", Kind::Msg, r#"{"text":"hi"}"#)
        );
        assert_eq!((payload.key.as_deref(), payload.if_last), (Some("k"), Some(Seq(7))));
        let ask = |text: &str| Asked::read(text).ask.unwrap();
        assert!(matches!(
            ask(r#"{"op":"typing","room":"lobby"}"#),
            Ask::Tell { kind: Kind::Typing, .. }
        ));
        assert!(matches!(ask(r#"{"op":"ping"}"#), Ask::Ping));
        let Ask::Subscribe { rooms, cursor } = ask(r#"{"op":"subscribe","rooms":["a","b"],"cursor":"c"}"#) else {
            panic!("no subscription")
        };
        assert_eq!((rooms.rooms().count(), cursor.as_str()), (2, "c"));
    }

    #[test]
    fn what_is_wrong_is_told_under_its_ref() {
        for (text, reference, named) in [
            ("", None, "EOF"),
            ("[]", None, "length 0"),
            ("{}", None, "`op`"),
            (r#"{"op":"shout","ref":"1"}"#, Some("1"), "`op`"),
            (r#"{"op":"send","ref":"1","body":1}"#, Some("1"), "`room`"),
            (r#"{"op":"send","ref":"1","room":"lobby"}"#, Some("1"), "`body`"),
            (r#"{"op":"send","ref":"1","room":"a.b","body":1}"#, Some("1"), "frame"),
            (
                r#"{"op":"send","ref":"1","room":"lobby","body":1,"from":"x"}"#,
                Some("1"),
                "`from`",
            ),
            (
                r#"{"op":"send","ref":"1","room":"lobby","body":1,"kind":"room"}"#,
                Some("1"),
                "`kind`",
            ),
            (
                r#"{"op":"send","ref":"1","room":"lobby","body":1,"key":""}"#,
                Some("1"),
                "`key`",
            ),
            (
                r#"{"op":"typing","ref":"1","room":"lobby","if_last":1}"#,
                Some("1"),
                "nothing else",
            ),
            (r#"{"op":"ping","ref":"1","x":1}"#, Some("1"), "`x`"),
        ] {
            let asked = Asked::read(text);
            let problem = asked.ask.unwrap_err();
            assert_eq!(
                (asked.reference.as_deref(), problem.code),
                (reference, ProblemCode::InvalidRequest),
                "{text}"
            );
            assert!(problem.detail.contains(named), "{text}: {problem}");
        }
        let deep = format!(r#"{{"op":"send","body":{}{}}}"#, "[".repeat(999), "]".repeat(999));
        assert!(Asked::read(&deep).ask.unwrap_err().detail.contains("deep"));
        let long = format!(r#"{{"op":"ping","ref":"{}"}}"#, "x".repeat(MAX_REF_BYTES + 1));
        assert!(Asked::read(&long).ask.unwrap_err().detail.contains("`ref`"));
    }

    #[test]
    fn an_event_is_told_as_it_is() {
        assert_eq!(
            event("c", b"{\"seq\": 1}"),
            r#"{"op":"event","cursor":"c","event":{"seq": 1}}"#
        );
        assert_eq!(ephemeral(b"{}"), r#"{"op":"ephemeral","event":{}}"#);
        assert_eq!(pong(Some("\"")), r#"{"op":"pong","ref":"\""}"#);
        assert_eq!(cursor(None, "c"), r#"{"op":"cursor","cursor":"c"}"#);
    }
}
