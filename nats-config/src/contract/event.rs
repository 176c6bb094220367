use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Id, Seq};

/// What happened. The names are those of the `kind` field and of the last token of `chat.in.…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A message.
    Msg,
    /// A command to a device.
    Command,
    /// A device's answer to a command.
    Reply,
    /// A message is said anew: the body is the new one, `target` names the message.
    Edit,
    /// A message is taken back: `target` names it.
    Delete,
    /// Somebody reacts to a message: body [`ReactBody`].
    React,
    /// Somebody takes a reaction back: body [`ReactBody`].
    Unreact,
    /// A message is pinned.
    Pin,
    /// A message is pinned no more.
    Unpin,
    /// A user has read a room up to an event: body [`ReadBody`]. It stands in [`TENANT_ROOM`](super::TENANT_ROOM), is no event of
    /// the room, and only that user sees it.
    Read,
    /// A room was made or changed: body [`RoomBody`].
    Room,
    /// A membership was given, changed or taken away: body [`MemberBody`].
    Member,
    /// A user's role in the tenant: body [`UserBody`].
    User,
    /// Tokens are good no longer: body [`TokenBody`].
    Token,
    /// An API key was made: body [`KeyBody`](super::KeyBody). Its end is a [`Kind::Token`] event.
    Key,
    /// Logins were refused: body [`LoginBody`](super::LoginBody). Only workers say so.
    Login,
    /// A room, or what a user wrote, must be kept, or need not be any more: body [`HoldBody`]. It stands in
    /// [`TENANT_ROOM`](super::TENANT_ROOM).
    Hold,
    /// What was said is erased: body [`EraseBody`](super::EraseBody). Of one message it stands in the message's room, with a `target`;
    /// of all that a user wrote in [`TENANT_ROOM`](super::TENANT_ROOM).
    Erase,
    /// A role of the tenant's own was made, changed or deleted: body [`RoleBody`].
    Role,
    /// A user may not be in a room, or may again: body [`BanBody`].
    Ban,
    /// Somebody is typing. Not kept: an [`Ephemeral`].
    Typing,
    /// Somebody is there, or goes. Not kept: an [`Ephemeral`].
    Presence,
    /// Call signalling. Not kept: an [`Ephemeral`].
    Signal,
}

/// What a room is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RoomKind {
    /// Many speak, many read.
    #[default]
    Group,
    /// Two people with equal rights, for ever the same two. Its id is that of [`direct_room`](super::direct_room).
    Direct,
    /// Few speak, many read.
    Announcement,
    /// Devices tell, people command.
    Device,
}

/// From where on a new member may read a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RoomHistory {
    /// Everything that is kept.
    #[default]
    All,
    /// What comes after joining, from the membership's own event on.
    Joined,
}

/// Where a role is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RoleScope {
    /// To users of a tenant.
    Tenant,
    /// To members of a room.
    Room,
}

/// Body of a [`Kind::Room`] event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomBody {
    /// What the room is for.
    #[serde(default)]
    pub kind: RoomKind,
    /// Any Unicode, at most 256 bytes; none means the id is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How long its messages are kept; none leaves it to the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// From where on those who become members from now on may read.
    #[serde(default, skip_serializing_if = "is_all")]
    pub history: RoomHistory,
    /// Of a direct room: the other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<Id>,
}

/// How long a room's messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// In days of log time, at most [`MAX_RETENTION_DAYS`]; 0 for ever.
    pub days: u32,
}

/// The most days that may be said: a hundred years. Who wants more wants 0.
pub const MAX_RETENTION_DAYS: u32 = 36_500;

/// Body of a [`Kind::Hold`] event: of either a room or a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldBody {
    /// Which room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Id>,
    /// Which user: what they wrote, in whatever room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Id>,
    /// Whether it is held from now on, or free.
    pub held: bool,
    /// Why, for the audit: at most [`MAX_REASON_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of a [`Kind::Role`] event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleBody {
    /// Its name, none of the built-in ones.
    pub role: Id,
    /// Where it is given.
    pub scope: RoleScope,
    /// The verbs of its permissions; `null` deletes the role.
    #[serde(default)]
    pub permissions: Option<Vec<String>>,
}

/// Body of a [`Kind::Ban`] event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanBody {
    /// Who.
    pub user: Id,
    /// Whether from now on.
    pub banned: bool,
    /// Why: any Unicode, at most [`MAX_REASON_BYTES`]. Who reads the room reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The longest reason of a hold or a ban, in bytes: a ban's is kept in memory for as long as it lasts.
pub const MAX_REASON_BYTES: usize = 256;

/// Body of a [`Kind::Member`] event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberBody {
    /// Whose membership.
    pub user: Id,
    /// The role in the room; `null` takes the membership away.
    #[serde(default)]
    pub role: Option<Id>,
    /// The first sequence this member may see; the writer fills in 0 (everything) where the request names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_from: Option<Seq>,
}

/// Body of a [`Kind::User`] event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserBody {
    /// Whose role.
    pub user: Id,
    /// The role in the tenant; `null` takes it back: then what tokens claim counts, or the default, `member`.
    #[serde(default)]
    pub role: Option<Id>,
    /// Not given by somebody, but claimed by a token. Only a worker says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<ClaimedBy>,
}

/// The token by which a role is claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimedBy {
    /// Its `iss`, 1 to [`MAX_ISSUER_BYTES`].
    pub issuer: String,
    /// Its `iat`, in milliseconds since 1970: what an older one says counts no more.
    pub issued_at_ms: i64,
}

/// The longest name of an issuer whose tokens claim roles, in bytes: it is kept for each of its users.
pub const MAX_ISSUER_BYTES: usize = 256;

/// Body of a [`Kind::React`] or [`Kind::Unreact`] event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReactBody {
    /// An emoji, or any short text: 1 to [`MAX_EMOJI_BYTES`] bytes without control characters.
    pub emoji: String,
}

/// What a user asks for who has read a room: body of a request of [`Kind::Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadUpTo {
    /// The last event that is read.
    pub seq: Seq,
}

/// Body of a [`Kind::Read`] event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadBody {
    /// The room that is read.
    pub room: Id,
    /// The last event of it that is read.
    pub seq: Seq,
}

/// The longest reaction, in bytes: the longest emoji of Unicode 16 has 35.
pub const MAX_EMOJI_BYTES: usize = 64;

/// The message that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its `id`.
    pub id: String,
    /// Its place in the log, filled in by the writer.
    pub seq: Seq,
}

/// Body of a [`Kind::Token`] event: one token (`user` and `jti`), those of a user (`user`), or everybody's (neither), each as
/// far as they were issued before a time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// Whose tokens; everybody's in the tenant without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Id>,
    /// Only the one of this `jti`, at most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Only those issued before this time (RFC 3339); without, before now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The writer's word on it: tokens with an `iat` before this are void, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_after_ms: Option<i64>,
    /// When the token of this `jti` expires (RFC 3339), where that is known: later it need not be remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// The writer's word on it: after this the token of this `jti` has surely expired, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// The writer's word: every token that was revoked alone before is void by `valid_after_ms` too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub covers_all: bool,
    /// The writer's word: no token that was good before is void now, so no connection has to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub voids_nothing: bool,
    /// The writer's word: when it was revoked, or had settled, in log time (milliseconds since 1970).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
    /// Instead of all that: the revocation of this sequence has reached every connection. Only a bridge says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Seq>,
}

/// One event as it stands in the log: a single line of JSON, complete when it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Version of this format: 1.
    pub v: u8,
    /// Stream sequence of the frame `<< 10 |` index in the frame; grows along the log, fits 2^53.
    pub seq: Seq,
    /// The how-many-eth event of its room, from 1, without gaps.
    pub n: u64,
    /// `seq` of the room's event before, 0 for the first.
    pub prev: Seq,
    /// UUIDv7, given by the writer.
    pub id: String,
    /// The tenant.
    pub tenant: Id,
    /// The room; [`TENANT_ROOM`](super::TENANT_ROOM) for what concerns the whole tenant.
    pub room: Id,
    /// The authenticated sender, never a claim of the payload: but for those with the permission to send as others, who then
    /// stand in `via`.
    pub from: Id,
    /// Who really sent it, where that is not `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Id>,
    /// What happened.
    pub kind: Kind,
    /// RFC 3339, UTC, milliseconds: the writer's log time.
    pub at: String,
    /// The sender's own idempotency key, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `id` of the message this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The message that this event changes, of the same room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The body, passed through unparsed; `null` where it was erased.
    pub body: Box<RawValue>,
    /// The erasure that took the body. Never in the log: it is put in where such an event is handed out or kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased: Option<Seq>,
}

/// What decides who may see an event and who waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHead {
    /// Its place in the log.
    pub seq: Seq,
    /// The tenant.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// The user whose membership, role or tokens it changes.
    pub concerns: Option<Id>,
    /// Whether everybody in the tenant may see it, whatever their rooms.
    pub for_all: bool,
    /// Whether it says a message anew.
    pub is_edit: bool,
}

/// What is told and not kept: it has no place in the log, so no `seq`, `n` or `prev`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ephemeral {
    /// Version of this format: 1.
    pub v: u8,
    /// UUIDv7, given by the writer.
    pub id: String,
    /// The tenant.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// The authenticated sender.
    pub from: Id,
    /// `typing`, `presence` or `signal`.
    pub kind: Kind,
    /// RFC 3339, UTC, milliseconds: the writer's log time.
    pub at: String,
    /// The body, passed through unparsed.
    pub body: Box<RawValue>,
}

/// Where a room stands, told some seconds after it changed to those who hear it at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomHead {
    /// Version of this format: 1.
    pub v: u8,
    /// The tenant.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// Its last event.
    pub head: Head,
}

/// A room's last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// Its place in the log.
    pub seq: Seq,
    /// Its number in the room.
    pub n: u64,
}

/// An event together with the exact bytes that stand in the log, which every transport hands on.
#[derive(Debug, Clone)]
pub struct EventLine {
    /// The parsed event.
    pub event: Event,
    /// Its bytes in the log, without the newline.
    pub bytes: Bytes,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_all(history: &RoomHistory) -> bool {
    *history == RoomHistory::All
}

impl RoomKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Group, Self::Direct, Self::Announcement, Self::Device];

    /// The value in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Direct => "direct",
            Self::Announcement => "announcement",
            Self::Device => "device",
        }
    }
}

impl Kind {
    /// The token in subjects and the value in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Msg => "msg",
            Self::Command => "command",
            Self::Reply => "reply",
            Self::Edit => "edit",
            Self::Delete => "delete",
            Self::React => "react",
            Self::Unreact => "unreact",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Read => "read",
            Self::Room => "room",
            Self::Member => "member",
            Self::User => "user",
            Self::Token => "token",
            Self::Key => "key",
            Self::Login => "login",
            Self::Hold => "hold",
            Self::Erase => "erase",
            Self::Role => "role",
            Self::Ban => "ban",
            Self::Typing => "typing",
            Self::Presence => "presence",
            Self::Signal => "signal",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Msg,
            Self::Command,
            Self::Reply,
            Self::Edit,
            Self::Delete,
            Self::React,
            Self::Unreact,
            Self::Pin,
            Self::Unpin,
            Self::Read,
            Self::Room,
            Self::Member,
            Self::User,
            Self::Token,
            Self::Key,
            Self::Login,
            Self::Hold,
            Self::Erase,
            Self::Role,
            Self::Ban,
            Self::Typing,
            Self::Presence,
            Self::Signal,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
    }

    /// Whether the event says who may do what; such events change the policy view.
    #[must_use]
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::Room
                | Self::Member
                | Self::User
                | Self::Token
                | Self::Key
                | Self::Hold
                | Self::Erase
                | Self::Role
                | Self::Ban
        )
    }

    /// Whether it is about the whole tenant and stands in [`TENANT_ROOM`](super::TENANT_ROOM). An erasure may, or not.
    #[must_use]
    pub fn is_of_tenant(self) -> bool {
        matches!(
            self,
            Self::User | Self::Token | Self::Key | Self::Login | Self::Hold | Self::Role
        )
    }

    /// Whether it is a message: what history shows, and what others can be about.
    #[must_use]
    pub fn is_message(self) -> bool {
        matches!(self, Self::Msg | Self::Command | Self::Reply)
    }

    /// Whether it is about a message, which it names as its `target`.
    #[must_use]
    pub fn has_target(self) -> bool {
        matches!(
            self,
            Self::Edit | Self::Delete | Self::React | Self::Unreact | Self::Pin | Self::Unpin
        )
    }

    /// Whether a request of this kind needs no body.
    #[must_use]
    pub fn needs_no_body(self) -> bool {
        self.is_ephemeral() || matches!(self, Self::Delete | Self::Pin | Self::Unpin)
    }

    /// Whether it is told and not kept: such a thing never stands in the log.
    #[must_use]
    pub fn is_ephemeral(self) -> bool {
        matches!(self, Self::Typing | Self::Presence | Self::Signal)
    }
}

impl Event {
    /// Who sent it, as authenticated.
    #[must_use]
    pub fn sender(&self) -> &Id {
        self.via.as_ref().unwrap_or(&self.from)
    }

    /// The user whose membership, role or tokens this event changes, or who alone it is for, if it is such an event.
    #[must_use]
    pub fn concerns(&self) -> Option<Id> {
        match self.kind {
            Kind::Member => serde_json::from_str::<MemberBody>(self.body.get())
                .ok()
                .map(|body| body.user),
            Kind::User => serde_json::from_str::<UserBody>(self.body.get())
                .ok()
                .map(|body| body.user),
            Kind::Ban => serde_json::from_str::<BanBody>(self.body.get())
                .ok()
                .map(|body| body.user),
            Kind::Read => Some(self.from.clone()),
            Kind::Token => serde_json::from_str::<TokenBody>(self.body.get())
                .ok()
                .and_then(|body| body.user),
            _ => None,
        }
    }

    /// What readers need to know of it when they do not read it.
    #[must_use]
    pub fn head(&self) -> EventHead {
        EventHead {
            seq: self.seq,
            tenant: self.tenant.clone(),
            room: self.room.clone(),
            concerns: self.concerns(),
            for_all: self.kind == Kind::Erase && self.target.is_none(),
            is_edit: self.kind == Kind::Edit,
        }
    }
}
