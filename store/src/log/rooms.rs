//! Making, changing and closing rooms to people: kinds, direct rooms, bans. Pure.

use natterjack_authz::policy::{FOR_MODERATORS, MAX_BANS, Permission, View, is_blocked, may, may_in_tenant};
use natterjack_nats_config::contract::{
    BanBody, Id, Kind, MAX_REASON_BYTES, MAX_RETENTION_DAYS, MemberBody, Principal, Problem, ProblemCode, Request,
    RoomBody, RoomHistory, RoomKind, direct_room, is_direct_room,
};
use serde_json::value::RawValue;

use super::admit::{parse, raw};

/// The longest title, in bytes.
const MAX_TITLE_BYTES: usize = 256;

/// An event that comes with another one, in the same frame.
pub(super) type Companion = (Kind, Box<RawValue>);

pub(super) fn read_room(body: &RawValue) -> Result<RoomBody, Problem> {
    let body: RoomBody = parse(body)?;
    if body.title.as_ref().is_some_and(|title| title.len() > MAX_TITLE_BYTES) {
        return Err(Problem::invalid(format!(
            "`title` is longer than {MAX_TITLE_BYTES} bytes"
        )));
    }
    if body
        .retention
        .is_some_and(|retention| retention.days > MAX_RETENTION_DAYS)
    {
        return Err(Problem::invalid(format!(
            "`retention.days` is more than {MAX_RETENTION_DAYS}; 0 keeps messages for ever"
        )));
    }
    let is_direct = body.kind == RoomKind::Direct;
    if is_direct != body.with.is_some() {
        return Err(Problem::invalid(
            "`with`, the other one, goes with a room of kind `direct` and with nothing else",
        ));
    }
    if is_direct && (body.title.is_some() || body.history != RoomHistory::All || body.retention.is_some()) {
        return Err(Problem::invalid(
            "a direct room has neither `title` nor `history` nor `retention`",
        ));
    }
    Ok(body)
}

/// Of a ban, a hold or an erasure.
pub(super) fn check_reason(reason: Option<&str>) -> Result<(), Problem> {
    if reason.is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
        return Err(Problem::invalid(format!(
            "`reason` is longer than {MAX_REASON_BYTES} bytes"
        )));
    }
    Ok(())
}

pub(super) fn read_ban(body: &RawValue) -> Result<BanBody, Problem> {
    let mut body: BanBody = parse(body)?;
    check_reason(body.reason.as_deref())?;
    body.reason = body.reason.filter(|reason| !reason.is_empty());
    Ok(body)
}

/// Whether a room may be made or changed so by who asks.
pub(super) fn permit_room(view: &View, request: &Request, change: &RoomBody) -> Result<(), Problem> {
    let (who, id) = (&request.principal, &request.room);
    if let Some(with) = &change.with {
        return permit_direct(view, who, id, with);
    }
    let Some(room) = view.room(&who.tenant, id) else {
        may_in_tenant(view, who, Permission::RoomCreate)?;
        if is_direct_room(id) {
            return Err(Problem::invalid("ids of this form are those of direct rooms"));
        }
        return Ok(());
    };
    may(view, who, id, Permission::RoomManage)?;
    if room.kind == RoomKind::Direct {
        return Err(Problem::new(ProblemCode::Conflict, "a direct room stays what it is"));
    }
    Ok(())
}

/// Both must be known, and both must have the right to rooms of two: else guests and devices could be written to.
fn permit_direct(view: &View, who: &Principal, id: &Id, with: &Id) -> Result<(), Problem> {
    if direct_room(&who.user, with).as_ref() != Some(id) {
        return Err(Problem::invalid(
            "the id of a direct room is made of its two people, who are not one; use PUT /v1/direct/{user}",
        ));
    }
    may_in_tenant(view, who, Permission::RoomDirect)?;
    if view.room(&who.tenant, id).is_some() {
        return Err(Problem::new(ProblemCode::Conflict, "this direct room is there already"));
    }
    let other = Principal {
        tenant: who.tenant.clone(),
        user: with.clone(),
    };
    if !view.knows(&who.tenant, with) || is_blocked(view, &other) {
        return Err(Problem::new(
            ProblemCode::NotFound,
            format!("nobody knows a user {with}"),
        ));
    }
    may_in_tenant(view, &other, Permission::RoomDirect).map_err(|denied| {
        let detail = format!(
            "{with} has no direct rooms: that needs the permission {}",
            denied.permission
        );
        Problem::new(ProblemCode::Forbidden, detail)
    })
}

/// Who may remove somebody may ban them; a ban is lifted by who manages the room.
pub(super) fn permit_ban(view: &View, request: &Request, change: &BanBody) -> Result<(), Problem> {
    let (who, id) = (&request.principal, &request.room);
    let room = view.room(&who.tenant, id);
    let role = room.and_then(|room| view.in_room(&who.tenant, room.kind, &room.members.get(&change.user)?.role));
    let is_high = role.is_some_and(|role| !role.and(FOR_MODERATORS).is_empty());
    let needed = if change.banned && !is_high {
        Permission::MemberRemove
    } else {
        Permission::RoomManage
    };
    may(view, who, id, needed)?;
    if change.banned && change.user == who.user {
        return Err(Problem::new(ProblemCode::Conflict, "nobody bans themselves"));
    }
    let Some(room) = room else {
        return Err(Problem::no_such_room());
    };
    match (change.banned, room.bans.contains_key(&change.user)) {
        (false, false) => {
            let detail = format!("{} is not banned from this room", change.user);
            Err(Problem::new(ProblemCode::NotFound, detail))
        }
        (true, false) if room.bans.len() >= MAX_BANS => {
            let detail = format!("a room has at most {MAX_BANS} bans; lift one first");
            Err(Problem::new(ProblemCode::RateLimited, detail))
        }
        _ => Ok(()),
    }
}

/// What comes with a room: its owner, or its two people.
pub(super) fn with_room(view: &View, request: &Request, change: &RoomBody) -> Result<Vec<Companion>, Problem> {
    let who = &request.principal;
    if view.room(&who.tenant, &request.room).is_some() {
        return Ok(Vec::new());
    }
    match &change.with {
        Some(with) => Ok(vec![member(&who.user, Some("member"))?, member(with, Some("member"))?]),
        None => Ok(vec![member(&who.user, Some("owner"))?]),
    }
}

/// What comes with a ban: the end of the membership, if there is one.
pub(super) fn with_ban(view: &View, request: &Request, change: &BanBody) -> Result<Vec<Companion>, Problem> {
    let member_now = view.membership(&request.principal.tenant, &request.room, &change.user);
    if change.banned && member_now.is_some() {
        return Ok(vec![member(&change.user, None)?]);
    }
    Ok(Vec::new())
}

fn member(user: &Id, role: Option<&str>) -> Result<Companion, Problem> {
    let body = MemberBody {
        user: user.clone(),
        role: role.and_then(|role| role.parse().ok()),
        visible_from: None,
    };
    Ok((Kind::Member, raw(&body)?))
}
