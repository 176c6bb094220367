use natterjack_authz::policy::{
    Explanation, Permission, explain as explained, explain_send_as, may_in_tenant, named_by,
};
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
    permission: String,
    room: Option<Id>,
    #[serde(flatten)]
    explanation: Explanation,
}

/// What is asked about.
enum What {
    Permission(Permission),
    /// Sending in somebody's name.
    SendAs(Id),
}

impl What {
    fn read(verb: &str) -> Result<Self, Problem> {
        if let Some(permission) = Permission::parse(verb) {
            return Ok(Self::Permission(permission));
        }
        named_by(verb).map(Self::SendAs).ok_or_else(|| {
            let known: Vec<_> = Permission::ALL.into_iter().map(Permission::as_str).collect();
            let known = known.join(", ");
            Problem::invalid(format!("`permission` is none; there are: {known}, send.as:ID"))
        })
    }
}

/// Explains a decision as it is made now. Everybody may ask about themselves; they do not learn of rooms that they may not know.
pub(crate) fn explain(bridge: &Bridge, who: &Principal, ask: ExplainAsk) -> Result<Explained, Problem> {
    let what = What::read(&ask.permission)?;
    if ask.room.is_some() && matches!(what, What::SendAs(_)) {
        return Err(Problem::invalid(
            "in whose name one may send is the tenant's to say; leave `room` out",
        ));
    }
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
        let explanation = match what {
            What::Permission(permission) => explained(view, &about, permission, ask.room.as_ref()),
            What::SendAs(named) => explain_send_as(view, &about, &named),
        };
        let explanation = match sees_all {
            Ok(()) => explanation,
            Err(_) => explanation.as_told_to_oneself(),
        };
        Ok(Explained {
            user: about.user,
            permission: ask.permission,
            room: ask.room,
            explanation,
        })
    })
}
