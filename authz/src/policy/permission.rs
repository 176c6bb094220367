use std::fmt;

/// Something a principal may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    /// Make rooms in the tenant.
    RoomCreate,
    /// Receive a room's events and read its history.
    RoomRead,
    /// Send messages, commands and replies to a room.
    RoomSend,
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
    /// Change a room's settings and give or take any of its roles.
    RoomManage,
    /// Add members with a role below moderator.
    MemberInvite,
    /// Remove members whose role is below moderator.
    MemberRemove,
    /// Give and take tenant roles; manage every room's members (reading needs a membership all the same).
    TenantAdmin,
    /// Read the audit trail.
    TenantAudit,
}

use Permission::{
    MemberInvite, MemberRemove, MessageDeleteAny, MessageDeleteOwn, MessageEditOwn, MessagePin, RoomCreate, RoomManage,
    RoomReact, RoomRead, RoomSend, TenantAdmin, TenantAudit,
};

/// The built-in roles in a tenant. A user whom no event names is a `member`.
pub const TENANT_ROLES: &[(&str, &[Permission])] = &[
    (
        "admin",
        &[
            RoomCreate,
            RoomManage,
            MemberInvite,
            MemberRemove,
            MessageDeleteAny,
            TenantAdmin,
            TenantAudit,
        ],
    ),
    ("auditor", &[TenantAudit]),
    ("member", &[RoomCreate]),
    ("guest", &[]),
    ("device", &[]),
];

/// The built-in roles in a room.
pub const ROOM_ROLES: &[(&str, &[Permission])] = &[
    (
        "owner",
        &[
            RoomRead,
            RoomSend,
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
        &[RoomRead, RoomSend, RoomReact, MessageEditOwn, MessageDeleteOwn],
    ),
    ("reader", &[RoomRead]),
    ("device", &[RoomRead, RoomSend]),
];

/// The permissions of a role in a tenant; `None` if there is no such role.
#[must_use]
pub fn tenant_role(name: &str) -> Option<&'static [Permission]> {
    find(TENANT_ROLES, name)
}

/// The permissions of a role in a room; `None` if there is no such role.
#[must_use]
pub fn room_role(name: &str) -> Option<&'static [Permission]> {
    find(ROOM_ROLES, name)
}

impl Permission {
    /// All there are.
    pub const ALL: &[Self] = &[
        RoomCreate,
        RoomRead,
        RoomSend,
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
    ];

    /// Whether it is about the tenant, and in a room means nothing.
    #[must_use]
    pub fn is_of_tenant(self) -> bool {
        matches!(self, RoomCreate | TenantAdmin | TenantAudit)
    }

    /// The verb that problems and docs show.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RoomCreate => "room.create",
            RoomRead => "room.read",
            RoomSend => "room.send",
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
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn find(roles: &'static [(&str, &[Permission])], name: &str) -> Option<&'static [Permission]> {
    roles
        .iter()
        .find(|(role, _)| *role == name)
        .map(|(_, permissions)| *permissions)
}
