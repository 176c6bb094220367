use super::Permission;

/// A set of permissions. A number of fixed meaning: it stands in checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u32);

impl PermissionSet {
    /// The set of these.
    #[must_use]
    pub const fn of(permissions: &[Permission]) -> Self {
        let (mut bits, mut rest) = (0, permissions);
        while let Some((first, others)) = rest.split_first() {
            bits |= 1 << *first as u32;
            rest = others;
        }
        Self(bits)
    }

    /// The set of a number from a checkpoint; `None` if some of it is unknown here.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits >> Permission::ALL.len() == 0).then_some(Self(bits))
    }

    /// The set as a number.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether it holds this one.
    #[must_use]
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & Self::of(&[permission]).0 != 0
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this one and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in it, in the order of [`Permission::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL
            .into_iter()
            .filter(move |permission| self.contains(*permission))
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        permissions
            .into_iter()
            .fold(Self::default(), |set, permission| set.or(Self::of(&[permission])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{RoomRead, RoomSend, TenantAudit};

    #[test]
    fn sets_are_sets() {
        let (one, other) = (
            PermissionSet::of(&[RoomRead, RoomSend]),
            PermissionSet::of(&[RoomSend, TenantAudit]),
        );
        assert_eq!(one.or(other), PermissionSet::of(&[RoomRead, RoomSend, TenantAudit]));
        assert_eq!(one.and(other), PermissionSet::of(&[RoomSend]));
        assert_eq!(one.without(other), PermissionSet::of(&[RoomRead]));
        assert_eq!(one.iter().collect::<Vec<_>>(), [RoomRead, RoomSend]);
        assert_eq!(one.iter().chain(other.iter()).collect::<PermissionSet>(), one.or(other));
        assert!(!one.is_empty() && one.without(one).is_empty());
        assert!(one.contains(RoomRead) && !one.contains(TenantAudit));
    }

    #[test]
    fn a_number_with_something_unknown_is_no_set() {
        let all: PermissionSet = Permission::ALL.into_iter().collect();
        assert_eq!(PermissionSet::from_bits(all.bits()), Some(all));
        assert_eq!(PermissionSet::from_bits(all.bits() + 1), None);
    }
}
