use std::collections::{HashMap, VecDeque};

use natterjack_authz::policy::{Fact, SetHash};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Durability, Event, Id, Kind, Receipt, Seq};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// How long a key is remembered, in log time while somebody writes.
pub(crate) const WINDOW_MS: i64 = 10 * 60 * 1000;
/// The most keys remembered for one principal: about 800 sends a second, all the time (some 100 bytes each).
const MAX_PER_PRINCIPAL: u32 = 500_000;

/// Parts of the table: it grows part by part, so that no send waits while a million keys move.
const PARTS: usize = 64;

/// A SHA-256 cut to half.
pub(crate) type Fingerprint = [u8; 16];

/// The kind of the keys' facts in the state's hash.
const KEY: u8 = 6;

/// The idempotency keys of the last ten minutes. At the cap new keys are refused; none is ever forgotten early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    known: Vec<HashMap<Fingerprint, Entry>>,
    by_age: VecDeque<(i64, Fingerprint)>,
    counts: HashMap<Fingerprint, u32>,
    hash: SetHash,
}

/// What is remembered of an event with a key. Ids and texts are left out or shortened: there can be a million of these.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) content: Fingerprint,
    pub(crate) principal: Fingerprint,
    pub(crate) id: EventId,
    pub(crate) seq: Seq,
    pub(crate) n: u64,
    pub(crate) at_ms: i64,
    /// What the key ages by.
    pub(crate) written_ms: i64,
}

/// An event's id, in 16 bytes where it is a UUID as the writer makes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EventId {
    Uuid(Uuid),
    Other(Box<str>),
}

/// A key and what it was sent with, digested: done once for a request, however often it is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marked {
    name: Fingerprint,
    content: Fingerprint,
    principal: Fingerprint,
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
    pub(crate) target: Option<&'a str>,
    /// In whose name, where that is not the user's own.
    pub(crate) on_behalf_of: Option<&'a Id>,
    pub(crate) body: &'a str,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            known: (0..PARTS).map(|_| HashMap::new()).collect(),
            by_age: VecDeque::new(),
            counts: HashMap::new(),
            hash: SetHash::default(),
        }
    }
}

impl Keys {
    pub(crate) fn look_up(&self, key: &Marked) -> Known {
        match self.part(key.name).and_then(|part| part.get(&key.name)) {
            Some(entry) if entry.content == key.content => Known::Same(entry.receipt()),
            Some(_) => Known::Different,
            None if self
                .counts
                .get(&key.principal)
                .is_some_and(|count| *count >= MAX_PER_PRINCIPAL) =>
            {
                Known::Full
            }
            None => Known::New,
        }
    }

    /// Remembers the key of an event that stands in the log; `written_ms` is what the key ages by.
    pub(crate) fn remember(&mut self, key: &Marked, event: &Event, at_ms: i64, written_ms: i64) {
        let entry = Entry {
            content: key.content,
            principal: key.principal,
            id: EventId::of(&event.id),
            seq: event.seq,
            n: event.n,
            at_ms,
            written_ms,
        };
        self.put(key.name, entry);
    }

    /// Puts in a key that is not older than any that is there.
    pub(crate) fn put(&mut self, name: Fingerprint, entry: Entry) {
        let (principal, written_ms) = (entry.principal, entry.written_ms);
        self.hash.add(&entry.fact(&name));
        let Some(part) = self.part_mut(name) else { return };
        if let Some(before) = part.insert(name, entry) {
            self.hash.remove(&before.fact(&name));
        } else {
            *self.counts.entry(principal).or_default() += 1;
        }
        self.by_age.push_back((written_ms, name));
    }

    /// Every key, the oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Fingerprint, &Entry)> {
        let known = |name: &Fingerprint| self.part(*name)?.get(name);
        self.by_age.iter().filter_map(move |(written_ms, name)| {
            let entry = known(name).filter(|entry| entry.written_ms == *written_ms)?;
            Some((name, entry))
        })
    }

    /// A hash of everything that is remembered.
    pub(crate) fn hash(&self) -> SetHash {
        self.hash
    }

    /// Forgets what is older than the window.
    pub(crate) fn expire(&mut self, now_ms: i64) {
        while let Some((written_ms, name)) = self.by_age.front().copied() {
            if written_ms + WINDOW_MS >= now_ms {
                break;
            }
            self.by_age.pop_front();
            let Some(part) = self.part_mut(name) else { continue };
            // A key that was put in again since has another place in the order.
            if part.get(&name).is_none_or(|entry| entry.written_ms != written_ms) {
                continue;
            }
            let Some(entry) = part.remove(&name) else { continue };
            self.hash.remove(&entry.fact(&name));
            if let Some(count) = self.counts.get_mut(&entry.principal) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&entry.principal);
                }
            }
        }
    }

    fn part(&self, name: Fingerprint) -> Option<&HashMap<Fingerprint, Entry>> {
        self.known.get(part_of(name))
    }

    fn part_mut(&mut self, name: Fingerprint) -> Option<&mut HashMap<Fingerprint, Entry>> {
        self.known.get_mut(part_of(name))
    }
}

impl Marked {
    /// Digests a key with what it was sent with.
    pub(crate) fn of(key: &str, content: &Content<'_>) -> Self {
        let (room, kind, body) = (content.room.as_str(), content.kind.as_str(), content.body);
        let reply_to = content.reply_to.unwrap_or_default();
        Self {
            name: digest(&[content.tenant.as_str(), content.user.as_str(), key]),
            // Only what has a target, or another's name, has more parts: what was digested before there were such stays good.
            content: match (content.target, content.on_behalf_of) {
                (Some(target), _) => digest(&[room, kind, reply_to, target, body]),
                (None, Some(user)) => digest(&[room, kind, reply_to, "", user.as_str(), body]),
                (None, None) => digest(&[room, kind, reply_to, body]),
            },
            principal: digest(&[content.tenant.as_str(), content.user.as_str()]),
        }
    }

    /// The same of an event that stands in the log; `requested` is its body as it was asked for.
    pub(crate) fn of_event(event: &Event, requested: &str) -> Option<Self> {
        let content = Content {
            tenant: &event.tenant,
            user: event.sender(),
            room: &event.room,
            kind: event.kind,
            reply_to: event.reply_to.as_deref(),
            target: event.target.as_ref().map(|target| target.id.as_str()),
            on_behalf_of: event.via.as_ref().map(|_| &event.from),
            body: requested,
        };
        event.key.as_deref().map(|key| Self::of(key, &content))
    }
}

impl EventId {
    pub(crate) fn of(text: &str) -> Self {
        // Only what comes out as it went in may be shortened.
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text => Self::Uuid(uuid),
            _ => Self::Other(text.into()),
        }
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl Entry {
    fn fact(&self, name: &Fingerprint) -> Fact {
        let fact = Fact::new(KEY)
            .bytes(name)
            .bytes(&self.content)
            .bytes(&self.principal)
            .number(self.seq.0)
            .number(self.n)
            .number(self.at_ms.cast_unsigned())
            .number(self.written_ms.cast_unsigned());
        match &self.id {
            EventId::Uuid(uuid) => fact.bytes(uuid.as_bytes()),
            EventId::Other(text) => fact.text(text),
        }
    }

    fn receipt(&self) -> Receipt {
        Receipt {
            id: self.id.to_string(),
            seq: self.seq,
            n: self.n,
            at: clock::format_ms(self.at_ms),
            durability: Durability::Log,
            duplicate: true,
        }
    }
}

fn part_of(name: Fingerprint) -> usize {
    usize::from(name[0]) % PARTS
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
