//! The bridge: HTTP and native requests in front, the log and its writer behind.
//!
//! A request flows `door → ops → bundle → writer`; what the log then says flows `feed → ops → door`. `feed` folds the
//! whole log once and wakes whom an event concerns, `ops` holds one function per operation, and the doors only
//! translate. The bridge decides nothing about writing: the writer does.

mod bundle;
mod config;
mod door;
mod error;
mod feed;
mod health;
mod metrics;
mod ops;
mod proxies;
mod run;
mod tls;

use natterjack_nats_config::Subjects;

pub use config::{BridgeConfig, Caps};
pub use error::BridgeError;
pub use proxies::{ForwardedHeader, NoNetwork, Proxies};
pub use run::run;
pub use tls::{Tls, TlsError};

/// The OpenAPI document of the HTTP API, as `/openapi.json` has it.
#[must_use]
pub fn openapi() -> serde_json::Value {
    serde_json::to_value(door::document()).unwrap_or_default()
}

/// The `AsyncAPI` document of the subjects with this prefix, as `/asyncapi.json` has it.
#[must_use]
pub fn asyncapi(subjects: &Subjects) -> serde_json::Value {
    door::subjects_document(subjects)
}
