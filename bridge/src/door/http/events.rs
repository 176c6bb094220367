//! Events over HTTP: one page at a time (`GET /v1/events`), or as a stream of server-sent events.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::{ACCEPT, HeaderMap};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Actor, Problem};

use super::answer::{Answer, json_bytes};
use super::query::Fields;
use super::{DoorState, openapi};
use super::{sse, text};
use crate::door::auth::Caller;
use crate::ops::{self, EventsQuery, Reading};

/// Where a browser's `EventSource` says behind which cursor it goes on.
const LAST_EVENT_ID: &str = "last-event-id";
/// What `GET /v1/events` takes.
const FIELDS: &[&str] = &["cursor", "wait", "limit", "max_bytes", "rooms", "format", "ticket"];

/// How events are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Sse,
}

/// `GET /v1/events`
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "reading",
    params(
        (
            "cursor" = Option<String>,
            Query,
            description = "Where the reader stands: empty for now, `earliest` with `rooms` for the beginning",
        ),
        (
            "rooms" = Option<String>,
            Query,
            description = "Ids with commas between them; all of the caller's by default",
        ),
        ("ticket" = Option<String>, Query, description = "Instead of the header, once"),
        (
            "wait" = Option<u64>,
            Query,
            description = "Seconds to wait while there is nothing: 0 to 50; 25 by default",
        ),
        ("limit" = Option<u64>, Query, description = "The most events: 1 to 1000; 100 by default"),
        (
            "max_bytes" = Option<u64>,
            Query,
            description = "The most bytes of events: 1 to 786432; 262144 by default",
        ),
        (
            "format" = Option<String>,
            Query,
            description = "`json`, `text` (one room) or `sse`; else by `Accept`",
        ),
    ),
    responses(
        (
            status = 200,
            description = "What follows the cursor",
            content(
                (openapi::EventsPage = "application/json"),
                (String = "text/plain"),
                (String = "text/event-stream"),
            ),
        ),
    ),
)]
pub(super) async fn events(State(door): State<Arc<DoorState>>, request: Request) -> Answer {
    let mut fields = Fields::parse(request.uri().query().unwrap_or_default(), FIELDS)?;
    let format = format(request.headers(), fields.take("format").as_deref())?;
    let caller = door.caller(request.headers(), fields.take("ticket")).await?;
    if format == Format::Sse {
        return Box::pin(stream_to(door, &caller, request.headers(), fields)).await;
    }
    let numbers = [
        fields.number("wait")?,
        fields.number("limit")?,
        fields.number("max_bytes")?,
    ];
    // Its head is kilobytes, and the poll may be parked for long.
    drop(request);
    let query = EventsQuery::new(fields.take("cursor").unwrap_or_default(), fields.rooms()?, numbers)?;
    if format == Format::Text && query.rooms.only_room().is_none() {
        return Err(Problem::invalid("`format=text` tells one room: name it with `rooms=`").into());
    }
    let page = ops::events(&door.bridge, &caller.who, query, Some(&caller.session())).await?;
    match format {
        Format::Text => text::answer(&page),
        Format::Json | Format::Sse => Ok(json_bytes(StatusCode::OK, page.to_json())),
    }
}

/// `GET /v1/events/stream`
#[utoipa::path(
    get,
    path = "/v1/events/stream",
    tag = "reading",
    params(
        (
            "cursor" = Option<String>,
            Query,
            description = "Where the reader stands: empty for now, `earliest` with `rooms` for the beginning",
        ),
        (
            "rooms" = Option<String>,
            Query,
            description = "Ids with commas between them; all of the caller's by default",
        ),
        ("ticket" = Option<String>, Query, description = "Instead of the header, once"),
        ("Last-Event-ID" = Option<String>, Header, description = "A cursor; counts before `cursor`"),
    ),
    responses(
        (
            status = 200,
            description = "Server-sent events; each id is a cursor",
            body = String,
            content_type = "text/event-stream",
        ),
    ),
)]
pub(super) async fn stream(State(door): State<Arc<DoorState>>, request: Request) -> Answer {
    let mut fields = Fields::parse(
        request.uri().query().unwrap_or_default(),
        &["cursor", "rooms", "ticket"],
    )?;
    let caller = door.caller(request.headers(), fields.take("ticket")).await?;
    stream_to(door, &caller, request.headers(), fields).await
}

async fn stream_to(door: Arc<DoorState>, caller: &Caller, headers: &HeaderMap, mut fields: Fields) -> Answer {
    if ["wait", "limit", "max_bytes"]
        .iter()
        .any(|name| fields.text(name).is_some())
    {
        let detail =
            "a stream takes `cursor`, `rooms` and `ticket`; `wait`, `limit` and `max_bytes` are of single pages";
        return Err(Problem::invalid(detail).into());
    }
    // A browser that comes back repeats the first address and says in the header how far it got.
    let cursor = last_event_id(headers)?.or_else(|| fields.take("cursor"));
    let reading = Reading::begin(&door.bridge, &caller.who, fields.rooms()?, &cursor.unwrap_or_default())?;
    sse::answer(door, reading, caller.session()).await
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Problem::invalid("`Last-Event-ID` must be a cursor"))?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// `format=` says more clearly than `Accept` what is wanted.
fn format(headers: &HeaderMap, asked: Option<&str>) -> Result<Format, Problem> {
    match asked {
        Some("json") => return Ok(Format::Json),
        Some("text") => return Ok(Format::Text),
        Some("sse") => return Ok(Format::Sse),
        Some(_) => return Err(Problem::invalid("`format` must be json, text or sse")),
        None => {}
    }
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let ranges = accept.unwrap_or_default().split(',').map(|range| {
        let name = range.split(';').next().unwrap_or_default();
        name.trim().to_ascii_lowercase()
    });
    let ranges: Vec<String> = ranges.collect();
    let accepts = |name: &str| ranges.iter().any(|range| range == name);
    Ok(if accepts("text/event-stream") {
        Format::Sse
    } else if accepts("text/plain") && !accepts("application/json") && !accepts("*/*") {
        Format::Text
    } else {
        Format::Json
    })
}

/// `POST /v1/tickets`
#[utoipa::path(
    post,
    path = "/v1/tickets",
    tag = "reading",
    responses((status = 201, description = "Instead of the header, for one stream", body = openapi::Ticket)),
)]
pub(super) async fn ticket(State(door): State<Arc<DoorState>>, caller: Caller) -> Answer {
    let ticket = door.tickets.give(&caller, clock::now_ms());
    let good_for = crate::door::ticket::GOOD_FOR.as_secs();
    super::answer::json(
        StatusCode::CREATED,
        &serde_json::json!({"ticket": ticket, "expires_in": good_for}),
    )
}

impl DoorState {
    /// Who asks: whoever a ticket is of, else by the header.
    pub(super) async fn caller(&self, headers: &HeaderMap, ticket: Option<String>) -> Result<Caller, Problem> {
        let admit = |who: &Actor| self.bridge.admit(who);
        let caller = match ticket {
            // Boxed, like everything that is large and rare: what a poll may need is kept for each that is parked.
            Some(ticket) => Box::pin(self.tickets.take(&ticket, clock::now_ms(), admit)).await?,
            None => Box::pin(self.auth.caller(headers)).await?,
        };
        self.bridge.begin_request(&caller.who)?;
        Ok(caller)
    }
}

/// What an answer with events has beside them.
pub(super) fn unbuffered(response: &mut Response) {
    response
        .headers_mut()
        .insert("x-accel-buffering", http::HeaderValue::from_static("no"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_asked_for_by_a_parameter_or_by_accept() {
        let asked = |accept: Option<&str>, parameter: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            format(&headers, parameter).ok()
        };
        for (accept, parameter, expected) in [
            (None, None, Some(Format::Json)),
            (Some("*/*"), None, Some(Format::Json)),
            (Some("text/event-stream"), None, Some(Format::Sse)),
            (
                Some("application/json, text/Event-Stream;q=0.5"),
                None,
                Some(Format::Sse),
            ),
            (Some("text/plain"), None, Some(Format::Text)),
            (Some("text/plain, */*"), None, Some(Format::Json)),
            (Some("text/html, application/json"), None, Some(Format::Json)),
            (Some("text/event-stream"), Some("json"), Some(Format::Json)),
            (None, Some("sse"), Some(Format::Sse)),
            (None, Some("text"), Some(Format::Text)),
            (None, Some("xml"), None),
            (None, Some(""), None),
        ] {
            assert_eq!(asked(accept, parameter), expected, "{accept:?} {parameter:?}");
        }
    }

    #[test]
    fn the_last_event_s_id_is_a_cursor_or_nothing() {
        let read = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(LAST_EVENT_ID, http::HeaderValue::from_bytes(value).unwrap());
            last_event_id(&headers)
        };
        assert_eq!(last_event_id(&HeaderMap::new()), Ok(None));
        assert_eq!(read(b""), Ok(None));
        assert_eq!(read(b"abc"), Ok(Some("abc".to_owned())));
        assert!(read(b"\xff").is_err());
    }
}
