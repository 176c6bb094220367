//! The OpenAPI 3.1 document of the HTTP API. Paths, parameters and bodies stand at the handlers (`#[utoipa::path]`); here are
//! the shapes of what is read and answered, and in `complete.rs` is what all paths have in common. The end-to-end tests hold every answer they get
//! against it.
#![expect(dead_code, reason = "the shapes describe JSON and are never made")]

use natterjack_nats_config::contract::ProblemCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

pub(super) use complete::complete;
pub(super) use keys::{KeysPage, MadeKey, NewKey};
pub(super) use people::{Limits, Me, UsersPage};
pub(super) use policy::{Ban, BanPut, BansPage, ExplainAsk, Explained, Role, RolePut, RolesPage, UserPut};
pub(super) use rooms::{
    HookMade, HookPost, Member, MembersPage, Membership, NewHook, NewRoom, ReadUpTo, Room, RoomBody, RoomMade,
    RoomsPage,
};
pub(super) use sync::SyncPage;
pub(super) use thread::{ReactionsPage, Replies, Thread};

use rooms::RoomKind;

mod complete;
mod keys;
mod people;
mod policy;
mod rooms;
mod sync;
mod thread;

/// An event, the same bytes on every transport.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Event {
    /// Version of this format.
    v: u8,
    /// The place in the log; grows along it, with gaps. Fits 2^53.
    seq: u64,
    /// The how-many-eth event of its room: 1, 2, 3 … without gaps.
    n: u64,
    /// `seq` of the room's event before; 0 for the first.
    prev: u64,
    /// UUIDv7.
    id: String,
    tenant: String,
    room: String,
    /// The authenticated sender, or whom the one in `via` sent it for.
    from: String,
    /// Who really sent it, as authenticated, where that is not `from`.
    #[serde(default)]
    #[schema(nullable = false)]
    via: Option<String>,
    /// Pass over kinds that you do not know.
    kind: String,
    /// RFC 3339, UTC, milliseconds.
    at: String,
    #[serde(default)]
    #[schema(nullable = false)]
    key: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    reply_to: Option<String>,
    /// The message that an event is about which changes one.
    #[serde(default)]
    #[schema(nullable = false)]
    target: Option<Target>,
    /// Any JSON; `null` where it was erased.
    body: Value,
    /// The erasure that took the body.
    #[serde(default)]
    #[schema(nullable = false)]
    erased: Option<u64>,
}

/// The message that an event is about.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    id: String,
    seq: u64,
}

/// A message as it now stands; one that nobody changed is the event as it stands in the log.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Standing {
    v: u8,
    seq: u64,
    n: u64,
    prev: u64,
    id: String,
    tenant: String,
    room: String,
    from: String,
    #[serde(default)]
    #[schema(nullable = false)]
    via: Option<String>,
    kind: String,
    at: String,
    #[serde(default)]
    #[schema(nullable = false)]
    key: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    reply_to: Option<String>,
    /// Any JSON: the last edit's; `null` if it was deleted or erased.
    body: Value,
    /// The erasure that took the body.
    #[serde(default)]
    #[schema(nullable = false)]
    erased: Option<u64>,
    /// When it was edited last.
    #[serde(default)]
    #[schema(nullable = false)]
    edited_at: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    deleted: Option<Done>,
    /// Who pinned it, while it is pinned.
    #[serde(default)]
    #[schema(nullable = false)]
    pinned: Option<Done>,
    /// How many reacted how: the 20 most frequent.
    #[serde(default)]
    #[schema(nullable = false)]
    reactions: Option<Vec<Reaction>>,
    /// How many messages answer it, where any do.
    #[serde(default)]
    #[schema(nullable = false)]
    replies: Option<Replies>,
}

/// How many users reacted so.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reaction {
    emoji: String,
    count: u64,
}

/// When and by whom something was done.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {
    at: String,
    by: String,
}

/// A message, and what it was before.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageShown {
    message: Standing,
    /// As it was first said, if it was edited.
    #[serde(default)]
    #[schema(nullable = false)]
    original: Option<Event>,
    /// The events that edited it, oldest first: the latest 200 or 512 KiB. None if it was deleted.
    edits: Vec<Event>,
}

/// What a message shall say from now on.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    /// Any JSON.
    body: Value,
    #[serde(default)]
    #[schema(nullable = false)]
    key: Option<String>,
    /// Only if this `seq` is still the room's last event.
    #[serde(default)]
    #[schema(nullable = false)]
    if_last: Option<u64>,
}

/// What is told and not kept.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ephemeral {
    v: u8,
    id: String,
    tenant: String,
    room: String,
    from: String,
    kind: String,
    at: String,
    body: Value,
}

/// What follows a cursor.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsPage {
    events: Vec<Event>,
    ephemeral: Vec<Ephemeral>,
    gaps: Vec<Value>,
    /// Where the reader stands; to be presented next.
    cursor: String,
    /// Whether there is more already.
    more: bool,
    /// A younger poll of the same user took this one's place.
    #[serde(default)]
    #[schema(nullable = false)]
    superseded: Option<bool>,
}

/// A page of a room's messages, oldest first.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryPage {
    messages: Vec<Standing>,
    /// What to ask next; none when there is no more.
    #[schema(required)]
    next: Option<u64>,
    /// Messages before this `seq` were removed because of their age.
    #[serde(default)]
    #[schema(nullable = false)]
    retained_from: Option<u64>,
}

/// What was found, the best first.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchPage {
    /// How far the archive had read the log: nothing behind it was found.
    watermark: u64,
    /// How far the index had read the archive.
    indexed: u64,
    results: Vec<SearchResult>,
    /// Whether there is more than `limit`.
    more: bool,
}

#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchResult {
    snippet: Snippet,
    message: Standing,
}

/// Where in the text something was found.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snippet {
    before: String,
    /// As it is written there; empty if no word of the query stands there as it is.
    found: String,
    after: String,
}

/// A message to send.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// Any JSON.
    body: Value,
    /// 1 to 128 bytes without control characters: the same key again within ten minutes gives the first receipt again.
    #[serde(default)]
    #[schema(nullable = false)]
    key: Option<String>,
    /// The `id` of the message that this one answers.
    #[serde(default)]
    #[schema(nullable = false)]
    reply_to: Option<String>,
    /// Send only if this `seq` is still the room's last event.
    #[serde(default)]
    #[schema(nullable = false)]
    if_last: Option<u64>,
    /// In the name of another user of the tenant: takes `send.as`, or that with what the id begins with, and that both may send here.
    #[serde(rename = "as", default)]
    #[schema(nullable = false)]
    on_behalf_of: Option<String>,
}

/// Messages to send one after the other.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    #[schema(min_items = 1, max_items = 100)]
    messages: Vec<Message>,
}

/// What became of each message of a batch, in its order.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchResults {
    results: Vec<BatchResult>,
}

/// What one message of a batch would have been answered alone.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchResult {
    status: u16,
    #[serde(default)]
    #[schema(nullable = false)]
    receipt: Option<Receipt>,
    #[serde(default)]
    #[schema(nullable = false)]
    problem: Option<Problem>,
}

/// It stands in the log.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receipt {
    id: String,
    /// The place in the log; 0 for what is not kept.
    seq: u64,
    /// The number in the room; 0 for what is not kept.
    n: u64,
    at: String,
    durability: Durability,
    /// Whether this repeats the receipt of an earlier request with the same key.
    duplicate: bool,
}

/// How safe an event is: flushed to disk, in the archive too, or not kept.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Durability {
    Log,
    Db,
    None,
}

/// A change of rights: the receipt, and how far it has reached those who are connected.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Changed {
    id: String,
    seq: u64,
    n: u64,
    at: String,
    durability: Durability,
    duplicate: bool,
    connections_closed: u64,
    state: SettledState,
    #[serde(default)]
    #[schema(nullable = false)]
    waiting_for: Option<Vec<String>>,
}

/// What is to be revoked: the tokens of `user`; one of them by its `jti`; those issued `before` a time, of `user` or of everybody;
/// or the membership of `user` in `room`.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    #[serde(default)]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    user: Option<String>,
    #[serde(default)]
    #[schema(nullable = false, min_length = 1, max_length = 128)]
    jti: Option<String>,
    #[serde(default)]
    #[schema(nullable = false, format = DateTime)]
    before: Option<String>,
    /// With `jti`: when that token expires; later it need not be remembered. Without, it is for a year and a day.
    #[serde(default)]
    #[schema(nullable = false, format = DateTime)]
    expires: Option<String>,
    #[serde(default)]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    room: Option<String>,
}

/// A revocation that stands in the log.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoked {
    seq: u64,
    /// The most that one authz worker closed.
    connections_closed: u64,
    state: SettledState,
    #[serde(default)]
    #[schema(nullable = false)]
    waiting_for: Option<Vec<String>>,
}

/// A page of the audit trail, newest first.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrailPage {
    entries: Vec<TrailEntry>,
    /// What to give as `before` for the page that follows.
    #[schema(required)]
    next: Option<u64>,
}

/// An event of the audit trail.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrailEntry {
    event: Event,
    /// SHA-256 over the hash of the entry before (of every tenant) and the event's own, in hexadecimal.
    hash: String,
}

/// Whether a change has reached every live connection.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SettledState {
    Done,
    Pending,
}

/// A ticket, good for one use.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    ticket: String,
    /// Seconds for which it is good.
    expires_in: u64,
}

/// The process is there.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Live {
    live: bool,
}

/// It can work.
#[derive(ToSchema, Deserialize)]
pub(super) struct Ready {
    ready: bool,
}

/// An error (RFC 9457). Match `code`, never a text.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    #[schema(schema_with = codes)]
    code: String,
    detail: String,
    /// Whether the same request may succeed later.
    retryable: bool,
    #[serde(default)]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
    /// Which limit it is, for `rate-limited`.
    #[serde(default)]
    #[schema(nullable = false)]
    limiter: Option<String>,
    /// Where to go on when a cursor has expired.
    #[serde(default)]
    #[schema(nullable = false)]
    earliest_cursor: Option<String>,
    /// Names the request in the logs.
    #[serde(default)]
    #[schema(nullable = false)]
    request_id: Option<String>,
}

fn codes() -> Schema {
    let codes = ProblemCode::ALL.iter().map(|code| code.as_str());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(codes))
        .into()
}
