use natterjack_nats_config::contract::{Id, Principal};

use super::{Permission, View, may, may_in_tenant};

/// What a principal may do in a room, as [`may`] decides: by the role in it, and by that in the tenant.
#[must_use]
pub fn granted_in_room(view: &View, who: &Principal, room: &Id) -> Vec<Permission> {
    granted(|permission| !permission.is_of_tenant() && may(view, who, room, permission).is_ok())
}

/// What a principal may do in its tenant, in rooms that it is no member of too.
#[must_use]
pub fn granted_in_tenant(view: &View, who: &Principal) -> Vec<Permission> {
    granted(|permission| may_in_tenant(view, who, permission).is_ok())
}

fn granted(may: impl Fn(Permission) -> bool) -> Vec<Permission> {
    Permission::ALL
        .iter()
        .copied()
        .filter(|permission| may(*permission))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ROOM_ROLES, TENANT_ROLES};

    #[test]
    fn every_permission_of_a_role_is_among_all() {
        for (role, permissions) in ROOM_ROLES.iter().chain(TENANT_ROLES) {
            for permission in *permissions {
                assert!(Permission::ALL.contains(permission), "{role}: {permission}");
            }
        }
    }
}
