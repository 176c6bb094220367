use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Id, Problem, Seq};

/// The verb of the history endpoint: `chat.store.history`.
pub const HISTORY_VERB: &str = "history";
/// The verb of the endpoint for one message: `chat.store.message`.
pub const MESSAGE_VERB: &str = "message";
/// The verb of the watermark endpoint: `chat.store.watermark`; its request is empty.
pub const WATERMARK_VERB: &str = "watermark";
/// The verb of the endpoint for what was trimmed from the log: `chat.store.past`.
pub const PAST_VERB: &str = "past";
/// The most messages on a page.
pub const MAX_HISTORY_LIMIT: u16 = 200;
/// The messages on a page when the query names no limit.
pub const DEFAULT_HISTORY_LIMIT: u16 = 50;
/// The most bytes of messages on a page: half of `max_payload`. A page always has at least one message where there
/// is one, since an event is at most 128 KiB.
pub const MAX_HISTORY_BYTES: usize = 512 * 1024;

/// Asks the store for one page of a room's messages. Bounds are exclusive; without a bound it is the newest page.
///
/// The store answers whoever asks: only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// The tenant.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// The page just before this place; not together with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Seq>,
    /// The page just after this place; not together with `before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
    /// The most messages, 1 to [`MAX_HISTORY_LIMIT`].
    #[serde(default = "default_limit")]
    pub limit: u16,
    /// Only messages that are pinned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Only answers to the message of this id, and that message with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The first place the reader may see, as their membership says (0: everything).
    pub visible_from: Seq,
}

/// One page of a room's messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryPage {
    /// How far the archive had read the log when the page was taken: nothing on it is later.
    pub watermark: Seq,
    /// The messages as they now stand, oldest first: kinds `msg`, `command` and `reply`, never policy. One that nobody
    /// changed is the event's exact JSON.
    pub messages: Vec<Box<RawValue>>,
    /// The message that was asked for as a thread, as it now stands; none if the archive does not have it, or the reader may not
    /// see it. Then there are no answers either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Box<RawValue>>,
    /// What to ask next in the direction of the query (as `before` for the newest page and for `before`, as `after` for
    /// `after`); none when there is no more in the archive.
    pub next: Option<Seq>,
    /// Set where messages before this place were removed because of their age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_from: Option<Seq>,
}

/// Asks the store for one message, as it now stands and as it was.
///
/// The store answers whoever asks: only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageQuery {
    /// The tenant.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// The message's id.
    pub id: String,
    /// The first place the reader may see (0: everything).
    pub visible_from: Seq,
}

/// One message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageShown {
    /// How far the archive had read the log.
    pub watermark: Seq,
    /// As it now stands; none if the archive does not have it.
    pub message: Option<Box<RawValue>>,
    /// As it was first said, the event's exact JSON; none if it was never edited, or was deleted.
    pub original: Option<Box<RawValue>>,
    /// The events that edited it, their exact JSON, oldest first; none if it was deleted. At most [`MAX_HISTORY_BYTES`]: of more the
    /// latest.
    pub edits: Vec<Box<RawValue>>,
}

/// How far the archive has read the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveWatermark {
    /// The end of the last frame that is archived.
    pub watermark: Seq,
}

/// Asks the store for a tenant's events, of every kind, as they stood in the log: for readers of cursors whose place was
/// trimmed.
///
/// The store answers whoever asks: only who judges each event by its reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastQuery {
    /// The tenant.
    pub tenant: Id,
    /// One room; all of the tenant's without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Id>,
    /// Events behind this place.
    pub after: Seq,
    /// Up to this place, inclusive.
    pub up_to: Seq,
}

/// The next events of a tenant, at most [`MAX_HISTORY_BYTES`] of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PastPage {
    /// The events' exact JSON in log order.
    pub events: Vec<Box<RawValue>>,
    /// Everything up to here was looked at; no progress means that the archive has not got further.
    pub passed: Seq,
    /// Set where the archive never got some of what is asked for (and then there are no events): everything behind this
    /// place is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest: Option<Seq>,
}

impl HistoryPage {
    /// As readers get it: without the archive's place.
    #[must_use]
    pub fn shown(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Shown<'a> {
            messages: &'a [Box<RawValue>],
            next: Option<Seq>,
            #[serde(skip_serializing_if = "Option::is_none")]
            retained_from: Option<Seq>,
        }
        Shown {
            messages: &self.messages,
            next: self.next,
            retained_from: self.retained_from,
        }
    }
}

impl HistoryQuery {
    /// What serde cannot tell: the limit and that there is at most one bound.
    ///
    /// # Errors
    /// `invalid-request`, with what to change.
    pub fn check(&self) -> Result<(), Problem> {
        if self.before.is_some() && self.after.is_some() {
            return Err(Problem::invalid("give `before` or `after`, not both"));
        }
        if self.thread.is_some() && self.pinned {
            return Err(Problem::invalid("ask for a thread or for what is pinned, not both"));
        }
        if !(1..=MAX_HISTORY_LIMIT).contains(&self.limit) {
            return Err(Problem::invalid(format!("`limit` must be 1 to {MAX_HISTORY_LIMIT}")));
        }
        Ok(())
    }
}

fn default_limit() -> u16 {
    DEFAULT_HISTORY_LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_with_its_defaults_and_checked() {
        let read = |rest: &str| {
            let json = format!(r#"{{"tenant":"main","room":"lobby","visible_from":7{rest}}}"#);
            serde_json::from_str::<HistoryQuery>(&json)
                .map_err(|error| error.to_string())
                .and_then(|query| query.check().map(|()| query).map_err(|problem| problem.to_string()))
        };
        assert_eq!(read("").unwrap().limit, DEFAULT_HISTORY_LIMIT);
        assert_eq!(read(r#","before":9,"limit":200"#).unwrap().before, Some(Seq(9)));
        for bad in [
            r#","before":9,"after":1"#,
            r#","limit":0"#,
            r#","limit":201"#,
            r#","limit":-1"#,
            r#","from":"x""#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
