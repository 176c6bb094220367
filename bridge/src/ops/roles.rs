use natterjack_authz::policy::{Permission, ROOM_ROLES, Role, TENANT_ROLES, built_in};
use natterjack_nats_config::contract::{
    Actor, By, Id, Kind, Principal, Problem, ProblemCode, RoleBody, RoleScope, SendPayload, Seq, UserBody,
};
use serde::Serialize;
use serde_json::value::to_raw_value;

use super::members::{Changed, settle_own, wait_and_settle};
use super::{Bridge, send, tenant_room};

/// A role: a built-in one, or one of the tenant's own.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RoleShown {
    role: Id,
    scope: RoleScope,
    permissions: Vec<String>,
    /// Whether it is the same everywhere, and nobody can change it.
    built_in: bool,
    /// The event that made it what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Seq>,
}

/// Every role that there is: the built-in ones, then the tenant's own in the order of their names.
pub(crate) fn roles(bridge: &Bridge, who: &Principal) -> Result<Vec<RoleShown>, Problem> {
    bridge.look(|view| {
        let tables = [(RoleScope::Tenant, TENANT_ROLES), (RoleScope::Room, ROOM_ROLES)];
        let built_in = tables.into_iter().flat_map(|(scope, roles)| {
            let names = roles.iter().filter_map(|(name, _)| name.parse().ok());
            names.filter_map(move |name| shown_built_in(name, scope))
        });
        let own = view.roles(&who.tenant).map(|(name, role)| shown(name, role));
        Ok(built_in.chain(own).collect())
    })
}

/// A role by its name; where a room's and a tenant's have the same, that of the scope, or the room's.
pub(crate) fn show_role(
    bridge: &Bridge,
    who: &Principal,
    name: &Id,
    scope: Option<RoleScope>,
) -> Result<RoleShown, Problem> {
    let all = roles(bridge, who)?;
    let of_name = |role: &&RoleShown| role.role == *name && scope.is_none_or(|scope| scope == role.scope);
    let found = all.iter().filter(of_name).max_by_key(|role| role.scope);
    found
        .cloned()
        .ok_or_else(|| Problem::new(ProblemCode::NotFound, format!("there is no role `{name}`")))
}

/// Makes, changes or deletes a role of the tenant's own. Answers when the change has reached the live connections of all who
/// hold it, or says that it is pending.
pub(crate) async fn put_role(
    bridge: &Bridge,
    who: &Actor,
    body: &RoleBody,
    key: Option<String>,
) -> Result<Changed, Problem> {
    let raw = to_raw_value(body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = super::rooms::with_key(SendPayload::of_body(raw), key)?;
    let receipt = send(bridge, who, tenant_room()?, Kind::Role, payload).await?;
    // Over one of the very connections that are renewed the answer has to leave before that.
    let holds = bridge.look(|view| Ok(view.holders(&who.tenant, &body.role).contains(&who.user)))?;
    let settled = if holds && who.by == By::Connection {
        settle_own(bridge, who, receipt.seq).await
    } else {
        wait_and_settle(bridge, (&who.tenant, None), receipt.seq).await
    };
    Ok(Changed { receipt, settled })
}

/// Deletes a role of the tenant's own that nobody holds.
pub(crate) async fn delete_role(
    bridge: &Bridge,
    who: &Actor,
    role: Id,
    key: Option<String>,
) -> Result<Changed, Problem> {
    let scope = bridge.look(|view| Ok(view.role(&who.tenant, &role).map(|role| role.scope)))?;
    let body = RoleBody {
        role,
        // The writer says what is wrong where there is none.
        scope: scope.unwrap_or(RoleScope::Tenant),
        permissions: None,
    };
    put_role(bridge, who, &body, key).await
}

/// Gives a user a role in the tenant, or takes it back.
pub(crate) async fn put_user(
    bridge: &Bridge,
    who: &Actor,
    body: UserBody,
    key: Option<String>,
) -> Result<Changed, Problem> {
    let raw = to_raw_value(&body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = super::rooms::with_key(SendPayload::of_body(raw), key)?;
    let receipt = send(bridge, who, tenant_room()?, Kind::User, payload).await?;
    let settled = if body.user == who.user {
        settle_own(bridge, who, receipt.seq).await
    } else {
        wait_and_settle(bridge, (&who.tenant, Some(&body.user)), receipt.seq).await
    };
    Ok(Changed { receipt, settled })
}

fn shown_built_in(name: Id, scope: RoleScope) -> Option<RoleShown> {
    let permissions = built_in(scope, name.as_str())?;
    Some(RoleShown {
        role: name,
        scope,
        permissions: permissions
            .iter()
            .map(|one| Permission::as_str(one).to_owned())
            .collect(),
        built_in: true,
        since: None,
    })
}

fn shown(name: &Id, role: &Role) -> RoleShown {
    RoleShown {
        role: name.clone(),
        scope: role.scope,
        permissions: role.rights().verbs(),
        built_in: false,
        since: Some(role.since),
    }
}
