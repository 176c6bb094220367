//! API keys: made, listed, and their end.

use natterjack_authz::policy::{Key, Permission, find_key, keys_of, may_in_tenant};
use natterjack_authz::revoke::SettledState;
use natterjack_authz::token::NewKey as Random;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{
    Actor, Id, KEY_PREFIX, KeyBody, Kind, Principal, Problem, ProblemCode, Receipt, SendPayload,
};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::members::wait_and_settle;
use super::revoke::{Revocation, Revoked};
use super::tenant_room;
use super::{Bridge, Listing, page_of, revoke, send};

/// A key that is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// Whose; the caller's own without.
    #[serde(default)]
    pub(crate) user: Option<Id>,
    pub(crate) name: String,
    /// RFC 3339.
    #[serde(default)]
    pub(crate) expires: Option<String>,
}

/// A key that was made. What it is stands in here and nowhere else, so there is no `Debug`.
#[derive(Serialize)]
pub(crate) struct MadeKey {
    id: Id,
    user: Id,
    name: String,
    expires: Option<String>,
    key: String,
    receipt: Receipt,
    /// Whether every authz worker knows it, so that NATS takes it.
    state: SettledState,
}

/// A key as it may be shown.
#[derive(Debug, Serialize)]
pub(crate) struct ShownKey {
    id: Id,
    user: Id,
    name: String,
    created: String,
    expires: Option<String>,
}

/// Makes a key; the writer decides whether the caller may.
pub(crate) async fn make_key(bridge: &Bridge, who: &Actor, asked: NewKey) -> Result<MadeKey, Problem> {
    let NewKey { user, name, expires } = asked;
    let internal = |error: &dyn std::fmt::Display| Problem::new(ProblemCode::Internal, format!("no key: {error}"));
    let no_time = || Problem::invalid("`expires` must be a time (RFC 3339)");
    let expires_ms = match &expires {
        Some(time) => Some(clock::parse_ms(time).ok_or_else(no_time)?),
        None => None,
    };
    let random = Random::random().map_err(|error| internal(&error))?;
    let body = KeyBody {
        user: user.unwrap_or_else(|| who.user.clone()),
        id: random.id,
        name,
        sha256: random.sha256,
        expires_ms,
    };
    let payload = SendPayload::of_body(to_raw_value(&body).map_err(|error| internal(&error))?);
    let receipt = send(bridge, who, tenant_room()?, Kind::Key, payload).await?;
    let settled = wait_and_settle(bridge, (&who.tenant, Some(&body.user)), receipt.seq).await;
    Ok(MadeKey {
        id: body.id,
        user: body.user,
        name: body.name,
        expires: expires_ms.map(clock::format_ms),
        key: random.text,
        receipt,
        state: settled.state,
    })
}

/// Somebody's keys, in the order of their ids: one's own, an administrator anybody's.
pub(crate) fn keys(
    bridge: &Bridge,
    who: &Principal,
    user: Option<&Id>,
    listing: &Listing,
) -> Result<(Vec<ShownKey>, Option<Id>), Problem> {
    let user = user.unwrap_or(&who.user);
    let now_ms = clock::now_ms();
    bridge.look(|view| {
        if *user != who.user {
            may_in_tenant(view, who, Permission::TenantAdmin)?;
        }
        let live = keys_of(view, &who.tenant, user).filter(|(_, key)| !key.has_expired(now_ms));
        let (page, next) = page_of(live, listing);
        Ok((page.into_iter().map(|(id, key)| shown(id, user, key)).collect(), next))
    })
}

/// Ends a key and every connection that was opened by it, as the revocation of a token does.
pub(crate) async fn revoke_key(bridge: &Bridge, who: &Actor, id: &Id) -> Result<Revoked, Problem> {
    let none = || Problem::new(ProblemCode::NotFound, "there is no such API key, or it is not yours");
    let owner = bridge.look(|view| {
        let found = find_key(view, id.as_str()).filter(|(tenant, ..)| **tenant == who.tenant);
        let owner = found.map(|(_, owner, _)| owner.clone()).ok_or_else(none)?;
        if owner != who.user {
            may_in_tenant(view, who, Permission::TenantAdmin).map_err(|_| none())?;
        }
        Ok(owner)
    })?;
    revoke(
        bridge,
        who,
        Revocation::of_one(owner, format!("{KEY_PREFIX}{id}")),
        None,
    )
    .await
}

fn shown(id: &Id, user: &Id, key: &Key) -> ShownKey {
    ShownKey {
        id: id.clone(),
        user: user.clone(),
        name: key.name.clone(),
        created: clock::format_ms(key.created_ms),
        expires: key.expires_ms.map(clock::format_ms),
    }
}
