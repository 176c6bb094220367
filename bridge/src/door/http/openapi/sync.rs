use serde::Deserialize;
use utoipa::ToSchema;

use super::Room;

/// A page of what a client that starts needs.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct SyncPage {
    /// The rooms that the caller may read, in the order of their ids.
    rooms: Vec<Room>,
    /// Where to go on with `/v1/events` once all pages are there: the same on each of them, from before the first was read.
    cursor: String,
    #[schema(required)]
    next: Option<String>,
}
