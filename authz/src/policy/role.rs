//! Roles of a tenant's own.

use std::collections::BTreeSet;

use natterjack_nats_config::contract::{Event, Id, RoleBody, RoleScope, Seq};

use super::send_as::prefix_facts;
use super::view::{Hashed, Tenant, User};
use super::{Change, Effect, Fact, Permission, PermissionSet, Prefixes, TenantRights, View};

/// The most roles of its own that a tenant may have: a list of them is one answer.
pub const MAX_ROLES: usize = 200;

/// Beyond so many holders a changed role is a change of everybody's rights in the tenant: the servers are asked once for all
/// connections, and not once for each holder's.
const MAX_HOLDERS: usize = 1000;

/// A role of a tenant's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Where it is given.
    pub scope: RoleScope,
    /// What it lets its holders do.
    pub permissions: PermissionSet,
    /// Beginnings of the ids in whose names they may send, beside that.
    pub send_as: Prefixes,
    /// The event that made it what it is.
    pub since: Seq,
}

// The kind of facts in the hash, beside those of `view` (1 to 4, 13 to 15), of tokens (8 to 10) and of the writer (5 to 7, 11).
const ROLE: u8 = 12;

impl Role {
    /// Everything that it gives.
    #[must_use]
    pub fn rights(&self) -> TenantRights {
        TenantRights {
            permissions: self.permissions,
            send_as: self.send_as.clone(),
        }
    }
}

impl View {
    /// A tenant's own role of that name.
    #[must_use]
    pub fn role(&self, tenant: &Id, role: &Id) -> Option<&Role> {
        self.tenants.get(tenant)?.roles.get(role)
    }

    /// A tenant's own roles, in the order of their names.
    pub fn roles(&self, tenant: &Id) -> impl Iterator<Item = (&Id, &Role)> {
        self.tenants.get(tenant).into_iter().flat_map(|tenant| &tenant.roles)
    }

    /// Who holds a tenant's own role, in the tenant or in some room of it. Looks at every membership in the tenant.
    #[must_use]
    pub fn holders(&self, tenant: &Id, role: &Id) -> BTreeSet<&Id> {
        let tenant = self.tenants.get(tenant);
        tenant.map(|tenant| tenant.holders(role)).unwrap_or_default()
    }
}

/// What is claimed counts too where another role is given at the moment: it would be held when that one is taken back.
fn is_held(user: &User, role: &Id) -> bool {
    let claimed = user.claims.iter().flat_map(|claims| claims.values());
    user.role.as_ref() == Some(role) || claimed.into_iter().any(|claimed| claimed.role.as_ref() == Some(role))
}

impl Tenant {
    fn holders(&self, role: &Id) -> BTreeSet<&Id> {
        let in_tenant = self.users.iter().filter(|(_, user)| is_held(user, role));
        let members = self.rooms.values().flat_map(|room| &room.members);
        let in_rooms = members.filter(|(_, member)| member.role == *role);
        in_tenant
            .map(|(user, _)| user)
            .chain(in_rooms.map(|(user, _)| user))
            .collect()
    }

    /// Makes, changes or (with none) deletes a role; the one before.
    pub(super) fn put_role(&mut self, hashed: &mut Hashed<'_>, name: &Id, role: Option<Role>) -> Option<Role> {
        let before = match role {
            Some(role) => {
                facts(hashed.tenant, name, &role).for_each(|fact| hashed.hash.add(&fact));
                self.roles.insert(name.clone(), role)
            }
            None => self.roles.remove(name),
        };
        if let Some(before) = &before {
            facts(hashed.tenant, name, before).for_each(|fact| hashed.hash.remove(&fact));
        }
        before
    }

    pub(super) fn apply_role(
        &mut self,
        hashed: &mut Hashed<'_>,
        event: &Event,
        body: RoleBody,
        keeps_prefixes: bool,
    ) -> Vec<Change> {
        let role = body.permissions.map(|verbs| {
            // A verb that is unknown here gives nothing.
            let permissions = verbs.iter().filter_map(|verb| Permission::parse(verb)).collect();
            let mut send_as = Prefixes::default();
            for verb in verbs.iter().filter(|_| keeps_prefixes) {
                send_as.take(verb);
            }
            Role {
                scope: body.scope,
                permissions,
                send_as,
                since: event.seq,
            }
        });
        let permissions = |role: Option<&Role>| role.map(|role| role.permissions).unwrap_or_default();
        let after = permissions(role.as_ref());
        let before = permissions(self.put_role(hashed, &body.role, role).as_ref());
        let Some(effect) = Effect::of(before, after) else {
            return Vec::new();
        };
        let holders: Vec<Id> = self.holders(&body.role).into_iter().cloned().collect();
        if holders.len() > MAX_HOLDERS {
            return vec![self.changed_for_all(hashed, event, effect)];
        }
        let changed = holders
            .into_iter()
            .map(|user| self.changed(hashed, event, user, effect));
        changed.collect()
    }
}

fn facts(tenant: &Id, name: &Id, role: &Role) -> impl Iterator<Item = Fact> {
    std::iter::once(role_fact(tenant, name, role)).chain(prefix_facts(tenant, name, role))
}

fn role_fact(tenant: &Id, name: &Id, role: &Role) -> Fact {
    let scope = match role.scope {
        RoleScope::Tenant => 0,
        _ => 1,
    };
    Fact::new(ROLE)
        .text(tenant.as_str())
        .text(name.as_str())
        .number(scope)
        .number(u64::from(role.permissions.bits()))
        .number(role.since.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::policy::testing::{own_role, view_of};

    #[test]
    fn views_that_know_a_role_in_different_scopes_differ() {
        let hash = |scope| view_of(&[own_role("watch", scope, json!(["room.manage"]))]).hash();
        assert_ne!(hash("tenant"), hash("room"));
    }
}
