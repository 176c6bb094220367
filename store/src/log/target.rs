//! Whether a message may be changed by who asks: pure.

use natterjack_authz::policy::{Permission, may};
use natterjack_nats_config::contract::{Kind, Problem, ProblemCode, Request, Seq, Target};

use super::recent::{IN_ALL, PER_ROOM};
use super::state::State;

/// Decides about a request that changes a message, by what is remembered of it, or by what a bridge vouches for.
///
/// That a message is deleted is known as long as it is remembered. Of an older one a second change may get into the log
/// behind the deletion: every fold passes over it, for a deletion is final.
pub(super) fn judge(state: &State, request: &Request) -> Result<Target, Problem> {
    let (who, room) = (&request.principal, &request.room);
    let Some(id) = request.payload.target.as_deref() else {
        return Err(Problem::invalid("`target` is missing: the id of the message to change"));
    };
    let (own, any) = needed(request.kind);
    let may_own = may(&state.view, who, room, own);
    let may_any = any.map(|permission| may(&state.view, who, room, permission));
    // Who may change no message at all here does not learn which there are.
    if let Err(denied) = &may_own
        && !matches!(may_any, Some(Ok(())))
    {
        return Err(denied.clone().into());
    }
    let found = state.recent.find(&who.tenant, room, id);
    let found = found.map(|said| (said.seq, &said.from, said.deleted));
    let vouched = request
        .vouched
        .as_ref()
        .map(|vouched| (vouched.seq, &vouched.from, false));
    let (seq, from, deleted) = found.or(vouched).ok_or_else(unknown)?;
    // What a member may not see is to it as if it were not there.
    let membership = state.view.membership(&who.tenant, room, &who.user);
    if seq < membership.map_or(Seq::ZERO, |member| member.visible_from) {
        return Err(unknown());
    }
    if state.view.erased(&who.tenant).covers(from, seq) {
        return Err(Problem::new(ProblemCode::NotFound, "this message was erased"));
    }
    if deleted {
        return Err(Problem::new(ProblemCode::NotFound, "this message was deleted"));
    }
    match may_any {
        _ if *from == who.user && may_own.is_ok() => {}
        Some(allowed) => allowed?,
        None => {
            return Err(Problem::new(
                ProblemCode::Forbidden,
                "only who wrote a message may edit it",
            ));
        }
    }
    Ok(Target { id: id.to_owned(), seq })
}

/// What it takes to change one's own message, and anybody's.
fn needed(kind: Kind) -> (Permission, Option<Permission>) {
    match kind {
        Kind::Delete => (Permission::MessageDeleteOwn, Some(Permission::MessageDeleteAny)),
        Kind::React | Kind::Unreact => (Permission::RoomReact, Some(Permission::RoomReact)),
        Kind::Pin | Kind::Unpin => (Permission::MessagePin, Some(Permission::MessagePin)),
        _ => (Permission::MessageEditOwn, None),
    }
}

fn unknown() -> Problem {
    Problem::new(
        ProblemCode::TargetUnknown,
        format!(
            "there is no such message among the latest {PER_ROOM} of this room and {IN_ALL} of all rooms; ask for an older \
             one over HTTP or by the service `messages`"
        ),
    )
}
