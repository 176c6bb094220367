//! What is erased, and what is left of it: pure. Whoever hands out what was said asks this first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Event, Id, Kind, Seq};

/// The verb of the endpoint that says whether something can be erased: `chat.store.erasable`.
pub const ERASABLE_VERB: &str = "erasable";
/// The verb of the endpoint for receipts of erasures: `chat.store.erasures`.
pub const ERASURES_VERB: &str = "erasures";
/// The kinds that have something which is erased: what people say, and no policy.
pub const CONTENT: [Kind; 6] = [
    Kind::Msg,
    Kind::Command,
    Kind::Reply,
    Kind::Edit,
    Kind::React,
    Kind::Unreact,
];
/// The most erasures on a page.
pub const MAX_ERASURES: u64 = 200;
/// The most messages that are erased one by one in a tenant: every worker remembers them, some 60 bytes each.
pub const MAX_ERASED_MESSAGES: usize = 1_000_000;

/// Body of a [`Kind::Erase`] event: of what a user wrote, or, where the event has a `target`, of that message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseBody {
    /// Whose messages, edits and reactions; none where it is about one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Id>,
    /// Up to here it was looked whether a legal hold covers it; of a user's nothing later is erased. A bridge says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<Seq>,
    /// Why, for the audit: any Unicode, at most [`MAX_REASON_BYTES`](super::MAX_REASON_BYTES). Who hears of the erasure reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is erased in a tenant: a fold of its erasures.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Erased {
    /// Of each user: up to where, by which event. In the order of the log.
    pub users: BTreeMap<Id, Vec<(Seq, Seq)>>,
    /// By its place, each message that was erased alone, and by which event.
    pub messages: BTreeMap<Seq, Seq>,
    /// The last erasure; nothing behind it needs to be looked at, but for edits of what is erased.
    pub last: Seq,
}

/// What an erasure newly covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Covered {
    /// What this user wrote, up to a place.
    User(Id, Seq),
    /// The message at this place; nothing new where it was erased alone before.
    Message(Option<Seq>),
}

/// Asks the store whether a legal hold covers something, and where it stands. Only who has checked the asker's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasableQuery {
    /// The tenant.
    pub tenant: Id,
    /// What this user wrote,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Id>,
    /// or in this room
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Id>,
    /// the message of this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether something can be erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasable {
    /// How far the archive had read the log, at least, when it looked.
    pub watermark: Seq,
    /// Whether a legal hold covers it.
    pub held: bool,
    /// The message's place; none if there is no such message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Id>,
}

/// Asks the store for receipts. Only who has checked the asker's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasuresQuery {
    /// The tenant.
    pub tenant: Id,
    /// Only this one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Those before this place, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Seq>,
}

/// A page of receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasuresPage {
    /// How far the archive had read the log.
    pub watermark: Seq,
    /// The receipts, the newest first, at most [`MAX_ERASURES`].
    pub erasures: Vec<Erasure>,
}

/// What became of an erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// The event that asks for it.
    pub seq: Seq,
    /// When that was written.
    pub at: String,
    /// Who asked.
    pub by: String,
    /// Why, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whose words,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// or the room of the one message,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// its id,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `pending` or `done`.
    pub state: ErasureState,
    /// What was erased in the archive so far.
    pub counted: Counted,
    /// Where it still is.
    pub pending: Vec<PendingPart>,
}

/// Whether what was asked for has been reached everywhere that is within reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErasureState {
    /// Something still has the bytes.
    Pending,
    /// Nothing within reach has them any more.
    Done,
}

/// How much was erased in the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Messages, commands and replies.
    pub messages: u64,
    /// Edits of messages.
    pub edits: u64,
    /// Reactions that were given or taken back.
    pub reactions: u64,
    /// Entries of the index of words.
    pub search: u64,
}

/// Something that still has what is erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingPart {
    /// `archive`, `log` or `rooms`.
    pub part: String,
    /// The last frame of the log, or the last event, that has to go.
    pub upto: Seq,
    /// What ends it.
    pub until: String,
}

impl EraseBody {
    /// The request as it was made, in one spelling: without a bridge's word on it.
    #[must_use]
    pub fn requested(&self) -> String {
        format!(
            "{} {}",
            self.user.as_ref().map_or("", Id::as_str),
            self.reason.as_deref().unwrap_or_default()
        )
    }
}

impl Erased {
    /// Takes in an erasure, and gives what it covers; those that were taken in before change nothing, nor do events of other
    /// kinds. `None` if it changes nothing.
    pub fn take(&mut self, event: &Event) -> Option<Covered> {
        if event.kind != Kind::Erase || event.seq <= self.last {
            return None;
        }
        let body: EraseBody = serde_json::from_str(event.body.get()).ok()?;
        let covered = match (&event.target, body.user) {
            (Some(target), None) => {
                let is_new = !self.messages.contains_key(&target.seq);
                self.messages.entry(target.seq).or_insert(event.seq);
                Covered::Message(is_new.then_some(target.seq))
            }
            (None, Some(user)) => {
                let upto = body.upto.unwrap_or_default().min(event.seq);
                self.users.entry(user.clone()).or_default().push((upto, event.seq));
                Covered::User(user, upto)
            }
            _ => return None,
        };
        self.last = event.seq;
        Some(covered)
    }

    /// Whether nothing is erased.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last == Seq::ZERO
    }

    /// By which erasure an event is erased, if it is: the first one that covers it.
    #[must_use]
    pub fn by(&self, event: &Event) -> Option<Seq> {
        if !CONTENT.contains(&event.kind) {
            return None;
        }
        let by_user = self.users.get(&event.from).and_then(|erasures| {
            let covers = erasures.iter().find(|(upto, _)| event.seq <= *upto);
            covers.map(|(_, by)| *by)
        });
        // An edit stands behind its message, and may stand behind the erasure too.
        let message = match event.kind {
            Kind::Edit => event.target.as_ref().map(|target| target.seq),
            kind if kind.is_message() => Some(event.seq),
            _ => None,
        };
        let by_message = message.and_then(|message| self.messages.get(&message)).copied();
        by_user.into_iter().chain(by_message).min()
    }

    /// Whether a message is erased.
    #[must_use]
    pub fn covers(&self, from: &Id, seq: Seq) -> bool {
        let of_user = self.users.get(from);
        let by_user = of_user.is_some_and(|erasures| erasures.iter().any(|(upto, _)| seq <= *upto));
        by_user || self.messages.contains_key(&seq)
    }

    /// What may be handed out of a line of the log, if that is not the line itself.
    #[must_use]
    pub fn redact(&self, line: &[u8]) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let event: Event = serde_json::from_slice(line).ok()?;
        let by = self.by(&event)?;
        redacted(event, by)
    }
}

/// What is left of an event: that it was there, from whom, when, and its place and number. Not what was said, nor the
/// sender's key, which may say something. `None` if nothing was left to erase.
#[must_use]
pub fn redacted(event: Event, by: Seq) -> Option<Vec<u8>> {
    if event.erased.is_some() {
        return None;
    }
    let left = Event {
        key: None,
        body: RawValue::from_string("null".to_owned()).ok()?,
        erased: Some(by),
        ..event
    };
    serde_json::to_vec(&left).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(seq: u64, kind: Kind, from: &str, target: Option<u64>, body: &serde_json::Value) -> Event {
        serde_json::from_value(json!({
            "v": 1, "seq": seq, "n": seq, "prev": 0, "id": format!("id-{seq}"), "tenant": "main", "room": "lobby", "from": from,
            "kind": kind, "at": "2026-11-23T06:00:00.123Z", "key": "k", "body": body,
            "target": target.map(|seq| json!({"id": format!("id-{seq}"), "seq": seq})),
        }))
        .unwrap()
    }

    fn said(seq: u64, from: &str) -> Event {
        event(seq, Kind::Msg, from, None, &json!({"text": "secret"}))
    }

    fn change(seq: u64, kind: Kind, from: &str, target: u64) -> Event {
        event(
            seq,
            kind,
            from,
            Some(target),
            &json!({"text": "secret", "emoji": "secret"}),
        )
    }

    #[test]
    fn the_first_erasure_that_covers_an_event_counts() {
        let mut erased = Erased::default();
        assert_eq!(erased.by(&said(1, "alice")), None);
        let of_user = |seq, upto| event(seq, Kind::Erase, "root", None, &json!({"user": "alice", "upto": upto}));
        erased.take(&of_user(20, 10)).unwrap();
        erased
            .take(&event(21, Kind::Erase, "root", Some(11), &json!({})))
            .unwrap();
        erased.take(&of_user(30, 25)).unwrap();
        assert_eq!(erased.take(&of_user(30, 99)), None, "it was taken in");
        for (event, by) in [
            (said(10, "alice"), Some(20)),
            (said(11, "alice"), Some(21)),
            (said(12, "alice"), Some(30)),
            (said(26, "alice"), None),
            (said(10, "Alice"), None),
            (change(9, Kind::Edit, "alice", 3), Some(20)),
            (change(40, Kind::Edit, "bob", 11), Some(21)),
            (change(40, Kind::React, "bob", 11), None),
            (change(9, Kind::React, "alice", 3), Some(20)),
            (change(9, Kind::Pin, "alice", 3), None),
            (
                event(9, Kind::Member, "alice", None, &json!({"user": "bob", "role": null})),
                None,
            ),
        ] {
            assert_eq!(erased.by(&event), by.map(Seq), "{event:?}");
        }
    }

    #[test]
    fn what_is_left_says_that_something_was_there_and_not_what() {
        let left = redacted(change(9, Kind::Edit, "alice", 3), Seq(20)).unwrap();
        let text = String::from_utf8(left.clone()).unwrap();
        assert!(!text.contains("secret") && !text.contains("\"key\""), "{text}");
        let event: Event = serde_json::from_slice(&left).unwrap();
        assert_eq!((event.seq, event.n, event.from.as_str()), (Seq(9), 9, "alice"));
        assert_eq!(
            (event.erased, event.target.clone().unwrap().seq),
            (Some(Seq(20)), Seq(3))
        );
        assert_eq!(redacted(event, Seq(30)), None);
    }
}
