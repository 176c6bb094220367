use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::response::Response;
use axum::routing::{get, post, put};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use natterjack_nats_config::contract::{
    Id, Kind, MemberBody, Principal, Problem, ProblemCode, RoomBody, RoomKind, SendPayload, Seq,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::DoorState;
use super::answer::{Answer, Refusal, json, json_bytes};
use super::form::{header_key, read_json, read_message};
use super::query::{Fields, id};
use crate::ops::{self, EventsQuery, HistoryAsk, Listing, SearchAsk};

/// How long a client has for a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

type Door = State<Arc<DoorState>>;

/// The parts of a path, decoded.
struct Path(Vec<(String, String)>);

/// The caller, after the token was checked.
struct Caller {
    who: Principal,
    expires_in: Duration,
}

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
    Router::new()
        .route("/v1/rooms/{room}/messages", post(send).get(history))
        .route("/v1/rooms/{room}/messages/by-key/{key}", put(send_by_key))
        .route("/v1/rooms/{room}/typing", post(typing))
        .route("/v1/events", get(events))
        .route("/v1/search", get(search))
        .route("/v1/rooms", get(rooms).post(new_room))
        .route("/v1/rooms/{room}", get(room).put(put_room))
        .route("/v1/rooms/{room}/members", get(members))
        .route(
            "/v1/rooms/{room}/members/{user}",
            get(member).put(put_member).delete(remove_member),
        )
        .route("/v1/me", get(me))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(state)
}

async fn send(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    send_with(&door, &caller, &path, None, request).await
}

async fn send_by_key(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let key = path.text("key")?.to_owned();
    send_with(&door, &caller, &path, Some(key), request).await
}

async fn send_with(door: &DoorState, caller: &Caller, path: &Path, key: Option<String>, request: Request) -> Answer {
    let room = path.id("room")?;
    Fields::parse(request.uri().query().unwrap_or_default(), &[])?;
    let (headers, body) = read_body(door, request).await?;
    let payload = read_message(&headers, key, &body)?;
    let location = room.clone();
    let receipt = ops::send(&door.bridge, &caller.who, room, Kind::Msg, payload).await?;
    let status = if receipt.duplicate {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut response = json(status, &receipt)?;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/rooms/{location}/messages/{}", receipt.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

async fn typing(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let room = path.id("room")?;
    Fields::parse(request.uri().query().unwrap_or_default(), &[])?;
    let (headers, body) = read_body(&door, request).await?;
    let payload = if body.is_empty() {
        SendPayload::from_native_of(Kind::Typing, &body).map_err(|error| Problem::invalid(error.to_string()))?
    } else {
        read_message(&headers, None, &body)?
    };
    let receipt = ops::tell(&door.bridge, &caller.who, room, Kind::Typing, payload).await?;
    json(StatusCode::ACCEPTED, &receipt)
}

async fn events(State(door): Door, caller: Caller, request: Request) -> Answer {
    let known = ["cursor", "wait", "limit", "max_bytes", "rooms"];
    let mut fields = Fields::parse(request.uri().query().unwrap_or_default(), &known)?;
    let numbers = [
        fields.number("wait")?,
        fields.number("limit")?,
        fields.number("max_bytes")?,
    ];
    let query = EventsQuery::new(fields.take("cursor").unwrap_or_default(), fields.rooms()?, numbers)?;
    let until = Instant::now() + caller.expires_in;
    let page = ops::events(&door.bridge, &caller.who, query, Some(until)).await?;
    Ok(json_bytes(StatusCode::OK, page.to_json()))
}

async fn history(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["before", "after", "limit"])?;
    let ask = HistoryAsk {
        room: path.id("room")?,
        before: fields.number("before")?.map(Seq),
        after: fields.number("after")?.map(Seq),
        limit: fields.number("limit")?,
    };
    let page = ops::history(&door.bridge, &caller.who, ask).await?;
    let body =
        serde_json::to_vec(&json!({"messages": page.messages, "next": page.next})).map_err(|error| internal(&error))?;
    Ok(with_etag(request.headers(), body.into()))
}

async fn search(State(door): Door, caller: Caller, request: Request) -> Answer {
    let mut fields = Fields::parse(
        request.uri().query().unwrap_or_default(),
        &["q", "room", "from", "limit"],
    )?;
    let given = |name: &'static str| fields.text(name).map(|text| id(name, text)).transpose();
    let ask = SearchAsk {
        room: given("room")?,
        from: given("from")?,
        limit: fields.number("limit")?,
        q: fields
            .take("q")
            .ok_or_else(|| Problem::invalid("`q` is missing: the words to find"))?,
    };
    json(StatusCode::OK, &ops::search(&door.bridge, &caller.who, ask).await?)
}

async fn rooms(State(door): Door, caller: Caller, request: Request) -> Answer {
    let (rooms, next) = ops::rooms(&door.bridge, &caller.who, &listing(&request)?)?;
    json(
        StatusCode::OK,
        &json!({"rooms": rooms, "next": next.map(|id| next_of(&id))}),
    )
}

async fn new_room(State(door): Door, caller: Caller, request: Request) -> Answer {
    let (headers, body) = read_body(&door, request).await?;
    let NewRoom { id, kind, title } = read_json(&headers, &body)?;
    let id = match id {
        Some(id) => id,
        None => self::id("id", &uuid::Uuid::now_v7().simple().to_string())?,
    };
    make_room(&door, &caller, id, &RoomBody { kind, title }, &headers).await
}

async fn put_room(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let id = path.id("room")?;
    let (headers, body) = read_body(&door, request).await?;
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

async fn room(State(door): Door, caller: Caller, path: Path) -> Answer {
    json(
        StatusCode::OK,
        &ops::show_room(&door.bridge, &caller.who, &path.id("room")?)?,
    )
}

async fn members(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let (members, next) = ops::members(&door.bridge, &caller.who, &path.id("room")?, &listing(&request)?)?;
    json(
        StatusCode::OK,
        &json!({"members": members, "next": next.map(|id| next_of(&id))}),
    )
}

async fn member(State(door): Door, caller: Caller, path: Path) -> Answer {
    json(
        StatusCode::OK,
        &ops::show_member(&door.bridge, &caller.who, &path.id("room")?, &path.id("user")?)?,
    )
}

async fn put_member(State(door): Door, caller: Caller, path: Path, request: Request) -> Answer {
    let (room, user) = (path.id("room")?, path.id("user")?);
    let (headers, body) = read_body(&door, request).await?;
    let Membership { role, visible_from } = read_json(&headers, &body)?;
    let body = MemberBody {
        user,
        role: Some(role),
        visible_from,
    };
    let changed = ops::put_member(&door.bridge, &caller.who, room, body, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}

async fn remove_member(State(door): Door, caller: Caller, path: Path, headers: HeaderMap) -> Answer {
    let (room, user) = (path.id("room")?, path.id("user")?);
    let changed = ops::remove_member(&door.bridge, &caller.who, room, user, header_key(&headers)?).await?;
    json(StatusCode::OK, &changed)
}

async fn me(State(door): Door, caller: Caller) -> Answer {
    #[derive(Serialize)]
    struct Shown {
        #[serde(flatten)]
        me: ops::Me,
        /// Seconds until the token expires.
        expires_in: u64,
    }
    let me = ops::me(&door.bridge, &caller.who)?;
    json(
        StatusCode::OK,
        &Shown {
            me,
            expires_in: caller.expires_in.as_secs(),
        },
    )
}

async fn livez() -> Answer {
    json(StatusCode::OK, &json!({"live": true}))
}

async fn readyz(State(door): Door) -> Answer {
    let health = *door.bridge.health.borrow();
    if health.is_ready() {
        return json(
            StatusCode::OK,
            &json!({"ready": true, "nats": true, "log": true, "writer": true}),
        );
    }
    let missing = [(health.nats, "nats"), (health.log, "log"), (health.writer, "writer")];
    let missing: Vec<_> = missing
        .into_iter()
        .filter_map(|(is_well, name)| (!is_well).then_some(name))
        .collect();
    let detail = format!("not ready yet, or not now; missing: {}", missing.join(", "));
    Err(Refusal(Problem::new(ProblemCode::BrokerUnavailable, detail)))
}

impl Path {
    fn text(&self, name: &str) -> Result<&str, Problem> {
        let part = self
            .0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str());
        part.ok_or_else(|| Problem::invalid(format!("`{name}` is missing in the path")))
    }

    fn id(&self, name: &str) -> Result<Id, Problem> {
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
        let (who, expires_in) = door.auth.caller(&parts.headers)?;
        Ok(Self { who, expires_in })
    }
}

async fn read_body(door: &DoorState, request: Request) -> Result<(HeaderMap, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let max = door.max_body_bytes;
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

fn listing(request: &Request) -> Result<Listing, Problem> {
    let fields = Fields::parse(request.uri().query().unwrap_or_default(), &["limit", "next"])?;
    let after = fields
        .text("next")
        .filter(|next| !next.is_empty())
        .map(read_next)
        .transpose()?;
    Listing::new(fields.number("limit")?, after)
}

/// Where a list goes on. Opaque to clients: today the last entry's id.
fn next_of(id: &Id) -> String {
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
fn with_etag(asked: &HeaderMap, body: Bytes) -> Response {
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

fn internal(error: &serde_json::Error) -> Problem {
    tracing::error!(%error, "an answer cannot be encoded");
    Problem::new(ProblemCode::Internal, "the answer cannot be encoded")
}
