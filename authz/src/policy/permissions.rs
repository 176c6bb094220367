use natterjack_nats_config::contract::{Id, Principal, Subjects};

use super::{View, readable};

/// The most rooms that are written into a connection's permissions: 1,000 cost 2.3 MB of server memory each.
/// A principal with more reads the rest through `events.get` or HTTP.
pub const MAX_LISTED_ROOMS: usize = 200;

/// What a connection may publish and hear. Allow-lists only: whatever is not listed is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPermissions {
    /// Subjects to publish to.
    pub publish: Vec<String>,
    /// Subjects to subscribe to.
    pub subscribe: Vec<String>,
    /// Readable rooms beyond [`MAX_LISTED_ROOMS`].
    pub rooms_left_out: usize,
}

/// Compiles a principal's rights into subject permissions.
#[must_use]
pub fn subject_permissions(view: &View, subjects: &Subjects, who: &Principal) -> SubjectPermissions {
    let (tenant, user) = (&who.tenant, &who.user);
    let rooms: Vec<&Id> = view
        .rooms_of(tenant, user)
        .map(|(room, _)| room)
        .filter(|room| readable(view, who, room).is_some())
        .collect();
    let mut subscribe = vec![Subjects::user_inbox_all(tenant, user), subjects.user(tenant, user)];
    subscribe.extend(
        rooms
            .iter()
            .take(MAX_LISTED_ROOMS)
            .map(|room| subjects.room_all(tenant, room)),
    );
    SubjectPermissions {
        publish: vec![
            subjects.inbound_of_user(tenant, user),
            subjects.api_of_user(tenant, user),
        ],
        subscribe,
        rooms_left_out: rooms.len().saturating_sub(MAX_LISTED_ROOMS),
    }
}
