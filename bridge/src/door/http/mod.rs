//! The HTTP door: HTTP/1.0, HTTP/1.1 and h2c on one port.

mod answer;
mod asyncapi;
mod bans;
mod connection;
mod erasures;
mod events;
mod form;
mod frame;
mod holds;
mod hooks;
mod keys;
mod message;
mod openapi;
mod origins;
mod params;
mod people;
mod places;
mod policy;
mod query;
mod reaction;
mod read;
mod reading;
mod revocations;
mod roles;
mod routes;
mod seat;
mod send;
mod serve;
mod sse;
mod stall;
mod sync;
mod text;
mod trail;
mod ws;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use http::header::{HOST, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, Version};
use natterjack_nats_config::contract::{MAX_EVENT_BYTES, Problem};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_http::cors::CorsLayer;
use uuid::Uuid;

use super::auth::Auth;
use super::hook::Hooks;
use super::ticket::Tickets;
use crate::config::Caps;
use crate::metrics::Metrics;
use crate::ops::Bridge;
use crate::proxies::Proxies;
use crate::tls::Tls;
use answer::{REQUEST_ID, Refusal};
pub(crate) use asyncapi::document as subjects_document;
pub(crate) use origins::Origins;
use places::Places;
pub(crate) use routes::document;

const METHOD_OVERRIDE: &str = "x-http-method-override";

/// Serves HTTP.
pub(crate) struct HttpDoor {
    front: Front,
    tls: Option<Arc<Tls>>,
}

/// What the handlers may use.
pub(crate) struct DoorState {
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) tickets: Tickets,
    pub(crate) hooks: Hooks,
    pub(crate) origins: Origins,
    pub(crate) max_body_bytes: usize,
}

/// What every request passes before and after its handler. Cheap to clone.
#[derive(Clone)]
struct Front {
    router: Router,
    cors: Option<CorsLayer>,
    metrics: Arc<Metrics>,
    places: Arc<Places>,
    proxies: Arc<Proxies>,
    log_requests: bool,
}

impl HttpDoor {
    pub(crate) fn new(
        bridge: Arc<Bridge>,
        auth: Arc<Auth>,
        (tickets, hooks, origins): (Tickets, Hooks, Origins),
        (caps, log_requests): (&Caps, bool),
    ) -> Self {
        let max_body_bytes = caps.max_body_bytes.min(MAX_EVENT_BYTES);
        let (cors, metrics) = (origins.cors(), Arc::clone(&bridge.metrics));
        let state = DoorState {
            bridge,
            auth,
            tickets,
            hooks,
            origins,
            max_body_bytes,
        };
        Self {
            front: Front {
                router: routes::router(Arc::new(state)),
                cors,
                metrics,
                places: Places::new(caps.max_connections, caps.max_connections_per_address),
                proxies: Arc::default(),
                log_requests,
            },
            tls: None,
        }
    }

    /// Encrypted, if there is a certificate to show.
    pub(crate) fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    /// Behind proxies whose word on their clients' addresses counts.
    pub(crate) fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.front.proxies = Arc::new(proxies);
        self
    }
}

impl Front {
    /// Answers a request; where a browser asks for a page of elsewhere, with what it wants to know (CORS).
    async fn handle(&self, request: Request) -> Response {
        let Some(cors) = self.cors.as_ref().filter(|_| request.headers().contains_key(ORIGIN)) else {
            return self.answer(request).await;
        };
        let front = self.clone();
        let inner = tower::service_fn(move |request| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.answer(request).await) }
        });
        // Boxed, so that those who are no browsers do not keep room for it.
        match Box::pin(cors.layer(inner).oneshot(request)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn answer(&self, mut request: Request) -> Response {
        let started = Instant::now();
        let request_id = request_id(request.headers());
        let one_host = check_host(&request);
        // Who spoke HTTP/1.0 does not understand that a connection stays open.
        let is_last = one_host.is_err() || request.version() == Version::HTTP_10;
        // Copies: a piece of the head that is kept keeps all of it, as long as a poll is parked.
        let path = hooks::shown(request.uri());
        let (client, seat) = self.seat(&mut request);
        let checked = one_host
            .and_then(|()| seat.as_ref().map(|_| ()).map_err(Clone::clone))
            .and_then(|()| override_method(&mut request));
        let method = request.method().clone();
        let response = match checked {
            Ok(()) => match self.router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Err(problem) => Refusal(problem).into_response(),
        };
        let (status, took) = (response.status().as_u16(), started.elapsed());
        let route = response.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        self.metrics.answered(method.as_str(), route, status, took);
        self.log((&method, &path, client), status, took, &request_id);
        seat::keep(answer::finish(response, &request_id, is_last), seat.ok().flatten())
    }

    /// The access log: no query (cursors, tickets), no headers (tokens), no bodies.
    fn log(
        &self,
        (method, path, client): (&Method, &str, Option<IpAddr>),
        status: u16,
        took: Duration,
        request_id: &HeaderValue,
    ) {
        let ms = took.as_secs_f64() * 1000.0;
        let client = client.map(tracing::field::display);
        if self.log_requests || status >= 500 {
            tracing::info!(client, %method, path, status, ms, ?request_id, "request");
        } else {
            tracing::debug!(client, %method, path, status, ms, ?request_id, "request");
        }
    }
}

/// Of HTTP/1.1 there must be one `Host` (RFC 9112 §3.2): a proxy in front may believe the other one of two, so nothing that
/// follows on such a connection is taken for a request.
fn check_host(request: &Request) -> Result<(), Problem> {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(Problem::invalid("the request must have one header `Host`"));
    }
    Ok(())
}

/// For clients and proxies that know only GET and POST.
fn override_method(request: &mut Request) -> Result<(), Problem> {
    let Some(wanted) = request
        .headers()
        .get(METHOD_OVERRIDE)
        .filter(|_| request.method() == Method::POST)
    else {
        return Ok(());
    };
    let wanted = wanted.to_str().unwrap_or_default().to_ascii_uppercase();
    *request.method_mut() = match wanted.as_str() {
        "GET" => Method::GET,
        "PUT" => Method::PUT,
        "POST" => Method::POST,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => {
            return Err(Problem::invalid(
                "`X-HTTP-Method-Override` must be GET, PUT, POST, PATCH or DELETE",
            ));
        }
    };
    Ok(())
}

/// The caller's own id for the request if it is plain, else one of ours.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
    };
    let given = headers.get(REQUEST_ID).filter(is_plain);
    if let Some(copy) = given.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok()) {
        return copy;
    }
    let mut text = [0; uuid::fmt::Simple::LENGTH];
    let id = Uuid::now_v7().simple().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
}
