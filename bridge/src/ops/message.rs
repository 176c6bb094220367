use natterjack_nats_config::contract::{
    Actor, Id, MESSAGE_VERB, MessageQuery, MessageShown, Problem, ProblemCode, Request, Seq, Vouched,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Bridge;
use super::history::{ATTEMPTS, CATCH_UP_WITHIN, ask_store, catch_up, lagging, visible_from};

/// The longest id that is asked for, in bytes.
const MAX_ID_BYTES: usize = 128;

/// A message with what it was before.
#[derive(Debug, Serialize)]
pub(crate) struct Message {
    #[serde(rename = "message")]
    now: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Box<RawValue>>,
    edits: Vec<Box<RawValue>>,
}

/// What it takes to vouch for a message.
#[derive(Deserialize)]
struct Head {
    seq: Seq,
    from: Id,
    #[serde(default)]
    deleted: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    erased: Option<Seq>,
}

/// One message as it now stands, as it was said, and its edits, from the archive.
///
/// As with history it is handed out only once this bridge has read the log as far as the archive had, and if the caller's
/// rights are still those that were asked with.
pub(crate) async fn message(bridge: &Bridge, who: &Actor, room: Id, id: &str) -> Result<Message, Problem> {
    for _ in 0..ATTEMPTS {
        let from = visible_from(bridge, who, &room)?;
        let found = find(bridge, &who.tenant, (&room, id), from).await?;
        catch_up(bridge, who, found.watermark).await?;
        if visible_from(bridge, who, &room)? == from {
            return Ok(Message {
                now: found.message.ok_or_else(none)?,
                original: found.original,
                edits: found.edits,
            });
        }
    }
    Err(lagging("the rights in this room are changing; try again"))
}

/// What the archive knows of the message that a request would change and that the writer does not remember. Whether the
/// caller may do that is for the writer to decide.
pub(super) async fn vouch(bridge: &Bridge, request: &Request) -> Result<Vouched, Problem> {
    let id = request.payload.target.as_deref().unwrap_or_default();
    let found = find(bridge, &request.principal.tenant, (&request.room, id), Seq::ZERO).await?;
    let message = found.message.ok_or_else(none)?;
    let head: Head = serde_json::from_str(message.get()).map_err(|error| {
        tracing::error!(%error, "the archive's answer cannot be read");
        lagging("the archive's answer cannot be read; do bridge and store have the same version?")
    })?;
    if head.deleted.is_some() {
        return Err(Problem::new(ProblemCode::NotFound, "this message was deleted"));
    }
    if head.erased.is_some() {
        return Err(Problem::new(ProblemCode::NotFound, "this message was erased"));
    }
    Ok(Vouched {
        seq: head.seq,
        from: head.from,
    })
}

/// Asks the archive, again if it had not read what this bridge has.
async fn find(
    bridge: &Bridge,
    tenant: &Id,
    (room, id): (&Id, &str),
    visible_from: Seq,
) -> Result<MessageShown, Problem> {
    check_id(id)?;
    let query = MessageQuery {
        tenant: tenant.clone(),
        room: room.clone(),
        id: id.to_owned(),
        visible_from,
    };
    let passed = bridge.feed.passed();
    let found: MessageShown = ask_store(bridge, MESSAGE_VERB, &query).await?;
    if found.message.is_some() || found.watermark >= passed {
        return Ok(found);
    }
    if !bridge.archive.wait(passed, Instant::now() + CATCH_UP_WITHIN).await {
        return Err(lagging("the archive is behind; try again"));
    }
    ask_store(bridge, MESSAGE_VERB, &query).await
}

/// Whether it can be the id of a message.
pub(super) fn check_id(id: &str) -> Result<(), Problem> {
    if (1..=MAX_ID_BYTES).contains(&id.len()) && !id.contains('\0') {
        return Ok(());
    }
    Err(Problem::invalid(format!(
        "the id of a message is 1 to {MAX_ID_BYTES} bytes"
    )))
}

pub(super) fn none() -> Problem {
    Problem::new(ProblemCode::NotFound, "there is no such message in this room")
}
