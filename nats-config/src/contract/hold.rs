//! What is asked of the store about what must be kept.

use serde::{Deserialize, Serialize};

use super::{Id, Seq};

/// The verb of the endpoint for legal holds: `chat.store.holds`.
pub const HOLDS_VERB: &str = "holds";
/// The most holds that are told.
pub const MAX_HOLDS: u64 = 1000;

/// Asks the store what of a tenant is held. Only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldsQuery {
    /// The tenant.
    pub tenant: Id,
}

/// What is held now, at most [`MAX_HOLDS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldsPage {
    /// How far the archive had read the log.
    pub watermark: Seq,
    /// The holds, in the order in which they were put.
    pub holds: Vec<Hold>,
}

/// A legal hold: on a room, or on what a user wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// Which user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The event that says so.
    pub seq: Seq,
    /// When.
    pub at: String,
    /// Who put it.
    pub by: String,
    /// Why, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
