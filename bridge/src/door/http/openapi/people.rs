use serde::Deserialize;
use utoipa::ToSchema;

/// Who the caller is, and what they may do.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Me {
    tenant: String,
    user: String,
    /// The role in the tenant.
    role: String,
    /// What that role permits.
    permissions: Vec<String>,
    /// How many rooms the caller is in.
    rooms: u64,
    limits: Limits,
    /// When the token expires: RFC 3339, UTC.
    expires_at: String,
    /// Seconds until then.
    expires_in: u64,
}

/// How much the caller may do at a time.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Limits {
    /// The largest body of a request, in bytes; over HTTP.
    #[serde(default)]
    #[schema(nullable = false)]
    body_bytes: Option<u64>,
    /// The largest event, in bytes.
    event_bytes: u64,
    /// The longest idempotency key, in bytes.
    key_bytes: u64,
    /// Polls and streams that are parked at once; a younger one takes the place of the oldest.
    polls: u64,
    /// The longest that a poll waits.
    wait_seconds: u64,
    /// The most events in one answer.
    events: u64,
}

/// People the caller may know of.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct UsersPage {
    users: Vec<UserShown>,
    #[schema(required)]
    next: Option<String>,
}

#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct UserShown {
    user: String,
    /// The role in the tenant.
    role: String,
}
