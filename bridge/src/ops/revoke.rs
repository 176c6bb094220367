//! Tokens that are good no longer, and the end of the connections that they opened.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use natterjack_authz::policy::open_revocations;
use natterjack_authz::revoke::{Settled, SettledState};
use natterjack_nats_config::contract::{
    Actor, By, Id, Kind, Principal, Problem, ProblemCode, Receipt, SendPayload, Seq, TokenBody,
};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use tokio::time::MissedTickBehavior;

use super::members::wait_and_settle;
use super::{Bridge, remove_member, send, tenant_room};

/// How often it is looked for revocations that whoever asked for them did not see through: after this twice.
const FINISH_EVERY: Duration = Duration::from_secs(2);
/// Those that are seen through at once; each asks every authz worker a question.
const AT_ONCE: usize = 256;

/// What is to be revoked: `user`, `user` and `jti`, `before` with or without `user`, or `room` and `user`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    #[serde(default)]
    user: Option<Id>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    before: Option<String>,
    #[serde(default)]
    expires: Option<String>,
    #[serde(default)]
    room: Option<Id>,
}

impl Revocation {
    /// Of one token, or API key.
    pub(super) fn of_one(user: Id, jti: String) -> Self {
        Self {
            user: Some(user),
            jti: Some(jti),
            before: None,
            expires: None,
            room: None,
        }
    }
}

/// A revocation that stands in the log, and how far it has reached those who are connected.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Revoked {
    seq: Seq,
    #[serde(flatten)]
    settled: Settled,
}

/// Whose tokens of which tenant a revocation is about, and its sequence.
type Open = (Id, Option<Id>, Seq);

/// Revokes tokens or a membership. After the answer `done` nothing of the sessions concerned is accepted, and they hear
/// nothing more.
pub(crate) async fn revoke(
    bridge: &Bridge,
    who: &Actor,
    what: Revocation,
    key: Option<String>,
) -> Result<Revoked, Problem> {
    let Revocation {
        user,
        jti,
        before,
        expires,
        room,
    } = what;
    if let Some(room) = room {
        let (Some(user), None, None, None) = (user, jti, before, expires) else {
            return Err(Problem::invalid(
                "with `room` give the `user` whose membership ends, and nothing else",
            ));
        };
        let changed = remove_member(bridge, who, room, user, key).await?;
        return Ok(Revoked {
            seq: changed.receipt.seq,
            settled: changed.settled,
        });
    }
    let body = TokenBody {
        user,
        jti,
        before,
        expires,
        ..TokenBody::default()
    };
    let receipt = append(bridge, who, &body, key).await?;
    let open = (who.tenant.clone(), body.user, receipt.seq);
    let settled = settle(bridge, &open).await;
    Ok(Revoked {
        seq: receipt.seq,
        settled,
    })
}

/// Sees open revocations through whose bridge has died, or whose servers did not answer then. For ever.
pub(crate) async fn finish_revocations(bridge: Arc<Bridge>) {
    let open = || {
        if !bridge.feed.is_caught_up() {
            return HashSet::new();
        }
        bridge.feed.with_view(|view| {
            let open = open_revocations(view);
            open.map(|(tenant, user, seq)| (tenant.clone(), user.cloned(), seq))
                .collect()
        })
    };
    let finish = |one: Open| {
        let bridge = Arc::clone(&bridge);
        async move {
            let settled = settle(&bridge, &one).await;
            tracing::info!(seq = %one.2, state = ?settled.state, waiting_for = ?settled.waiting_for, "an open revocation");
            one
        }
    };
    finish_all(open, finish).await;
}

/// Finishes what is open, each beside the others: one that is stuck holds up nobody.
async fn finish_all<T, F>(open: impl Fn() -> HashSet<T>, finish: impl Fn(T) -> F)
where
    T: Clone + Eq + std::hash::Hash,
    F: Future<Output = T>,
{
    let (mut seen, mut begun) = (HashSet::new(), HashSet::new());
    let mut at_work = FuturesUnordered::new();
    let mut look = tokio::time::interval(FINISH_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(done) = at_work.next() => {
                begun.remove(&done);
            }
            _ = look.tick() => {
                let open = open();
                for one in open.intersection(&seen) {
                    if begun.len() < AT_ONCE && begun.insert(one.clone()) {
                        at_work.push(finish(one.clone()));
                    }
                }
                seen = open;
            }
        }
    }
}

/// Waits until a revocation has reached every connection, and then has that noted: from there on requests by connections
/// are taken again, which are those opened since.
async fn settle(bridge: &Bridge, (tenant, user, seq): &Open) -> Settled {
    let mut settled = wait_and_settle(bridge, (tenant, user.as_ref()), *seq).await;
    if settled.state == SettledState::Done
        && let Err(problem) = note_settled(bridge, tenant, user.as_ref(), *seq).await
    {
        tracing::warn!(%problem, %seq, "that a revocation has settled is not noted yet");
        settled.state = SettledState::Pending;
        settled.waiting_for = vec!["the log".to_owned()];
    }
    settled
}

async fn note_settled(bridge: &Bridge, tenant: &Id, user: Option<&Id>, seq: Seq) -> Result<(), Problem> {
    let house = Actor {
        principal: Principal {
            tenant: tenant.clone(),
            user: tenant_room()?,
        },
        by: By::House,
    };
    let body = TokenBody {
        user: user.cloned(),
        settled: Some(seq),
        ..TokenBody::default()
    };
    match append(bridge, &house, &body, None).await {
        // Another bridge was quicker.
        Err(problem) if problem.code == ProblemCode::Conflict => Ok(()),
        appended => appended.map(|_| ()),
    }
}

async fn append(bridge: &Bridge, who: &Actor, body: &TokenBody, key: Option<String>) -> Result<Receipt, Problem> {
    let raw = to_raw_value(body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = super::rooms::with_key(SendPayload::of_body(raw), key)?;
    send(bridge, who, tenant_room()?, Kind::Token, payload).await
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_is_stuck_holds_up_no_other() {
        let open = Mutex::new(HashSet::from([0, 1, 2, 3]));
        let finish = |one: u32| {
            let open = &open;
            async move {
                if one == 0 {
                    std::future::pending::<()>().await;
                }
                open.lock().remove(&one);
                one
            }
        };
        let all = finish_all(|| open.lock().clone(), finish);
        assert!(tokio::time::timeout(FINISH_EVERY * 10, all).await.is_err());
        assert_eq!(*open.lock(), HashSet::from([0]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_done_is_begun_again_and_never_twice_at_once() {
        let (running, most, count) = (Mutex::new(0), Mutex::new(0), Mutex::new(0));
        let finish = |one: u32| {
            let (running, most, count) = (&running, &most, &count);
            async move {
                *running.lock() += 1;
                *count.lock() += 1;
                let now = *running.lock();
                {
                    let mut most = most.lock();
                    *most = now.max(*most);
                }
                tokio::time::sleep(FINISH_EVERY * 3).await;
                *running.lock() -= 1;
                one
            }
        };
        let all = finish_all(|| HashSet::from([7]), finish);
        assert!(tokio::time::timeout(FINISH_EVERY * 20, all).await.is_err());
        assert_eq!(*most.lock(), 1);
        assert!(*count.lock() >= 4);
    }
}
