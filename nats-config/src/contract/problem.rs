use std::fmt;

use serde::{Deserialize, Serialize};

/// The stable `code` of a problem. Clients match this, never the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProblemCode {
    /// The request does not have the right form.
    InvalidRequest,
    /// The cursor is not one of ours.
    InvalidCursor,
    /// The cursor was made for another selection of rooms.
    CursorFilterMismatch,
    /// No token was given.
    TokenMissing,
    /// The token cannot be accepted.
    TokenInvalid,
    /// The token is past its `exp`.
    TokenExpired,
    /// The token was good, and was revoked.
    TokenRevoked,
    /// A permission is missing; the detail names it.
    Forbidden,
    /// It does not exist, or the caller may not see it.
    NotFound,
    /// Nobody who was asked knows the message that is to be changed: it is too old for the writer, or there is none.
    TargetUnknown,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// It exists already.
    Conflict,
    /// It must be kept: a legal hold covers it.
    LegalHold,
    /// What follows the cursor is not kept any more; `earliest_cursor` says where to go on.
    CursorExpired,
    /// The cursor is from another epoch of the log.
    EpochChanged,
    /// `if_last` is not the room's last event.
    SequenceConflict,
    /// Larger than a limit; the detail names it.
    TooLarge,
    /// A body of a media type that is not read here.
    UnsupportedMediaType,
    /// The key was used for another body.
    IdempotencyMismatch,
    /// A limit on rates or counts; the detail names it.
    RateLimited,
    /// A fault of ours.
    Internal,
    /// A queue is full.
    Overloaded,
    /// NATS or the writer did not answer in time; nothing is known to have happened.
    BrokerUnavailable,
    /// The append may or may not have happened: ask again with the same key.
    OutcomeUnknown,
    /// The archive is behind or down.
    StoreLagging,
    /// The keys of the token's issuer are not known now.
    IssuerUnavailable,
    /// A token of this user is being revoked, and a connection does not say whether it was opened by it.
    RevocationInProgress,
    /// The log is nearly full.
    LogFull,
}

/// An error as every door tells it: RFC 9457 `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:natterjack:problem:{code}`
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// The code in words.
    pub title: Box<str>,
    /// The HTTP status, also where the answer goes over NATS.
    pub status: u16,
    /// What clients match.
    pub code: ProblemCode,
    /// What is wrong here and what to do. Never a secret, a token or a message body.
    pub detail: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Which limit it is, for `rate-limited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limiter: Option<Box<str>>,
    /// What only some problems have; a box, because every outcome of every request has room for a problem.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub more: Option<Box<More>>,
    /// Names the request in the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Box<str>>,
}

/// What only some problems have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// Where to go on when a cursor has expired.
    pub earliest_cursor: String,
}

impl ProblemCode {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::InvalidRequest,
        Self::InvalidCursor,
        Self::CursorFilterMismatch,
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::Forbidden,
        Self::NotFound,
        Self::TargetUnknown,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::LegalHold,
        Self::CursorExpired,
        Self::EpochChanged,
        Self::SequenceConflict,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyMismatch,
        Self::RateLimited,
        Self::Internal,
        Self::Overloaded,
        Self::BrokerUnavailable,
        Self::OutcomeUnknown,
        Self::StoreLagging,
        Self::IssuerUnavailable,
        Self::RevocationInProgress,
        Self::LogFull,
    ];

    /// The HTTP status that goes with the code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::InvalidCursor | Self::CursorFilterMismatch => 400,
            Self::TokenMissing | Self::TokenInvalid | Self::TokenExpired | Self::TokenRevoked => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::TargetUnknown => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict | Self::LegalHold => 409,
            Self::CursorExpired | Self::EpochChanged => 410,
            Self::SequenceConflict => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::IdempotencyMismatch => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Overloaded
            | Self::BrokerUnavailable
            | Self::OutcomeUnknown
            | Self::StoreLagging
            | Self::IssuerUnavailable
            | Self::RevocationInProgress
            | Self::LogFull => 503,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(self.status(), 429 | 503)
    }

    /// The code as it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::InvalidCursor => "invalid-cursor",
            Self::CursorFilterMismatch => "cursor-filter-mismatch",
            Self::TokenMissing => "token-missing",
            Self::TokenInvalid => "token-invalid",
            Self::TokenExpired => "token-expired",
            Self::TokenRevoked => "token-revoked",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::TargetUnknown => "target-unknown",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::Conflict => "conflict",
            Self::LegalHold => "legal-hold",
            Self::CursorExpired => "cursor-expired",
            Self::EpochChanged => "epoch-changed",
            Self::SequenceConflict => "sequence-conflict",
            Self::TooLarge => "too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::IdempotencyMismatch => "idempotency-mismatch",
            Self::RateLimited => "rate-limited",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::BrokerUnavailable => "broker-unavailable",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::StoreLagging => "store-lagging",
            Self::IssuerUnavailable => "issuer-unavailable",
            Self::RevocationInProgress => "revocation-in-progress",
            Self::LogFull => "log-full",
        }
    }
}

impl Problem {
    /// A problem with a detail for a person: what is wrong and what to do.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:natterjack:problem:{}", code.as_str()).into(),
            title: code.as_str().replace('-', " ").into(),
            status: code.status(),
            code,
            detail: detail.into(),
            retryable: code.retryable(),
            retry_after_ms: code.retryable().then_some(1000),
            limiter: None,
            more: None,
            request_id: None,
        }
    }

    /// `invalid-request`.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemCode::InvalidRequest, detail)
    }

    /// `not-found` for a room, in the one wording that does not tell whether it exists.
    #[must_use]
    pub fn no_such_room() -> Self {
        Self::new(
            ProblemCode::NotFound,
            "there is no such room, or you are no member of it",
        )
    }

    /// `rate-limited` by a limiter; what was done too much of, and when to try again.
    #[must_use]
    pub fn rate_limited(limiter: &str, what: &str, retry_after_ms: u64) -> Self {
        Self {
            limiter: Some(limiter.into()),
            retry_after_ms: Some(retry_after_ms),
            ..Self::new(ProblemCode::RateLimited, format!("{what} (limiter: {limiter})"))
        }
    }

    /// `token-revoked`.
    #[must_use]
    pub fn token_revoked() -> Self {
        Self::new(ProblemCode::TokenRevoked, "the token was revoked; sign in again")
    }

    /// `forbidden` for who is blocked in the tenant.
    #[must_use]
    pub fn blocked() -> Self {
        Self::new(ProblemCode::Forbidden, "you are blocked in this tenant")
    }

    /// `revocation-in-progress`.
    #[must_use]
    pub fn revocation_in_progress() -> Self {
        Self::new(
            ProblemCode::RevocationInProgress,
            "tokens of this user are being revoked; try again in a moment, over a connection opened by a good one",
        )
    }

    /// As JSON bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_all() {
        // The last variant's number: a new one behind it, or anywhere, makes this differ.
        assert_eq!(ProblemCode::LogFull as usize + 1, ProblemCode::ALL.len());
        let names: std::collections::BTreeSet<_> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ProblemCode::ALL.len());
    }

    #[test]
    fn the_code_in_json_is_the_code_in_words() {
        let problem = Problem::new(ProblemCode::IdempotencyMismatch, "x");
        let json: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
        assert_eq!(json["code"], problem.code.as_str());
        assert_eq!(json["status"], 422);
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    #[test]
    fn what_only_some_problems_have_stands_beside_the_rest() {
        let mut problem = Problem::new(ProblemCode::CursorExpired, "x");
        assert!(!String::from_utf8(problem.to_json()).unwrap().contains("earliest"));
        let earliest_cursor = "abc".to_owned();
        problem.more = Some(Box::new(More { earliest_cursor }));
        let json: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
        assert_eq!(
            (&json["earliest_cursor"], &json["status"]),
            (&"abc".into(), &410.into())
        );
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
