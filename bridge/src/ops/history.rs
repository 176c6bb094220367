use std::time::Duration;

use async_nats::service::NATS_SERVICE_ERROR;
use async_nats::{Request, RequestErrorKind};
use natterjack_authz::policy::{Permission, may, readable};
use natterjack_nats_config::contract::{
    Actor, DEFAULT_HISTORY_LIMIT, HISTORY_VERB, HistoryPage, HistoryQuery, Id, Principal, Problem, ProblemCode, Seq,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Bridge;

/// How long the archive has for a page: it reads an index, so more means that it is in trouble.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait until this bridge has read what the archive has.
pub(super) const CATCH_UP_WITHIN: Duration = Duration::from_secs(5);
/// How often a page is asked for again because the reader's rights changed meanwhile.
pub(super) const ATTEMPTS: usize = 3;

/// Which page of a room's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistoryAsk {
    pub(crate) room: Id,
    pub(crate) before: Option<Seq>,
    pub(crate) after: Option<Seq>,
    pub(crate) limit: Option<u64>,
    /// Only what is pinned.
    pub(crate) pinned: bool,
}

/// A page of a room's messages from the archive.
///
/// It is handed out only once this bridge has read the log as far as the archive had: so a right that was taken away
/// before the page's last event is known here, and so is a token that was revoked.
pub(crate) async fn history(bridge: &Bridge, who: &Actor, ask: HistoryAsk) -> Result<HistoryPage, Problem> {
    for _ in 0..ATTEMPTS {
        let visible_from = visible_from(bridge, who, &ask.room)?;
        let query = HistoryQuery {
            tenant: who.tenant.clone(),
            room: ask.room.clone(),
            before: ask.before,
            after: ask.after,
            limit: limit(ask.limit),
            pinned: ask.pinned,
            thread: None,
            visible_from,
        };
        query.check()?;
        let page: HistoryPage = ask_store(bridge, HISTORY_VERB, &query).await?;
        catch_up(bridge, who, page.watermark).await?;
        if self::visible_from(bridge, who, &ask.room)? == visible_from {
            return Ok(page);
        }
    }
    Err(lagging("the rights in this room are changing; try again"))
}

/// Waits until this bridge has read the log as far as the archive had when it answered; then it knows which rights and tokens
/// were taken away before, and the caller's is looked at again.
pub(super) async fn catch_up(bridge: &Bridge, who: &Actor, watermark: Seq) -> Result<(), Problem> {
    if !bridge
        .feed
        .wait_passed(watermark, Instant::now() + CATCH_UP_WITHIN)
        .await
    {
        return Err(lagging("this bridge is behind the archive; try again"));
    }
    bridge.admit(who)
}

pub(super) fn visible_from(bridge: &Bridge, who: &Principal, room: &Id) -> Result<Seq, Problem> {
    bridge.look(|view| {
        may(view, who, room, Permission::RoomRead)?;
        readable(view, who, room).ok_or_else(Problem::no_such_room)
    })
}

/// Asks whichever store is free.
pub(super) async fn ask_store<A: DeserializeOwned>(
    bridge: &Bridge,
    verb: &str,
    query: &impl Serialize,
) -> Result<A, Problem> {
    let subject = bridge.log.subjects.store_service(verb);
    let payload = serde_json::to_vec(query).map_err(|error| Problem::invalid(error.to_string()))?;
    let request = Request::new()
        .payload(payload.into())
        .timeout(Some(STORE_ANSWERS_WITHIN));
    let answer = match bridge.client.send_request(subject, request).await {
        Ok(answer) => answer,
        Err(error) if error.kind() == RequestErrorKind::TimedOut => {
            return Err(lagging(
                "the archive does not answer in time; live events go on, try history again",
            ));
        }
        Err(error) => {
            tracing::warn!(%error, "the archive cannot be asked");
            return Err(lagging(
                "the archive cannot be reached; live events go on, try history again",
            ));
        }
    };
    if answer
        .headers
        .as_ref()
        .is_some_and(|headers| headers.get(NATS_SERVICE_ERROR).is_some())
    {
        let problem = serde_json::from_slice(&answer.payload);
        return Err(problem.unwrap_or_else(|_| lagging("the archive refused without saying why; try again")));
    }
    serde_json::from_slice(&answer.payload).map_err(|error| {
        tracing::error!(%error, "the archive's answer cannot be read");
        lagging("the archive's answer cannot be read; do bridge and store have the same version?")
    })
}

/// What does not fit the query's type is out of range as well.
pub(super) fn limit(limit: Option<u64>) -> u16 {
    limit.map_or(DEFAULT_HISTORY_LIMIT, |limit| u16::try_from(limit).unwrap_or(u16::MAX))
}

pub(super) fn lagging(detail: &str) -> Problem {
    Problem::new(ProblemCode::StoreLagging, detail)
}
