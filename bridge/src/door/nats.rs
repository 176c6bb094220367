//! The native door: the same operations as a NATS micro service (ADR-32). Tenant and user come from the subject; the
//! server lets a client publish only as itself.

mod erasures;
mod keys;
mod messages;
mod policy;
mod starting;

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, Request, Service, ServiceExt};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use natterjack_nats_config::Subjects;
use natterjack_nats_config::contract::{
    Actor, ApiCall, By, Id, MemberBody, Principal, Problem, ProblemCode, Retention, RoomBody, RoomHistory, RoomKind,
    Seq,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::door::Auth;
use crate::error::BridgeError;
use crate::ops::{self, Bridge, EventsQuery, HistoryAsk, Listing};

/// The service's name, and the queue group that several bridges share.
const NAME: &str = "natterjack-bridge";

/// What is offered: service and verb.
pub(crate) const OFFERED: &[(&str, &str)] = &[
    ("events", "get"),
    ("history", "get"),
    ("messages", "get"),
    ("messages", "edit"),
    ("messages", "delete"),
    ("messages", "react"),
    ("messages", "unreact"),
    ("messages", "pin"),
    ("messages", "unpin"),
    ("messages", "reactions"),
    ("threads", "get"),
    ("rooms", "list"),
    ("rooms", "put"),
    ("members", "list"),
    ("members", "put"),
    ("members", "remove"),
    ("me", "get"),
    ("sync", "get"),
    ("users", "list"),
    ("roles", "list"),
    ("roles", "put"),
    ("roles", "delete"),
    ("users", "put"),
    ("direct", "put"),
    ("bans", "list"),
    ("bans", "put"),
    ("bans", "remove"),
    ("auth", "explain"),
    ("erasures", "put"),
    ("erasures", "get"),
    ("erasures", "list"),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "revoke"),
];

/// Serves native clients.
pub(crate) struct NativeDoor {
    shared: Arc<Shared>,
    // Answers pings and stats as long as it is here.
    service: Service,
    endpoints: SelectAll<Endpoint>,
}

struct Shared {
    bridge: Arc<Bridge>,
    auth: Arc<Auth>,
    places: Semaphore,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EventsAsk {
    cursor: String,
    wait: Option<u64>,
    limit: Option<u64>,
    max_bytes: Option<u64>,
    rooms: Vec<Id>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryOf {
    room: Id,
    #[serde(default)]
    before: Option<Seq>,
    #[serde(default)]
    after: Option<Seq>,
    #[serde(default)]
    limit: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ListOf {
    limit: Option<u64>,
    next: Option<Id>,
    /// Whether to say where each stands.
    unread: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MembersOf {
    room: Id,
    #[serde(default)]
    joined: bool,
    #[serde(default)]
    limit: Option<u64>,
    #[serde(default)]
    next: Option<Id>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutRoom {
    room: Id,
    #[serde(default)]
    kind: RoomKind,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    retention: Option<Retention>,
    #[serde(default)]
    history: RoomHistory,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutMember {
    room: Id,
    user: Id,
    role: Id,
    #[serde(default)]
    visible_from: Option<Seq>,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveMember {
    room: Id,
    user: Id,
    #[serde(default)]
    key: Option<String>,
}

impl NativeDoor {
    /// Offers the service on NATS.
    pub(crate) async fn open((bridge, auth): (Arc<Bridge>, Arc<Auth>), places: usize) -> Result<Self, BridgeError> {
        let fail = |error: async_nats::Error| BridgeError::Service(error.to_string());
        let service = bridge
            .client
            .service_builder()
            .description("Natterjack's rooms for native clients: events, history, rooms and members")
            .queue_group(NAME)
            .start(NAME, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(fail)?;
        let mut endpoints = SelectAll::new();
        for (name, verb) in OFFERED {
            let subject = bridge.log.subjects.api_of_service(name, verb);
            let endpoint = service
                .endpoint_builder()
                .name(format!("{name}-{verb}"))
                .add(subject)
                .await
                .map_err(fail)?;
            endpoints.push(endpoint);
        }
        let shared = Shared {
            bridge,
            auth,
            places: Semaphore::new(places.max(1)),
        };
        Ok(Self {
            shared: Arc::new(shared),
            service,
            endpoints,
        })
    }

    /// Answers until `stop`; parked polls end by the bridge's own sign.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let Self {
            shared,
            service,
            mut endpoints,
        } = self;
        let work = TaskTracker::new();
        loop {
            let request = tokio::select! {
                request = endpoints.next() => request,
                () = stop.cancelled() => break,
            };
            let Some(request) = request else { break };
            if let Some(call) = shared.admit(&request) {
                work.spawn(Arc::clone(&shared).answer(request, call));
            }
        }
        // From here on the other bridges of the queue group get what comes.
        drop(endpoints);
        if let Err(error) = service.stop().await {
            tracing::debug!(%error, "the service did not stop");
        }
        work.close();
        work.wait().await;
    }
}

impl Shared {
    /// Only a reply subject made by the server's service import cannot be steered by whoever asks.
    fn admit(&self, request: &Request) -> Option<ApiCall> {
        let message = &request.message;
        let is_import = message
            .reply
            .as_ref()
            .is_some_and(|reply| Subjects::is_import_reply(reply));
        let call = self.bridge.log.subjects.parse_api(&message.subject);
        if is_import && call.is_some() {
            return call;
        }
        let dropped = self.bridge.metrics.native_dropped.inc() + 1;
        tracing::warn!(
            dropped,
            "dropped a request whose subject or reply subject no service import made"
        );
        None
    }

    async fn answer(self: Arc<Self>, request: Request, call: ApiCall) {
        let answer = match self.places.try_acquire() {
            Ok(_place) => {
                let _counted = self.bridge.metrics.busy("native_requests");
                self.call(&call, &request.message.payload).await
            }
            Err(_) => Err(Problem::new(
                ProblemCode::Overloaded,
                "too many requests at once; try again shortly",
            )),
        };
        let (payload, headers) = match answer {
            Ok(payload) => (payload, HeaderMap::new()),
            Err(problem) => (problem.to_json().into(), error_headers(&problem)),
        };
        if let Err(error) = request.respond_with_headers(Ok(payload), headers).await {
            tracing::debug!(%error, "an answer was not sent; whoever asked asks again");
        }
    }

    async fn call(&self, call: &ApiCall, payload: &[u8]) -> Result<Bytes, Problem> {
        let bridge = &*self.bridge;
        let who = &Actor {
            principal: Principal {
                tenant: call.tenant.clone(),
                user: call.user.clone(),
            },
            by: By::Connection,
        };
        bridge.begin_request(who)?;
        match (call.service.as_str(), call.verb.as_str()) {
            ("events", "get") => events(bridge, who, payload).await,
            ("history", "get") => history(bridge, who, payload).await,
            ("threads", "get") => messages::thread(bridge, who, payload).await,
            ("messages", verb) => messages::call(bridge, who, verb, payload).await,
            ("rooms", "list") => {
                let ask: ListOf = read_or_default(payload)?;
                rooms(bridge, who, ask).await
            }
            ("rooms", "put") => put_room(bridge, who, payload).await,
            ("members", "list") => members(bridge, who, payload).await,
            ("members", "put") => {
                let PutMember {
                    room,
                    user,
                    role,
                    visible_from,
                    key,
                } = read(payload)?;
                let body = MemberBody {
                    user,
                    role: Some(role),
                    visible_from,
                };
                json(&ops::put_member(bridge, who, room, body, key).await?)
            }
            ("members", "remove") => {
                let RemoveMember { room, user, key } = read(payload)?;
                json(&ops::remove_member(bridge, who, room, user, key).await?)
            }
            ("me" | "sync", _) | ("users", "list") => starting::call(bridge, who, &call.service, payload).await,
            ("erasures", verb) => erasures::call(bridge, who, verb, payload).await,
            ("keys", verb) => keys::call((bridge, &self.auth), who, verb, payload).await,
            name => policy::call(bridge, who, name, payload).await,
        }
    }
}

async fn events(bridge: &Bridge, who: &Principal, payload: &[u8]) -> Result<Bytes, Problem> {
    let ask: EventsAsk = read_or_default(payload)?;
    let numbers = [ask.wait, ask.limit, ask.max_bytes];
    let query = EventsQuery::new(ask.cursor, ask.rooms.into_iter().collect(), numbers)?;
    Ok(ops::events(bridge, who, query, None).await?.to_json())
}

async fn put_room(bridge: &Bridge, who: &Actor, payload: &[u8]) -> Result<Bytes, Problem> {
    let PutRoom {
        room,
        kind,
        title,
        retention,
        history,
        key,
    } = read(payload)?;
    let body = RoomBody {
        kind,
        title,
        retention,
        history,
        with: None,
    };
    json(&ops::put_room(bridge, who, room, &body, key).await?)
}

async fn rooms(bridge: &Bridge, who: &Actor, ask: ListOf) -> Result<Bytes, Problem> {
    let listing = Listing::new(ask.limit, ask.next)?;
    let (rooms, next) = if ask.unread {
        ops::rooms_standing(bridge, who, &listing).await?
    } else {
        ops::rooms(bridge, who, &listing)?
    };
    json(&json!({"rooms": rooms, "next": next}))
}

async fn members(bridge: &Bridge, who: &Actor, payload: &[u8]) -> Result<Bytes, Problem> {
    let ask: MembersOf = read(payload)?;
    let listing = Listing::new(ask.limit, ask.next)?;
    let (members, next) = if ask.joined {
        ops::members_joined(bridge, who, &ask.room, &listing).await?
    } else {
        ops::members(bridge, who, &ask.room, &listing)?
    };
    json(&json!({"members": members, "next": next}))
}

async fn history(bridge: &Bridge, who: &Actor, payload: &[u8]) -> Result<Bytes, Problem> {
    let HistoryOf {
        room,
        before,
        after,
        limit,
    } = read(payload)?;
    let page = ops::history(
        bridge,
        who,
        HistoryAsk {
            room,
            before,
            after,
            limit,
            pinned: false,
        },
    )
    .await?;
    json(&page.shown())
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(payload).map_err(|error| Problem::invalid(format!("the request: {error}")))
}

fn read_or_default<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, Problem> {
    if payload.is_empty() {
        Ok(T::default())
    } else {
        read(payload)
    }
}

fn json(value: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "an answer cannot be encoded");
        Problem::new(ProblemCode::Internal, "the answer cannot be encoded")
    })
}

fn error_headers(problem: &Problem) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_SERVICE_ERROR, &*problem.title);
    headers.insert(NATS_SERVICE_ERROR_CODE, problem.status.to_string().as_str());
    headers.insert("Content-Type", "application/problem+json");
    headers
}
