use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use natterjack_authz::policy::readable;
use natterjack_nats_config::contract::{More, Principal, Problem, ProblemCode, Seq};
use tokio::time::Instant;

use super::Bridge;
use crate::feed::{CursorError, Filter, Heard, Page, PastError, Read, Reader, Woken};

/// The longest a poll is parked: below the minute after which proxies cut silent connections.
pub(crate) const MAX_WAIT_SECONDS: u64 = 50;
/// How long a poll is parked if it does not say.
pub(crate) const DEFAULT_WAIT_SECONDS: u64 = 25;
/// The most events in one answer.
pub(crate) const MAX_LIMIT: usize = 1000;
/// The events in one answer if the request does not say.
pub(crate) const DEFAULT_LIMIT: usize = 100;
/// The most bytes of events in one answer: with one event more than that it still fits NATS' `max_payload` of 1 MB.
pub(crate) const MAX_BYTES: usize = 768 * 1024;
/// The bytes of events in one answer if the request does not say.
pub(crate) const DEFAULT_BYTES: usize = 256 * 1024;

/// What a poll asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventsQuery {
    /// Where the reader stands: empty for now, `earliest` for the beginning, else a cursor.
    pub(crate) cursor: String,
    /// How long to wait if there is nothing.
    pub(crate) wait: Duration,
    /// The most events.
    pub(crate) limit: usize,
    /// The most bytes of events; one event is always given.
    pub(crate) max_bytes: usize,
    /// Of which rooms.
    pub(crate) rooms: Filter,
}

/// What a poll gets.
#[derive(Debug)]
pub(crate) struct EventsPage {
    /// The events' own bytes, in log order.
    pub(crate) events: Vec<Bytes>,
    /// What is not kept and was told meanwhile.
    pub(crate) told: Vec<Bytes>,
    /// Where the reader stands after them.
    pub(crate) cursor: String,
    /// Whether there is more already.
    pub(crate) more: bool,
    /// Whether a younger poll of the same principal took this one's place.
    pub(crate) superseded: bool,
}

impl EventsQuery {
    /// A poll with numbers as they came; `None` means the default.
    ///
    /// # Errors
    /// `invalid-request`, naming the number that is out of range.
    pub(crate) fn new(cursor: String, rooms: Filter, numbers: [Option<u64>; 3]) -> Result<Self, Problem> {
        let [wait, limit, max_bytes] = numbers;
        let wait = wait.unwrap_or(DEFAULT_WAIT_SECONDS);
        if wait > MAX_WAIT_SECONDS {
            return Err(Problem::invalid(format!(
                "`wait` must be 0 to {MAX_WAIT_SECONDS} seconds"
            )));
        }
        Ok(Self {
            cursor,
            wait: Duration::from_secs(wait),
            limit: within("limit", limit, DEFAULT_LIMIT, MAX_LIMIT)?,
            max_bytes: within("max_bytes", max_bytes, DEFAULT_BYTES, MAX_BYTES)?,
            rooms,
        })
    }
}

impl EventsPage {
    /// As JSON: the events' bytes stand in it as they are.
    pub(crate) fn to_json(&self) -> Bytes {
        let bytes: usize = self.events.iter().chain(&self.told).map(|event| event.len() + 1).sum();
        let mut json = BytesMut::with_capacity(bytes + self.cursor.len() + 128);
        json.put_slice(b"{\"events\":[");
        put_list(&mut json, &self.events);
        json.put_slice(b"],\"ephemeral\":[");
        put_list(&mut json, &self.told);
        json.put_slice(b"],\"gaps\":[],\"cursor\":\"");
        json.put_slice(self.cursor.as_bytes());
        json.put_slice(if self.more {
            b"\",\"more\":true"
        } else {
            b"\",\"more\":false"
        });
        json.put_slice(if self.superseded {
            b",\"superseded\":true}"
        } else {
            b"}"
        });
        json.freeze()
    }
}

/// Gives what follows the cursor: at once if there is something, else when there is, or nothing with an advanced cursor
/// after the wait. `until` is when the caller's session ends.
pub(crate) async fn events(
    bridge: &Bridge,
    who: &Principal,
    query: EventsQuery,
    until: Option<Instant>,
) -> Result<EventsPage, Problem> {
    let wait_ends = Instant::now() + query.wait;
    let deadline = until.map_or(wait_ends, |until| until.min(wait_ends));
    let reader = Reader {
        who: who.clone(),
        filter: query.rooms,
    };
    let (start, heard) = start(bridge, &reader, &query.cursor)?;
    let mut page = Page::new(start, query.limit, query.max_bytes);
    page.heard = heard;
    let superseded = fill(bridge, &reader, &mut page, deadline).await?;
    if page.events.is_empty() && until.is_some_and(|until| until <= Instant::now()) {
        return Err(Problem::new(
            ProblemCode::TokenExpired,
            "the token has expired; get a new one",
        ));
    }
    Ok(EventsPage {
        cursor: bridge.cursors.make(&reader, page.seq, page.heard),
        events: page.events,
        told: page.told,
        more: page.more,
        superseded,
    })
}

/// Where to begin. Who begins anew must be able to read every room that was named.
fn start(bridge: &Bridge, reader: &Reader, cursor: &str) -> Result<(Seq, Heard), Problem> {
    let seq = match cursor {
        "" => bridge.feed.passed(),
        "earliest" if reader.filter.is_everything() => {
            return Err(Problem::invalid(
                "`cursor=earliest` needs `rooms`: name the rooms to read from their beginning",
            ));
        }
        "earliest" => Seq::ZERO,
        cursor => return bridge.look(|_| bridge.cursors.parse(cursor, reader).map_err(cursor_problem)),
    };
    bridge.look(|view| {
        if reader
            .filter
            .rooms()
            .all(|room| readable(view, &reader.who, room).is_some())
        {
            Ok((seq, bridge.feed.heard()))
        } else {
            Err(Problem::no_such_room())
        }
    })
}

/// Fills the page, waiting while there is nothing. `true`: the poll was superseded.
async fn fill(bridge: &Bridge, reader: &Reader, page: &mut Page, deadline: Instant) -> Result<bool, Problem> {
    let feed = &bridge.feed;
    if page.seq > feed.passed() {
        tokio::select! {
            reached = feed.wait_passed(page.seq, deadline) => if !reached { return Ok(false) },
            () = bridge.draining.cancelled() => return Ok(false),
        }
    }
    read(bridge, reader, page).await?;
    loop {
        if page.is_worth_an_answer() {
            return Ok(false);
        }
        refuse_if_nothing_is_readable(bridge, reader)?;
        if Instant::now() >= deadline || bridge.draining.is_cancelled() {
            return Ok(false);
        }
        let parked = feed.park(reader);
        // What came before it was parked wakes nobody.
        read(bridge, reader, page).await?;
        if page.is_worth_an_answer() {
            return Ok(false);
        }
        tokio::select! {
            woken = parked.woken() => if woken == Woken::Superseded { return Ok(true) },
            () = tokio::time::sleep_until(deadline) => {}
            () = bridge.draining.cancelled() => {}
        }
        read(bridge, reader, page).await?;
    }
}

/// Reads from memory, and before that from the log if the reader is further behind.
async fn read(bridge: &Bridge, reader: &Reader, page: &mut Page) -> Result<(), Problem> {
    while bridge.feed.read(reader, page).await == Read::Older {
        bridge
            .past
            .read(&bridge.feed, reader, page)
            .await
            .map_err(|error| past_problem(bridge, reader, error))?;
        if page.more {
            break;
        }
    }
    bridge.feed.hear(reader, page);
    Ok(())
}

/// A cursor lives on while any of its rooms is readable; with none left, and nothing more to tell, waiting is in vain.
fn refuse_if_nothing_is_readable(bridge: &Bridge, reader: &Reader) -> Result<(), Problem> {
    let is_readable = |view: &_| {
        reader
            .filter
            .rooms()
            .any(|room| readable(view, &reader.who, room).is_some())
    };
    if reader.filter.is_everything() || bridge.feed.with_view(is_readable) {
        return Ok(());
    }
    Err(Problem::no_such_room())
}

fn put_list(json: &mut BytesMut, items: &[Bytes]) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            json.put_u8(b',');
        }
        json.put_slice(item);
    }
}

fn within(name: &str, number: Option<u64>, default: usize, max: usize) -> Result<usize, Problem> {
    let Some(number) = number else { return Ok(default) };
    usize::try_from(number)
        .ok()
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| Problem::invalid(format!("`{name}` must be 1 to {max}")))
}

fn cursor_problem(error: CursorError) -> Problem {
    let (code, way_out) = match error {
        CursorError::NotOurs | CursorError::OtherReader => {
            (ProblemCode::InvalidCursor, "leave `cursor` out to start from now")
        }
        CursorError::OtherFilter => (
            ProblemCode::CursorFilterMismatch,
            "use the `rooms` it was made for, or start without a cursor",
        ),
        CursorError::OtherEpoch => (
            ProblemCode::EpochChanged,
            "take a fresh picture from the history, then start without a cursor",
        ),
    };
    Problem::new(code, format!("the `cursor` cannot be used: {error}; {way_out}"))
}

fn past_problem(bridge: &Bridge, reader: &Reader, error: PastError) -> Problem {
    match error {
        PastError::Lagging => Problem::new(
            ProblemCode::StoreLagging,
            format!("{error}; try again with the same cursor"),
        ),
        PastError::Expired { earliest } => {
            let detail = format!(
                "{error}; go on with `earliest_cursor`, and know that events before it are missing. The history may have \
                 messages of that time"
            );
            let mut problem = Problem::new(ProblemCode::CursorExpired, detail);
            let earliest_cursor = bridge.cursors.make(reader, earliest, Heard::default());
            problem.more = Some(Box::new(More { earliest_cursor }));
            problem
        }
        PastError::Damaged(error) => {
            tracing::error!(%error, "the archive's answer cannot be read; do bridge and store have the same version?");
            Problem::new(ProblemCode::StoreLagging, "the archive's answer cannot be read")
        }
        PastError::Busy => Problem::new(
            ProblemCode::Overloaded,
            format!("{error}; try again with the same cursor"),
        ),
        PastError::Silent => Problem::new(
            ProblemCode::BrokerUnavailable,
            format!("{error}; try again with the same cursor"),
        ),
        PastError::Tail(error) => {
            tracing::error!(%error, "a reader who is far behind cannot be served");
            Problem::new(ProblemCode::Internal, "the log cannot be read where this cursor stands")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named() {
        let new = |wait, limit, max_bytes| EventsQuery::new(String::new(), Filter::default(), [wait, limit, max_bytes]);
        let default = new(None, None, None).unwrap();
        assert_eq!(
            (default.wait.as_secs(), default.limit, default.max_bytes),
            (25, 100, 262_144)
        );
        assert_eq!(new(Some(0), Some(1000), Some(1)).unwrap().wait, Duration::ZERO);
        for (numbers, name) in [
            ((Some(51), None, None), "`wait`"),
            ((None, Some(0), None), "`limit`"),
            ((None, Some(1001), None), "`limit`"),
            ((None, None, Some(0)), "`max_bytes`"),
            ((None, None, Some(u64::MAX)), "`max_bytes`"),
        ] {
            let problem = new(numbers.0, numbers.1, numbers.2).unwrap_err();
            assert!(problem.detail.contains(name), "{problem}");
        }
    }

    #[test]
    fn an_answer_is_json_with_the_events_as_they_are() {
        let mut page = EventsPage {
            events: vec![Bytes::from_static(b"{\"seq\":1}"), Bytes::from_static(b"{\"seq\": 2}")],
            told: vec![Bytes::from_static(b"{\"kind\":\"typing\"}")],
            cursor: "abc".to_owned(),
            more: true,
            superseded: false,
        };
        let expected =
            r#"{"events":[{"seq":1},{"seq": 2}],"ephemeral":[{"kind":"typing"}],"gaps":[],"cursor":"abc","more":true}"#;
        assert_eq!(page.to_json(), expected.as_bytes());
        (page.events, page.more, page.superseded) = (Vec::new(), false, true);
        let json: serde_json::Value = serde_json::from_slice(&page.to_json()).unwrap();
        assert_eq!((&json["superseded"], &json["more"]), (&true.into(), &false.into()));
    }
}
