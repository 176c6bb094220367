//! Events for the tests of this module.

use bytes::Bytes;
use natterjack_nats_config::contract::{EventLine, Seq};
use serde_json::{Value, json};

/// A message of alice in a room of tenant `main`.
pub(crate) fn line(seq: Seq, room: &str) -> EventLine {
    make(seq, room, "msg", &json!({"text": "hello"}))
}

/// A room's settings.
pub(crate) fn room_line(seq: Seq, room: &str) -> EventLine {
    make(seq, room, "room", &json!({"kind": "group"}))
}

/// A membership given or taken away.
pub(crate) fn member_line(seq: Seq, room: &str, user: &str, role: Option<&str>) -> EventLine {
    make(seq, room, "member", &json!({"user": user, "role": role}))
}

fn make(seq: Seq, room: &str, kind: &str, body: &Value) -> EventLine {
    let event = json!({
        "v": 1, "seq": seq, "n": 1, "prev": 0, "id": "x", "tenant": "main", "room": room, "from": "alice",
        "kind": kind, "at": "2026-11-23T06:00:00.123Z", "body": body,
    });
    let bytes = Bytes::from(event.to_string());
    EventLine {
        event: serde_json::from_slice(&bytes).unwrap(),
        bytes,
    }
}
