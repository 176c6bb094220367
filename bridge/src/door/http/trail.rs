use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use natterjack_nats_config::contract::{Kind, Problem, Seq};
use serde_json::json as object;

use super::answer::{Answer, json};
use super::query::{Fields, id};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops::{self, TrailAsk};

#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "managing",
    params(
        ("before" = Option<u64>, Query, description = "The page just before this `seq`"),
        ("actor" = Option<String>, Query, description = "Only what this user did, or of refused logins those that named this user"),
        ("kind" = Option<String>, Query, description = "`room`, `member`, `user`, `token`, `key` or `login`"),
        ("limit" = Option<u64>, Query, description = "1 to 200; 50 by default"),
    ),
    responses((status = 200, description = "A page of the audit trail, newest first", body = openapi::TrailPage)),
)]
pub(super) async fn trail(State(door): State<Arc<DoorState>>, caller: Caller, request: Request) -> Answer {
    let fields = Fields::parse(
        request.uri().query().unwrap_or_default(),
        &["before", "actor", "kind", "limit"],
    )?;
    let unknown = || Problem::invalid("`kind` must be room, member, user, token, key or login");
    let kind = match fields.text("kind") {
        Some(text) => Some(Kind::parse(text).filter(|kind| is_shown(*kind)).ok_or_else(unknown)?),
        None => None,
    };
    let ask = TrailAsk {
        before: fields.number("before")?.map(Seq),
        actor: fields.text("actor").map(|text| id("actor", text)).transpose()?,
        kind,
        limit: fields.number("limit")?,
    };
    let page = ops::trail(&door.bridge, &caller.who, ask).await?;
    json(StatusCode::OK, &object!({"entries": page.entries, "next": page.next}))
}

fn is_shown(kind: Kind) -> bool {
    kind.is_policy() || kind == Kind::Login
}
