use natterjack_authz::policy::{Ban, Permission, View, may};
use natterjack_nats_config::contract::{Actor, BanBody, Id, Kind, Principal, Problem, ProblemCode, SendPayload, Seq};
use serde::Serialize;
use serde_json::value::to_raw_value;

use super::members::{Changed, wait_and_settle};
use super::{Bridge, Listing, page_of, send};

/// Somebody who may not be in a room.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Banned {
    user: Id,
    reason: Option<Box<str>>,
    /// The event that says so.
    since: Seq,
}

/// Who may not be in a room, for those who may remove members; in the order of the ids, and where the next page begins.
pub(crate) fn bans(
    bridge: &Bridge,
    who: &Principal,
    room: &Id,
    listing: &Listing,
) -> Result<(Vec<Banned>, Option<Id>), Problem> {
    bridge.look(|view| {
        may_look(view, who, room)?;
        let room = view.room(&who.tenant, room).ok_or_else(Problem::no_such_room)?;
        let (page, next) = page_of(room.bans.iter(), listing);
        Ok((page.into_iter().map(|(user, ban)| shown(user, ban)).collect(), next))
    })
}

/// One of them.
pub(crate) fn show_ban(bridge: &Bridge, who: &Principal, room: &Id, user: &Id) -> Result<Banned, Problem> {
    bridge.look(|view| {
        may_look(view, who, room)?;
        let ban = view.ban(&who.tenant, room, user).map(|ban| shown(user, ban));
        ban.ok_or_else(|| Problem::new(ProblemCode::NotFound, format!("{user} is not banned from this room")))
    })
}

/// Bans somebody from a room, and ends their membership, or lets them in again. Answers when that has reached their live
/// connections.
pub(crate) async fn put_ban(
    bridge: &Bridge,
    who: &Actor,
    room: Id,
    body: BanBody,
    key: Option<String>,
) -> Result<Changed, Problem> {
    let raw = to_raw_value(&body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = super::rooms::with_key(SendPayload::of_body(raw), key)?;
    let receipt = send(bridge, who, room, Kind::Ban, payload).await?;
    // The end of the membership stands in the same frame, which is passed as a whole.
    let settled = wait_and_settle(bridge, (&who.tenant, Some(&body.user)), receipt.seq).await;
    Ok(Changed { receipt, settled })
}

fn may_look(view: &View, who: &Principal, room: &Id) -> Result<(), Problem> {
    may(view, who, room, Permission::MemberRemove).map_err(Problem::from)
}

fn shown(user: &Id, ban: &Ban) -> Banned {
    Banned {
        user: user.clone(),
        reason: ban.reason.clone(),
        since: ban.since,
    }
}
