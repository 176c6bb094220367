use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Id, Problem, Seq};

/// The verb of the search endpoint: `chat.store.search`.
pub const SEARCH_VERB: &str = "search";
/// The most results of a search.
pub const MAX_SEARCH_LIMIT: u16 = 100;
/// The results of a search that names no limit.
pub const DEFAULT_SEARCH_LIMIT: u16 = 20;
/// The most bytes of a query.
pub const MAX_SEARCH_BYTES: usize = 256;
/// The most rooms that are searched at once: their names are some hundred KiB of a request.
pub const MAX_SEARCH_ROOMS: usize = 2000;

/// Asks the store for messages with certain words.
///
/// The store answers whoever asks: only who has checked the reader's rights may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchQuery {
    /// The tenant.
    pub tenant: Id,
    /// The words, all of which a message must have.
    pub q: String,
    /// The rooms that the reader may read and wants to search.
    pub rooms: Vec<SearchRoom>,
    /// Only what this user sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Id>,
    /// The most results, 1 to [`MAX_SEARCH_LIMIT`].
    #[serde(default = "default_limit")]
    pub limit: u16,
}

/// A room, and what of it the reader may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRoom {
    /// The room.
    pub id: Id,
    /// The first place the reader may see (0: everything).
    #[serde(default)]
    pub visible_from: Seq,
}

/// What was found, the best first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SearchPage {
    /// How far the archive had read the log: nothing behind it was found.
    pub watermark: Seq,
    /// How far the index had read the archive: a little behind it, on its way.
    pub indexed: Seq,
    /// What was found.
    pub results: Vec<SearchResult>,
    /// Whether there is more than the limit, or than fits an answer.
    pub more: bool,
}

/// A message that was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SearchResult {
    /// Where in its text.
    pub snippet: Snippet,
    /// The event's exact JSON.
    pub message: Box<RawValue>,
}

/// The part of a text in which something was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snippet {
    /// What stands before it, shortened.
    pub before: String,
    /// What was found, as it is written there; empty if no word of the query stands there as it is.
    pub found: String,
    /// What stands behind it, shortened.
    pub after: String,
}

impl SearchQuery {
    /// What serde cannot tell.
    ///
    /// # Errors
    /// `invalid-request`, with what to change.
    pub fn check(&self) -> Result<(), Problem> {
        if self.q.len() > MAX_SEARCH_BYTES {
            return Err(Problem::invalid(format!("`q` is longer than {MAX_SEARCH_BYTES} bytes")));
        }
        if !(1..=MAX_SEARCH_LIMIT).contains(&self.limit) {
            return Err(Problem::invalid(format!("`limit` must be 1 to {MAX_SEARCH_LIMIT}")));
        }
        if self.rooms.len() > MAX_SEARCH_ROOMS {
            let detail = format!("more than {MAX_SEARCH_ROOMS} rooms would be searched: name one with `room`");
            return Err(Problem::invalid(detail));
        }
        Ok(())
    }
}

fn default_limit() -> u16 {
    DEFAULT_SEARCH_LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_with_its_defaults_and_checked() {
        let read = |rest: &str| {
            let json = format!(r#"{{"tenant":"main","q":"pump","rooms":[{{"id":"lobby"}}]{rest}}}"#);
            serde_json::from_str::<SearchQuery>(&json).unwrap()
        };
        let query = read("");
        assert_eq!(
            (query.limit, query.rooms[0].visible_from),
            (DEFAULT_SEARCH_LIMIT, Seq::ZERO)
        );
        query.check().unwrap();
        for (rest, wrong) in [(r#","limit":0"#, "limit"), (r#","limit":101"#, "limit")] {
            assert!(read(rest).check().unwrap_err().detail.contains(wrong));
        }
        let long = SearchQuery {
            q: "x".repeat(MAX_SEARCH_BYTES + 1),
            ..query.clone()
        };
        assert!(long.check().unwrap_err().detail.contains("`q`"));
        let wide = SearchQuery {
            rooms: vec![query.rooms[0].clone(); MAX_SEARCH_ROOMS + 1],
            ..query
        };
        assert!(wide.check().unwrap_err().detail.contains("`room`"));
    }
}
