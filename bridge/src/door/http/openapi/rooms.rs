//! Shapes of rooms, members and webhooks.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Receipt, Standing};

/// How long a room's messages are kept.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct Retention {
    /// 0: for ever.
    #[schema(maximum = 36500)]
    days: u32,
}

/// A room to make or to change.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct RoomBody {
    #[serde(default)]
    #[schema(nullable = false)]
    kind: Option<RoomKind>,
    /// At most 256 bytes.
    #[serde(default)]
    title: Option<String>,
    /// Without it the configuration decides.
    #[serde(default)]
    retention: Option<Retention>,
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
pub(in crate::door::http) struct NewRoom {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    kind: Option<RoomKind>,
    #[serde(default)]
    title: Option<String>,
    /// Without it the configuration decides.
    #[serde(default)]
    retention: Option<Retention>,
    #[serde(default)]
    #[schema(nullable = false)]
    history: Option<RoomHistory>,
}

/// What a room is for: many speak and read; two with equal rights; few speak and many read; devices tell and people command.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::door::http) enum RoomKind {
    Group,
    Direct,
    Announcement,
    Device,
}

/// From where on new members may read: everything, or what comes after joining.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::door::http) enum RoomHistory {
    All,
    Joined,
}

/// A room as its members see it.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct Room {
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
    /// What the caller may do in it, where one room or `/v1/sync` was asked for.
    #[serde(default)]
    #[schema(nullable = false)]
    permissions: Option<Vec<String>>,
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
pub(in crate::door::http) struct Head {
    seq: u64,
    n: u64,
}

/// Up to where the caller has read.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct ReadUpTo {
    /// The last event that is read; no later than the room's last.
    seq: u64,
}

/// A page of the caller's rooms.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct RoomsPage {
    rooms: Vec<Room>,
    #[schema(required)]
    next: Option<String>,
}

/// A room that was made or changed.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct RoomMade {
    #[schema(required)]
    room: Option<Room>,
    receipt: Receipt,
}

/// A membership to give.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct Membership {
    role: String,
    /// The first `seq` that a new member may see; everything by default.
    #[serde(default)]
    visible_from: Option<u64>,
}

/// A hook to make.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct NewHook {
    /// Becomes part of the hook's own user id: at most 46 of A-Z a-z 0-9 _ -
    #[serde(default)]
    name: Option<String>,
}

/// A hook that was made.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct HookMade {
    /// The member of the room that it is; to remove it is to revoke the hook.
    hook: String,
    /// Where to post to. A secret, and shown this once.
    path: String,
    receipt: Receipt,
}

/// What is posted to a hook, as Slack takes it. One of `text`, `attachments` and `blocks` must be there; other fields are
/// passed over.
#[derive(ToSchema, Deserialize)]
pub(in crate::door::http) struct HookPost {
    text: Option<String>,
    username: Option<String>,
    attachments: Option<Vec<Value>>,
    blocks: Option<Vec<Value>>,
}

/// A member of a room.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct Member {
    user: String,
    role: String,
    visible_from: u64,
    /// The event that gave the present role.
    since: u64,
    /// With `joined=true`: the event by which they came in, where it is archived.
    #[serde(default)]
    #[schema(nullable = false)]
    joined: Option<u64>,
    /// Its time.
    #[serde(default)]
    #[schema(nullable = false)]
    joined_at: Option<String>,
}

/// A page of a room's members.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct MembersPage {
    members: Vec<Member>,
    #[schema(required)]
    next: Option<String>,
}
