//! Erasures over NATS.

use bytes::Bytes;
use natterjack_nats_config::contract::{Actor, Problem, ProblemCode, Seq};
use serde::Deserialize;
use serde_json::json as object;

use super::{json, read, read_or_default};
use crate::ops::{self, Bridge};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    seq: Seq,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Before {
    before: Option<Seq>,
}

/// Answers `erasures.{verb}`.
pub(super) async fn call(bridge: &Bridge, who: &Actor, verb: &str, payload: &[u8]) -> Result<Bytes, Problem> {
    match verb {
        "put" => json(&ops::erase(bridge, who, read(payload)?).await?),
        "get" => {
            let Which { seq } = read(payload)?;
            json(&ops::erasure(bridge, who, seq).await?)
        }
        "list" => {
            let Before { before } = read_or_default(payload)?;
            let (erasures, next) = ops::erasures(bridge, who, (None, before)).await?;
            json(&object!({"erasures": erasures, "next": next}))
        }
        _ => Err(Problem::new(ProblemCode::NotFound, "there is no such service")),
    }
}
