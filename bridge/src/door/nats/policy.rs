//! Roles, bans, rooms of two and explanations over NATS.

use bytes::Bytes;
use natterjack_nats_config::contract::{Actor, BanBody, Id, Problem, ProblemCode, RoleBody, RoleScope, UserBody};
use serde::Deserialize;
use serde_json::json as object;

use super::{json, read};
use crate::ops::{self, Bridge, ExplainAsk, Listing};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutRole {
    role: Id,
    scope: RoleScope,
    permissions: Vec<String>,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteRole {
    role: Id,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutUser {
    user: Id,
    role: Option<Id>,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Direct {
    user: Id,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BansOf {
    room: Id,
    #[serde(default)]
    limit: Option<u64>,
    #[serde(default)]
    next: Option<Id>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBan {
    room: Id,
    user: Id,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    key: Option<String>,
}

/// Answers `{service}.{verb}` of `auth`, `bans`, `direct`, `roles` and `users`.
pub(super) async fn call(bridge: &Bridge, who: &Actor, name: (&str, &str), payload: &[u8]) -> Result<Bytes, Problem> {
    match name {
        ("roles", "list") => json(&object!({"roles": ops::roles(bridge, who)?, "next": null})),
        ("roles", "put") => {
            let ask: PutRole = read(payload)?;
            let body = RoleBody {
                role: ask.role,
                scope: ask.scope,
                permissions: Some(ask.permissions),
            };
            json(&ops::put_role(bridge, who, &body, ask.key).await?)
        }
        ("roles", "delete") => {
            let DeleteRole { role, key } = read(payload)?;
            json(&ops::delete_role(bridge, who, role, key).await?)
        }
        ("users", "put") => {
            let PutUser { user, role, key } = read(payload)?;
            json(
                &ops::put_user(
                    bridge,
                    who,
                    UserBody {
                        user,
                        role,
                        claimed: None,
                    },
                    key,
                )
                .await?,
            )
        }
        ("direct", "put") => {
            let Direct { user } = read(payload)?;
            let (room, _) = ops::put_direct(bridge, who, user).await?;
            json(&room)
        }
        ("auth", "explain") => {
            let ask: ExplainAsk = read(payload)?;
            json(&ops::explain(bridge, who, ask)?)
        }
        ("bans", verb) => bans(bridge, who, verb, payload).await,
        _ => Err(Problem::new(ProblemCode::NotFound, "there is no such service")),
    }
}

async fn bans(bridge: &Bridge, who: &Actor, verb: &str, payload: &[u8]) -> Result<Bytes, Problem> {
    if verb == "list" {
        let BansOf { room, limit, next } = read(payload)?;
        let (bans, next) = ops::bans(bridge, who, &room, &Listing::new(limit, next)?)?;
        return json(&object!({"bans": bans, "next": next}));
    }
    let PutBan {
        room,
        user,
        reason,
        key,
    } = read(payload)?;
    let body = BanBody {
        user,
        banned: verb == "put",
        reason,
    };
    json(&ops::put_ban(bridge, who, room, body, key).await?)
}
