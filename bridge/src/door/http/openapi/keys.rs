//! API keys.

use serde::Deserialize;
use utoipa::ToSchema;

use super::{Receipt, SettledState};

/// An API key that is to be made.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct NewKey {
    /// Whose; the caller's own by default.
    #[serde(default)]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    user: Option<String>,
    /// What it is for: 1 to 128 bytes without control characters.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// When it ends; without, when it is revoked.
    #[serde(default)]
    #[schema(nullable = false, format = DateTime)]
    expires: Option<String>,
}

/// An API key that was made.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct MadeKey {
    id: String,
    user: String,
    name: String,
    #[schema(required)]
    expires: Option<String>,
    /// The key itself: a secret, and shown this once.
    key: String,
    receipt: Receipt,
    /// Whether every authz worker knows it, so that NATS takes it.
    state: SettledState,
}

/// An API key as it may be shown.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Key {
    id: String,
    user: String,
    name: String,
    created: String,
    #[schema(required)]
    expires: Option<String>,
}

/// A page of API keys.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct KeysPage {
    keys: Vec<Key>,
    #[schema(required)]
    next: Option<String>,
}
