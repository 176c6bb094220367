use serde::Deserialize;
use utoipa::ToSchema;

use super::Standing;

/// The messages that answer one and are not deleted.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Replies {
    count: u64,
    /// `seq` of the last one.
    last: u64,
}

/// A message, and a page of those that answer it, oldest first.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Thread {
    message: Standing,
    replies: Vec<Standing>,
    /// What to ask next; none when there is no more.
    #[schema(required)]
    next: Option<u64>,
}

/// A page of who reacted to a message.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ReactionsPage {
    /// In the order of the reactions' bytes. One with many users goes on on the next page.
    reactions: Vec<ReactedBy>,
    #[schema(required)]
    next: Option<String>,
}

/// Who reacted so.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ReactedBy {
    emoji: String,
    /// How many there are in all.
    count: u64,
    /// Those on this page, in the order of their ids.
    users: Vec<String>,
}
