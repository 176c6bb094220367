//! Tokens: who somebody is, as a signed JWT (RFC 7519) says it.

mod api_key;
mod claims;
mod fetch;
mod issuer;
mod jwk;
mod key;
mod key_set;
mod remote;
mod settings;
mod trust;
mod verifier;

#[cfg(test)]
mod tests;

pub use api_key::{KEY_SESSION_MS, NewKey, is_api_key, session_by_key};
pub use claims::LEEWAY_MS;
pub use issuer::{Issuer, IssuerError, MAX_TTL};
pub use key::Algorithm;
pub use settings::{IssuerSettings, RoleMeaning, SettingsError, SettingsProblem};
pub use verifier::{ClaimedRole, KeyError, MAX_TOKEN_BYTES, Session, TokenError, Verifier};

/// The `iss` of tokens from the local issuer.
pub const ISSUER: &str = "natterjack";
/// The `aud` that a token for Natterjack must have.
pub const AUDIENCE: &str = "natterjack";
