//! What a room's kind changes: one table.

use natterjack_nats_config::contract::{Id, RoomKind};

use super::Permission::{CommandSend, MemberInvite, MemberRemove, RoomManage, RoomSend};
use super::{Permission, PermissionSet};

/// What is different in rooms of a kind.
#[derive(Debug)]
pub struct KindRules {
    /// The kind.
    pub kind: RoomKind,
    /// What nobody may do there, by whatever role.
    pub nobody: &'static [Permission],
    /// What built-in roles lack there. A tenant's own roles mean what they say.
    pub without: &'static [(&'static str, &'static [Permission])],
}

/// What the kinds of rooms change. No kind takes `room.read`, so a room that changes its kind changes nothing of what a
/// connection may hear.
pub const KINDS: &[KindRules] = &[
    KindRules {
        kind: RoomKind::Group,
        nobody: &[],
        without: &[],
    },
    // Two with equal rights: nobody is added or removed, nothing is set.
    KindRules {
        kind: RoomKind::Direct,
        nobody: &[RoomManage, MemberInvite, MemberRemove],
        without: &[],
    },
    // Few send, many read and react.
    KindRules {
        kind: RoomKind::Announcement,
        nobody: &[],
        without: &[
            ("member", &[RoomSend, CommandSend]),
            ("device", &[RoomSend, CommandSend]),
        ],
    },
    // Telemetry in, commands out.
    KindRules {
        kind: RoomKind::Device,
        nobody: &[],
        without: &[("member", &[RoomSend]), ("device", &[CommandSend])],
    },
];

/// What nobody may do in rooms of a kind.
pub(super) fn forbidden(kind: RoomKind) -> PermissionSet {
    rules(kind).map_or_else(PermissionSet::default, |rules| PermissionSet::of(rules.nobody))
}

/// What a built-in role lacks in rooms of a kind, beside that.
pub(super) fn lacking(kind: RoomKind, role: &Id) -> PermissionSet {
    let lacking = rules(kind)
        .into_iter()
        .flat_map(|rules| rules.without)
        .find(|(name, _)| *name == role.as_str());
    lacking.map_or_else(PermissionSet::default, |(_, permissions)| {
        PermissionSet::of(permissions)
    })
}

fn rules(kind: RoomKind) -> Option<&'static KindRules> {
    KINDS.iter().find(|rules| rules.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::is_built_in;
    use crate::policy::testing::id;

    #[test]
    fn a_kind_takes_what_it_says_and_nothing_more() {
        let (none, of) = (PermissionSet::default(), PermissionSet::of);
        assert_eq!(forbidden(RoomKind::Group), none);
        assert_eq!(
            forbidden(RoomKind::Direct),
            of(&[RoomManage, MemberInvite, MemberRemove])
        );
        assert_eq!(forbidden(RoomKind::Announcement), none);
        let table = [
            (RoomKind::Group, "member", none),
            (RoomKind::Announcement, "member", of(&[RoomSend, CommandSend])),
            (RoomKind::Announcement, "owner", none),
            (RoomKind::Device, "member", of(&[RoomSend])),
            (RoomKind::Device, "device", of(&[CommandSend])),
            (RoomKind::Device, "moderator", none),
        ];
        for (kind, role, expected) in table {
            assert_eq!(lacking(kind, &id(role)), expected, "{kind:?} {role}");
        }
    }

    #[test]
    fn every_kind_has_its_rules_and_none_takes_reading() {
        for kind in RoomKind::ALL {
            let rules = rules(kind).unwrap();
            let taken = rules.without.iter().flat_map(|(_, permissions)| *permissions);
            assert!(
                rules.nobody.iter().chain(taken).all(|one| *one != Permission::RoomRead),
                "connections are not renewed when a kind changes"
            );
            assert!(rules.without.iter().all(|(role, _)| is_built_in(role)));
        }
        assert_eq!(KINDS.len(), RoomKind::ALL.len());
    }
}
