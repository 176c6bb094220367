//! What somebody is told who cannot be answered: a publish without a reply subject, an MQTT device.

use natterjack_nats_config::SendPayload;
use natterjack_nats_config::contract::{Id, Principal, Problem, Receipt, Subjects};
use serde::Serialize;

use super::intake::{Answer, error_headers};

/// A request without a reply subject: whose it was and how the sender knows it again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asker {
    pub(crate) who: Principal,
    pub(crate) room: Id,
    pub(crate) key: Option<String>,
}

#[derive(Serialize)]
struct Notice<'a, T> {
    #[serde(flatten)]
    outcome: &'a T,
    room: &'a Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

impl Asker {
    /// `payload` is none where it could not be read.
    pub(crate) fn of(who: &Principal, room: &Id, payload: Option<&SendPayload>) -> Self {
        Self {
            who: who.clone(),
            room: room.clone(),
            key: payload.and_then(|payload| payload.key.clone()),
        }
    }

    /// What is published on the user's own subject: a refusal, or that this stands already. A new event is its own receipt.
    pub(crate) fn notice(&self, subjects: &Subjects, outcome: Result<Receipt, Problem>) -> Option<Answer> {
        let (headers, payload) = match outcome {
            Ok(receipt) if !receipt.duplicate => return None,
            Ok(receipt) => (None, self.write(&receipt)),
            Err(problem) => (Some(error_headers(&problem)), self.write(&problem)),
        };
        Some(Answer {
            subject: subjects.user(&self.who.tenant, &self.who.user).into(),
            headers,
            payload,
        })
    }

    fn write<T: Serialize>(&self, outcome: &T) -> bytes::Bytes {
        let notice = Notice {
            outcome,
            room: &self.room,
            key: self.key.as_deref(),
        };
        serde_json::to_vec(&notice).unwrap_or_default().into()
    }
}
