//! Revocations under load: clients over every transport in one busy room, of whom some are revoked at random moments while
//! they come back as fast as they can. What must hold is I6; how long the answers take is printed.
//!
//! A small form is a test. The large one is by hand, and optimized: clients too have to read all that they are sent.
//!
//! ```sh
//! REVOKE_CLIENTS=200 REVOKE_RATE=500 REVOKE_COUNT=50 \
//!     cargo nextest run --release -p natterjack -E 'test(/^revoke_load::/)' --no-capture --test-threads 1
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::Method;
use rand::Rng;
use rand::seq::SliceRandom;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::events::parse;
use crate::support::eventually;
use crate::support::house::signal;
use crate::support::http::Http;
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::roles::{Roles, free_port, is_ready, uuid};

/// The pause before somebody who was refused tries again.
const AGAIN: Duration = Duration::from_millis(50);

/// How large a run is.
#[derive(Clone, Copy)]
struct Scale {
    clients: usize,
    /// What is said in the room: one half by alice, the other by all clients.
    per_second: u64,
    revocations: usize,
}

impl Scale {
    fn pause_of_alice(self) -> Duration {
        Duration::from_secs(2) / u32::try_from(self.per_second).unwrap()
    }

    fn pause_of_a_client(self) -> Duration {
        self.pause_of_alice() * u32::try_from(self.clients).unwrap()
    }
}

/// A client and what it has heard.
struct Client {
    user: String,
    last: Arc<AtomicU64>,
    mqtt: Option<Mqtt>,
    /// How many of what came over MQTT are noted in `last`.
    noted: AtomicUsize,
    _stop: DropGuard,
}

/// A revocation that was answered `done`: of whom, where it stands, and an event that was written after the answer.
struct Done {
    user: String,
    seq: u64,
    after: u64,
    took: Duration,
}

/// Where everything listens, and how often a client speaks.
#[derive(Clone)]
struct Doors {
    nats: String,
    ws: String,
    mqtt: String,
    http: String,
    pause: Duration,
}

fn scale(clients: usize, per_second: u64, revocations: usize) -> Scale {
    let of = |name: &str| std::env::var(name).ok()?.parse().ok();
    Scale {
        clients: of("REVOKE_CLIENTS").map_or(clients, |number: u64| usize::try_from(number).unwrap()),
        per_second: of("REVOKE_RATE").unwrap_or(per_second),
        revocations: of("REVOKE_COUNT").map_or(revocations, |number: u64| usize::try_from(number).unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_a_revocation_under_load() {
    let mut took = run(scale(15, 60, 6), false).await;
    print("two authz workers", &mut took);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_a_revocation_while_a_worker_is_frozen() {
    let mut took = run(scale(10, 40, 3), true).await;
    print("two authz workers, one of them frozen", &mut took);
}

fn print(what: &str, took: &mut [Duration]) {
    took.sort();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    eprintln!(
        "{what}: {} revocations, from request to `done`: p50 {:?}, p99 {:?}, longest {:?}",
        took.len(),
        at(50),
        at(99),
        took[took.len() - 1]
    );
}

async fn run(scale: Scale, frozen: bool) -> Vec<Duration> {
    let (mut roles, port) = (Roles::start().await, free_port());
    let second = roles.authz_more();
    roles.store();
    roles.bridge(port);
    let admin = roles.http(port, "admin");
    is_ready(&admin).await;
    let doors = Doors {
        nats: roles.nats_url(),
        ws: roles.websocket_url(),
        mqtt: roles.mqtt_url(),
        http: format!("127.0.0.1:{port}"),
        pause: scale.pause_of_a_client(),
    };
    let alice = roles.http(port, "alice");
    alice.put("/v1/rooms/lobby", &json!({"title": "Lobby"})).await.created();
    let users: Vec<String> = (0..scale.clients).map(|number| format!("u{number}")).collect();
    for user in &users {
        let path = format!("/v1/rooms/lobby/members/{user}");
        alice.put(&path, &json!({"role": "member"})).await.ok();
    }
    let mut clients = Vec::new();
    for (number, user) in users.iter().enumerate() {
        clients.push(Client::enter(&doors, user, &roles.token(user), number % 5).await);
    }
    let (speaking, since) = (speak(&alice, scale.pause_of_alice()), Instant::now());
    everybody_hears(&alice, &clients).await;
    if frozen {
        signal(second, Signal::STOP);
    }
    let mut chosen = users.clone();
    chosen.shuffle(&mut rand::rng());
    chosen.truncate(scale.revocations);
    let revocations = chosen.iter().map(|user| revoke(&admin, &alice, user));
    let done = futures_util::future::join_all(revocations).await;
    if frozen {
        signal(second, Signal::CONT);
    }
    let left: Vec<Client> = clients
        .extract_if(.., |client| !chosen.contains(&client.user))
        .collect();
    everybody_hears(&alice, &left).await;
    drop(speaking);
    let (spoken_for, said) = (since.elapsed(), roles.log("lobby").await.len());
    eprintln!("{} clients, {said} events in {spoken_for:.1?}", users.len());
    check(&roles, &clients, &done).await;
    done.into_iter().map(|done| done.took).collect()
}

/// I6: no event of somebody revoked follows the revocation in the log, and after `done` they hear nothing more.
async fn check(roles: &Roles, revoked: &[Client], done: &[Done]) {
    for line in roles.log("lobby").await {
        let event = parse(&line);
        let of_revoked = done.iter().find(|done| event["from"] == done.user.as_str());
        if let Some(done) = of_revoked.filter(|_| event["kind"] == "msg") {
            assert!(
                event["seq"].as_u64().unwrap() < done.seq,
                "{event} follows the revocation {}",
                done.seq
            );
        }
    }
    for done in done {
        let client = revoked.iter().find(|client| client.user == done.user).unwrap();
        let last = client.last();
        assert!(
            last < done.after,
            "{} heard {last}, and {} was written after `done` (revoked at {})",
            done.user,
            done.after,
            done.seq
        );
    }
}

/// Waits until everybody has heard what is said now.
async fn everybody_hears(alice: &Http, clients: &[Client]) {
    let said = alice.say("lobby", "to everybody").await["seq"].as_u64().unwrap();
    for client in clients {
        let what = format!("{} hears", client.user);
        eventually(&what, async || (client.last() >= said).then_some(())).await;
    }
}

/// Revokes all of a user's tokens at a random moment, and says something once that is done.
async fn revoke(admin: &Http, alice: &Http, user: &str) -> Done {
    let moment = rand::rng().random_range(0..4000);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    let (begun, key) = (Instant::now(), uuid());
    let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
    let seq = eventually("the revocation is done", async || {
        let body = Bytes::from(json!({"user": user}).to_string());
        let answer = admin.call(Method::POST, "/v1/revocations", &headers, body).await;
        let answer = answer.ok();
        (answer["state"] == "done").then(|| answer["seq"].as_u64().unwrap())
    })
    .await;
    let took = begun.elapsed();
    let after = alice.say("lobby", "after it was done").await["seq"].as_u64().unwrap();
    Done {
        user: user.to_owned(),
        seq,
        after,
        took,
    }
}

/// Talks all the time, until what this gives is dropped.
fn speak(alice: &Http, pause: Duration) -> DropGuard {
    let (stop, alice) = (CancellationToken::new(), alice.clone());
    let until = stop.clone();
    tokio::spawn(until.run_until_cancelled_owned(async move {
        let mut tick = tokio::time::interval(pause);
        loop {
            tick.tick().await;
            let alice = alice.clone();
            tokio::spawn(async move {
                let body = json!({"body": {"text": "talk"}}).to_string().into();
                // A busy machine may refuse some.
                let _ = alice
                    .try_call(Method::POST, "/v1/rooms/lobby/messages", &[], body)
                    .await;
            });
        }
    }));
    stop.drop_guard()
}

impl Client {
    /// Comes in over one of five transports, listens, speaks now and then, and comes back whenever it is cut off.
    async fn enter(doors: &Doors, user: &str, token: &str, transport: usize) -> Self {
        let (stop, last) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (mut mqtt, pause) = (None, doors.pause);
        let (own, http) = (last.clone(), Http::new(&format!("http://{}", doors.http), Some(token)));
        match transport {
            0 | 1 => {
                let url = if transport == 0 { &doors.nats } else { &doors.ws };
                let nats = Nats::connect(url, user, token).await.unwrap();
                tokio::spawn(stop.clone().run_until_cancelled_owned(over_nats(nats, own, pause)));
            }
            2 => {
                let client = Mqtt::connect(&doors.mqtt, &format!("main:{user}"), user, token)
                    .await
                    .unwrap();
                assert!(client.subscribe("chat/room/main/lobby/log").await);
                let (speaking, topic) = (client.client.clone(), format!("chat/in/main/{user}/lobby/msg"));
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    loop {
                        let _ = speaking.try_publish(&topic, rumqttc::QoS::AtLeastOnce, false, "over MQTT");
                        tokio::time::sleep(pause).await;
                    }
                }));
                mqtt = Some(client);
            }
            3 => {
                let listening = over_sse(http.address().to_owned(), token.to_owned(), own);
                tokio::spawn(stop.clone().run_until_cancelled_owned(listening));
                tokio::spawn(stop.clone().run_until_cancelled_owned(speak_on(http, pause)));
            }
            _ => {
                tokio::spawn(stop.clone().run_until_cancelled_owned(over_polls(http.clone(), own)));
                tokio::spawn(stop.clone().run_until_cancelled_owned(speak_on(http, pause)));
            }
        }
        Self {
            user: user.to_owned(),
            last,
            mqtt,
            noted: AtomicUsize::new(0),
            _stop: stop.drop_guard(),
        }
    }

    /// The last event that it has heard.
    fn last(&self) -> u64 {
        if let Some(mqtt) = &self.mqtt {
            for got in mqtt.mail.after(self.noted.load(Ordering::SeqCst)) {
                self.noted.fetch_add(1, Ordering::SeqCst);
                note(&self.last, &String::from_utf8_lossy(&got.payload));
            }
        }
        self.last.load(Ordering::SeqCst)
    }
}

async fn over_nats(nats: Nats, last: Arc<AtomicU64>, pause: Duration) {
    let mut heard = nats.client.subscribe("chat.room.main.lobby.log").await.unwrap();
    let subject = nats.inbound("lobby", "msg");
    let mut speak = tokio::time::interval(pause);
    loop {
        tokio::select! {
            Some(message) = heard.next() => note(&last, &String::from_utf8_lossy(&message.payload)),
            _ = speak.tick() => drop(nats.client.publish(subject.clone(), "over NATS".into()).await),
        }
    }
}

/// Speaks without an end. Who is refused tries all the time.
async fn speak_on(http: Http, pause: Duration) {
    loop {
        let body = json!({"body": {"text": "over HTTP"}}).to_string().into();
        let said = http.try_call(Method::POST, "/v1/rooms/lobby/messages", &[], body).await;
        let is_in = said.is_ok_and(|answer| answer.status == 201);
        tokio::time::sleep(if is_in { pause } else { AGAIN }).await;
    }
}

async fn over_polls(http: Http, last: Arc<AtomicU64>) {
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/events?rooms=lobby&wait=1&cursor={cursor}");
        if let Ok(answer) = http.try_call(Method::GET, &path, &[], Bytes::new()).await
            && answer.status == 200
        {
            let page = String::from_utf8_lossy(&answer.body);
            let (_, rest) = page.rsplit_once("\"cursor\":\"").unwrap();
            rest.split('"').next().unwrap().clone_into(&mut cursor);
            note(&last, &page);
        } else {
            // Refused: it tries again and again.
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn over_sse(address: String, token: String, last: Arc<AtomicU64>) {
    loop {
        let _ = read_stream(&address, &token, &last).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn read_stream(address: &str, token: &str, last: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "GET /v1/events/stream?rooms=lobby HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let (mut text, mut bytes) = (String::new(), vec![0; 65536]);
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        // Whole lines only.
        if let Some(end) = text.rfind('\n') {
            note(last, &text[..end]);
            text.drain(..=end);
        }
    }
}

/// Notes the sequences of all events in a text.
fn note(last: &AtomicU64, text: &str) {
    for rest in text.split("{\"v\":1,\"seq\":").skip(1) {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if let Ok(seq) = rest[..digits].parse() {
            last.fetch_max(seq, Ordering::SeqCst);
        }
    }
}
