use std::time::Duration;

use natterjack_authz::policy::{Membership, Permission, may};
use natterjack_authz::revoke::{Settled, SettledState};
use natterjack_nats_config::contract::{
    Actor, Id, Joined, Kind, MemberBody, Principal, Problem, ProblemCode, Receipt, SendPayload, Seq,
};
use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio::time::Instant;

use super::{Bridge, Listing, may_look, page_of, send};

/// How long to wait until this bridge has read what it has just had written: a few milliseconds in health.
const OWN_VIEW_WITHIN: Duration = Duration::from_secs(5);

/// How long the caller waits for its own connections: less than a grant waits before it closes them.
const OWN_CONNECTIONS_WITHIN: Duration = Duration::from_millis(50);

/// A member of a room.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Member {
    user: Id,
    role: Id,
    /// The first sequence this member may see.
    visible_from: Seq,
    /// The event that gave the present role.
    since: Seq,
    /// The event by which they came in, and its time, where that was asked for and is archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    joined: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<String>,
}

impl Member {
    pub(super) fn user(&self) -> &Id {
        &self.user
    }

    pub(super) fn since(&self) -> Seq {
        self.since
    }

    /// Adds since when they are in the room, if that is known.
    pub(super) fn joined(&mut self, joined: Option<Joined>) {
        let Some(Joined { seq, at, .. }) = joined else { return };
        (self.joined, self.joined_at) = (Some(seq), Some(at));
    }
}

/// A change of rights that stands in the log, and how far it has reached those who are connected.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Changed {
    #[serde(flatten)]
    pub(crate) receipt: Receipt,
    #[serde(flatten)]
    pub(super) settled: Settled,
}

/// The members of a room, in the order of their ids, and where the next page begins.
pub(crate) fn members(
    bridge: &Bridge,
    who: &Principal,
    room: &Id,
    listing: &Listing,
) -> Result<(Vec<Member>, Option<Id>), Problem> {
    bridge.look(|view| {
        may_look(view, who, room)?;
        let room = view.room(&who.tenant, room).ok_or_else(Problem::no_such_room)?;
        let (page, next) = page_of(room.members.iter(), listing);
        Ok((
            page.into_iter()
                .map(|(user, membership)| shown(user, membership))
                .collect(),
            next,
        ))
    })
}

/// One member of a room.
pub(crate) fn show_member(bridge: &Bridge, who: &Principal, room: &Id, user: &Id) -> Result<Member, Problem> {
    bridge.look(|view| {
        may_look(view, who, room)?;
        let membership = view.membership(&who.tenant, room, user);
        membership
            .map(|membership| shown(user, membership))
            .ok_or_else(|| Problem::new(ProblemCode::NotFound, format!("{user} is no member of this room")))
    })
}

/// Adds a member or changes a role. Answers when the change has reached the member's live connections, or says that it
/// is pending.
pub(crate) async fn put_member(
    bridge: &Bridge,
    who: &Actor,
    room: Id,
    body: MemberBody,
    key: Option<String>,
) -> Result<Changed, Problem> {
    if body.role.is_none() {
        return Err(Problem::invalid(
            "`role` is missing: owner, moderator, member, reader, device or one of the tenant's own",
        ));
    }
    change(bridge, who, room, body, key).await
}

/// Removes a member. After the answer `done` none of the member's live connections hears the room any more.
pub(crate) async fn remove_member(
    bridge: &Bridge,
    who: &Actor,
    room: Id,
    user: Id,
    key: Option<String>,
) -> Result<Changed, Problem> {
    let body = MemberBody {
        user,
        role: None,
        visible_from: None,
    };
    change(bridge, who, room, body, key).await
}

async fn change(
    bridge: &Bridge,
    who: &Actor,
    room: Id,
    body: MemberBody,
    key: Option<String>,
) -> Result<Changed, Problem> {
    let raw = to_raw_value(&body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = super::rooms::with_key(SendPayload::of_body(raw), key)?;
    let receipt = send(bridge, who, room, Kind::Member, payload).await?;
    let concerned = Principal {
        tenant: who.tenant.clone(),
        user: body.user,
    };
    let settled = if concerned == who.principal {
        settle_own(bridge, who, receipt.seq).await
    } else {
        wait_and_settle(bridge, (&concerned.tenant, Some(&concerned.user)), receipt.seq).await
    };
    Ok(Changed { receipt, settled })
}

/// Refuses whoever may not manage a room.
pub(crate) fn check_manages(bridge: &Bridge, who: &Principal, room: &Id) -> Result<(), Problem> {
    bridge.look(|view| may(view, who, room, Permission::RoomManage).map_err(Problem::from))
}

/// Whether a membership is still the one that this event gave.
pub(crate) async fn is_since(bridge: &Bridge, who: &Principal, room: &Id, since: Seq) -> Result<bool, Problem> {
    // It may have been given through another bridge a moment ago.
    if !wait_for_own_view(bridge, since).await {
        let detail = "this bridge is behind the log; try again, or ask another bridge";
        return Err(Problem::new(ProblemCode::Overloaded, detail));
    }
    bridge.look(|view| {
        let membership = view.membership(&who.tenant, room, &who.user);
        Ok(membership.is_some_and(|membership| membership.since == since))
    })
}

/// Waits until a change of somebody's rights is known here and has reached their connections.
pub(super) async fn wait_and_settle(bridge: &Bridge, whose: (&Id, Option<&Id>), seq: Seq) -> Settled {
    let (passed, mut settled) = tokio::join!(wait_for_own_view(bridge, seq), bridge.settling.settle(whose, seq));
    if !passed {
        settled.state = SettledState::Pending;
    }
    settled
}

/// The same for a change of the caller's own rights, but without waiting for long: it may have come over one of the very
/// connections that are about to be renewed, and the answer has to leave before that.
pub(super) async fn settle_own(bridge: &Bridge, who: &Principal, seq: Seq) -> Settled {
    let settled = tokio::time::timeout(
        OWN_CONNECTIONS_WITHIN,
        wait_and_settle(bridge, (&who.tenant, Some(&who.user)), seq),
    )
    .await;
    settled.unwrap_or_else(|_| Settled {
        connections_closed: 0,
        state: SettledState::Pending,
        waiting_for: vec!["your own connections, which are renewed in a moment".to_owned()],
    })
}

/// Waits until this bridge has read what it has had written; `false` if that takes too long.
pub(super) async fn wait_for_own_view(bridge: &Bridge, seq: Seq) -> bool {
    bridge.feed.wait_passed(seq, Instant::now() + OWN_VIEW_WITHIN).await
}

fn shown(user: &Id, membership: &Membership) -> Member {
    Member {
        user: user.clone(),
        role: membership.role.clone(),
        visible_from: membership.visible_from,
        since: membership.since,
        joined: None,
        joined_at: None,
    }
}
