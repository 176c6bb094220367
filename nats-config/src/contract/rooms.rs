use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Head, Id, Problem, SearchRoom, Seq};

/// The verb of the endpoint for where rooms stand: `chat.store.rooms`.
pub const ROOMS_VERB: &str = "rooms";
/// The most rooms that are asked for at once: their names are some tens of KiB of a request.
pub const MAX_ROOMS: usize = 1000;
/// The largest last message that is shown with its room, in bytes; a larger one is in history.
pub const MAX_LAST_MESSAGE_BYTES: usize = 2048;
/// The most bytes of last messages in an answer: half of `max_payload`.
pub const MAX_LAST_MESSAGES_BYTES: usize = 512 * 1024;

/// Asks the store where rooms stand, and what of them a user has read.
///
/// The store answers whoever asks: only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomsQuery {
    /// The tenant.
    pub tenant: Id,
    /// Who reads.
    pub user: Id,
    /// The rooms, at most [`MAX_ROOMS`], and what of each the reader may see.
    pub rooms: Vec<SearchRoom>,
}

/// Where rooms stand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomsPage {
    /// How far the archive had read the log.
    pub watermark: Seq,
    /// Those of the rooms that the archive knows, in the order of the query.
    pub rooms: Vec<RoomStanding>,
}

/// Where a room stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomStanding {
    /// The room.
    pub room: Id,
    /// Its last event.
    pub last: Head,
    /// Its last message as it now stands; none if there is none that the reader may see, or it is larger than
    /// [`MAX_LAST_MESSAGE_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<Box<RawValue>>,
    /// The last event that the user has read; whoever wrote the room's last message has read up to there.
    pub read: Head,
    /// How many events there are behind that.
    pub unread: u64,
}

impl RoomsQuery {
    /// What serde cannot tell: how many rooms there are.
    ///
    /// # Errors
    /// `invalid-request`.
    pub fn check(&self) -> Result<(), Problem> {
        if self.rooms.len() > MAX_ROOMS {
            return Err(Problem::invalid(format!("at most {MAX_ROOMS} rooms at once")));
        }
        Ok(())
    }
}
