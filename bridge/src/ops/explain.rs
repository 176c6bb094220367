use natterjack_authz::policy::{Explanation, Permission, explain as explained, may_in_tenant};
use natterjack_nats_config::contract::{Id, Principal, Problem};
use serde::{Deserialize, Serialize};

use super::Bridge;

/// What is to be explained: whether a user (the caller, if none is named) may do something, in a room or in the tenant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainAsk {
    #[serde(default)]
    pub(crate) user: Option<Id>,
    pub(crate) permission: String,
    #[serde(default)]
    pub(crate) room: Option<Id>,
}

/// A decision, explained.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Explained {
    user: Id,
    permission: &'static str,
    room: Option<Id>,
    #[serde(flatten)]
    explanation: Explanation,
}

/// Explains a decision as it is made now. Everybody may ask about themselves; they do not learn of rooms that they may not know.
pub(crate) fn explain(bridge: &Bridge, who: &Principal, ask: ExplainAsk) -> Result<Explained, Problem> {
    let permission = Permission::parse(&ask.permission).ok_or_else(|| {
        let known: Vec<_> = Permission::ALL.into_iter().map(Permission::as_str).collect();
        Problem::invalid(format!("`permission` is none; there are: {}", known.join(", ")))
    })?;
    let user = ask.user.unwrap_or_else(|| who.user.clone());
    bridge.look(|view| {
        let about = Principal {
            tenant: who.tenant.clone(),
            user,
        };
        let sees_all = may_in_tenant(view, who, Permission::TenantAdmin)
            .or_else(|_| may_in_tenant(view, who, Permission::TenantAudit));
        if about.user != who.user {
            sees_all.clone()?;
        }
        let explanation = explained(view, &about, permission, ask.room.as_ref());
        let explanation = match sees_all {
            Ok(()) => explanation,
            Err(_) => explanation.as_told_to_oneself(),
        };
        Ok(Explained {
            user: about.user,
            permission: permission.as_str(),
            room: ask.room,
            explanation,
        })
    })
}
