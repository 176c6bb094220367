//! The OpenAPI 3.1 document of the HTTP API. Paths, parameters and bodies stand at the handlers (`#[utoipa::path]`); here are
//! the shapes of what is read and answered (in `policy.rs` those about rights), and in `complete.rs` is what all paths have in common. The end-to-end tests hold every answer they get
//! against it.
#![expect(dead_code, reason = "the shapes describe JSON and are never made")]

use natterjack_nats_config::contract::ProblemCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

pub(super) use complete::complete;
pub(super) use policy::{Ban, BanPut, BansPage, ExplainAsk, Explained, Role, RolePut, RolesPage, UserPut};

mod complete;
mod policy;

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
    /// The authenticated sender.
    from: String,
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
    /// Any JSON.
    body: Value,
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
    kind: String,
    at: String,
    #[serde(default)]
    #[schema(nullable = false)]
    key: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    reply_to: Option<String>,
    /// Any JSON: the last edit's; `null` if it was deleted.
    body: Value,
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

/// A room to make or to change.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomBody {
    #[serde(default)]
    #[schema(nullable = false)]
    kind: Option<RoomKind>,
    /// At most 256 bytes.
    #[serde(default)]
    title: Option<String>,
    /// From where on those who become members from now on may read.
    #[serde(default)]
    #[schema(nullable = false)]
    history: Option<RoomHistory>,
    /// Only of direct rooms, which `PUT /v1/direct/{user}` makes.
    #[serde(default)]
    with: Option<String>,
}

/// A room to make, with an id or without.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRoom {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    kind: Option<RoomKind>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    history: Option<RoomHistory>,
}

/// What a room is for: many speak and read; two with equal rights; few speak and many read; devices tell and people command.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoomKind {
    Group,
    Direct,
    Announcement,
    Device,
}

/// From where on new members may read: everything, or what comes after joining.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoomHistory {
    All,
    Joined,
}

/// A room as its members see it.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Room {
    id: String,
    kind: RoomKind,
    #[schema(required)]
    title: Option<String>,
    history: RoomHistory,
    /// Of a direct room: the other one.
    #[serde(default)]
    #[schema(nullable = false)]
    with: Option<String>,
    /// The caller's role; none for an administrator who is no member.
    #[schema(required)]
    role: Option<String>,
    members: u64,
    /// Its last event, where `unread=true` asked for it, as far as the archive knows.
    #[serde(default)]
    #[schema(nullable = false)]
    last: Option<Head>,
    /// Its last message as it now stands, if it is no larger than 2 KiB and the caller may see it.
    #[serde(default)]
    #[schema(nullable = false)]
    last_message: Option<Standing>,
    /// The last event that the caller has read; 0 for none.
    #[serde(default)]
    #[schema(nullable = false)]
    read: Option<Head>,
    /// `n` of the last event less that of what is read.
    #[serde(default)]
    #[schema(nullable = false)]
    unread: Option<u64>,
}

/// An event of a room.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    seq: u64,
    n: u64,
}

/// Up to where the caller has read.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadUpTo {
    /// The last event that is read; no later than the room's last.
    seq: u64,
}

/// A page of the caller's rooms.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomsPage {
    rooms: Vec<Room>,
    #[schema(required)]
    next: Option<String>,
}

/// A room that was made or changed.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomMade {
    #[schema(required)]
    room: Option<Room>,
    receipt: Receipt,
}

/// A membership to give.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Membership {
    role: String,
    /// The first `seq` that a new member may see; everything by default.
    #[serde(default)]
    visible_from: Option<u64>,
}

/// A hook to make.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewHook {
    /// Becomes part of the hook's own user id: at most 46 of A-Z a-z 0-9 _ -
    #[serde(default)]
    name: Option<String>,
}

/// A hook that was made.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HookMade {
    /// The member of the room that it is; to remove it is to revoke the hook.
    hook: String,
    /// Where to post to. A secret, and shown this once.
    path: String,
    receipt: Receipt,
}

/// What is posted to a hook, as Slack takes it. One of `text`, `attachments` and `blocks` must be there; other fields are
/// passed over.
#[derive(ToSchema, Deserialize)]
pub(super) struct HookPost {
    text: Option<String>,
    username: Option<String>,
    attachments: Option<Vec<Value>>,
    blocks: Option<Vec<Value>>,
}

/// A member of a room.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    user: String,
    role: String,
    visible_from: u64,
    /// The event that gave the present role.
    since: u64,
}

/// A page of a room's members.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MembersPage {
    members: Vec<Member>,
    #[schema(required)]
    next: Option<String>,
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

/// Whether a change has reached every live connection.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SettledState {
    Done,
    Pending,
}

/// Who the caller is.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Me {
    tenant: String,
    user: String,
    role: String,
    rooms: u64,
    /// Seconds until the token expires.
    expires_in: u64,
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
