//! What clients and collectors read of events and answers.

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, Kind, MemberBody, Seq};
use serde::Deserialize;

use crate::history::{Entry, Name, Receipt, hash};

/// The little that a reader needs to know of an event.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Seen {
    pub(crate) seq: u64,
    pub(crate) n: u64,
    pub(crate) room: String,
    pub(crate) from: String,
    pub(crate) id: String,
    pub(crate) at: String,
    pub(crate) key: Option<String>,
}

/// A receipt as it is answered.
#[derive(Debug, Deserialize)]
pub(crate) struct Answered {
    id: String,
    seq: u64,
    n: u64,
    at: String,
}

/// A refusal as it is answered.
#[derive(Debug, Deserialize)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) retryable: bool,
}

impl Answered {
    pub(crate) fn receipt(&self) -> Receipt {
        receipt(&self.id, self.seq, self.n, &self.at)
    }
}

impl Seen {
    /// The receipt that an event stands for where there is no other.
    pub(crate) fn receipt(&self) -> Receipt {
        receipt(&self.id, self.seq, self.n, &self.at)
    }
}

fn receipt(id: &str, seq: u64, n: u64, at: &str) -> Receipt {
    Receipt {
        seq,
        n,
        id: number(id),
        at_ms: clock::parse_ms(at).unwrap_or_default(),
    }
}

fn number(id: &str) -> u128 {
    uuid::Uuid::parse_str(id).map(|id| id.as_u128()).unwrap_or_default()
}

/// An event of the log as the checker takes it.
pub(crate) fn entry_of(place: Seq, bytes: &[u8], name: &mut impl FnMut(&str) -> Name) -> serde_json::Result<Entry> {
    let event: Event = serde_json::from_slice(bytes)?;
    let member = (event.kind == Kind::Member)
        .then(|| serde_json::from_str::<MemberBody>(event.body.get()).ok())
        .flatten();
    Ok(Entry {
        place: place.0,
        seq: event.seq.0,
        n: event.n,
        prev: event.prev.0,
        id: number(&event.id),
        at_ms: clock::parse_ms(&event.at).unwrap_or_default(),
        room: name(event.room.as_str()),
        from: name(event.from.as_str()),
        key: event.key.clone(),
        message: !event.kind.is_policy(),
        member: member.map(|body| (name(body.user.as_str()), body.role.is_some())),
        hash: hash(bytes),
    })
}
