use std::time::Duration;

use natterjack_nats_config::contract::{
    Actor, Durability, Id, Kind, Problem, ProblemCode, Receipt, Request, SendPayload,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::Bridge;
use super::message::vouch;
use crate::bundle::Pending;

/// How long the archive has to get an event: it is behind by milliseconds, unless something is wrong.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(10);

/// What is on its way to the writer.
pub(crate) struct Sent {
    pending: Pending,
    key: Option<String>,
    /// Whether the key is ours, because it had none.
    is_own_key: bool,
    /// What is sent once more if the writer does not remember the message that it changes.
    change: Option<Box<Request>>,
}

/// Tells a room what is not kept (typing, presence, signals); the writer decides. The receipt has no place in the log.
pub(crate) fn begin_tell(
    bridge: &Bridge,
    who: &Actor,
    room: Id,
    kind: Kind,
    payload: SendPayload,
) -> Result<Sent, Problem> {
    let request = Request {
        principal: who.principal.clone(),
        by: who.by.clone(),
        room,
        kind,
        payload,
        vouched: None,
    };
    Ok(Sent {
        pending: bridge.sending.ask(request)?,
        key: None,
        is_own_key: false,
        change: None,
    })
}

/// Sends to a room; the writer decides, in the order in which this was called.
///
/// A request without a key gets one of ours, so that it can be tried again when an answer is lost.
pub(crate) fn begin_send(
    bridge: &Bridge,
    who: &Actor,
    room: Id,
    kind: Kind,
    mut payload: SendPayload,
) -> Result<Sent, Problem> {
    let is_own_key = payload.key.is_none();
    let key = payload.key.unwrap_or_else(|| Uuid::now_v7().to_string());
    payload.key = Some(key.clone());
    let request = Request {
        principal: who.principal.clone(),
        by: who.by.clone(),
        room,
        kind,
        payload,
        vouched: None,
    };
    let change = kind.has_target().then(|| Box::new(request.clone()));
    Ok(Sent {
        pending: bridge.sending.ask(request)?,
        key: Some(key),
        is_own_key,
        change,
    })
}

/// Sends, and waits for the receipt.
pub(crate) async fn send(
    bridge: &Bridge,
    who: &Actor,
    room: Id,
    kind: Kind,
    payload: SendPayload,
) -> Result<Receipt, Problem> {
    begin_send(bridge, who, room, kind, payload)?.receipt(bridge).await
}

impl Sent {
    /// Waits for the receipt, and until the archive has the event too.
    ///
    /// # Errors
    /// Those of a send; `store-lagging` if it stands in the log and the archive has not got there in time.
    pub(crate) async fn archived(self, bridge: &Bridge) -> Result<Receipt, Problem> {
        let key = self.key.clone().unwrap_or_default();
        let receipt = self.receipt(bridge).await?;
        if bridge.archive.wait(receipt.seq, Instant::now() + ARCHIVED_WITHIN).await {
            return Ok(Receipt {
                durability: Durability::Db,
                ..receipt
            });
        }
        let detail = format!(
            "the message stands in the log as seq {}, but the archive has not got there within {} s; send the same again \
             with the key `{key}` to go on waiting, it will not be written twice",
            receipt.seq,
            ARCHIVED_WITHIN.as_secs()
        );
        Err(Problem::new(ProblemCode::StoreLagging, detail))
    }

    /// Waits for the receipt, which comes after the append, never before.
    ///
    /// The writer remembers the latest messages; of an older one that is to be changed the archive knows the rest.
    pub(crate) async fn receipt(self, bridge: &Bridge) -> Result<Receipt, Problem> {
        let mut outcome = self.pending.outcome().await;
        if let (Err(problem), Some(change)) = (&outcome, self.change)
            && problem.code == ProblemCode::TargetUnknown
        {
            let vouched = Some(vouch(bridge, &change).await?);
            let again = bridge.sending.ask(Request { vouched, ..*change })?;
            outcome = again.outcome().await;
        }
        if let Err(problem) = &outcome {
            bridge.metrics.limited(problem);
        }
        let Some(key) = self.key.filter(|_| self.is_own_key) else {
            return outcome;
        };
        match outcome {
            // The key is new, so the first request with it was this one, and the repetition was ours.
            Ok(receipt) => Ok(Receipt {
                duplicate: false,
                ..receipt
            }),
            Err(problem) if problem.code == ProblemCode::OutcomeUnknown => Err(Problem {
                detail: format!(
                    "the log did not confirm in time; send the same again with the key `{key}` to learn what became of it"
                ),
                ..problem
            }),
            Err(problem) => Err(problem),
        }
    }
}
