//! Tokens: who somebody is, as a signed JWT (RFC 7519) says it.

mod issuer;
mod verifier;

pub use issuer::{Issuer, IssuerError, MAX_TTL};
pub use verifier::{KeyError, MAX_TOKEN_BYTES, Session, TokenError, Verifier};

/// The `iss` of tokens from the local issuer.
pub const ISSUER: &str = "natterjack";
/// The `aud` that a token for Natterjack must have.
pub const AUDIENCE: &str = "natterjack";

/// What a token says beyond the registered claims.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Claims {
    tenant: natterjack_nats_config::Id,
}
