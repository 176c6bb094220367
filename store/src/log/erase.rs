//! Whether something may be erased: pure. Legal holds are read from the archive, by the bridge through which it is asked for;
//! here it is seen that none was put since.

use natterjack_authz::policy::{Permission, may_in_tenant};
use natterjack_nats_config::contract::{EraseBody, MAX_ERASED_MESSAGES, Problem, ProblemCode, Request, Target};

use super::admit::parse;
use super::rooms::check_reason;
use super::state::State;

/// Each is looked at for every event of the user.
const MAX_ERASURES_OF_USER: usize = 100;

/// Reads what is asked for, whoever asks. Only a bridge can: it has looked at the archive.
pub(super) fn read_erasure(request: &Request) -> Result<EraseBody, Problem> {
    let body: EraseBody = parse(&request.payload.body)?;
    if body.user.is_some() == request.payload.target.is_some() {
        return Err(Problem::invalid("erase a message, or what a `user` wrote"));
    }
    check_reason(body.reason.as_deref())?;
    if request.vouched.is_none() || body.upto.is_none() {
        return Err(Problem::invalid(
            "ask for an erasure over HTTP or by the service `erasures`: it has to be looked whether a legal hold covers it",
        ));
    }
    Ok(body)
}

/// Who may erase anything in the tenant erases it; who may erase what is their own, that. The message, if it is about one.
pub(super) fn permit_erasure(state: &State, request: &Request, body: &EraseBody) -> Result<Option<Target>, Problem> {
    let (who, view) = (&request.principal, &state.view);
    let Some(vouched) = &request.vouched else {
        return Err(Problem::invalid("nobody has looked whether a legal hold covers it"));
    };
    let whose = body.user.as_ref().unwrap_or(&vouched.from);
    let may_any = may_in_tenant(view, who, Permission::TenantErase);
    if may_any.is_err() && (*whose != who.user || may_in_tenant(view, who, Permission::TenantEraseOwn).is_err()) {
        may_any?;
    }
    if view.last_hold(&who.tenant) > body.upto.unwrap_or_default() {
        let detail = "a legal hold was put or ended just now; try again";
        return Err(Problem::new(ProblemCode::StoreLagging, detail));
    }
    let of_user = body
        .user
        .as_ref()
        .and_then(|user| view.erased(&who.tenant).users.get(user));
    if of_user.is_some_and(|erasures| erasures.len() >= MAX_ERASURES_OF_USER) {
        let detail =
            format!("what one user wrote is erased at most {MAX_ERASURES_OF_USER} times; erase message by message");
        return Err(Problem::rate_limited("erasures per user", &detail, 1000));
    }
    let target = request.payload.target.clone().map(|id| Target { id, seq: vouched.seq });
    if target.is_some() && view.erased(&who.tenant).messages.len() >= MAX_ERASED_MESSAGES {
        let detail =
            format!("{MAX_ERASED_MESSAGES} messages of this tenant are erased one by one; erase by user instead");
        return Err(Problem::rate_limited("erased messages per tenant", &detail, 1000));
    }
    Ok(target)
}
