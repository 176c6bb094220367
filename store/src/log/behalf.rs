//! Messages, and who may send them in whose name, at the writer. Pure.

use natterjack_authz::policy::{Permission, View, may, may_send_as};
use natterjack_nats_config::contract::{Id, Kind, Principal, Problem, ProblemCode, Request};

/// Whether a message may be sent. In another's name it takes the rights of both: what either may not send here, a gateway does
/// not send for them.
pub(super) fn permit_send(view: &View, request: &Request) -> Result<(), Problem> {
    let (who, room) = (&request.principal, &request.room);
    let needed = match request.kind {
        Kind::Command => Permission::CommandSend,
        _ => Permission::RoomSend,
    };
    may(view, who, room, needed)?;
    let Some(user) = &request.payload.on_behalf_of else {
        return Ok(());
    };
    permit_behalf(view, who, user)?;
    let named = Principal {
        tenant: who.tenant.clone(),
        user: user.clone(),
    };
    may(view, &named, room, needed).map_err(|denied| {
        let detail = format!("`as`: {user} lacks the permission {} here", denied.permission);
        Problem::new(ProblemCode::Forbidden, detail)
    })
}

fn permit_behalf(view: &View, who: &Principal, user: &Id) -> Result<(), Problem> {
    may_send_as(view, who, user).map_err(|denied| {
        let detail = format!(
            "`as`: this needs the permission {0}, or `{0}:` with what {user} begins with",
            denied.permission
        );
        Problem::new(ProblemCode::Forbidden, detail)
    })?;
    if *user == who.user {
        return Err(Problem::invalid("`as` names somebody else; leave it out"));
    }
    Ok(())
}
