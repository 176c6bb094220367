//! History for bridges: pages of a room's messages, straight from the archive, as a NATS micro service (ADR-32).
//!
//! Only workers can ask: clients have no right to publish on `chat.store.>`. Whoever asks has checked the reader's
//! rights, and hands a page out only once its own view of the log has reached the page's watermark.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use async_nats::service::{self, NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, ServiceExt, endpoint::Endpoint};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use natterjack_nats_config::contract::{
    ArchiveWatermark, ERASABLE_VERB, ERASURES_VERB, HISTORY_VERB, HOLDS_VERB, HistoryPage, HistoryQuery, HoldsQuery,
    MAX_HISTORY_BYTES, MEMBERS_VERB, MESSAGE_VERB, MembersQuery, PAST_VERB, PastPage, PastQuery, Problem, ProblemCode,
    REACTIONS_VERB, ROOMS_VERB, RoomsQuery, SEARCH_VERB, SearchQuery, Seq, Subjects, TRAIL_VERB, TrailQuery,
    WATERMARK_VERB,
};
use natterjack_nats_config::tail::Log;
use sea_orm::{DatabaseConnection, DbErr, Order};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::archive::{Database, now, replies, sql};
use crate::entity::changed;
use crate::erasure::{Known, erasable, erasures};
use crate::holds::holds;
use crate::members::members;
use crate::message::message;
use crate::past::past;
use crate::reactions::what_was_made_of_it;
use crate::retention;
use crate::rooms::rooms;
use crate::search::search;
use crate::trail::trail;

/// The name of the service, as `nats micro ls` shows it, and of the queue group that shares its work.
const SERVICE: &str = "natterjack-store";
/// Requests in work at a time: two for each connection to the database; a page holds up to 512 KiB.
const CONCURRENCY: usize = 16;
/// A request older than that has been given up by whoever asked (the workers' clients wait that long).
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a stop waits for what is in work.
const DRAIN: Duration = Duration::from_secs(3);

/// The service cannot work; nothing is answered.
#[derive(Debug, thiserror::Error)]
#[error("the history service cannot work: {0}")]
pub struct HistoryError(String);

#[derive(Debug, Clone, Copy)]
enum Verb {
    History,
    Members,
    Message,
    Past,
    Reactions,
    Rooms,
    Search,
    Holds,
    Erasable,
    Erasures,
    Trail,
    Watermark,
}

/// What is offered, and by which names.
const VERBS: [(Verb, &str); 12] = [
    (Verb::History, HISTORY_VERB),
    (Verb::Members, MEMBERS_VERB),
    (Verb::Message, MESSAGE_VERB),
    (Verb::Past, PAST_VERB),
    (Verb::Reactions, REACTIONS_VERB),
    (Verb::Rooms, ROOMS_VERB),
    (Verb::Search, SEARCH_VERB),
    (Verb::Trail, TRAIL_VERB),
    (Verb::Watermark, WATERMARK_VERB),
    (Verb::Holds, HOLDS_VERB),
    (Verb::Erasable, ERASABLE_VERB),
    (Verb::Erasures, ERASURES_VERB),
];

/// What is asked next to page on, and which messages go onto the page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// First and last message; none for an empty page.
    pub(crate) range: Option<sql::Range>,
    /// How many.
    pub(crate) count: usize,
    pub(crate) next: Option<Seq>,
}

/// Answers `chat.store.erasable`, `.erasures`, `.history`, `.holds`, `.members`, `.message`, `.past`, `.reactions`, `.rooms`, `.search`, `.trail` and `.watermark` until
/// `shutdown`; what is in work is answered first.
///
/// Any number of stores share the work. A request that is not valid, and a database that does not answer, is told by a
/// [`Problem`] with the headers `Nats-Service-Error` and `Nats-Service-Error-Code`.
pub async fn run(
    client: Client,
    database: Database,
    log: Log,
    shutdown: CancellationToken,
) -> Result<(), HistoryError> {
    let service = client
        .service_builder()
        .description("pages of a room's messages from the archive, and how far the archive is")
        .queue_group(SERVICE)
        .start(SERVICE, env!("CARGO_PKG_VERSION"))
        .await
        .map_err(|error| HistoryError(error.to_string()))?;
    let mut endpoints = Vec::new();
    for (verb, name) in VERBS {
        endpoints.push((verb, add(&service, &log.subjects, name).await?));
    }
    let mut serving = pin!(
        requests(endpoints).for_each_concurrent(CONCURRENCY, |(verb, request)| answer(
            (&database, &client),
            &log,
            verb,
            request
        ))
    );
    tokio::select! {
        () = &mut serving => return Err(HistoryError("the connection to NATS was closed".to_owned())),
        () = shutdown.cancelled() => {}
    }
    // Nothing new comes in; what has come is answered.
    if let Err(error) = service.stop().await {
        tracing::debug!(error, "the history service did not stop cleanly");
    }
    if tokio::time::timeout(DRAIN, serving).await.is_err() {
        tracing::warn!("requests for history were left unanswered; whoever asked asks again");
    }
    Ok(())
}

async fn add(service: &service::Service, subjects: &Subjects, verb: &str) -> Result<Endpoint, HistoryError> {
    let endpoint = service.endpoint_builder().name(verb);
    endpoint
        .add(subjects.store_service(verb))
        .await
        .map_err(|error| HistoryError(error.to_string()))
}

fn requests(endpoints: Vec<(Verb, Endpoint)>) -> impl Stream<Item = (Verb, service::Request)> {
    let endpoints = endpoints.into_iter();
    stream::select_all(endpoints.map(|(verb, endpoint)| endpoint.map(move |request| (verb, request))))
}

async fn answer((database, client): (&Database, &Client), log: &Log, verb: Verb, request: service::Request) {
    // Only a worker's inbox: this connection may publish to the log, and a reply subject is the asker's choice.
    if !request
        .message
        .reply
        .as_ref()
        .is_some_and(|reply| reply.starts_with(&Subjects::worker_inbox("")))
    {
        tracing::warn!(?verb, "a request without a worker's reply subject is dropped");
        return;
    }
    let connection = database.connection();
    let answered = tokio::time::timeout(DEADLINE, async {
        match verb {
            Verb::History => history(connection, log, &request.message.payload).await,
            Verb::Members => who_joined(connection, log, &request.message.payload).await,
            Verb::Message => what_became(connection, log, &request.message.payload).await,
            Verb::Past => what_was(connection, log, &request.message.payload).await,
            Verb::Reactions => what_was_made_of_it(connection, log, &request.message.payload).await,
            Verb::Rooms => what_is_read(connection, log, &request.message.payload).await,
            Verb::Search => what_is_found(connection, log, &request.message.payload).await,
            Verb::Trail => what_was_done(connection, log, &request.message.payload).await,
            Verb::Watermark => watermark(connection, log).await,
            Verb::Holds => what_is_held(connection, log, &request.message.payload).await,
            Verb::Erasable => what_can_be_erased(connection, log, &request.message.payload).await,
            Verb::Erasures => what_is_erased((connection, client), log, &request.message.payload).await,
        }
    });
    let answered = answered.await.unwrap_or_else(|_| Err(lagging()));
    let (payload, headers) = match answered {
        Ok(payload) => (payload, HeaderMap::new()),
        Err(problem) => (Bytes::from(problem.to_json()), error_headers(&problem)),
    };
    if let Err(error) = request.respond_with_headers(Ok(payload), headers).await {
        tracing::warn!(?verb, %error, "an answer was not sent; whoever asked asks again");
    }
}

async fn watermark(connection: &DatabaseConnection, log: &Log) -> Result<Bytes, Problem> {
    let watermark = sql::archived(connection, log)
        .await
        .map_err(|error| no_answer(&error))?;
    to_json(&ArchiveWatermark { watermark })
}

async fn history(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: HistoryQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no history query: {error}")))?;
    query.check()?;
    let (page, lines) = read(connection, log, &query).await.map_err(|error| no_answer(&error))?;
    let messages = lines.into_iter().map(raw).collect::<Result<_, _>>()?;
    to_json(&HistoryPage { messages, ..page })
}

async fn what_became(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of a message: {error}")))?;
    let shown = message(connection, log, &query).await;
    to_json(&shown.map_err(|error| no_answer(&error))??)
}

async fn what_was(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: PastQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of the past: {error}")))?;
    let (page, lines) = past(connection, log, &query).await.map_err(|error| no_answer(&error))?;
    let events = lines.into_iter().map(raw).collect::<Result<_, _>>()?;
    to_json(&PastPage { events, ..page })
}

async fn what_was_done(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: TrailQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of the trail: {error}")))?;
    query.check()?;
    let page = trail(connection, log, &query).await;
    to_json(&page.map_err(|error| no_answer(&error))??)
}

async fn what_is_held(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: HoldsQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of holds: {error}")))?;
    let page = holds(connection, log, &query).await;
    to_json(&page.map_err(|error| no_answer(&error))?)
}

async fn what_can_be_erased(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query = serde_json::from_slice(request)
        .map_err(|error| Problem::invalid(format!("no query before an erasure: {error}")))?;
    let found = erasable(connection, log, &query).await;
    to_json(&found.map_err(|error| no_answer(&error))?)
}

async fn what_is_erased(of: (&DatabaseConnection, &Client), log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of erasures: {error}")))?;
    let page = erasures(of, log, &query).await;
    to_json(&page.map_err(|error| no_answer(&error))?)
}

async fn who_joined(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: MembersQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of members: {error}")))?;
    query.check()?;
    let page = members(connection, log, &query).await;
    to_json(&page.map_err(|error| no_answer(&error))?)
}

async fn what_is_read(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: RoomsQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of rooms: {error}")))?;
    query.check()?;
    let page = rooms(connection, log, &query).await;
    to_json(&page.map_err(|error| no_answer(&error))??)
}

async fn what_is_found(connection: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: SearchQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no search query: {error}")))?;
    query.check()?;
    let found = search(connection, log, &query).await;
    to_json(&found.map_err(|error| no_answer(&error))??)
}

/// The page without its messages, and their lines as they now stand. The watermark is read first: what is below it does not
/// change. What has become of it may be later, and then the watermark is. From where on the room is whole is read last: what
/// is removed meanwhile is said to be missing.
pub(crate) async fn read(
    connection: &DatabaseConnection,
    log: &Log,
    query: &HistoryQuery,
) -> Result<(HistoryPage, Vec<Vec<u8>>), DbErr> {
    let (mut page, mut lines) = found(connection, log, query).await?;
    if let Some(id) = &query.thread {
        // Behind its answers: what it says of them is not older than they are.
        page.root = root(connection, log, query, id).await?;
        page.watermark = sql::archived(connection, log).await?;
        if page.root.is_none() {
            (page.next, lines) = (None, Vec::new());
        }
    }
    let horizon = retention::of_room(connection, log, (query.tenant.as_str(), query.room.as_str())).await?;
    let retained_from = Some(horizon).filter(|horizon| *horizon > query.visible_from);
    Ok((HistoryPage { retained_from, ..page }, lines))
}

async fn found(
    connection: &DatabaseConnection,
    log: &Log,
    query: &HistoryQuery,
) -> Result<(HistoryPage, Vec<Vec<u8>>), DbErr> {
    let watermark = sql::archived(connection, log).await?;
    let room = sql::Room {
        log,
        tenant: &query.tenant,
        id: &query.room,
    };
    let mut page = HistoryPage {
        watermark,
        messages: Vec::new(),
        root: None,
        next: None,
        retained_from: None,
    };
    let Some(range) = range(query, watermark) else {
        return Ok((page, Vec::new()));
    };
    let order = if query.after.is_some() { Order::Asc } else { Order::Desc };
    let most = u64::from(query.limit) + 1;
    let some = places(connection, room, query, (range, order.clone(), most)).await?;
    let sizes = match &some {
        Some(places) => sql::sizes_of(connection, now::events_of(log, places), (order, most)).await?,
        None => sql::sizes(connection, room, range, (order, most)).await?,
    };
    let changes = changes(connection, room, &sizes).await?;
    let now = |(seq, size): &(Seq, usize)| {
        let change = changes.get(&sql::bound(*seq));
        (*seq, change.map_or(*size, |change| change.size(*size)))
    };
    let cut = cut(&sizes.iter().map(now).collect::<Vec<_>>(), usize::from(query.limit));
    page.next = cut.next;
    let unfinished = Known::unfinished(connection, log).await?;
    let lines = match cut.range {
        Some(range) => lines(connection, room, (range, some)).await?,
        None => Vec::new(),
    };
    let lines = now::show(connection, log, (lines, &unfinished), &changes).await?;
    page.watermark = sql::archived(connection, log).await?;
    Ok((page, lines.into_iter().map(|(_, line)| line).collect()))
}

/// The message of a thread as it now stands, if the archive has it and the reader may see it.
async fn root(
    connection: &DatabaseConnection,
    log: &Log,
    query: &HistoryQuery,
    id: &str,
) -> Result<Option<Box<RawValue>>, DbErr> {
    let room = sql::Room {
        log,
        tenant: &query.tenant,
        id: &query.room,
    };
    let unfinished = Known::unfinished(connection, log).await?;
    let found = sql::by_id(connection, room, id).await?;
    let Some((seq, line)) = found.filter(|(seq, _)| *seq >= sql::bound(query.visible_from)) else {
        return Ok(None);
    };
    let place = (i64::from(log.epoch), i64::from(log.shard));
    let changes = now::at(connection, place, &[seq]).await?;
    let shown = now::show(connection, log, (vec![(seq, line)], &unfinished), &changes).await?;
    let line = shown.into_iter().next().map(|(_, line)| raw(line));
    // What is no JSON has been told to the log.
    Ok(line.and_then(Result::ok))
}

/// The places of those messages that the query is about, if it is not about all of the room's.
async fn places(
    connection: &DatabaseConnection,
    room: sql::Room<'_>,
    query: &HistoryQuery,
    (range, order, most): (sql::Range, Order, u64),
) -> Result<Option<Vec<i64>>, DbErr> {
    match &query.thread {
        Some(id) => replies::of_thread(connection, room, id, (range, order, most))
            .await
            .map(Some),
        None if query.pinned => now::pinned(connection, room, range, (order, most)).await.map(Some),
        None => Ok(None),
    }
}

/// The lines of the room's messages in a range: of some of them, or of all.
async fn lines(
    connection: &DatabaseConnection,
    room: sql::Room<'_>,
    (range, some): (sql::Range, Option<Vec<i64>>),
) -> Result<Vec<(i64, Vec<u8>)>, DbErr> {
    let Some(places) = some else {
        return sql::lines(connection, room, range).await;
    };
    let is_in = |place: &i64| (sql::bound(range.first)..=sql::bound(range.last)).contains(place);
    let places: Vec<i64> = places.into_iter().filter(is_in).collect();
    sql::lines_of(connection, now::events_of(room.log, &places)).await
}

/// How those of the messages stand that were changed.
async fn changes(
    connection: &DatabaseConnection,
    room: sql::Room<'_>,
    found: &[(Seq, usize)],
) -> Result<HashMap<i64, changed::Model>, DbErr> {
    let places = found.iter().map(|(seq, _)| *seq);
    match places.clone().min().zip(places.max()) {
        Some((first, last)) => now::of_room(connection, room, sql::Range { first, last }).await,
        None => Ok(HashMap::new()),
    }
}

/// The places that the query asks for; none if there cannot be any.
fn range(query: &HistoryQuery, watermark: Seq) -> Option<sql::Range> {
    let first = query
        .after
        .map_or(Seq::ZERO, |after| Seq(after.0.saturating_add(1)))
        .max(query.visible_from);
    let last = match query.before {
        Some(before) => watermark.min(Seq(before.0.checked_sub(1)?)),
        None => watermark,
    };
    (first <= last).then_some(sql::Range { first, last })
}

/// Cuts the page out of `found` (sequence and size, in the order of the query, one more than fits if there are more).
pub(crate) fn cut(found: &[(Seq, usize)], limit: usize) -> Cut {
    let mut bytes = 0usize;
    let fitting = found.iter().take(limit).take_while(|(_, size)| {
        let first = bytes == 0;
        bytes = bytes.saturating_add(size.saturating_add(1));
        first || bytes <= MAX_HISTORY_BYTES
    });
    let page: Vec<Seq> = fitting.map(|(seq, _)| *seq).collect();
    let range = page
        .iter()
        .min()
        .zip(page.iter().max())
        .map(|(first, last)| sql::Range {
            first: *first,
            last: *last,
        });
    let next = if page.len() < found.len() {
        page.last().copied()
    } else {
        None
    };
    Cut {
        range,
        count: page.len(),
        next,
    }
}

pub(crate) fn raw(line: Vec<u8>) -> Result<Box<RawValue>, Problem> {
    String::from_utf8(line)
        .ok()
        .and_then(|line| RawValue::from_string(line).ok())
        .ok_or_else(|| {
            tracing::error!("the archive holds an event that is no JSON: its database is damaged");
            Problem::new(ProblemCode::Internal, "the archive is damaged here")
        })
}

pub(crate) fn to_json(answer: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "an answer cannot be encoded");
        Problem::new(ProblemCode::Internal, "the answer cannot be encoded")
    })
}

pub(crate) fn no_answer(error: &DbErr) -> Problem {
    tracing::warn!(%error, "the archive's database does not answer");
    lagging()
}

fn lagging() -> Problem {
    Problem::new(ProblemCode::StoreLagging, "the archive does not answer now; try again")
}

fn error_headers(problem: &Problem) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_SERVICE_ERROR, problem.code.as_str());
    headers.insert(NATS_SERVICE_ERROR_CODE, problem.status.to_string());
    headers
}

#[cfg(test)]
mod tests;
