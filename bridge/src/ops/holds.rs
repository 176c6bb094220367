//! Legal holds: what must be kept, whatever its age.

use natterjack_authz::policy::{Permission, may_in_tenant};
use natterjack_nats_config::contract::{
    Actor, HOLDS_VERB, HoldBody, HoldsPage, HoldsQuery, Kind, Problem, Receipt, SendPayload,
};
use serde_json::value::to_raw_value;

use super::history::{ask_store, catch_up};
use super::rooms::with_key;
use super::{Bridge, begin_send, tenant_room};

/// Puts a hold or ends one, and answers once the archive knows of it: nothing that it covers is removed from then on.
pub(crate) async fn put_hold(
    bridge: &Bridge,
    who: &Actor,
    body: &HoldBody,
    key: Option<String>,
) -> Result<Receipt, Problem> {
    let raw = to_raw_value(body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = with_key(SendPayload::of_body(raw), key)?;
    let sent = begin_send(bridge, who, tenant_room()?, Kind::Hold, payload)?;
    sent.archived(bridge).await
}

/// What is held in the caller's tenant.
pub(crate) async fn holds(bridge: &Bridge, who: &Actor) -> Result<HoldsPage, Problem> {
    bridge.look(|view| Ok(may_in_tenant(view, who, Permission::TenantAudit)?))?;
    let query = HoldsQuery {
        tenant: who.tenant.clone(),
    };
    let page: HoldsPage = ask_store(bridge, HOLDS_VERB, &query).await?;
    catch_up(bridge, who, page.watermark).await?;
    bridge.look(|view| Ok(may_in_tenant(view, who, Permission::TenantAudit)?))?;
    Ok(page)
}
