use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use natterjack_nats_config::contract::{
    Id, MemberBody, Problem, ProblemCode, Retention, RoomBody, RoomHistory, RoomKind, Seq,
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::DoorState;
use super::answer::{Answer, Refusal, json, json_bytes};
use super::form::{header_key, read_json};
use super::params::{InRoom, KeyOrBody, Listed, OfMember};
use super::query::{Fields, id};
use super::{
    asyncapi, bans, erasures, events, holds, hooks, keys, message, openapi, people, policy, reaction, read, reading,
    revocations, roles, send, sync, trail, ws,
};
use crate::door::auth::Caller;
use crate::ops::{self, Listing};

/// How long a client has for a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The document as it is served.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| serde_json::to_vec(&document()).unwrap_or_default().into());

type Door = State<Arc<DoorState>>;

/// The parts of a path, decoded.
pub(super) struct Path(Vec<(String, String)>);

/// `POST /v1/rooms`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRoom {
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    kind: RoomKind,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    retention: Option<Retention>,
    #[serde(default)]
    history: RoomHistory,
}

/// `PUT …/members/{user}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Membership {
    role: Id,
    #[serde(default)]
    visible_from: Option<Seq>,
}

/// Every path of the API.
pub(crate) fn router(state: Arc<DoorState>) -> Router {
    routes()
        .0
        .route_layer(middleware::from_fn(name_route))
        .with_state(state)
}

/// The document that describes every path of the API.
pub(crate) fn document() -> OpenApi {
    routes().1
}

fn routes() -> (Router<Arc<DoorState>>, OpenApi) {
    let (router, api) = OpenApiRouter::new()
        .routes(routes!(send::send, reading::history))
        .routes(routes!(send::send_by_key))
        .routes(routes!(send::batch))
        .routes(routes!(message::show, message::edit, message::remove))
        .routes(routes!(reaction::react, reaction::unreact))
        .routes(routes!(reaction::pin, reaction::unpin))
        .routes(routes!(reaction::list))
        .routes(routes!(reading::pins))
        .routes(routes!(read::mark))
        .routes(routes!(send::typing))
        .routes(routes!(reading::search))
        .routes(routes!(reading::thread))
        .routes(routes!(events::events))
        .routes(routes!(events::stream))
        .routes(routes!(events::ticket))
        .routes(routes!(ws::talk))
        .routes(routes!(sync::sync))
        .routes(routes!(rooms, new_room))
        .routes(routes!(room, put_room))
        .routes(routes!(members))
        .routes(routes!(member, put_member, remove_member))
        .routes(routes!(bans::list))
        .routes(routes!(bans::show, bans::put, bans::lift))
        .routes(routes!(policy::direct))
        .routes(routes!(hooks::make))
        .routes(routes!(hooks::post))
        .routes(routes!(people::me))
        .routes(routes!(people::users))
        .routes(routes!(roles::list))
        .routes(routes!(roles::show, roles::put, roles::remove))
        .routes(routes!(roles::put_user))
        .routes(routes!(policy::explain, policy::explain_posted))
        .routes(routes!(revocations::revoke))
        .routes(routes!(keys::make, keys::list))
        .routes(routes!(keys::revoke))
        .routes(routes!(trail::trail))
        .routes(routes!(holds::list))
        .routes(routes!(holds::hold_room, holds::release_room))
        .routes(routes!(holds::hold_user, holds::release_user))
        .routes(routes!(erasures::erase, erasures::list))
        .routes(routes!(erasures::show))
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(described))
        .routes(routes!(asyncapi::asyncapi))
        .split_for_parts();
    (router, openapi::complete(api))
}

#[utoipa::path(
    get,
    path = "/v1/rooms",
    tag = "rooms",
    params(
        Listed,
        (
            "unread" = Option<bool>,
            Query,
            description = "With `true` also where each stands by the archive: last event and message, what is read and unread",
        ),
    ),
    responses((status = 200, description = "The caller's rooms", body = openapi::RoomsPage)),
)]
async fn rooms(State(door): Door, caller: Caller, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["limit", "next", "unread"])?;
    let listing = listing_of(&fields)?;
    let (rooms, next) = if is_set(&fields, "unread")? {
        ops::rooms_standing(&door.bridge, &caller.who, &listing).await?
    } else {
        ops::rooms(&door.bridge, &caller.who, &listing)?
    };
    json(
        StatusCode::OK,
        &json!({"rooms": rooms, "next": next.map(|id| next_of(&id))}),
    )
}

#[utoipa::path(
    post,
    path = "/v1/rooms",
    tag = "rooms",
    params(KeyOrBody),
    request_body = openapi::NewRoom,
    responses(
        (status = 201, description = "It is new", body = openapi::RoomMade),
        (status = 200, description = "It was changed, or this is a repetition", body = openapi::RoomMade),
    ),
)]
async fn new_room(State(door): Door, caller: Caller, request: Request) -> Answer {
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let new: NewRoom = read_json(&headers, &body)?;
    let id = match new.id {
        Some(id) => id,
        None => self::id("id", &uuid::Uuid::now_v7().simple().to_string())?,
    };
    let body = RoomBody {
        kind: new.kind,
        title: new.title,
        retention: new.retention,
        history: new.history,
        with: None,
    };
    make_room(&door, &caller, id, &body, &headers).await
}

#[utoipa::path(
    put,
    path = "/v1/rooms/{room}",
    tag = "rooms",
    params(InRoom, KeyOrBody),
    request_body = openapi::RoomBody,
    responses(
        (status = 201, description = "It is new", body = openapi::RoomMade),
        (status = 200, description = "It was changed, or this is a repetition", body = openapi::RoomMade),
    ),
)]
async fn put_room(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let id = path.id("room")?;
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let body: RoomBody = read_json(&headers, &body)?;
    make_room(&door, &caller, id, &body, &headers).await
}

async fn make_room(door: &DoorState, caller: &Caller, id: Id, body: &RoomBody, headers: &HeaderMap) -> Answer {
    let key = header_key(headers)?;
    let made = ops::put_room(&door.bridge, &caller.who, id.clone(), body, key).await?;
    let is_new = made.receipt.n == 1 && !made.receipt.duplicate;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, &made)?;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/rooms/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

#[utoipa::path(
    get,
    path = "/v1/rooms/{room}",
    tag = "rooms",
    params(InRoom),
    responses((status = 200, description = "The room", body = openapi::Room)),
)]
async fn room(State(door): Door, caller: Caller, path: Path) -> Answer {
    json(
        StatusCode::OK,
        &ops::show_room(&door.bridge, &caller.who, &path.id("room")?)?,
    )
}

#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/members",
    tag = "rooms",
    params(
        InRoom,
        Listed,
        (
            "joined" = Option<bool>,
            Query,
            description = "With `true` also since when each is a member, by the archive",
        ),
    ),
    responses((status = 200, description = "Its members", body = openapi::MembersPage)),
)]
async fn members(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["joined", "limit", "next"])?;
    let (room, listing) = (path.id("room")?, listing_of(&fields)?);
    let (members, next) = if is_set(&fields, "joined")? {
        ops::members_joined(&door.bridge, &caller.who, &room, &listing).await?
    } else {
        ops::members(&door.bridge, &caller.who, &room, &listing)?
    };
    json(
        StatusCode::OK,
        &json!({"members": members, "next": next.map(|id| next_of(&id))}),
    )
}

#[utoipa::path(
    get,
    path = "/v1/rooms/{room}/members/{user}",
    tag = "rooms",
    params(OfMember),
    responses((status = 200, description = "One member", body = openapi::Member)),
)]
async fn member(State(door): Door, caller: Caller, path: Path) -> Answer {
    json(
        StatusCode::OK,
        &ops::show_member(&door.bridge, &caller.who, &path.id("room")?, &path.id("user")?)?,
    )
}

#[utoipa::path(
    put,
    path = "/v1/rooms/{room}/members/{user}",
    tag = "rooms",
    params(OfMember, KeyOrBody),
    request_body = openapi::Membership,
    responses((status = 200, description = "It stands in the log", body = openapi::Changed)),
)]
async fn put_member(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let (room, user) = (path.id("room")?, path.id("user")?);
    let (headers, body) = read_body(request, door.max_body_bytes).await?;
    let Membership { role, visible_from } = read_json(&headers, &body)?;
    let body = MemberBody {
        user,
        role: Some(role),
        visible_from,
    };
    let changed = ops::put_member(&door.bridge, &caller.who, room, body, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}

#[utoipa::path(
    delete,
    path = "/v1/rooms/{room}/members/{user}",
    tag = "rooms",
    params(OfMember, KeyOrBody),
    responses((status = 200, description = "It stands in the log", body = openapi::Changed)),
)]
async fn remove_member(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    let (room, user) = (path.id("room")?, path.id("user")?);
    let changed = ops::remove_member(&door.bridge, &caller.who, room, user, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}

/// Has the answer name the pattern of its path, for the metrics.
async fn name_route(route: MatchedPath, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.extensions_mut().insert(route);
    response
}

#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operation",
    responses((status = 200, description = "This document", body = serde_json::Value)),
)]
async fn described() -> Answer {
    Ok(json_bytes(StatusCode::OK, DOCUMENT.clone()))
}

/// Without a token, like the two below: it names nobody. A proxy in front need not let it through.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses(
        (
            status = 200,
            description = "For Prometheus",
            body = String,
            content_type = "application/openmetrics-text",
        ),
    ),
)]
async fn metrics(State(door): Door) -> Answer {
    let text = door.bridge.metrics.text(&door.bridge.levels()).map_err(|error| {
        tracing::error!(%error, "the metrics cannot be written");
        Problem::new(ProblemCode::Internal, "the metrics cannot be written")
    })?;
    let mut response = Response::new(text.into());
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    Ok(response)
}

#[utoipa::path(
    get,
    path = "/livez",
    tag = "operation",
    responses((status = 200, description = "The process is there", body = openapi::Live)),
)]
async fn livez() -> Answer {
    json(StatusCode::OK, &json!({"live": true}))
}

#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses((status = 200, description = "It can work", body = openapi::Ready)),
)]
async fn readyz(State(door): Door) -> Answer {
    let health = door.bridge.health.borrow().clone();
    if health.is_ready() {
        let mut told = serde_json::to_value(&health).map_err(|error| internal(&error))?;
        if let Some(told) = told.as_object_mut() {
            told.insert("ready".to_owned(), true.into());
        }
        return json(StatusCode::OK, &told);
    }
    let mut detail = format!("not ready yet, or not now; missing: {}", health.missing().join(", "));
    for degraded in &health.degraded {
        detail.push_str("; ");
        detail.push_str(degraded);
    }
    Err(Refusal(Problem::new(ProblemCode::BrokerUnavailable, detail)))
}

impl Path {
    pub(super) fn text(&self, name: &str) -> Result<&str, Problem> {
        let part = self
            .0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str());
        part.ok_or_else(|| Problem::invalid(format!("`{name}` is missing in the path")))
    }

    pub(super) fn id(&self, name: &str) -> Result<Id, Problem> {
        id(name, self.text(name)?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let no_utf8 = |_| Problem::invalid("the path is no UTF-8");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(no_utf8)?;
        Ok(Self(
            params
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        ))
    }
}

impl FromRequestParts<Arc<DoorState>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, door: &Arc<DoorState>) -> Result<Self, Refusal> {
        Ok(door.caller(&parts.headers, None).await?)
    }
}

pub(super) async fn read_body(request: Request, max: usize) -> Result<(HeaderMap, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let too_large = || Problem::new(ProblemCode::TooLarge, format!("the body is larger than {max} bytes"));
    let told = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|told| told > max) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_WITHIN, Limited::new(body, max).collect()).await {
        Ok(Ok(body)) => Ok((parts.headers, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::invalid("the body ended too early")),
        Err(_) => Err(Problem::invalid(format!(
            "the body did not come within {} s",
            BODY_WITHIN.as_secs()
        ))),
    }
}

pub(super) fn listing(request: &Request) -> Result<Listing, Problem> {
    listing_of(&Fields::parse(
        request.uri().query().unwrap_or_default(),
        &["limit", "next"],
    )?)
}

pub(super) fn listing_of(fields: &Fields) -> Result<Listing, Problem> {
    let after = fields
        .text("next")
        .filter(|next| !next.is_empty())
        .map(read_next)
        .transpose()?;
    Listing::new(fields.number("limit")?, after)
}

/// Whether something more is asked for.
fn is_set(fields: &Fields, name: &str) -> Result<bool, Problem> {
    match fields.text(name) {
        None | Some("" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::invalid(format!("`{name}` must be true or false"))),
    }
}

/// Where a list goes on. Opaque to clients: today the last entry's id.
pub(super) fn next_of(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(id.as_str())
}

fn read_next(next: &str) -> Result<Id, Problem> {
    let id = URL_SAFE_NO_PAD
        .decode(next)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
    id.ok_or_else(|| Problem::invalid("`next` is not from the page before; leave it out to start again"))
}

/// History may be kept by the client, but is asked for again each time: rights may have changed.
pub(super) fn with_etag(asked: &HeaderMap, body: Bytes) -> Response {
    let hash = Sha256::digest(&body);
    let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(hash.get(..16).unwrap_or_default()));
    let known = asked
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut response = if known.split(',').any(|known| known.trim() == etag) {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        json_bytes(StatusCode::OK, body)
    };
    let headers = response.headers_mut();
    headers.insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(ETAG, etag);
    }
    response
}

pub(super) fn internal(error: &serde_json::Error) -> Problem {
    tracing::error!(%error, "an answer cannot be encoded");
    Problem::new(ProblemCode::Internal, "the answer cannot be encoded")
}
