//! Roles that tokens claim, at the writer. Pure.

use natterjack_authz::policy::{BLOCKED, MAX_CLAIMING_ISSUERS, View, is_news};
use natterjack_nats_config::contract::{By, ClaimedBy, Id, MAX_ISSUER_BYTES, Problem, ProblemCode, Request};

use super::roles::no_such_role;

/// Whether a worker may note what a token says of a user's role: something new, of a role that is there, and nothing of an older
/// token than the one that was noted last. So there are no more such events of a user than the issuer makes tokens that differ.
pub(super) fn permit_claim(
    view: &View,
    request: &Request,
    (user, role, by): (&Id, Option<&Id>, &ClaimedBy),
) -> Result<(), Problem> {
    if request.by != By::House {
        return Err(Problem::invalid("`claimed` is no one's to say but the workers'"));
    }
    if !(1..=MAX_ISSUER_BYTES).contains(&by.issuer.len()) {
        return Err(Problem::invalid(format!(
            "`issuer` must be 1 to {MAX_ISSUER_BYTES} bytes"
        )));
    }
    let tenant = &request.principal.tenant;
    if !view.has_tenant(tenant) {
        return Err(Problem::new(ProblemCode::NotFound, "there is no such tenant"));
    }
    if let Some(role) = role
        && (role.as_str() == BLOCKED || view.in_tenant(tenant, role).is_none())
    {
        return Err(no_such_role(role));
    }
    let known = view.claimed(tenant, user, &by.issuer);
    if !is_news(known, role, by.issued_at_ms) {
        return Err(Problem::new(
            ProblemCode::Conflict,
            "that is known, or a newer token says something else",
        ));
    }
    if known.is_none() && view.claiming_issuers(tenant, user) >= MAX_CLAIMING_ISSUERS {
        let detail = format!("{MAX_CLAIMING_ISSUERS} issuers say something of this user's role already");
        return Err(Problem::rate_limited("issuers per user", &detail, 60_000));
    }
    Ok(())
}
