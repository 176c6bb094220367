use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use natterjack_nats_config::contract::{Principal, Problem, Seq};
use tokio::time::Instant;

use super::Bridge;
use super::reading::{PageSize, Reading, Session};
use crate::feed::{Filter, Heard};

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
    /// The most that one answer holds.
    pub(crate) size: PageSize,
    /// Of which rooms.
    pub(crate) rooms: Filter,
}

/// What a poll gets.
#[derive(Debug)]
pub(crate) struct EventsPage {
    /// The events' places and own bytes, in log order.
    pub(crate) events: Vec<(Seq, Bytes)>,
    /// What is not kept and was told meanwhile.
    pub(crate) told: Vec<Bytes>,
    /// Where the reader stands after them.
    pub(crate) cursor: String,
    /// Whether there is more already.
    pub(crate) more: bool,
    /// Whether a younger poll of the same principal took this one's place.
    pub(crate) superseded: bool,
    /// What of the not kept the reader had heard before `told`.
    pub(super) heard_before: Heard,
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
            size: PageSize {
                events: within("limit", limit, DEFAULT_LIMIT, MAX_LIMIT)?,
                bytes: within("max_bytes", max_bytes, DEFAULT_BYTES, MAX_BYTES)?,
            },
            rooms,
        })
    }
}

impl EventsPage {
    /// As JSON: the events' bytes stand in it as they are.
    pub(crate) fn to_json(&self) -> Bytes {
        let all = || self.events.iter().map(|(_, event)| event).chain(&self.told);
        let bytes: usize = all().map(|event| event.len() + 1).sum();
        let mut json = BytesMut::with_capacity(bytes + self.cursor.len() + 128);
        json.put_slice(b"{\"events\":[");
        put_list(&mut json, self.events.iter().map(|(_, event)| event));
        json.put_slice(b"],\"ephemeral\":[");
        put_list(&mut json, self.told.iter());
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
/// after the wait.
pub(crate) async fn events(
    bridge: &Bridge,
    who: &Principal,
    query: EventsQuery,
    session: Option<&Session>,
) -> Result<EventsPage, Problem> {
    let deadline = Instant::now() + query.wait;
    let mut reading = Reading::begin(bridge, who, query.rooms, &query.cursor)?;
    reading.next(bridge, query.size, deadline, session).await
}

fn put_list<'a>(json: &mut BytesMut, items: impl Iterator<Item = &'a Bytes>) {
    for (index, item) in items.enumerate() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named() {
        let new = |wait, limit, max_bytes| EventsQuery::new(String::new(), Filter::default(), [wait, limit, max_bytes]);
        let default = new(None, None, None).unwrap();
        assert_eq!(
            (default.wait.as_secs(), default.size.events, default.size.bytes),
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
            events: vec![
                (Seq(1), Bytes::from_static(b"{\"seq\":1}")),
                (Seq(2), Bytes::from_static(b"{\"seq\": 2}")),
            ],
            told: vec![Bytes::from_static(b"{\"kind\":\"typing\"}")],
            cursor: "abc".to_owned(),
            more: true,
            superseded: false,
            heard_before: Heard::default(),
        };
        let expected =
            r#"{"events":[{"seq":1},{"seq": 2}],"ephemeral":[{"kind":"typing"}],"gaps":[],"cursor":"abc","more":true}"#;
        assert_eq!(page.to_json(), expected.as_bytes());
        (page.events, page.more, page.superseded) = (Vec::new(), false, true);
        let json: serde_json::Value = serde_json::from_slice(&page.to_json()).unwrap();
        assert_eq!((&json["superseded"], &json["more"]), (&true.into(), &false.into()));
    }
}
