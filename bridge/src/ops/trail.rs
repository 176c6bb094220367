use natterjack_authz::policy::{Permission, may_in_tenant};
use natterjack_nats_config::contract::{
    Actor, DEFAULT_TRAIL_LIMIT, Id, Kind, Principal, Problem, Seq, TRAIL_VERB, TrailPage, TrailQuery,
};

use super::Bridge;
use super::history::{ask_store, catch_up};

/// Which part of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrailAsk {
    pub(crate) before: Option<Seq>,
    pub(crate) actor: Option<Id>,
    pub(crate) kind: Option<Kind>,
    pub(crate) limit: Option<u64>,
}

/// A page of the tenant's audit trail, newest first, for those with `tenant.audit`.
///
/// As with history it is handed out only once this bridge has read the log as far as the archive had, and if the caller may
/// read it still.
pub(crate) async fn trail(bridge: &Bridge, who: &Actor, ask: TrailAsk) -> Result<TrailPage, Problem> {
    permit(bridge, who)?;
    let query = TrailQuery {
        tenant: who.tenant.clone(),
        before: ask.before,
        actor: ask.actor,
        kind: ask.kind,
        limit: ask
            .limit
            .map_or(DEFAULT_TRAIL_LIMIT, |limit| u16::try_from(limit).unwrap_or(u16::MAX)),
    };
    query.check()?;
    let page: TrailPage = ask_store(bridge, TRAIL_VERB, &query).await?;
    catch_up(bridge, who, page.watermark).await?;
    permit(bridge, who)?;
    Ok(page)
}

fn permit(bridge: &Bridge, who: &Principal) -> Result<(), Problem> {
    bridge.look(|view| may_in_tenant(view, who, Permission::TenantAudit).map_err(Problem::from))
}
