use natterjack_nats_config::contract::{Id, Kind, Principal, Problem, ProblemCode, Receipt, Request, SendPayload};
use uuid::Uuid;

use super::Bridge;

/// Tells a room what is not kept (typing, presence, signals); the writer decides. The receipt has no place in the log.
pub(crate) async fn tell(
    bridge: &Bridge,
    who: &Principal,
    room: Id,
    kind: Kind,
    payload: SendPayload,
) -> Result<Receipt, Problem> {
    let request = Request {
        principal: who.clone(),
        room,
        kind,
        payload,
    };
    bridge.sending.append(request).await
}

/// Sends to a room; the writer decides. The receipt comes after the append, never before.
///
/// A request without a key gets one of ours, so that it can be tried again when an answer is lost.
pub(crate) async fn send(
    bridge: &Bridge,
    who: &Principal,
    room: Id,
    kind: Kind,
    mut payload: SendPayload,
) -> Result<Receipt, Problem> {
    let own_key = payload.key.is_none().then(|| Uuid::now_v7().to_string());
    payload.key = payload.key.or_else(|| own_key.clone());
    let request = Request {
        principal: who.clone(),
        room,
        kind,
        payload,
    };
    let outcome = bridge.sending.append(request).await;
    let Some(key) = own_key else { return outcome };
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
