//! The `AsyncAPI` 3 document of the subjects: what native clients publish and hear. The shapes of events, receipts, problems and
//! answers are those of the OpenAPI document; subjects come from where all of them are made.
#![expect(dead_code, reason = "the shapes describe JSON and are never made")]

mod asks;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use natterjack_nats_config::contract::{ApiCall, Id, InboundSubject, Kind, Subjects};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::DoorState;
use super::answer::{Answer, json as answer};
use crate::door::nats::OFFERED;

/// `events.get`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsAsk {
    /// Empty for now, `earliest` with `rooms` for the beginning.
    #[serde(default)]
    cursor: String,
    /// Seconds to wait while there is nothing.
    #[schema(nullable = false, maximum = 50)]
    wait: Option<u64>,
    #[schema(nullable = false, minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    #[schema(nullable = false, minimum = 1)]
    max_bytes: Option<u64>,
    #[serde(default)]
    rooms: Vec<String>,
}

/// `history.get`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryAsk {
    room: String,
    before: Option<u64>,
    after: Option<u64>,
    limit: Option<u64>,
}

/// `rooms.list`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoomsAsk {
    limit: Option<u64>,
    next: Option<String>,
    /// With the last message and how much is unread.
    #[serde(default)]
    #[schema(nullable = false)]
    unread: Option<bool>,
}

/// `messages.get`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageAsk {
    room: String,
    /// The message's id.
    id: String,
}

/// `messages.edit` and the others that change a message: what the event of that name has as its body.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageChange {
    room: String,
    /// The message's id.
    id: String,
    #[serde(default)]
    body: Option<Value>,
    key: Option<String>,
}

/// `rooms.put`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoomPut {
    room: String,
    #[serde(default)]
    #[schema(nullable = false)]
    kind: Option<String>,
    title: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    history: Option<String>,
    key: Option<String>,
}

/// `members.list`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembersAsk {
    room: String,
    /// With the time of joining.
    #[serde(default)]
    #[schema(nullable = false)]
    joined: Option<bool>,
    limit: Option<u64>,
    next: Option<String>,
}

/// `members.put`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberPut {
    room: String,
    user: String,
    role: String,
    visible_from: Option<u64>,
    key: Option<String>,
}

/// `members.remove`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberRemove {
    room: String,
    user: String,
    key: Option<String>,
}

/// `roles.put`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleAsk {
    role: String,
    /// `tenant` or `room`
    scope: String,
    permissions: Vec<String>,
    key: Option<String>,
}

/// `roles.delete`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleDelete {
    role: String,
    key: Option<String>,
}

/// `users.put`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserAsk {
    user: String,
    #[schema(required)]
    role: Option<String>,
    key: Option<String>,
}

/// `direct.put`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct DirectAsk {
    /// The other one.
    user: String,
}

/// `bans.put` and `bans.remove`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct BanAsk {
    room: String,
    user: String,
    reason: Option<String>,
    key: Option<String>,
}

/// An empty object, or nothing.
#[derive(ToSchema, Deserialize)]
struct Nothing {}

/// Where a room stands; who has not heard its event `n` by then has missed it.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoomHead {
    v: u8,
    tenant: String,
    room: String,
    #[serde(rename = "head")]
    at: Place,
}

#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    seq: u64,
    n: u64,
}

/// What a service takes and gives, by the names of shapes.
const SERVICES: &[(&str, &str, &str)] = &[
    ("events.get", "EventsAsk", "EventsPage"),
    ("history.get", "HistoryAsk", "HistoryPage"),
    ("messages.get", "MessageAsk", "MessageShown"),
    ("messages.edit", "MessageChange", "Receipt"),
    ("messages.delete", "MessageChange", "Receipt"),
    ("messages.react", "MessageChange", "Receipt"),
    ("messages.unreact", "MessageChange", "Receipt"),
    ("messages.pin", "MessageChange", "Receipt"),
    ("messages.unpin", "MessageChange", "Receipt"),
    ("messages.reactions", "ReactionsAsk", "ReactionsPage"),
    ("threads.get", "ThreadAsk", "Thread"),
    ("rooms.list", "RoomsAsk", "RoomsPage"),
    ("rooms.put", "RoomPut", "RoomMade"),
    ("members.list", "MembersAsk", "MembersPage"),
    ("members.put", "MemberPut", "Changed"),
    ("members.remove", "MemberRemove", "Changed"),
    ("me.get", "Nothing", "Own"),
    ("sync.get", "SyncAsk", "SyncPage"),
    ("users.list", "UsersAsk", "UsersPage"),
    ("roles.list", "Nothing", "RolesPage"),
    ("roles.put", "RoleAsk", "Changed"),
    ("roles.delete", "RoleDelete", "Changed"),
    ("users.put", "UserAsk", "Changed"),
    ("direct.put", "DirectAsk", "Room"),
    ("bans.list", "MembersAsk", "BansPage"),
    ("bans.put", "BanAsk", "Changed"),
    ("bans.remove", "BanAsk", "Changed"),
    ("auth.explain", "ExplainAsk", "Explained"),
    ("erasures.put", "ToErase", "Erasure"),
    ("erasures.get", "ErasureAsk", "Erasure"),
    ("erasures.list", "ErasuresAsk", "Erasures"),
    ("keys.create", "KeyCreate", "MadeKey"),
    ("keys.list", "KeysAsk", "KeysPage"),
    ("keys.revoke", "KeyRevoke", "Revoked"),
];

/// `GET /asyncapi.json`
#[utoipa::path(
    get,
    path = "/asyncapi.json",
    tag = "operation",
    responses((status = 200, description = "The AsyncAPI 3 document of the subjects", body = Value)),
)]
pub(super) async fn asyncapi(State(door): State<Arc<DoorState>>) -> Answer {
    answer(StatusCode::OK, &document(&door.bridge.log.subjects))
}

/// The document for subjects with this prefix.
pub(crate) fn document(subjects: &Subjects) -> Value {
    let mut parts = Parts::default();
    // Ids that stand for any: `address` makes parameters of them.
    if let [Ok(tenant), Ok(user), Ok(room)] = ["TENANT", "USER", "ROOM"].map(str::parse) {
        let places = Places { tenant, user, room };
        parts.requests(subjects, &places);
        parts.services(subjects, &places);
        parts.told(subjects, &places);
    }
    let schemas = parts.schemas();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Natterjack",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Rooms as NATS subjects, for NATS, WebSocket and MQTT clients. A client publishes as itself only and hears the \
                rooms that it may read. Over MQTT every `.` of a subject is a `/`. The token is the password.",
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "NATS"},
            "websocket": {"host": "127.0.0.1:4280", "protocol": "ws", "description": "NATS over WebSocket"},
            "mqtt": {"host": "127.0.0.1:1883", "protocol": "mqtt", "description": "MQTT 3.1.1"},
        },
        "channels": parts.channels,
        "operations": parts.operations,
        "components": {"messages": parts.messages, "schemas": schemas},
    })
}

struct Places {
    tenant: Id,
    user: Id,
    room: Id,
}

/// What the document is made of.
#[derive(Default)]
struct Parts {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    shapes: BTreeSet<String>,
}

impl Parts {
    fn requests(&mut self, subjects: &Subjects, places: &Places) {
        let to = InboundSubject {
            tenant: places.tenant.clone(),
            user: places.user.clone(),
            room: places.room.clone(),
            kind: Kind::Msg,
        };
        let subject = address(&subjects.inbound(&to)).replace(".msg", ".{kind}");
        let about = "A request to append to a room. Over MQTT no receipt comes; a refusal is told to the user.";
        self.channel("request", &subject, about, &["Message"]);
        self.channel("receipt", "", "The request's reply subject.", &["Receipt", "Problem"]);
        self.operation("request", "receive", "request", Some("receipt"));
    }

    fn services(&mut self, subjects: &Subjects, places: &Places) {
        for (service, verb) in OFFERED {
            let call = ApiCall {
                tenant: places.tenant.clone(),
                user: places.user.clone(),
                service: (*service).to_owned(),
                verb: (*verb).to_owned(),
            };
            let name = format!("{service}.{verb}");
            let known = SERVICES.iter().find(|(known, ..)| *known == name);
            let (ask, given) = known.map_or(("Nothing", "Nothing"), |(_, ask, given)| (*ask, *given));
            let id = format!("{service}-{verb}");
            let reply = format!("{id}-reply");
            let about = format!(
                "The service `{name}`. An error carries the headers `Nats-Service-Error` and `Nats-Service-Error-Code`."
            );
            self.channel(&id, &address(&subjects.api(&call)), &about, &[ask]);
            self.channel(&reply, "", "The request's reply subject.", &[given, "Problem"]);
            self.operation(&id, "receive", &id, Some(&reply));
        }
    }

    fn told(&mut self, subjects: &Subjects, Places { tenant, user, room }: &Places) {
        let log = address(&subjects.room_log(tenant, room));
        let about = "Every event of the room, once and in order, with the headers `Chat-Seq` and `Chat-Prev`.";
        self.channel("room-log", &log, about, &["Event"]);
        let now = address(&subjects.room_now(tenant, room));
        let about = "What is told and not kept, and after a change where the room stands.";
        self.channel("room-now", &now, about, &["Ephemeral", "RoomHead"]);
        let own = address(&subjects.user(tenant, user));
        let about = "Events that concern the user, and what became of requests without a reply subject.";
        self.channel("user", &own, about, &["Event", "Receipt", "Problem"]);
        for channel in ["room-log", "room-now", "user"] {
            self.operation(channel, "send", channel, None);
        }
    }

    /// A channel with its messages; without an address it is told by the request.
    fn channel(&mut self, id: &str, address: &str, about: &str, shapes: &[&str]) {
        let mut messages = Map::new();
        for shape in shapes {
            let message = json!({
                "name": shape,
                "contentType": "application/json",
                "payload": {"$ref": format!("#/components/schemas/{shape}")},
            });
            self.messages.insert((*shape).to_owned(), message);
            self.shapes.insert((*shape).to_owned());
            messages.insert(
                (*shape).to_owned(),
                json!({"$ref": format!("#/components/messages/{shape}")}),
            );
        }
        let address_or_null = (!address.is_empty()).then_some(address);
        let parameters = parameters(address);
        let channel = json!({
            "address": address_or_null, "description": about, "parameters": parameters, "messages": messages,
        });
        self.channels.insert(id.to_owned(), channel);
    }

    /// What Natterjack does with a channel.
    fn operation(&mut self, id: &str, action: &str, channel: &str, reply: Option<&str>) {
        let mut operation = Map::new();
        operation.insert("action".to_owned(), action.into());
        operation.insert("channel".to_owned(), json!({"$ref": format!("#/channels/{channel}")}));
        if let Some(reply) = reply {
            let reply = json!({
                "address": {"location": "$message.header#/reply", "description": "NATS' reply subject"},
                "channel": {"$ref": format!("#/channels/{reply}")},
            });
            operation.insert("reply".to_owned(), reply);
        }
        self.operations.insert(id.to_owned(), operation.into());
    }

    /// The shapes that are needed, with those that they need.
    fn schemas(&self) -> Map<String, Value> {
        let all = shapes();
        let mut wanted: Vec<String> = self.shapes.iter().cloned().collect();
        let mut schemas = Map::new();
        while let Some(name) = wanted.pop() {
            let Some(shape) = all.get(&name).filter(|_| !schemas.contains_key(&name)) else {
                continue;
            };
            named(shape, &mut wanted);
            schemas.insert(name, shape.clone());
        }
        schemas
    }
}

/// Every shape there is: those of the OpenAPI document, and those of above.
fn shapes() -> Map<String, Value> {
    let document = serde_json::to_value(super::document()).unwrap_or_default();
    let mut shapes = document
        .pointer("/components/schemas")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for (name, schema) in [
        (EventsAsk::name(), EventsAsk::schema()),
        (HistoryAsk::name(), HistoryAsk::schema()),
        (MessageAsk::name(), MessageAsk::schema()),
        (MessageChange::name(), MessageChange::schema()),
        (RoomsAsk::name(), RoomsAsk::schema()),
        (RoomPut::name(), RoomPut::schema()),
        (MembersAsk::name(), MembersAsk::schema()),
        (MemberPut::name(), MemberPut::schema()),
        (MemberRemove::name(), MemberRemove::schema()),
        (RoleAsk::name(), RoleAsk::schema()),
        (RoleDelete::name(), RoleDelete::schema()),
        (UserAsk::name(), UserAsk::schema()),
        (DirectAsk::name(), DirectAsk::schema()),
        (BanAsk::name(), BanAsk::schema()),
        (Nothing::name(), Nothing::schema()),
        (RoomHead::name(), RoomHead::schema()),
        (Place::name(), Place::schema()),
    ]
    .into_iter()
    .chain(asks::shapes())
    {
        shapes.insert(name.into_owned(), serde_json::to_value(schema).unwrap_or_default());
    }
    shapes
}

/// Adds the names of the shapes that a shape needs.
fn named(shape: &Value, names: &mut Vec<String>) {
    match shape {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            names.extend(reference.and_then(|name| Some(name.strip_prefix("#/components/schemas/")?.to_owned())));
            fields.values().for_each(|field| named(field, names));
        }
        Value::Array(all) => all.iter().for_each(|one| named(one, names)),
        _ => {}
    }
}

/// A subject with parameters: the tokens behind the prefix that are in capitals.
fn address(subject: &str) -> String {
    let is_place = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_uppercase());
    let tokens = subject.split('.').enumerate().map(|(index, token)| {
        if index > 0 && is_place(token) {
            format!("{{{}}}", token.to_ascii_lowercase())
        } else {
            token.to_owned()
        }
    });
    tokens.collect::<Vec<_>>().join(".")
}

fn parameters(address: &str) -> Map<String, Value> {
    let names = address
        .split('.')
        .filter_map(|token| token.strip_prefix('{')?.strip_suffix('}'));
    let described = names.map(|name| {
        let about = match name {
            "tenant" => "The tenant's id: [A-Za-z0-9_-]{1,64}",
            "user" => "The client's own user",
            "room" => "The room's id",
            _ => "What is asked for: msg, command, typing, …; see docs/subjects.md",
        };
        (name.to_owned(), json!({"description": about}))
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_those_that_are_used_and_every_service_has_its_shapes() {
        let document = document(&Subjects::default());
        let address = |channel: &str| document["channels"][channel]["address"].as_str().unwrap().to_owned();
        assert_eq!(address("request"), "chat.in.{tenant}.{user}.{room}.{kind}");
        assert_eq!(address("room-log"), "chat.room.{tenant}.{room}.log");
        assert_eq!(address("room-now"), "chat.room.{tenant}.{room}.now");
        assert_eq!(address("user"), "chat.user.{tenant}.{user}");
        assert_eq!(address("events-get"), "chat.api.{tenant}.{user}.events.get");
        for (service, verb) in OFFERED {
            let name = format!("{service}.{verb}");
            assert!(
                SERVICES.iter().any(|(known, ..)| *known == name),
                "{name} has no shapes"
            );
        }
        let other = self::document(&Subjects::new(&"CHAT".parse().unwrap()));
        assert_eq!(other["channels"]["user"]["address"], "CHAT.user.{tenant}.{user}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document(&Subjects::default());
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 50);
        for reference in references {
            assert!(
                document.pointer(reference.trim_start_matches('#')).is_some(),
                "{reference}"
            );
        }
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                references.extend(fields.get("$ref").and_then(|to| Some(to.as_str()?.to_owned())));
                fields.values().for_each(|field| collect(field, references));
            }
            Value::Array(all) => all.iter().for_each(|one| collect(one, references)),
            _ => {}
        }
    }
}
