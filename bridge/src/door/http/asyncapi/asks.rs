//! What is asked of services, and what only they answer.

use std::borrow::Cow;

use serde::Deserialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::door::http::openapi::Limits;

/// `sync.get`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncAsk {
    #[schema(nullable = false, minimum = 1, maximum = 200)]
    limit: Option<u64>,
    /// From the page before.
    next: Option<String>,
}

/// `threads.get`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct ThreadAsk {
    room: String,
    /// The message's id.
    id: String,
    before: Option<u64>,
    after: Option<u64>,
    limit: Option<u64>,
}

/// `messages.reactions`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReactionsAsk {
    room: String,
    /// The message's id.
    id: String,
    /// Only this reaction.
    emoji: Option<String>,
    limit: Option<u64>,
    next: Option<String>,
}

/// `users.list`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersAsk {
    /// Part of an id, in whatever capitals.
    #[schema(nullable = false)]
    q: Option<String>,
    #[schema(nullable = false, minimum = 1, maximum = 200)]
    limit: Option<u64>,
    next: Option<String>,
}

/// `erasures.get`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErasureAsk {
    /// The erasure's place.
    seq: u64,
}

/// `erasures.list`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErasuresAsk {
    /// Those before this place.
    #[schema(nullable = false)]
    before: Option<u64>,
}

/// `keys.create`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyCreate {
    /// A token of the caller's, and no API key: the connection does not say what opened it.
    token: String,
    /// Whose; the caller's own by default.
    user: Option<String>,
    /// What it is for: 1 to 128 bytes without control characters.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// When it ends; without, when it is revoked.
    #[schema(format = DateTime)]
    expires: Option<String>,
}

/// `keys.list`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysAsk {
    /// Whose; the caller's own by default.
    user: Option<String>,
    limit: Option<u64>,
    next: Option<String>,
}

/// `keys.revoke`
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRevoke {
    #[schema(pattern = "^[0-9a-f]{24}$")]
    id: String,
}

/// Who the caller is, and what they may do.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    tenant: String,
    user: String,
    role: String,
    permissions: Vec<String>,
    rooms: u64,
    limits: Limits,
}

/// Their names and shapes.
pub(super) fn shapes() -> [(Cow<'static, str>, RefOr<Schema>); 10] {
    [
        (ErasureAsk::name(), ErasureAsk::schema()),
        (ErasuresAsk::name(), ErasuresAsk::schema()),
        (KeyCreate::name(), KeyCreate::schema()),
        (KeyRevoke::name(), KeyRevoke::schema()),
        (KeysAsk::name(), KeysAsk::schema()),
        (Own::name(), Own::schema()),
        (ReactionsAsk::name(), ReactionsAsk::schema()),
        (SyncAsk::name(), SyncAsk::schema()),
        (ThreadAsk::name(), ThreadAsk::schema()),
        (UsersAsk::name(), UsersAsk::schema()),
    ]
}
