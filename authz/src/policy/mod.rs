//! Who may do what: pure, a fold of the log's policy events and decisions on it. No I/O in here.

mod decide;
mod granted;
mod keys;
mod permission;
mod permissions;
mod set_hash;
mod snapshot;
mod tokens;
mod view;

pub use decide::{Denied, may, may_in_tenant, readable, visible};
pub use granted::{granted_in_room, granted_in_tenant};
pub use keys::{Key, MAX_KEYS, find_key, keys_of};
pub use permission::{Permission, ROOM_ROLES, TENANT_ROLES, room_role, tenant_role};
pub use permissions::{MAX_LISTED_ROOMS, SubjectPermissions, subject_permissions};
pub use set_hash::{Fact, SetHash};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError};
pub use tokens::{
    MAX_LIFETIME_MS, MAX_REVOKED_TOKENS, is_revoking, last_revocation_ms, open_revocations, revocation_is_open,
    revoked_one_by_one, token_is_good, would_void,
};
pub use view::{Change, Effect, Membership, Room, View};
