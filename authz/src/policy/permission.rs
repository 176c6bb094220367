use std::fmt;

use natterjack_nats_config::contract::RoleScope;

use super::PermissionSet;

/// Something a principal may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    /// Make rooms in the tenant.
    RoomCreate,
    /// Have rooms of two with others who may, too.
    RoomDirect,
    /// Receive a room's events and read its history.
    RoomRead,
    /// Send messages and replies to a room.
    RoomSend,
    /// Send commands to a room.
    CommandSend,
    /// React to messages, and take one's own reactions back.
    RoomReact,
    /// Pin messages.
    MessagePin,
    /// Edit one's own messages.
    MessageEditOwn,
    /// Delete one's own messages.
    MessageDeleteOwn,
    /// Delete anybody's messages.
    MessageDeleteAny,
    /// Change a room's settings, give or take any of its roles, and lift bans.
    RoomManage,
    /// Add members with a role that has nothing which the giver lacks, nor anything that is for moderators.
    MemberInvite,
    /// Remove and ban members whose role has nothing that is for moderators.
    MemberRemove,
    /// Give and take tenant roles; manage every room's members (reading needs a membership all the same).
    TenantAdmin,
    /// Read the audit trail.
    TenantAudit,
    /// Send messages in the name of others, where both may send: for gateways.
    SendAs,
    /// Erase what anybody said, for good.
    TenantErase,
    /// Erase what one said oneself.
    TenantEraseOwn,
}

use Permission::{
    CommandSend, MemberInvite, MemberRemove, MessageDeleteAny, MessageDeleteOwn, MessageEditOwn, MessagePin,
    RoomCreate, RoomDirect, RoomManage, RoomReact, RoomRead, RoomSend, SendAs, TenantAdmin, TenantAudit, TenantErase,
    TenantEraseOwn,
};

/// The built-in roles in a tenant. A user whom no event names is a `member`. Who is [`BLOCKED`] may do nothing anywhere.
pub const TENANT_ROLES: &[(&str, &[Permission])] = &[
    (
        "admin",
        &[
            RoomCreate,
            RoomDirect,
            RoomManage,
            MemberInvite,
            MemberRemove,
            MessageDeleteAny,
            TenantAdmin,
            TenantAudit,
            SendAs,
            TenantErase,
            TenantEraseOwn,
        ],
    ),
    ("auditor", &[TenantAudit]),
    ("member", &[RoomCreate, RoomDirect]),
    ("guest", &[]),
    ("device", &[]),
    (BLOCKED, &[]),
];

/// The role in a tenant of those who may do nothing, whatever else is given to them.
pub const BLOCKED: &str = "blocked";

/// The built-in roles in a room, before its kind takes from them: see [`KINDS`](super::KINDS).
pub const ROOM_ROLES: &[(&str, &[Permission])] = &[
    (
        "owner",
        &[
            RoomRead,
            RoomSend,
            CommandSend,
            RoomReact,
            MessageEditOwn,
            MessageDeleteOwn,
            MessageDeleteAny,
            MessagePin,
            RoomManage,
            MemberInvite,
            MemberRemove,
        ],
    ),
    (
        "moderator",
        &[
            RoomRead,
            RoomSend,
            CommandSend,
            RoomReact,
            MessageEditOwn,
            MessageDeleteOwn,
            MessageDeleteAny,
            MessagePin,
            MemberInvite,
            MemberRemove,
        ],
    ),
    (
        "member",
        &[
            RoomRead,
            RoomSend,
            CommandSend,
            RoomReact,
            MessageEditOwn,
            MessageDeleteOwn,
        ],
    ),
    ("reader", &[RoomRead]),
    ("device", &[RoomRead, RoomSend, CommandSend]),
];

/// What makes a role one that only [`Permission::RoomManage`] gives and takes.
pub const FOR_MODERATORS: PermissionSet =
    PermissionSet::of(&[RoomManage, MemberInvite, MemberRemove, MessageDeleteAny]);

/// Whether a name is that of a built-in role, in a tenant or a room: no other role may have it.
#[must_use]
pub fn is_built_in(name: &str) -> bool {
    TENANT_ROLES.iter().chain(ROOM_ROLES).any(|(role, _)| *role == name)
}

/// The permissions of a built-in role; `None` if there is no such role.
#[must_use]
pub fn built_in(scope: RoleScope, name: &str) -> Option<PermissionSet> {
    let roles = match scope {
        RoleScope::Tenant => TENANT_ROLES,
        _ => ROOM_ROLES,
    };
    roles
        .iter()
        .find(|(role, _)| *role == name)
        .map(|(_, permissions)| PermissionSet::of(permissions))
}

impl Permission {
    /// All of them. A permission's place in here is its bit in a [`PermissionSet`] and so in checkpoints: new ones go to the end.
    pub const ALL: [Self; 18] = [
        RoomCreate,
        RoomDirect,
        RoomRead,
        RoomSend,
        CommandSend,
        RoomReact,
        MessagePin,
        MessageEditOwn,
        MessageDeleteOwn,
        MessageDeleteAny,
        RoomManage,
        MemberInvite,
        MemberRemove,
        TenantAdmin,
        TenantAudit,
        SendAs,
        TenantErase,
        TenantEraseOwn,
    ];

    /// The permission of that verb.
    #[must_use]
    pub fn parse(verb: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.as_str() == verb)
    }

    /// Whether a role of a scope may hold it. What is about a room's messages is given in that room only; what is about
    /// managing rooms may be given for all rooms of a tenant.
    #[must_use]
    pub fn is_of(self, scope: RoleScope) -> bool {
        match self {
            RoomCreate | RoomDirect | TenantAdmin | TenantAudit | SendAs | TenantErase | TenantEraseOwn => {
                scope == RoleScope::Tenant
            }
            RoomManage | MemberInvite | MemberRemove | MessageDeleteAny => true,
            RoomRead | RoomSend | CommandSend | RoomReact | MessagePin | MessageEditOwn | MessageDeleteOwn => {
                scope == RoleScope::Room
            }
        }
    }

    /// The verb that problems and docs show.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RoomCreate => "room.create",
            RoomDirect => "room.direct",
            RoomRead => "room.read",
            RoomSend => "room.send",
            CommandSend => "command.send",
            RoomReact => "room.react",
            MessagePin => "message.pin",
            MessageEditOwn => "message.edit.own",
            MessageDeleteOwn => "message.delete.own",
            MessageDeleteAny => "message.delete.any",
            RoomManage => "room.manage",
            MemberInvite => "member.invite",
            MemberRemove => "member.remove",
            TenantAdmin => "tenant.admin",
            TenantAudit => "tenant.audit",
            SendAs => "send.as",
            TenantErase => "tenant.erase",
            TenantEraseOwn => "tenant.erase.own",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_roles_hold_what_roles_of_their_scope_may_hold() {
        for (scope, roles) in [(RoleScope::Tenant, TENANT_ROLES), (RoleScope::Room, ROOM_ROLES)] {
            for (role, permissions) in roles {
                let strange = permissions.iter().find(|permission| !permission.is_of(scope));
                assert_eq!(strange, None, "{role}");
            }
        }
    }

    #[test]
    fn a_permission_is_of_the_tenant_of_a_room_or_of_both() {
        let scopes = |permission: Permission| [RoleScope::Tenant, RoleScope::Room].map(|scope| permission.is_of(scope));
        for permission in [TenantAdmin, TenantAudit, SendAs, RoomCreate] {
            assert_eq!(scopes(permission), [true, false], "{permission}");
        }
        for permission in [RoomRead, RoomSend, MessageEditOwn] {
            assert_eq!(scopes(permission), [false, true], "{permission}");
        }
        assert_eq!(scopes(RoomManage), [true, true]);
    }

    #[test]
    fn the_names_of_built_in_roles_are_taken_in_both_scopes() {
        for taken in ["admin", "guest", "blocked", "owner", "reader", "member"] {
            assert!(is_built_in(taken), "{taken}");
        }
        assert!(!is_built_in("watch"));
    }

    #[test]
    fn all_are_all_and_known_by_their_verbs() {
        for (bit, permission) in Permission::ALL.into_iter().enumerate() {
            assert_eq!(
                permission as usize, bit,
                "{permission}: the enum and the list have one order"
            );
            assert_eq!(Permission::parse(permission.as_str()), Some(permission));
        }
        assert_eq!(Permission::TenantEraseOwn as usize + 1, Permission::ALL.len());
        assert_eq!(Permission::parse("room.fly"), None);
    }
}
