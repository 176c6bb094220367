use serde::{Deserialize, Serialize};

use super::Seq;

/// How safe an event is when its receipt is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On the log, flushed to disk.
    Log,
    /// In the archive too.
    Db,
    /// Nowhere: it was told to who listened (`typing`, `presence`, `signal`), and has no place in the log.
    None,
}

/// What the sender gets, after the append and never before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The event's id.
    pub id: String,
    /// The event's place in the log; 0 for what is not kept.
    pub seq: Seq,
    /// The event's number in its room; 0 for what is not kept.
    pub n: u64,
    /// When, in log time.
    pub at: String,
    /// How safe it is.
    pub durability: Durability,
    /// Whether this repeats the receipt of an earlier request with the same key.
    pub duplicate: bool,
}
