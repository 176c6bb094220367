use natterjack_nats_config::contract::{Id, Principal, Problem};
use serde::Serialize;

use super::Bridge;

/// Who the caller is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Me {
    tenant: Id,
    user: Id,
    /// The role in the tenant.
    role: String,
    /// How many rooms the caller is in.
    rooms: usize,
}

/// Tells who the caller is.
pub(crate) fn me(bridge: &Bridge, who: &Principal) -> Result<Me, Problem> {
    bridge.look(|view| {
        Ok(Me {
            tenant: who.tenant.clone(),
            user: who.user.clone(),
            role: view.tenant_role(&who.tenant, &who.user).to_owned(),
            rooms: view.rooms_of(&who.tenant, &who.user).count(),
        })
    })
}
