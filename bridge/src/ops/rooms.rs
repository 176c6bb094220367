use natterjack_authz::policy::{Permission, Room, View, all_in_room, readable};
use natterjack_nats_config::contract::{
    Actor, Head, Id, Kind, Principal, Problem, Receipt, RoleScope, RoomBody, RoomHistory, RoomKind, RoomStanding,
    SendPayload, Seq,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::members::settle_own;
use super::{Bridge, Listing, may_look, page_of, send};

/// A room as its members see it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RoomShown {
    id: Id,
    pub(crate) kind: RoomKind,
    title: Option<String>,
    /// From where on new members may read.
    history: RoomHistory,
    /// Of a direct room: the other one.
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<Id>,
    /// The caller's role; none for an administrator who is no member.
    role: Option<Id>,
    /// How many are in it.
    members: usize,
    /// What the caller may do in it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Head>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_message: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Head>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<u64>,
}

/// A room that was made or changed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RoomMade {
    /// As it is now; none if this bridge has not read of it yet.
    room: Option<RoomShown>,
    pub(crate) receipt: Receipt,
}

impl RoomShown {
    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// Adds where it stands, as far as the archive knows it.
    pub(super) fn stands(&mut self, standing: Option<RoomStanding>) {
        let Some(standing) = standing else { return };
        self.last = Some(standing.last);
        self.last_message = standing.last_message;
        self.read = Some(standing.read);
        self.unread = Some(standing.unread);
    }
}

/// The rooms the caller is a member of, in the order of their ids, and where the next page begins.
pub(crate) fn rooms(
    bridge: &Bridge,
    who: &Principal,
    listing: &Listing,
) -> Result<(Vec<RoomShown>, Option<Id>), Problem> {
    bridge.look(|view| {
        let (page, next) = page_of(view.rooms_of(&who.tenant, &who.user), listing);
        Ok((page.into_iter().map(|(id, room)| shown(who, id, room)).collect(), next))
    })
}

/// Those that the caller may read now, with what else they may do there.
pub(super) fn readable_rooms(
    bridge: &Bridge,
    who: &Principal,
    listing: &Listing,
) -> Result<(Vec<RoomShown>, Option<Id>), Problem> {
    bridge.look(|view| {
        let rooms = view.rooms_of(&who.tenant, &who.user);
        let (page, next) = page_of(rooms.filter(|(id, _)| readable(view, who, id).is_some()), listing);
        let rooms = page
            .into_iter()
            .map(|(id, room)| shown_with_permissions(view, who, id, room));
        Ok((rooms.collect(), next))
    })
}

/// One room.
pub(crate) fn show_room(bridge: &Bridge, who: &Principal, id: &Id) -> Result<RoomShown, Problem> {
    bridge.look(|view| {
        may_look(view, who, id)?;
        view.room(&who.tenant, id)
            .map(|room| shown_with_permissions(view, who, id, room))
            .ok_or_else(Problem::no_such_room)
    })
}

/// Makes a room, whose owner is then the caller, or changes it. Answers when the caller can use it: this bridge knows
/// of it, and the caller's NATS connections are being renewed.
pub(crate) async fn put_room(
    bridge: &Bridge,
    who: &Actor,
    id: Id,
    body: &RoomBody,
    key: Option<String>,
) -> Result<RoomMade, Problem> {
    let body = to_raw_value(body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = with_key(SendPayload::of_body(body), key)?;
    let receipt = send(bridge, who, id.clone(), Kind::Room, payload).await?;
    if receipt.n == 1 {
        // The owner's membership comes right behind the room, in the same frame.
        settle_own(bridge, who, Seq(receipt.seq.0 + 1)).await;
    } else {
        super::members::wait_for_own_view(bridge, receipt.seq).await;
    }
    let room = show_room(bridge, who, &id).ok();
    Ok(RoomMade { room, receipt })
}

pub(super) fn with_key(payload: SendPayload, key: Option<String>) -> Result<SendPayload, Problem> {
    match key {
        Some(key) => payload
            .with_key(key)
            .map_err(|error| Problem::invalid(error.to_string())),
        None => Ok(payload),
    }
}

fn shown_with_permissions(view: &View, who: &Principal, id: &Id, room: &Room) -> RoomShown {
    let granted = all_in_room(view, who, id).iter();
    let granted = granted.filter(|permission| permission.is_of(RoleScope::Room));
    RoomShown {
        permissions: Some(granted.map(Permission::as_str).collect()),
        ..shown(who, id, room)
    }
}

fn shown(who: &Principal, id: &Id, room: &Room) -> RoomShown {
    RoomShown {
        id: id.clone(),
        kind: room.kind,
        title: room.title.clone(),
        history: room.history,
        with: other(who, room),
        role: room.members.get(&who.user).map(|member| member.role.clone()),
        members: room.members.len(),
        permissions: None,
        last: None,
        last_message: None,
        read: None,
        unread: None,
    }
}

fn other(who: &Principal, room: &Room) -> Option<Id> {
    let is_direct = room.kind == RoomKind::Direct;
    let mut others = room.members.keys().filter(|member| is_direct && **member != who.user);
    others.next().cloned()
}
