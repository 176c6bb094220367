use natterjack_authz::policy::rights_in_tenant;
use natterjack_nats_config::contract::{Id, MAX_EVENT_BYTES, MAX_KEY_BYTES, Principal, Problem};
use serde::Serialize;

use super::Bridge;
use super::events::{MAX_LIMIT, MAX_WAIT_SECONDS};

/// Who the caller is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Me {
    tenant: Id,
    user: Id,
    /// The role in the tenant.
    role: String,
    /// What that role permits.
    permissions: Vec<String>,
    /// How many rooms the caller is in.
    rooms: usize,
    limits: Limits,
}

/// How much the caller may do at a time.
#[derive(Debug, Clone, Serialize)]
struct Limits {
    /// The largest body of a request, where the door has a limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_bytes: Option<usize>,
    event_bytes: usize,
    key_bytes: usize,
    /// Polls and streams that are parked at once.
    polls: usize,
    wait_seconds: u64,
    /// Events in one answer.
    events: usize,
}

/// Tells who the caller is. `body_bytes` is the door's own limit.
pub(crate) fn me(bridge: &Bridge, who: &Principal, body_bytes: Option<usize>) -> Result<Me, Problem> {
    bridge.look(|view| {
        Ok(Me {
            tenant: who.tenant.clone(),
            user: who.user.clone(),
            role: view.tenant_role(&who.tenant, &who.user).to_owned(),
            permissions: rights_in_tenant(view, who).verbs(),
            rooms: view.rooms_of(&who.tenant, &who.user).count(),
            limits: Limits {
                body_bytes,
                event_bytes: MAX_EVENT_BYTES,
                key_bytes: MAX_KEY_BYTES,
                polls: bridge.feed.polls_per_principal(),
                wait_seconds: MAX_WAIT_SECONDS,
                events: MAX_LIMIT,
            },
        })
    })
}
