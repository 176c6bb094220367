//! Tokens that are good no longer, at the writer. Pure.

use natterjack_authz::policy::{
    MAX_REVOKED_TOKENS, Permission, View, is_blocked, is_revoking, may_in_tenant, revocation_is_open,
    revoked_one_by_one, token_is_good,
};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{By, Kind, MAX_TOKEN_ID_BYTES, Problem, ProblemCode, Request, TokenBody};
use serde_json::value::RawValue;

use super::admit::{Wanted, parse, raw};

/// How far behind `now` the `iat` of a token may seem to be: doors accept tokens from that far in the future, by clocks
/// that run ahead. Those issued until then are void too, so that none issued before slips through.
const LEEWAY_MS: i64 = 5000;

/// Whether whoever asks may ask still: nobody blocked, nobody by a revoked token. A request by a connection does not say by which token that was opened: while one of
/// its user's is being revoked it has to come again. What is in flight is judged here, at its place in the log.
pub(super) fn by_a_good_token(view: &View, request: &Request) -> Result<(), Problem> {
    match &request.by {
        By::Token(_) | By::Connection if is_blocked(view, &request.principal) => Err(Problem::blocked()),
        By::Token(token) if !token_is_good(view, &request.principal, token) => Err(Problem::token_revoked()),
        By::Connection if is_revoking(view, &request.principal) => Err(Problem::revocation_in_progress()),
        By::House | By::Token(_) | By::Connection => Ok(()),
    }
}

/// Reads what is to be revoked, as it was asked for.
pub(super) fn read_revocation(body: &RawValue) -> Result<TokenBody, Problem> {
    let body: TokenBody = parse(body)?;
    if body.valid_after_ms.is_some() {
        return Err(Problem::invalid(
            "`valid_after_ms` is the writer's to say; give `before`",
        ));
    }
    match (&body.user, &body.jti, &body.before, body.settled) {
        (_, None, None, Some(_)) | (Some(_), None, None, None) => Ok(body),
        (_, None, Some(before), None) if clock::parse_ms(before).is_some() => Ok(body),
        (Some(_), Some(jti), None, None) if (1..=MAX_TOKEN_ID_BYTES).contains(&jti.len()) => Ok(body),
        _ => Err(Problem::invalid(
            "revoke the tokens of a `user`, one of them by its `jti` (at most 128 bytes), or those issued `before` a time (RFC 3339) \
             of a `user` or of everybody",
        )),
    }
}

/// An administrator revokes anybody's tokens, everybody else their own. That a revocation has settled only we say.
pub(super) fn permit_revocation(view: &View, request: &Request, change: &TokenBody) -> Result<(), Problem> {
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
    if let (Some(user), Some(_)) = (&change.user, &change.jti)
        && revoked_one_by_one(view, &who.tenant, user) >= MAX_REVOKED_TOKENS
    {
        return Err(Problem::new(
            ProblemCode::RateLimited,
            format!(
                "{MAX_REVOKED_TOKENS} tokens of this user are revoked one by one; revoke all of the user's instead"
            ),
        ));
    }
    Ok(())
}

/// Says from when on tokens are good, by log time.
pub(super) fn stamp_valid_after(wanted: &mut Wanted, now_ms: i64) -> Result<(), Problem> {
    if wanted.kind != Kind::Token {
        return Ok(());
    }
    let mut body: TokenBody = parse(&wanted.body)?;
    if body.jti.is_some() || body.settled.is_some() {
        return Ok(());
    }
    let latest = now_ms + LEEWAY_MS;
    let before = body.before.as_deref().and_then(clock::parse_ms);
    if before.is_some_and(|before| before > latest) {
        return Err(Problem::invalid("`before` is in the future"));
    }
    body.valid_after_ms = Some(before.unwrap_or(latest));
    wanted.body = raw(&body)?;
    Ok(())
}
