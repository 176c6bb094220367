use serde::{Deserialize, Serialize};

use super::{Id, MAX_EMOJI_BYTES, Problem, Seq};

/// The verb of the endpoint for who reacted: `chat.store.reactions`.
pub const REACTIONS_VERB: &str = "reactions";
/// The most users on a page: with the longest reactions and names some tens of KiB.
pub const MAX_REACTIONS: u16 = 200;

/// Asks the store who reacted to a message.
///
/// The store answers whoever asks: only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReactionsQuery {
    /// The tenant.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// The message's id.
    pub id: String,
    /// Only this reaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emoji: Option<String>,
    /// Behind this one, in the order of reactions and of users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Reacted>,
    /// The most users, 1 to [`MAX_REACTIONS`].
    pub limit: u16,
    /// The first place the reader may see (0: everything).
    pub visible_from: Seq,
}

/// A reaction of somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reacted {
    /// How.
    pub emoji: String,
    /// Who.
    pub user: Id,
}

/// Who reacted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactionsPage {
    /// How far the archive had read the log.
    pub watermark: Seq,
    /// Whether the archive has the message, and the reader may see it.
    pub found: bool,
    /// In the order of the reactions' bytes.
    pub reactions: Vec<ReactedBy>,
    /// The last of the page if there are more.
    pub next: Option<Reacted>,
}

/// Who reacted so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactedBy {
    /// How.
    pub emoji: String,
    /// How many there are in all.
    pub count: u64,
    /// Those on this page, in the order of their ids.
    pub users: Vec<Id>,
}

impl ReactionsQuery {
    /// What serde cannot tell: the limit, and whether a reaction can be one.
    ///
    /// # Errors
    /// `invalid-request`, with what to change.
    pub fn check(&self) -> Result<(), Problem> {
        if !(1..=MAX_REACTIONS).contains(&self.limit) {
            return Err(Problem::invalid(format!("`limit` must be 1 to {MAX_REACTIONS}")));
        }
        let is_one =
            |emoji: &String| (1..=MAX_EMOJI_BYTES).contains(&emoji.len()) && !emoji.chars().any(char::is_control);
        if self.emoji.as_ref().is_some_and(|emoji| !is_one(emoji)) {
            return Err(Problem::invalid(format!(
                "`emoji` must be 1 to {MAX_EMOJI_BYTES} bytes without control characters"
            )));
        }
        Ok(())
    }
}
