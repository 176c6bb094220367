//! API keys that are made, at the writer. Pure.

use natterjack_authz::policy::{MAX_KEYS, Permission, View, find_key, keys_of, may_in_tenant, rights_in_tenant};
use natterjack_nats_config::contract::{
    By, KeyBody, MAX_KEY_NAME_BYTES, Principal, Problem, ProblemCode, Request, key_of_jti,
};
use serde_json::value::RawValue;

use super::admit::parse;
use super::roles::lacks_no_right;

/// Reads a key that is to be made, as it was asked for.
pub(super) fn read_key(body: &RawValue) -> Result<KeyBody, Problem> {
    let body: KeyBody = parse(body)?;
    if !body.is_well_named() || body.digest().is_none() {
        return Err(Problem::invalid(format!(
            "a key has an `id` of 24 and a `sha256` of 64 of 0-9 a-f, and a `name` of 1 to {MAX_KEY_NAME_BYTES} bytes without \
             control characters"
        )));
    }
    Ok(body)
}

/// An administrator makes keys of those who may no more than they, everybody else their own; a key makes none, so that who has got hold of one cannot
/// outlive it. By a connection to NATS nobody can tell.
pub(super) fn permit_key(view: &View, request: &Request, body: &KeyBody, now_ms: i64) -> Result<(), Problem> {
    let who = &request.principal;
    let is_by_token = |jti: &Option<String>| jti.as_deref().and_then(key_of_jti).is_none();
    match &request.by {
        By::Token(token) if is_by_token(&token.jti) => {}
        _ => {
            return Err(Problem::new(
                ProblemCode::Forbidden,
                "API keys are made with a token, over HTTP or by the service `keys`, and not with another key",
            ));
        }
    }
    if body.user != who.user {
        let owner = Principal {
            tenant: who.tenant.clone(),
            user: body.user.clone(),
        };
        may_in_tenant(view, who, Permission::TenantAdmin)?;
        // With the key comes what its owner reads: who could have themselves made a member anywhere gains nothing by it.
        may_in_tenant(view, who, Permission::RoomManage)?;
        lacks_no_right(&rights_in_tenant(view, &owner), &rights_in_tenant(view, who))?;
    }
    if body.expires_ms.is_some_and(|expires| expires <= now_ms) {
        return Err(Problem::invalid("`expires` is in the past"));
    }
    if find_key(view, body.id.as_str()).is_some() {
        return Err(Problem::new(
            ProblemCode::Conflict,
            "there is a key of this id; try again",
        ));
    }
    let live = keys_of(view, &who.tenant, &body.user).filter(|(_, key)| !key.has_expired(now_ms));
    if live.count() >= MAX_KEYS {
        let detail = format!("this user has {MAX_KEYS} API keys; revoke one that is not used");
        return Err(Problem::rate_limited("API keys per user", &detail, 1000));
    }
    Ok(())
}
