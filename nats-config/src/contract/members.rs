use serde::{Deserialize, Serialize};

use super::{Id, Problem, Seq};

/// The verb of the endpoint for since when members are in a room: `chat.store.members`.
pub const MEMBERS_VERB: &str = "members";
/// The most members that are asked for at once: a page of a list.
pub const MAX_MEMBERS: usize = 200;

/// Asks the store since when members are in a room.
///
/// The store answers whoever asks: only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembersQuery {
    /// The tenant.
    pub tenant: Id,
    /// The room.
    pub room: Id,
    /// The members, at most [`MAX_MEMBERS`].
    pub users: Vec<Id>,
}

/// Since when members are in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersPage {
    /// How far the archive had read the log.
    pub watermark: Seq,
    /// Those of the members that the archive knows to be in the room.
    pub members: Vec<Joined>,
}

/// When somebody became a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Who.
    pub user: Id,
    /// The event by which they came in; a later change of role is another one.
    pub seq: Seq,
    /// Its time: RFC 3339, UTC, milliseconds.
    pub at: String,
}

impl MembersQuery {
    /// What serde cannot tell: how many members there are.
    ///
    /// # Errors
    /// `invalid-request`.
    pub fn check(&self) -> Result<(), Problem> {
        if self.users.len() > MAX_MEMBERS {
            return Err(Problem::invalid(format!("at most {MAX_MEMBERS} members at once")));
        }
        Ok(())
    }
}
