use natterjack_nats_config::contract::{Id, Kind, Principal, Problem, ProblemCode, Receipt, Request, SendPayload};
use uuid::Uuid;

use super::Bridge;
use crate::bundle::Pending;

/// What is on its way to the writer.
pub(crate) struct Sent {
    pending: Pending,
    /// The key that it got from us, if it had none.
    own_key: Option<String>,
}

/// Tells a room what is not kept (typing, presence, signals); the writer decides. The receipt has no place in the log.
pub(crate) fn begin_tell(
    bridge: &Bridge,
    who: &Principal,
    room: Id,
    kind: Kind,
    payload: SendPayload,
) -> Result<Sent, Problem> {
    let request = Request {
        principal: who.clone(),
        room,
        kind,
        payload,
    };
    Ok(Sent {
        pending: bridge.sending.ask(request)?,
        own_key: None,
    })
}

/// Sends to a room; the writer decides, in the order in which this was called.
///
/// A request without a key gets one of ours, so that it can be tried again when an answer is lost.
pub(crate) fn begin_send(
    bridge: &Bridge,
    who: &Principal,
    room: Id,
    kind: Kind,
    mut payload: SendPayload,
) -> Result<Sent, Problem> {
    let own_key = payload.key.is_none().then(|| Uuid::now_v7().to_string());
    payload.key = payload.key.or_else(|| own_key.clone());
    let request = Request {
        principal: who.clone(),
        room,
        kind,
        payload,
    };
    Ok(Sent {
        pending: bridge.sending.ask(request)?,
        own_key,
    })
}

/// Sends, and waits for the receipt.
pub(crate) async fn send(
    bridge: &Bridge,
    who: &Principal,
    room: Id,
    kind: Kind,
    payload: SendPayload,
) -> Result<Receipt, Problem> {
    begin_send(bridge, who, room, kind, payload)?.receipt().await
}

impl Sent {
    /// Waits for the receipt, which comes after the append, never before.
    pub(crate) async fn receipt(self) -> Result<Receipt, Problem> {
        let outcome = self.pending.outcome().await;
        let Some(key) = self.own_key else { return outcome };
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
