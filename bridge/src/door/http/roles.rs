//! Roles, and who has which in the tenant.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::{HeaderMap, StatusCode};
use natterjack_nats_config::contract::{Id, Problem, RoleBody, RoleScope, UserBody};
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, json};
use super::form::{header_key, read_json};
use super::params::{KeyOrBody, OfRole, OfUser};
use super::query::Fields;
use super::routes::{Path, read_body};
use super::{DoorState, openapi};
use crate::door::auth::Caller;
use crate::ops;

type Door = State<Arc<DoorState>>;

/// `PUT /v1/roles/{role}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RolePut {
    scope: RoleScope,
    permissions: Vec<String>,
}

/// `PUT /v1/users/{user}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserPut {
    role: Option<Id>,
}

#[utoipa::path(
    get,
    path = "/v1/roles",
    tag = "managing",
    responses((status = 200, description = "Every role: built in, and the tenant's own", body = openapi::RolesPage)),
)]
pub(super) async fn list(State(door): Door, caller: Caller) -> Answer {
    let roles = ops::roles(&door.bridge, &caller.who)?;
    json(StatusCode::OK, &json!({"roles": roles, "next": null}))
}

#[utoipa::path(
    get,
    path = "/v1/roles/{role}",
    tag = "managing",
    params(
        OfRole,
        ("scope" = Option<String>, Query, description = "`tenant` or `room`, for names that are in both; `room` by default"),
    ),
    responses((status = 200, description = "The role", body = openapi::Role)),
)]
pub(super) async fn show(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["scope"])?;
    let scope = match fields.text("scope") {
        None | Some("") => None,
        Some("tenant") => Some(RoleScope::Tenant),
        Some("room") => Some(RoleScope::Room),
        Some(_) => return Err(Problem::invalid("`scope` must be tenant or room").into()),
    };
    let role = ops::show_role(&door.bridge, &caller.who, &path.id("role")?, scope)?;
    json(StatusCode::OK, &role)
}

#[utoipa::path(
    put,
    path = "/v1/roles/{role}",
    tag = "managing",
    params(OfRole, KeyOrBody),
    request_body = openapi::RolePut,
    responses((status = 200, description = "It stands in the log", body = openapi::Changed)),
)]
pub(super) async fn put(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let role = path.id("role")?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let RolePut { scope, permissions } = read_json(&headers, &body)?;
    let body = RoleBody {
        role,
        scope,
        permissions: Some(permissions),
    };
    let changed = ops::put_role(&door.bridge, &caller.who, &body, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}

#[utoipa::path(
    delete,
    path = "/v1/roles/{role}",
    tag = "managing",
    params(OfRole, KeyOrBody),
    responses((status = 200, description = "It stands in the log", body = openapi::Changed)),
)]
pub(super) async fn remove(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    let role = path.id("role")?;
    let changed = ops::delete_role(&door.bridge, &caller.who, role, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}

#[utoipa::path(
    put,
    path = "/v1/users/{user}",
    tag = "managing",
    params(OfUser, KeyOrBody),
    request_body = openapi::UserPut,
    responses((status = 200, description = "It stands in the log", body = openapi::Changed)),
)]
pub(super) async fn put_user(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let user = path.id("user")?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let UserPut { role } = read_json(&headers, &body)?;
    let body = UserBody {
        user,
        role,
        claimed: None,
    };
    let changed = ops::put_user(&door.bridge, &caller.who, body, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}
