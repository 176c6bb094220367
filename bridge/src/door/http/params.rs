//! The parameters that several paths have, each described once for the OpenAPI document.
#![expect(dead_code, reason = "the shapes describe parameters and are never made")]

use utoipa::IntoParams;

/// `/v1/rooms/{room}/…`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct InRoom {
    /// The room's id
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    room: String,
}

/// `/v1/rooms/{room}/messages/{id}/…`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfMessage {
    /// The room's id
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    room: String,
    /// The message's id
    #[param(min_length = 1, max_length = 128)]
    id: String,
}

/// `/v1/rooms/{room}/members/{user}`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfMember {
    /// The room's id
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    room: String,
    /// The user's id
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    user: String,
}

/// `/v1/…/users/{user}`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfUser {
    /// The user's id
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    user: String,
}

/// `/v1/roles/{role}`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfRole {
    /// The role's name
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    role: String,
}

/// `/v1/erasures/{seq}`
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfErasure {
    /// The erasure's `seq`
    #[param(pattern = "^[0-9]{1,16}$")]
    seq: String,
}

/// Of requests that may be sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Key {
    /// Makes it safe to send again
    #[param(rename = "Idempotency-Key")]
    key: Option<String>,
}

/// The same where the body may have it too.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct KeyOrBody {
    /// Makes it safe to send again; also `key` in the body
    #[param(rename = "Idempotency-Key")]
    key: Option<String>,
}

/// What a sender waits for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Acknowledged {
    /// `log` (default): after the flush to disk; `db`: when the archive has it too
    ack: Option<String>,
}

/// Of lists.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Listed {
    /// 1 to 200; 100 by default
    limit: Option<u64>,
    /// From the page before
    next: Option<String>,
}

/// Of messages in the order of the log.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paged {
    /// The page just before this `seq`
    before: Option<u64>,
    /// The page just behind this `seq`
    after: Option<u64>,
    /// 1 to 200; 50 by default
    limit: Option<u64>,
}
