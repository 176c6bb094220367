//! Who may do what: pure, a fold of the log's policy events and decisions on it. No I/O in here.

mod ban;
mod by_id;
mod claims;
mod decide;
mod erasure;
mod explain;
mod keys;
mod kind;
mod permission;
mod permission_set;
mod permissions;
mod role;
mod send_as;
mod set_hash;
mod snapshot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod view;

pub use ban::{Ban, MAX_BANS};
pub use by_id::ById;
pub use claims::{Claimed, MAX_CLAIMING_ISSUERS, is_news};
pub use decide::{Denied, Rule, all_in_room, all_in_tenant, is_blocked, may, may_in_tenant, readable, visible};
pub use explain::{Explanation, PolicyFact, Says, explain, explain_send_as};
pub use keys::{Key, MAX_KEYS, find_key, keys_of};
pub use kind::{KINDS, KindRules};
pub use permission::{BLOCKED, FOR_MODERATORS, Permission, ROOM_ROLES, TENANT_ROLES, built_in, is_built_in};
pub use permission_set::PermissionSet;
pub use permissions::{MAX_LISTED_ROOMS, SubjectPermissions, subject_permissions};
pub use role::{MAX_ROLES, Role};
pub use send_as::{MAX_PREFIXES, Prefixes, TenantRights, may_send_as, named_by, rights_in_tenant};
pub use set_hash::{Fact, SetHash};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError};
pub use tokens::{
    MAX_LIFETIME_MS, MAX_REVOKED_TOKENS, is_revoking, last_revocation_ms, open_revocations, revocation_is_open,
    revoked_one_by_one, token_is_good, would_void,
};
pub(crate) use view::DEFAULT_ROLE;
pub use view::{Change, Effect, Membership, Room, View};
