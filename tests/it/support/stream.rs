//! Readers of events by cursor, one for each transport that HTTP has, and `events.get`.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::DEADLINE;
use super::house::House;
use super::http::Http;
use super::nats::Nats;
use super::script::Script;

/// An event as a reader got it: its exact line, and the cursor behind it (or behind the page that it ends).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) line: String,
    pub(crate) cursor: Option<String>,
}

/// A way of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    LongPoll,
    Sse,
    WebSocket,
    Native,
}

/// All of them.
pub(crate) const TRANSPORTS: [Transport; 4] = [
    Transport::LongPoll,
    Transport::Sse,
    Transport::WebSocket,
    Transport::Native,
];

/// Somebody who can read by every transport.
pub(crate) struct Readers {
    pub(crate) http: Http,
    pub(crate) nats: Nats,
    pub(crate) script: Script,
    pub(crate) token: String,
}

impl Readers {
    /// Reads exactly so many events behind a cursor.
    pub(crate) async fn read(&self, by: Transport, cursor: &str, count: usize) -> Vec<Got> {
        match by {
            Transport::LongPoll | Transport::Native => self.pages(by, cursor, count).await,
            Transport::Sse => self.stream("sse", cursor, count).await,
            Transport::WebSocket => self.stream("ws", cursor, count).await,
        }
    }

    async fn pages(&self, by: Transport, cursor: &str, count: usize) -> Vec<Got> {
        let (mut all, mut cursor) = (Vec::new(), cursor.to_owned());
        let until = tokio::time::Instant::now() + DEADLINE;
        while all.len() < count {
            assert!(
                tokio::time::Instant::now() < until,
                "{count} events behind {cursor}; there are {all:#?}"
            );
            // Small pages, so that there are many cursors.
            let limit = (count - all.len()).min(3);
            let (lines, next) = match by {
                Transport::Native => self.native(&cursor, limit).await,
                _ => self.poll(&cursor, limit).await,
            };
            let last = lines.len();
            all.extend(lines.into_iter().enumerate().map(|(index, line)| Got {
                line,
                cursor: (index + 1 == last).then(|| next.clone()),
            }));
            cursor = next;
        }
        all
    }

    async fn poll(&self, cursor: &str, limit: usize) -> (Vec<String>, String) {
        let path = format!("/v1/events?cursor={cursor}&wait=5&limit={limit}");
        let page = self.http.get(&path).await;
        let next = page.ok()["cursor"].as_str().unwrap().to_owned();
        (page.lines("events"), next)
    }

    async fn native(&self, cursor: &str, limit: usize) -> (Vec<String>, String) {
        #[derive(serde::Deserialize)]
        struct Page<'a> {
            #[serde(borrow)]
            events: Vec<&'a RawValue>,
            cursor: String,
        }
        let ask = json!({"cursor": cursor, "wait": 5, "limit": limit});
        let subject = format!("chat.api.main.{}.events.get", self.nats.user);
        let answer = self
            .nats
            .request(&subject, ask.to_string(), async_nats::HeaderMap::new())
            .await
            .unwrap();
        let page: Page<'_> = serde_json::from_slice(&answer.payload).unwrap();
        let lines = page.events.iter().map(|event| event.get().to_owned()).collect();
        (lines, page.cursor)
    }

    async fn stream(&self, transport: &str, cursor: &str, count: usize) -> Vec<Got> {
        let ask = json!({
            "transport": transport, "address": self.http.address(), "token": self.token, "cursor": cursor, "count": count,
        });
        let answer = self.script.call("read", ask).await;
        let events = answer["events"]
            .as_array()
            .unwrap_or_else(|| panic!("{transport}: {answer}"));
        let got = events.iter().map(|pair| Got {
            line: text(&pair[1]),
            cursor: Some(text(&pair[0])),
        });
        got.collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// The lines of what was got.
pub(crate) fn lines(got: &[Got]) -> Vec<String> {
    got.iter().map(|got| got.line.clone()).collect()
}

/// A connection on which the answer is read byte by byte, or not at all.
pub(crate) struct Raw {
    stream: TcpStream,
    pub(crate) text: String,
}

impl Raw {
    /// Asks for something.
    pub(crate) async fn get(house: &House, user: &str, path: &str) -> Self {
        Self::get_with(house, user, path, "").await
    }

    /// The same with more headers, each with its line's end.
    pub(crate) async fn get_with(house: &House, user: &str, path: &str, more: &str) -> Self {
        Self::get_by(house, &house.token(user), path, more).await
    }

    /// The same by a token.
    pub(crate) async fn get_by(house: &House, token: &str, path: &str, more: &str) -> Self {
        let address = house.endpoints.http.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = String::new();
        Self { stream, text }
    }

    /// Waits, without reading, until the other side has closed: then it does not take in these bytes any more.
    pub(crate) async fn is_cut(&mut self, bytes: &[u8]) {
        while self.stream.write_all(bytes).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads until there is this; `false` if the answer ends before.
    pub(crate) async fn reads(&mut self, what: &str) -> bool {
        let reading = async {
            while !self.text.contains(what) {
                let mut some = [0; 4096];
                let count = self.stream.read(&mut some).await.unwrap_or(0);
                if count == 0 {
                    return false;
                }
                self.text.push_str(&String::from_utf8_lossy(&some[..count]));
            }
            true
        };
        let read = tokio::time::timeout(DEADLINE, reading).await;
        read.unwrap_or_else(|_| panic!("no {what:?} in {}", self.text))
    }
}

/// A command to `events.py`.
pub(crate) fn ask(house: &House, transport: &str, user: &str, more: &Value) -> Value {
    let address = house.endpoints.http.strip_prefix("http://").unwrap();
    let mut ask = json!({"transport": transport, "address": address, "token": house.token(user), "name": transport});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask
}

/// Waits until a frame says what is looked for.
pub(crate) async fn frame(script: &Script, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    script
        .mail
        .wait(what, |got| {
            let mut frames = got.iter().map(|got| serde_json::from_slice(&got.payload).unwrap());
            frames.find(|frame| is_it(frame))
        })
        .await
}

/// Says something over the WebSocket of a script.
pub(crate) async fn say(script: &Script, frame: &Value) {
    let said = script
        .call("say", json!({"name": "ws", "frame": frame.to_string()}))
        .await;
    assert_eq!(said, json!({}), "{frame}");
}
