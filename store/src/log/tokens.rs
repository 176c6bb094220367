//! Tokens that are good no longer, at the writer. Pure.

use natterjack_authz::policy::{
    MAX_LIFETIME_MS, MAX_REVOKED_TOKENS, Permission, View, find_key, is_blocked, is_revoking, last_revocation_ms,
    may_in_tenant, revocation_is_open, revoked_one_by_one, token_is_good, would_void,
};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{
    By, Id, Kind, MAX_TOKEN_ID_BYTES, Problem, ProblemCode, Request, TokenBody, key_of_jti,
};
use serde_json::value::RawValue;

use super::admit::{Now, Wanted, parse, raw};

/// How far behind `now` the `iat` of a token may seem to be: doors accept tokens from that far in the future, by clocks
/// that run ahead. Those issued until then are void too, so that none issued before slips through.
const LEEWAY_MS: i64 = 5000;

/// Whether whoever asks may ask still: nobody blocked, nobody by a revoked token. A request by a connection does not say by which token that was opened: while one of
/// its user's is being revoked it has to come again. What is in flight is judged here, at its place in the log.
///
/// What a server kept for a while is judged by when that took it: behind a revocation nothing from before is taken. Its clock
/// may be some seconds ahead of ours.
pub(super) fn by_a_good_token(view: &View, request: &Request, now: &Now, log_ms: i64) -> Result<(), Problem> {
    let who = &request.principal;
    match &request.by {
        By::Token(_) | By::Connection | By::Kept { .. } if is_blocked(view, who) => Err(Problem::blocked()),
        By::Kept { .. } | By::Connection if is_revoking(view, who) => Err(Problem::revocation_in_progress()),
        By::Kept { taken_ms } => {
            let taken_ms = log_ms - (now.wall_ms - taken_ms);
            let last = last_revocation_ms(view, who);
            if last > 0 && taken_ms <= last + LEEWAY_MS {
                return Err(Problem::new(
                    ProblemCode::TokenRevoked,
                    "this was sent before tokens of this user were revoked, or just then; send it again",
                ));
            }
            Ok(())
        }
        By::Token(token) if !token_is_good(view, who, token) => Err(Problem::token_revoked()),
        By::House | By::Token(_) | By::Connection => Ok(()),
    }
}

/// Reads what is to be revoked, as it was asked for.
pub(super) fn read_revocation(body: &RawValue) -> Result<TokenBody, Problem> {
    let body: TokenBody = parse(body)?;
    if body.valid_after_ms.is_some()
        || body.until_ms.is_some()
        || body.revoked_ms.is_some()
        || body.covers_all
        || body.voids_nothing
    {
        return Err(Problem::invalid(
            "what is void is the writer's to say; give `before` or `expires`",
        ));
    }
    let is_time = |time: &String| clock::parse_ms(time).is_some();
    if body
        .expires
        .as_ref()
        .is_some_and(|expires| body.jti.is_none() || !is_time(expires))
    {
        return Err(Problem::invalid(
            "`expires` is when the token of a `jti` does (RFC 3339)",
        ));
    }
    match (&body.user, &body.jti, &body.before, body.settled) {
        (_, None, None, Some(_)) | (Some(_), None, None, None) => Ok(body),
        (_, None, Some(before), None) if is_time(before) => Ok(body),
        (Some(_), Some(jti), None, None) if (1..=MAX_TOKEN_ID_BYTES).contains(&jti.len()) => Ok(body),
        _ => Err(Problem::invalid(
            "revoke the tokens of a `user`, one of them by its `jti` (at most 128 bytes), or those issued `before` a time (RFC 3339) \
             of a `user` or of everybody",
        )),
    }
}

/// An administrator revokes anybody's tokens, everybody else their own. That a revocation has settled only we say.
pub(super) fn permit_revocation(
    view: &View,
    request: &Request,
    change: &TokenBody,
    now_ms: i64,
) -> Result<(), Problem> {
    let who = &request.principal;
    if let Some(seq) = change.settled {
        if request.by != By::House {
            return Err(Problem::invalid(
                "`settled` is no one\u{2019}s to say but the bridges\u{2019}",
            ));
        }
        if !revocation_is_open(view, &who.tenant, change.user.as_ref(), seq) {
            return Err(Problem::new(ProblemCode::Conflict, "this revocation is not open"));
        }
        return Ok(());
    }
    if change.user.as_ref() != Some(&who.user) {
        may_in_tenant(view, who, Permission::TenantAdmin)?;
    }
    match (&change.user, &change.jti) {
        (Some(user), Some(jti)) => permit_one(view, (&who.tenant, user), jti, now_ms),
        _ => Ok(()),
    }
}

/// Whether one token more can be revoked alone, or the API key is there.
fn permit_one(view: &View, (tenant, user): (&Id, &Id), jti: &str, now_ms: i64) -> Result<(), Problem> {
    if let Some(id) = key_of_jti(jti) {
        let is_there = find_key(view, id).is_some_and(|(of, owner, _)| (of, owner) == (tenant, user));
        let none = || Problem::new(ProblemCode::NotFound, "this user has no such API key");
        return is_there.then_some(()).ok_or_else(none);
    }
    if revoked_one_by_one(view, tenant, user, now_ms) >= MAX_REVOKED_TOKENS {
        let detail = format!(
            "{MAX_REVOKED_TOKENS} tokens of this user are revoked one by one; revoke all of the user's instead"
        );
        return Err(Problem::rate_limited("revoked tokens per user", &detail, 1000));
    }
    Ok(())
}

/// Says what is void by log time: from when on tokens are good, or until when the one has to be remembered; and whether it
/// voids anything, so that connections have to end.
pub(super) fn stamp_revocation(view: &View, tenant: &Id, wanted: &mut Wanted, now_ms: i64) -> Result<(), Problem> {
    if wanted.kind != Kind::Token {
        return Ok(());
    }
    let mut body: TokenBody = parse(&wanted.body)?;
    body.revoked_ms = Some(now_ms);
    if body.settled.is_some() {
        wanted.body = raw(&body)?;
        return Ok(());
    }
    let latest = now_ms + LEEWAY_MS;
    if let Some(jti) = &body.jti {
        let expires = body.expires.as_deref().and_then(clock::parse_ms);
        let until = expires.unwrap_or(i64::MAX).min(latest + MAX_LIFETIME_MS);
        body.until_ms = key_of_jti(jti).is_none().then_some(until);
    } else {
        let before = body.before.as_deref().and_then(clock::parse_ms);
        if before.is_some_and(|before| before > latest) {
            return Err(Problem::invalid("`before` is in the future"));
        }
        let after = before.unwrap_or(latest);
        body.valid_after_ms = Some(after);
        // Those that were revoked alone had been issued by then.
        body.covers_all = after >= latest;
    }
    body.voids_nothing = !would_void(view, tenant, &body, now_ms);
    wanted.body = raw(&body)?;
    Ok(())
}
