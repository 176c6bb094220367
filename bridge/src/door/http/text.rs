//! Events as text, for shells and microcontrollers: one line a message, and the cursor in a header.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use natterjack_nats_config::contract::{Event, Kind, Problem, ProblemCode};
use serde::Deserialize;

use super::answer::Answer;
use crate::ops::EventsPage;

/// Where the reader stands after an answer in text.
const CURSOR: HeaderName = HeaderName::from_static("chat-cursor");
/// Whether there is more already.
const MORE: HeaderName = HeaderName::from_static("chat-more");

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    text: std::borrow::Cow<'a, str>,
}

/// A page's messages, one a line. Other events are passed over; the cursor is behind them too.
pub(super) fn answer(page: &EventsPage) -> Answer {
    let mut lines = BytesMut::new();
    for (_, event) in &page.events {
        put_line(&mut lines, event).map_err(|error| {
            tracing::error!(%error, "an event cannot be read");
            Problem::new(ProblemCode::Internal, "an event cannot be told as text; ask for JSON")
        })?;
    }
    let mut response = Response::new(Body::from(lines.freeze()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(MORE, HeaderValue::from_static(if page.more { "true" } else { "false" }));
    if let Ok(cursor) = HeaderValue::try_from(page.cursor.as_str()) {
        headers.insert(CURSOR, cursor);
    }
    Ok(response)
}

/// `seq`, sender and text with tabs between them; a body without a text as JSON.
fn put_line(lines: &mut BytesMut, event: &[u8]) -> Result<(), serde_json::Error> {
    let event: Event = serde_json::from_slice(event)?;
    if !matches!(event.kind, Kind::Msg | Kind::Command | Kind::Reply) {
        return Ok(());
    }
    let body = event.body.get();
    let text = serde_json::from_str::<Text<'_>>(body).map_or(body.into(), |body| body.text);
    lines.put_slice(format!("{}\t{}\t", event.seq, event.from).as_bytes());
    for c in text.chars() {
        put_char(lines, c);
    }
    lines.put_u8(b'\n');
    Ok(())
}

/// What would break the line, or steer a terminal, is written as in JSON.
fn put_char(lines: &mut BytesMut, c: char) {
    match c {
        '\n' => lines.put_slice(b"\\n"),
        '\r' => lines.put_slice(b"\\r"),
        '\t' => lines.put_slice(b"\\t"),
        '\\' => lines.put_slice(b"\\\\"),
        c if c.is_control() => lines.put_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
        c => lines.put_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, body: &str) -> String {
        let event = format!(
            r#"{{"v":1,"seq":7,"n":1,"prev":0,"id":"x","tenant":"main","room":"lobby","from":"alice","kind":"{kind}","at":"2026-11-23T06:00:00.123Z","body":{body}}}"#
        );
        let mut lines = BytesMut::new();
        put_line(&mut lines, event.as_bytes()).unwrap();
        String::from_utf8(lines.to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_one_line_whatever_it_says() {
        assert_eq!(line("msg", r#"{"text":"hello"}"#), "7\talice\thello\n");
        assert_eq!(
            line("msg", r#"{"text":"a\nb\tc\\\u001b[2J\u0085 ä"}"#),
            "7\talice\ta\\nb\\tc\\\\\\u001b[2J\\u0085 ä\n"
        );
        assert_eq!(line("command", r#"{"on":true}"#), "7\talice\t{\"on\":true}\n");
        assert_eq!(line("reply", "21"), "7\talice\t21\n");
        assert_eq!(line("member", r#"{"user":"bob","role":null}"#), "");
    }
}
