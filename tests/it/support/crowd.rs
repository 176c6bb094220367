//! Many polls at once, as many as a busy bridge has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::eventually;
use super::house::House;

/// The polls that one user may have (http-api: caps).
const POLLS_OF_ONE: usize = 16;
/// Connections that are made at once: a listener has a queue of a few hundred.
const AT_ONCE: usize = 100;

/// When the polls got each text.
type Heard = Arc<Mutex<HashMap<String, Vec<Instant>>>>;

/// Members of a room who wait for its messages, each poll on a connection of its own.
pub(crate) struct Crowd {
    size: usize,
    heard: Heard,
    polls: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// As many users as so many polls need, each a member of `lobby`, and their polls parked there.
    pub(crate) async fn park(house: &House, size: usize) -> Self {
        let users: Vec<String> = (0..size.div_ceil(POLLS_OF_ONE))
            .map(|number| format!("u{number}"))
            .collect();
        let members: Vec<(&str, &str)> = users.iter().map(|user| (user.as_str(), "member")).collect();
        house.room("lobby", &members).await;
        let (heard, places) = (Heard::default(), Arc::new(Semaphore::new(AT_ONCE)));
        let mut polls = Vec::new();
        for user in &users {
            let head = Arc::new((house.address(), house.token(user)));
            for _ in 0..POLLS_OF_ONE.min(size - polls.len()) {
                let (head, heard, places) = (Arc::clone(&head), Arc::clone(&heard), Arc::clone(&places));
                polls.push(tokio::spawn(async move {
                    let place = places.acquire_owned().await.unwrap();
                    let poll = connect(&head.0).await;
                    drop(place);
                    listen(poll, &head, &heard).await;
                }));
            }
        }
        let crowd = Self { size, heard, polls };
        crowd.is_parked(house).await;
        crowd
    }

    /// Waits until all of them are parked.
    pub(crate) async fn is_parked(&self, house: &House) {
        let http = house.http("alice");
        eventually("every poll is parked", async || {
            let ended = self.polls.iter().filter(|poll| poll.is_finished()).count();
            assert_eq!(ended, 0, "polls ended");
            let parked = metric(
                &http.get("/metrics").await.body,
                "natterjack_used{queue=\"parked_polls\"}",
            );
            (parked >= self.size as u64).then_some(())
        })
        .await;
    }

    /// Says something, and waits until every poll has it. Gives how long each waited, the quickest first.
    pub(crate) async fn hears(&self, house: &House, text: &str) -> Vec<Duration> {
        let begun = Instant::now();
        say(house, text).await;
        let what = format!("all {} hear {text:?}", self.size);
        let heard = eventually(&what, async || {
            let heard = self.heard.lock().unwrap();
            heard.get(text).filter(|heard| heard.len() >= self.size).cloned()
        });
        let mut took: Vec<Duration> = heard.await.into_iter().map(|at| at - begun).collect();
        took.sort_unstable();
        assert_eq!(took.len(), self.size, "{text:?} was heard more than once");
        took
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.polls.iter().for_each(JoinHandle::abort);
    }
}

/// Says something as every sender does: while there is no answer, the same again with the same key.
async fn say(house: &House, text: &str) {
    let path = format!("/v1/rooms/lobby/messages/by-key/{}", text.replace(' ', "-"));
    let (alice, body) = (house.http("alice"), json!({"body": {"text": text}}));
    eventually("it stands in the log", async || {
        let answer = alice.put(&path, &body).await;
        assert!(matches!(answer.status, 200 | 201 | 503), "{answer:?}");
        (answer.status != 503).then_some(())
    })
    .await;
}

/// A number of `/metrics`.
pub(crate) fn metric(text: &[u8], name: &str) -> u64 {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

async fn connect(address: &str) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (poll, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    poll
}

/// Polls without an end, on one connection.
async fn listen(mut poll: SendRequest<Empty<Bytes>>, (address, token): &(String, String), heard: &Heard) {
    let mut cursor = String::new();
    loop {
        let request = Request::get(format!("/v1/events?rooms=lobby&wait=50&cursor={cursor}"))
            .header("host", address)
            .header("authorization", format!("Bearer {token}"));
        let answer = poll.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let page: Value = serde_json::from_slice(&body).unwrap();
        assert!(status == 200 && page.get("superseded").is_none(), "{status}: {page}");
        for event in page["events"].as_array().unwrap() {
            if let Some(text) = event["body"]["text"].as_str() {
                heard
                    .lock()
                    .unwrap()
                    .entry(text.to_owned())
                    .or_default()
                    .push(Instant::now());
            }
        }
        page["cursor"].as_str().unwrap().clone_into(&mut cursor);
    }
}
