//! Roles, in the tenant and in rooms: who may make, give and take them. Pure.
//!
//! Nobody gives what they lack. `room.manage` is the right to give any role in a room, and so whoever has it lacks nothing there.

use natterjack_authz::policy::{
    BLOCKED, FOR_MODERATORS, MAX_PREFIXES, MAX_ROLES, Permission, PermissionSet, Prefixes, Role, TenantRights, View,
    all_in_room, is_built_in, may, may_in_tenant, rights_in_tenant,
};
use natterjack_nats_config::contract::{
    Id, MemberBody, Principal, Problem, ProblemCode, Request, RoleBody, RoleScope, RoomKind, UserBody,
};
use serde_json::value::RawValue;

use super::admit::parse;

/// Reads a role as it is to be: its verbs once each, in the order of the table.
pub(super) fn read_role(body: &RawValue) -> Result<RoleBody, Problem> {
    let mut body: RoleBody = parse(body)?;
    if is_built_in(body.role.as_str()) {
        let detail = format!(
            "`{}` is a built-in role, which nobody changes; take another name",
            body.role
        );
        return Err(Problem::new(ProblemCode::Conflict, detail));
    }
    let Some(verbs) = &body.permissions else {
        return Ok(body);
    };
    body.permissions = Some(read_verbs(verbs, body.scope)?.verbs());
    Ok(body)
}

/// Whether a role may be made, changed or deleted so by who asks.
pub(super) fn permit_role(view: &View, who: &Principal, change: &RoleBody) -> Result<(), Problem> {
    may_in_tenant(view, who, Permission::TenantAdmin)?;
    if change.scope == RoleScope::Room {
        may_in_tenant(view, who, Permission::RoomManage)?;
    }
    let conflict = |detail: String| Err(Problem::new(ProblemCode::Conflict, detail));
    let known = view.role(&who.tenant, &change.role);
    if known.is_some_and(|known| known.scope != change.scope) {
        return conflict(format!(
            "the role `{}` is of another scope; take another name, or delete it first",
            change.role
        ));
    }
    let Some(verbs) = &change.permissions else {
        return match (known, view.holders(&who.tenant, &change.role).len()) {
            (None, _) => Err(unknown_role(&change.role)),
            (_, 0) => Ok(()),
            (_, holders) => conflict(format!(
                "{holders} of the tenant's users hold the role `{}`; give them another one first",
                change.role
            )),
        };
    };
    if change.scope == RoleScope::Tenant {
        let own = rights_in_tenant(view, who);
        lacks_no_right(&read_verbs(verbs, change.scope)?, &own)?;
        // As with the role of a single administrator: nobody takes from those who may more than they.
        let before = known.map(Role::rights).unwrap_or_default();
        if before.permissions.contains(Permission::TenantAdmin) {
            lacks_no_right(&before, &own)?;
        }
    }
    if known.is_none() && view.roles(&who.tenant).count() >= MAX_ROLES {
        return Err(Problem::new(
            ProblemCode::RateLimited,
            format!("a tenant may have {MAX_ROLES} roles of its own; delete one first"),
        ));
    }
    Ok(())
}

/// Whether a user's role in the tenant may be changed so by who asks.
pub(super) fn permit_user(view: &View, who: &Principal, change: &UserBody) -> Result<(), Problem> {
    may_in_tenant(view, who, Permission::TenantAdmin)?;
    let rights = |role: &str| -> Result<TenantRights, Problem> {
        let role: Id = role.parse().map_err(|_| Problem::invalid("a role's name is an id"))?;
        let rights = view
            .rights_of_role(&who.tenant, &role)
            .map(|rights| rights.of(&change.user));
        rights.ok_or_else(|| no_such_role(&role))
    };
    let claimed = || view.claimed_role(&who.tenant, &change.user);
    let after = change.role.as_ref().or_else(claimed).map_or("member", Id::as_str);
    let own = rights_in_tenant(view, who);
    lacks_no_right(&rights(after)?, &own)?;
    let before = rights(view.tenant_role(&who.tenant, &change.user)).unwrap_or_default();
    if before.permissions.contains(Permission::TenantAdmin) {
        lacks_no_right(&before, &own)?;
    }
    if after == BLOCKED && change.user == who.user {
        return Err(Problem::new(ProblemCode::Conflict, "nobody blocks themselves"));
    }
    Ok(())
}

/// Whether a membership may be given, changed or taken away so by who asks.
pub(super) fn permit_member(view: &View, request: &Request, change: &MemberBody) -> Result<(), Problem> {
    let (who, name) = (&request.principal, &request.room);
    let room = view.room(&who.tenant, name);
    let kind = room.map_or(RoomKind::Group, |room| room.kind);
    let given = match &change.role {
        Some(role) => Some(
            view.in_room(&who.tenant, kind, role)
                .ok_or_else(|| no_such_role(role))?,
        ),
        None => None,
    };
    if given.is_none() && change.user == who.user {
        return may_leave(kind);
    }
    let now = room.and_then(|room| room.members.get(&change.user));
    let now = now.and_then(|member| view.in_room(&who.tenant, kind, &member.role));
    let is_high = |role: Option<PermissionSet>| role.is_some_and(|role| !role.and(FOR_MODERATORS).is_empty());
    let is_banned = given.is_some() && view.ban(&who.tenant, name, &change.user).is_some();
    let needed = match given {
        _ if is_banned || is_high(given) || is_high(now) => Permission::RoomManage,
        Some(_) => Permission::MemberInvite,
        None => Permission::MemberRemove,
    };
    may(view, who, name, needed)?;
    let own = all_in_room(view, who, name);
    match given {
        Some(given) if !own.contains(Permission::RoomManage) => lacks_nothing(given, own),
        _ => Ok(()),
    }
}

fn may_leave(kind: RoomKind) -> Result<(), Problem> {
    if kind == RoomKind::Direct {
        return Err(Problem::new(
            ProblemCode::Conflict,
            "a direct room keeps its two people; nobody leaves it",
        ));
    }
    Ok(())
}

fn read_verbs(verbs: &[String], scope: RoleScope) -> Result<TenantRights, Problem> {
    let (mut permissions, mut send_as) = (PermissionSet::default(), Prefixes::default());
    for verb in verbs {
        if let Some(permission) = Permission::parse(verb).filter(|permission| permission.is_of(scope)) {
            permissions = permissions.or(PermissionSet::of(&[permission]));
        } else if !(Permission::SendAs.is_of(scope) && send_as.take(verb)) {
            return Err(no_such_permission(scope));
        }
    }
    if send_as.len() > MAX_PREFIXES {
        return Err(Problem::invalid(format!(
            "a role names at most {MAX_PREFIXES} prefixes"
        )));
    }
    // In anybody's name is in theirs too.
    if permissions.contains(Permission::SendAs) {
        send_as = Prefixes::default();
    }
    Ok(TenantRights { permissions, send_as })
}

fn no_such_permission(scope: RoleScope) -> Problem {
    let known = Permission::ALL.into_iter().filter(|permission| permission.is_of(scope));
    let mut known: Vec<_> = known.map(Permission::as_str).collect();
    if Permission::SendAs.is_of(scope) {
        known.push("send.as:PREFIX (of what ids are made of, and once {user} for the own id)");
    }
    Problem::invalid(format!(
        "a role of this scope has no such permission; there are: {}",
        known.join(", ")
    ))
}

fn lacks_nothing(given: PermissionSet, own: PermissionSet) -> Result<(), Problem> {
    lacking(given.without(own).iter().next())
}

pub(super) fn lacks_no_right(given: &TenantRights, own: &TenantRights) -> Result<(), Problem> {
    lacking(own.lacks(given))
}

fn lacking(verb: Option<impl std::fmt::Display>) -> Result<(), Problem> {
    verb.map_or(Ok(()), |verb| {
        Err(Problem::new(
            ProblemCode::Forbidden,
            format!("nobody gives what they lack, and you lack the permission {verb}"),
        ))
    })
}

pub(super) fn no_such_role(role: &Id) -> Problem {
    Problem::invalid(format!("there is no role `{role}` to be given here"))
}

fn unknown_role(role: &Id) -> Problem {
    Problem::new(ProblemCode::NotFound, format!("there is no role `{role}`"))
}
