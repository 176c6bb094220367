use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Id, Kind, Problem, Seq};

/// The verb of the endpoint for the audit trail: `chat.store.trail`.
pub const TRAIL_VERB: &str = "trail";
/// The most entries on a page.
pub const MAX_TRAIL_LIMIT: u16 = 200;
/// The entries on a page when the query names no limit.
pub const DEFAULT_TRAIL_LIMIT: u16 = 50;

/// Asks the store for one page of a tenant's audit trail, newest first.
///
/// The store answers whoever asks: only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailQuery {
    /// The tenant.
    pub tenant: Id,
    /// The page just before this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Seq>,
    /// Only what this user did; of refused logins those that named this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Id>,
    /// Only events of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The most entries, 1 to [`MAX_TRAIL_LIMIT`].
    pub limit: u16,
}

/// One page of the audit trail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrailPage {
    /// How far the archive had read the log when the page was taken.
    pub watermark: Seq,
    /// The entries, newest first.
    pub entries: Vec<TrailEntry>,
    /// What to ask next as `before`; none when there is no more.
    pub next: Option<Seq>,
}

/// An entry of the audit trail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrailEntry {
    /// The event's exact JSON.
    pub event: Box<RawValue>,
    /// SHA-256 over the hash of the entry before (of every tenant) and the event's own, in hexadecimal.
    pub hash: String,
}

/// Body of a [`Kind::Login`] event: logins that were refused, of one kind, counted by one worker for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginBody {
    /// Who it was said to be, where that is the name of a user; nobody has checked that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Id>,
    /// From which address, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Over which door: `http`, `nats`, `websocket`, `mqtt`; `*` for the rest, of which there was too much to tell apart.
    pub door: String,
    /// Which rule was broken. Never a token.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// The worker that counted.
    pub worker: Id,
}

impl TrailQuery {
    /// What serde cannot tell: the limit.
    ///
    /// # Errors
    /// `invalid-request`.
    pub fn check(&self) -> Result<(), Problem> {
        if (1..=MAX_TRAIL_LIMIT).contains(&self.limit) {
            return Ok(());
        }
        Err(Problem::invalid(format!("`limit` must be 1 to {MAX_TRAIL_LIMIT}")))
    }
}
