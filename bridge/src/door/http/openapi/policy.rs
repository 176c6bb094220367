//! Shapes of what is about roles, bans and decisions.

use natterjack_authz::policy::Permission;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::RoomKind;

/// Somebody who may not be in a room.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct Ban {
    user: String,
    #[schema(required)]
    reason: Option<String>,
    /// The event that says so.
    since: u64,
}

/// A page of those who may not be in a room.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct BansPage {
    bans: Vec<Ban>,
    #[schema(required)]
    next: Option<String>,
}

/// Why somebody is banned; the body may be left out.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct BanPut {
    /// At most 256 bytes. Who reads the room reads it.
    #[serde(default)]
    reason: Option<String>,
}

/// A role: a built-in one, or one of the tenant's own.
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct Role {
    role: String,
    scope: RoleScope,
    #[schema(schema_with = verbs)]
    permissions: Vec<String>,
    built_in: bool,
    /// The event that made it what it is; none for a built-in one.
    #[serde(default)]
    #[schema(nullable = false)]
    since: Option<u64>,
}

/// Every role.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct RolesPage {
    roles: Vec<Role>,
    #[schema(required)]
    next: Option<String>,
}

/// What a role gives.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct RolePut {
    scope: RoleScope,
    #[schema(schema_with = verbs)]
    permissions: Vec<String>,
}

/// Where a role is given.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::door::http) enum RoleScope {
    Tenant,
    Room,
}

/// A user's role in the tenant.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct UserPut {
    /// `blocked` takes everything from the user; `null` gives back the default, `member`.
    #[schema(required)]
    role: Option<String>,
}

/// What is to be explained.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct ExplainAsk {
    /// About whom; the caller by default.
    #[serde(default)]
    user: Option<String>,
    #[schema(schema_with = verb)]
    permission: String,
    /// In which room; without one in the tenant.
    #[serde(default)]
    room: Option<String>,
}

/// A decision, explained.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct Explained {
    user: String,
    #[schema(schema_with = verb)]
    permission: String,
    #[schema(required)]
    room: Option<String>,
    allowed: bool,
    rule: Rule,
    /// What the log says that the rule looked at.
    facts: Vec<PolicyFact>,
}

/// The rule by which something was decided: the first two allow.
#[derive(ToSchema, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::door::http) enum Rule {
    RoomRole,
    TenantRole,
    Blocked,
    NoSuchTenant,
    NoSuchRoom,
    RoomKind,
    NoMember,
    RoleLacks,
}

/// Something that the log says. Which of the fields are there depends on `fact`: `tenant-role` (role, and the issuer whose tokens claim it), `room` (kind), `member` (role,
/// `visible_from`), `ban`, `role` (role, scope, permissions).
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::door::http) struct PolicyFact {
    fact: String,
    #[serde(default)]
    #[schema(nullable = false)]
    role: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    issuer: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    kind: Option<RoomKind>,
    #[serde(default)]
    #[schema(nullable = false)]
    visible_from: Option<u64>,
    #[serde(default)]
    #[schema(nullable = false)]
    scope: Option<RoleScope>,
    #[serde(default)]
    #[schema(nullable = false)]
    permissions: Option<Vec<String>>,
    /// The event that says so; none for a default, or where that is not known.
    #[schema(required)]
    seq: Option<u64>,
}

/// One of the permissions, or `send.as:` with what the ids begin with in whose names may be sent.
fn verb() -> Schema {
    let verbs = Permission::ALL.iter().map(|permission| permission.as_str());
    let verbs: Vec<_> = verbs.map(|verb| verb.replace('.', "\\.")).collect();
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(format!("^({}|send\\.as:[A-Za-z0-9_{{}}-]+)$", verbs.join("|"))))
        .into()
}

fn verbs() -> Schema {
    utoipa::openapi::ArrayBuilder::new()
        .items(utoipa::openapi::RefOr::T(verb()))
        .into()
}
