use std::collections::{HashMap, VecDeque};

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Durability, Event, Id, Kind, Receipt, Seq};
use sha2::{Digest, Sha256};

/// How long a key is remembered, in log time.
pub(crate) const WINDOW_MS: i64 = 10 * 60 * 1000;
/// The most keys remembered for one principal: about 800 sends a second, all the time (some 100 bytes each).
const MAX_PER_PRINCIPAL: u32 = 500_000;

type Fingerprint = [u8; 16];

/// The idempotency keys of the last ten minutes. At the cap new keys are refused; none is ever forgotten early.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    known: HashMap<Fingerprint, Entry>,
    by_age: VecDeque<(i64, Fingerprint)>,
    counts: HashMap<(Id, Id), u32>,
}

#[derive(Debug)]
struct Entry {
    content: Fingerprint,
    principal: (Id, Id),
    id: String,
    seq: Seq,
    n: u64,
    at_ms: i64,
}

/// What the window says of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Never seen.
    New,
    /// Seen with the same content: its receipt.
    Same(Receipt),
    /// Seen with other content.
    Different,
    /// Never seen, and this principal has no room for another.
    Full,
}

/// What a request carries under a key.
pub(crate) struct Content<'a> {
    pub(crate) tenant: &'a Id,
    pub(crate) user: &'a Id,
    pub(crate) room: &'a Id,
    pub(crate) kind: Kind,
    pub(crate) reply_to: Option<&'a str>,
    pub(crate) body: &'a str,
}

impl Keys {
    pub(crate) fn look_up(&self, key: &str, content: &Content<'_>) -> Known {
        match self.known.get(&name(content.tenant, content.user, key)) {
            Some(entry) if entry.content == fingerprint(content) => Known::Same(entry.receipt()),
            Some(_) => Known::Different,
            None => {
                let count = self.counts.get(&(content.tenant.clone(), content.user.clone()));
                if count.is_some_and(|count| *count >= MAX_PER_PRINCIPAL) {
                    Known::Full
                } else {
                    Known::New
                }
            }
        }
    }

    /// Remembers the key of an event that stands in the log. `requested` is the body as it was asked for.
    pub(crate) fn remember(&mut self, event: &Event, requested: &str, at_ms: i64) {
        let Some(key) = &event.key else { return };
        let content = Content {
            tenant: &event.tenant,
            user: &event.from,
            room: &event.room,
            kind: event.kind,
            reply_to: event.reply_to.as_deref(),
            body: requested,
        };
        let name = name(&event.tenant, &event.from, key);
        let principal = (event.tenant.clone(), event.from.clone());
        let entry = Entry {
            content: fingerprint(&content),
            principal: principal.clone(),
            id: event.id.clone(),
            seq: event.seq,
            n: event.n,
            at_ms,
        };
        if self.known.insert(name, entry).is_none() {
            *self.counts.entry(principal).or_default() += 1;
        }
        self.by_age.push_back((at_ms, name));
    }

    /// Forgets what is older than the window.
    pub(crate) fn expire(&mut self, now_ms: i64) {
        while let Some((at_ms, name)) = self.by_age.front().copied() {
            if at_ms + WINDOW_MS >= now_ms {
                break;
            }
            self.by_age.pop_front();
            let Some(entry) = self.known.remove(&name) else {
                continue;
            };
            if let Some(count) = self.counts.get_mut(&entry.principal) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&entry.principal);
                }
            }
        }
    }
}

impl Entry {
    fn receipt(&self) -> Receipt {
        Receipt {
            id: self.id.clone(),
            seq: self.seq,
            n: self.n,
            at: clock::format_ms(self.at_ms),
            durability: Durability::Log,
            duplicate: true,
        }
    }
}

fn name(tenant: &Id, user: &Id, key: &str) -> Fingerprint {
    digest(&[tenant.as_str(), user.as_str(), key])
}

fn fingerprint(content: &Content<'_>) -> Fingerprint {
    digest(&[
        content.room.as_str(),
        content.kind.as_str(),
        content.reply_to.unwrap_or_default(),
        content.body,
    ])
}

/// NUL stands in none of the parts but the last, so no two lists of parts meet.
fn digest(parts: &[&str]) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut short = Fingerprint::default();
    short.copy_from_slice(hash.finalize().get(..16).unwrap_or(&[0; 16]));
    short
}
