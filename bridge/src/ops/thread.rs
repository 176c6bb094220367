use natterjack_nats_config::contract::{Actor, HISTORY_VERB, HistoryPage, HistoryQuery, Id, Problem, Seq};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Bridge;
use super::history::{ATTEMPTS, CATCH_UP_WITHIN, ask_store, catch_up, lagging, limit, visible_from};
use super::message::{check_id, none};

/// Which page of the answers to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThreadAsk {
    pub(crate) room: Id,
    /// The message's id.
    pub(crate) id: String,
    pub(crate) before: Option<Seq>,
    pub(crate) after: Option<Seq>,
    pub(crate) limit: Option<u64>,
}

/// A message, and a page of the answers to it.
#[derive(Debug, Serialize)]
pub(crate) struct Thread {
    message: Box<RawValue>,
    replies: Vec<Box<RawValue>>,
    next: Option<Seq>,
}

/// A message and the answers to it, each as it now stands, from the archive.
///
/// As with history it is handed out only once this bridge has read the log as far as the archive had, and if the caller's
/// rights are still those that were asked with.
pub(crate) async fn thread(bridge: &Bridge, who: &Actor, ask: ThreadAsk) -> Result<Thread, Problem> {
    check_id(&ask.id)?;
    for _ in 0..ATTEMPTS {
        let from = visible_from(bridge, who, &ask.room)?;
        let query = HistoryQuery {
            tenant: who.tenant.clone(),
            room: ask.room.clone(),
            before: ask.before,
            after: ask.after,
            limit: limit(ask.limit),
            pinned: false,
            thread: Some(ask.id.clone()),
            visible_from: from,
        };
        query.check()?;
        let page = find(bridge, &query).await?;
        catch_up(bridge, who, page.watermark).await?;
        if visible_from(bridge, who, &ask.room)? == from {
            return Ok(Thread {
                message: page.root.ok_or_else(none)?,
                replies: page.messages,
                next: page.next,
            });
        }
    }
    Err(lagging("the rights in this room are changing; try again"))
}

/// Asks the archive, again if it had not read what this bridge has.
async fn find(bridge: &Bridge, query: &HistoryQuery) -> Result<HistoryPage, Problem> {
    let passed = bridge.feed.passed();
    let page: HistoryPage = ask_store(bridge, HISTORY_VERB, query).await?;
    if page.root.is_some() || page.watermark >= passed {
        return Ok(page);
    }
    if !bridge.archive.wait(passed, Instant::now() + CATCH_UP_WITHIN).await {
        return Err(lagging("the archive is behind; try again"));
    }
    ask_store(bridge, HISTORY_VERB, query).await
}
