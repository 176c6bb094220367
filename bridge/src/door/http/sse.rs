//! Server-sent events (the HTML standard's `text/event-stream`): each event's id is the cursor behind it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use natterjack_nats_config::contract::Problem;

use super::DoorState;
use super::answer::Answer;
use super::events::unbuffered;
use crate::metrics::UnderWay;
use crate::ops::{EventsPage, Reading, Session, Step};

/// After how long a browser comes back, in milliseconds.
const COME_BACK_MS: u32 = 1000;
/// The same for a stream that gave its place to a younger one; at once it would take a place from another.
const COME_BACK_LATER_MS: u32 = 60_000;

/// A stream between two chunks.
struct Streaming {
    door: Arc<DoorState>,
    reading: Reading,
    session: Session,
    /// The cursor that the reader was told last.
    told: String,
    _counted: UnderWay,
}

/// Begins a stream. What stands in the way of it is told as a problem as long as nothing else was; after that as the
/// stream's last event.
///
/// A chunk is made only when the one before it was taken: a reader who does not read costs one chunk, and is cut off when
/// it takes in nothing for long.
pub(super) async fn answer(door: Arc<DoorState>, mut reading: Reading, session: Session) -> Answer {
    let mut first = BytesMut::new();
    let mut told = reading.cursor(&door.bridge);
    put_start(&mut first, &told);
    match reading.look(&door.bridge, &session).await {
        Step::Page(page) => told = put_page(&mut first, &door, &reading, page),
        Step::End(Some(problem)) => return Err(problem.into()),
        Step::Quiet(_) | Step::Later(_) | Step::End(None) => {}
    }
    let streaming = Streaming {
        _counted: door.bridge.metrics.streaming("sse"),
        door,
        reading,
        session,
        told,
    };
    let first = stream::once(std::future::ready(Ok::<_, Infallible>(first.freeze())));
    let rest = stream::unfold(Some(streaming), |streaming| async { streaming?.chunk().await });
    let mut response = Response::new(Body::from_stream(futures_util::StreamExt::chain(first, rest)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    unbuffered(&mut response);
    Ok(response)
}

impl Streaming {
    /// The next chunk, and how it goes on; `None` when it is over.
    async fn chunk(mut self) -> Option<(Result<Bytes, Infallible>, Option<Self>)> {
        let mut chunk = BytesMut::new();
        let step = self.reading.step(&self.door.bridge, &self.session).await;
        let goes_on = !matches!(step, Step::End(_));
        match step {
            Step::Page(page) => self.told = put_page(&mut chunk, &self.door, &self.reading, page),
            Step::Quiet(cursor) => {
                put_quiet(&mut chunk, (cursor != self.told).then_some(cursor.as_str()));
                self.told = cursor;
            }
            Step::Later(problem) => put_comment(&mut chunk, problem.code.as_str()),
            Step::End(Some(problem)) => put_end(&mut chunk, &problem),
            Step::End(None) => return None,
        }
        Some((Ok(chunk.freeze()), goes_on.then_some(self)))
    }
}

fn put_start(chunk: &mut BytesMut, cursor: &str) {
    put_retry(chunk, COME_BACK_MS);
    put_id(chunk, cursor);
    chunk.put_u8(b'\n');
}

/// Gives the cursor that the page's last event carries.
fn put_page(chunk: &mut BytesMut, door: &DoorState, reading: &Reading, page: EventsPage) -> String {
    let bytes: usize = page.events.iter().map(|(_, event)| event.len() + 128).sum();
    chunk.reserve(bytes);
    let last = page.events.len() + page.told.len();
    for (index, (seq, event)) in page.events.iter().enumerate() {
        if index + 1 == last {
            put_id(chunk, &page.cursor);
        } else {
            put_id(chunk, &reading.cursor_behind(&door.bridge, &page, *seq));
        }
        put_data(chunk, event);
    }
    for (index, told) in page.told.iter().enumerate() {
        if page.events.len() + index + 1 == last {
            put_id(chunk, &page.cursor);
        }
        put_name(chunk, "ephemeral");
        put_data(chunk, told);
    }
    page.cursor
}

fn put_quiet(chunk: &mut BytesMut, cursor: Option<&str>) {
    chunk.put_slice(b":\n");
    if let Some(cursor) = cursor {
        // An event without data is not shown, but its id is kept.
        put_id(chunk, cursor);
    }
    chunk.put_u8(b'\n');
}

fn put_comment(chunk: &mut BytesMut, text: &str) {
    chunk.put_slice(b": ");
    chunk.put_slice(text.as_bytes());
    chunk.put_slice(b"\n\n");
}

fn put_end(chunk: &mut BytesMut, problem: &Problem) {
    if problem.retryable {
        put_retry(chunk, COME_BACK_LATER_MS);
    }
    put_name(chunk, "error");
    put_data(chunk, &problem.to_json());
}

fn put_retry(chunk: &mut BytesMut, ms: u32) {
    chunk.put_slice(format!("retry: {ms}\n").as_bytes());
}

fn put_id(chunk: &mut BytesMut, cursor: &str) {
    chunk.put_slice(b"id: ");
    chunk.put_slice(cursor.as_bytes());
    chunk.put_u8(b'\n');
}

fn put_name(chunk: &mut BytesMut, name: &str) {
    chunk.put_slice(b"event: ");
    chunk.put_slice(name.as_bytes());
    chunk.put_u8(b'\n');
}

/// An event is one line of JSON. Should there be more, each gets a field of its own, so that none can pass for a field.
fn put_data(chunk: &mut BytesMut, data: &[u8]) {
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        chunk.put_slice(b"data: ");
        chunk.put_slice(line);
        chunk.put_u8(b'\n');
    }
    chunk.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::ProblemCode;

    use super::*;

    fn put(put: impl FnOnce(&mut BytesMut)) -> String {
        let mut chunk = BytesMut::new();
        put(&mut chunk);
        String::from_utf8(chunk.to_vec()).unwrap()
    }

    #[test]
    fn every_line_is_a_field_or_a_comment() {
        assert_eq!(put(|chunk| put_start(chunk, "abc")), "retry: 1000\nid: abc\n\n");
        assert_eq!(put(|chunk| put_quiet(chunk, None)), ":\n\n");
        assert_eq!(put(|chunk| put_quiet(chunk, Some("abc"))), ":\nid: abc\n\n");
        assert_eq!(put(|chunk| put_comment(chunk, "overloaded")), ": overloaded\n\n");
        assert_eq!(put(|chunk| put_data(chunk, b"{\"a\":1}")), "data: {\"a\":1}\n\n");
    }

    #[test]
    fn what_holds_line_ends_cannot_pass_for_fields() {
        let text = put(|chunk| put_data(chunk, b"{}\n\nid: forged\revent: error\r\ndata"));
        for line in text.trim_end().lines() {
            assert!(line.starts_with("data: "), "{text:?}");
        }
        assert!(text.ends_with("\n\n") && !text.trim_end().contains("\n\n"), "{text:?}");
    }

    #[test]
    fn the_end_says_why_and_who_may_come_back_waits() {
        let gone = put(|chunk| put_end(chunk, &Problem::new(ProblemCode::TokenExpired, "x")));
        assert!(gone.starts_with("event: error\ndata: {\"type\""), "{gone}");
        let limited = put(|chunk| put_end(chunk, &Problem::new(ProblemCode::RateLimited, "x")));
        assert!(limited.starts_with("retry: 60000\nevent: error\n"), "{limited}");
    }
}
