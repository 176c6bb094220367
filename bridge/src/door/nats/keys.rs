//! API keys over NATS.

use bytes::Bytes;
use natterjack_nats_config::contract::{Actor, Id, Problem, ProblemCode};
use serde::Deserialize;
use serde_json::json as object;

use super::{json, read, read_or_default};
use crate::door::Auth;
use crate::ops::{self, Bridge, Listing, NewKey};

/// A key that is asked for. A connection does not say whether a token or a key opened it, and a key makes no keys: so the request
/// has the token, and counts as one by it. No `Debug`: it holds a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    #[serde(default)]
    token: String,
    #[serde(default)]
    user: Option<Id>,
    name: String,
    #[serde(default)]
    expires: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct KeysOf {
    user: Option<Id>,
    limit: Option<u64>,
    next: Option<Id>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    id: Id,
}

/// Answers `keys.{verb}`.
pub(super) async fn call(
    (bridge, auth): (&Bridge, &Auth),
    who: &Actor,
    verb: &str,
    payload: &[u8],
) -> Result<Bytes, Problem> {
    match verb {
        "create" => create((bridge, auth), who, read(payload)?).await,
        "list" => {
            let KeysOf { user, limit, next } = read_or_default(payload)?;
            let (keys, next) = ops::keys(bridge, who, user.as_ref(), &Listing::new(limit, next)?)?;
            json(&object!({"keys": keys, "next": next}))
        }
        "revoke" => {
            let Which { id } = read(payload)?;
            json(&ops::revoke_key(bridge, who, &id).await?)
        }
        _ => Err(Problem::new(ProblemCode::NotFound, "there is no such service")),
    }
}

async fn create((bridge, auth): (&Bridge, &Auth), who: &Actor, asked: Create) -> Result<Bytes, Problem> {
    let Create {
        token,
        user,
        name,
        expires,
    } = asked;
    if token.is_empty() {
        let detail = "API keys are made with a token, and this connection does not say what opened it: give the token as `token`";
        return Err(Problem::new(ProblemCode::TokenMissing, detail));
    }
    let by_token = auth.by_token_of(who, token).await?;
    json(&ops::make_key(bridge, &by_token, NewKey { user, name, expires }).await?)
}
