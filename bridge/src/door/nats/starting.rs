//! What a client that starts asks for over NATS: where its rooms stand, and who there is.

use bytes::Bytes;
use natterjack_nats_config::contract::{Actor, Id, Problem};
use serde::Deserialize;
use serde_json::json as object;

use super::{json, read_or_default};
use crate::ops::{self, Bridge, Listing, SyncAsk};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct SyncOf {
    limit: Option<u64>,
    next: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct UsersOf {
    q: String,
    limit: Option<u64>,
    next: Option<Id>,
}

/// Answers `me.get`, `sync.get` and `users.list`.
pub(super) async fn call(bridge: &Bridge, who: &Actor, service: &str, payload: &[u8]) -> Result<Bytes, Problem> {
    match service {
        "sync" => {
            let SyncOf { limit, next } = read_or_default(payload)?;
            json(&ops::sync(bridge, who, SyncAsk { limit, next }).await?)
        }
        "users" => {
            let UsersOf { q, limit, next } = read_or_default(payload)?;
            let (users, next) = ops::users(bridge, who, &q, &Listing::new(limit, next)?)?;
            json(&object!({"users": users, "next": next}))
        }
        _ => json(&ops::me(bridge, who, None)?),
    }
}
