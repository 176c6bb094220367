//! What was acknowledged is there after a stop, a `kill -9` of everything and a death of nats-server alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::events::{assert_receipt, assert_unbroken, parse, texts};
use crate::support::house::{House, is_alive, seq};
use crate::support::http::Http;
use crate::support::mailbox::Mailbox;
use crate::support::poll::{Poll, cursor_now, read_all};
use crate::support::{DEADLINE, eventually};

/// How many receipts there are at least when everything is killed.
const RECEIPTS: usize = 300;
/// How long the death of nats-server may be felt: its start, the reconnects and the leases.
const ALL_BACK_WITHIN: Duration = Duration::from_secs(10);
/// The polls that one principal may have parked (http-api: caps).
const POLLS_OF_ONE: usize = 16;
const HTTP_SENDERS: usize = 6;
const NATS_SENDERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn history_equals_what_was_received() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, poll) = (house.http("alice"), Poll::from_now(&house.http("bob")).await);
    let mut last = Value::Null;
    for number in 0..120 {
        last = alice
            .say("lobby", &format!("message {number}, with \"quotes\" and ünïcödé"))
            .await;
    }
    let received = poll
        .mail
        .wait("120 events", |got| (got.len() >= 120).then(|| got.to_vec()))
        .await;
    let received: Vec<String> = received
        .iter()
        .map(|got| String::from_utf8(got.payload.to_vec()).unwrap())
        .collect();
    let history = house.history("bob", "lobby", seq(&last)).await;
    assert_eq!(history, received, "the archive has the same bytes");

    let bob = house.http("bob");
    let middle = parse(&received[60])["seq"].clone();
    let before = bob
        .get(&format!("/v1/rooms/lobby/messages?before={middle}&limit=10"))
        .await
        .lines("messages");
    assert_eq!(before, received[50..60]);
    let newest = bob.get("/v1/rooms/lobby/messages?limit=3").await;
    assert_eq!(newest.lines("messages"), received[117..]);
    let etag = newest.headers["etag"].to_str().unwrap();
    let again = bob
        .call(
            hyper::Method::GET,
            "/v1/rooms/lobby/messages?limit=3",
            &[("if-none-match", etag)],
            "".into(),
        )
        .await;
    assert_eq!(again.status, 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let mut house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let cursor = cursor_now(&house.http("alice")).await;
    let mut receipts = Vec::new();
    for round in 0..2 {
        let load = Load::start(&house, round).await;
        load.receipts
            .wait("receipts", |receipts| (receipts.len() >= RECEIPTS).then_some(()))
            .await;
        house.kill_everything();
        drop(load.senders);
        house.restart().await;
        receipts.extend(load.receipts.all());
        let answered: HashSet<String> = load.receipts.all().into_iter().map(|(sent, _)| sent.key).collect();
        for sent in load
            .attempts
            .all()
            .into_iter()
            .filter(|sent| !answered.contains(&sent.key))
        {
            receipts.push((sent.clone(), ask_again(&house, &sent).await));
        }
    }
    let alice = house.http("alice");
    let (lines, _) = read_all(&alice, &cursor).await;
    assert_unbroken(&lines);
    assert_eq!(lines.len(), receipts.len(), "as many events as keys");
    let keys: HashSet<String> = lines
        .iter()
        .map(|line| parse(line)["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), lines.len(), "one event for each key");
    for (sent, receipt) in &receipts {
        let line = lines.iter().find(|line| parse(line)["seq"] == receipt["seq"]);
        let line = line.unwrap_or_else(|| panic!("what was acknowledged is lost: {sent:?} {receipt}"));
        assert_receipt(receipt, line);
        let event = parse(line);
        assert_eq!(
            (&event["key"], &event["from"]),
            (&json!(sent.key), &json!(sent.user)),
            "{line}"
        );
    }
    let last = parse(lines.last().unwrap());
    assert_eq!(
        house.history("bob", "lobby", seq(&last)).await,
        lines,
        "the archive equals the log"
    );
}

/// A message that somebody tried to send.
#[derive(Debug, Clone)]
struct Sent {
    user: &'static str,
    key: String,
}

/// Senders that go on until the house is gone: alice over HTTP, bob over NATS.
struct Load {
    attempts: Mailbox<Sent>,
    receipts: Mailbox<(Sent, Value)>,
    senders: JoinSet<()>,
}

impl Load {
    async fn start(house: &House, round: usize) -> Self {
        let mut load = Self {
            attempts: Mailbox::new(),
            receipts: Mailbox::new(),
            senders: JoinSet::new(),
        };
        let (alice, bob) = (house.http("alice"), Arc::new(house.nats("bob").await));
        for sender in 0..HTTP_SENDERS {
            let alice = alice.clone();
            load.send("alice", format!("{round}-http-{sender}"), move |request| {
                let alice = alice.clone();
                async move {
                    let path = "/v1/rooms/lobby/messages";
                    let answer = alice
                        .try_call(hyper::Method::POST, path, &[], request.to_string().into())
                        .await
                        .ok()?;
                    (answer.status == 201).then(|| answer.json())
                }
            });
        }
        for sender in 0..NATS_SENDERS {
            let bob = Arc::clone(&bob);
            load.send("bob", format!("{round}-nats-{sender}"), move |request| {
                let bob = Arc::clone(&bob);
                async move {
                    let answer = bob.send("lobby", &request).await;
                    answer["id"].is_string().then_some(answer)
                }
            });
        }
        load
    }

    fn send<F>(&mut self, user: &'static str, name: String, send: impl Fn(Value) -> F + Send + 'static)
    where
        F: Future<Output = Option<Value>> + Send,
    {
        let (attempts, receipts) = (self.attempts.clone(), self.receipts.clone());
        self.senders.spawn(async move {
            for number in 0.. {
                let sent = Sent {
                    user,
                    key: format!("{name}-{number}"),
                };
                attempts.put(sent.clone());
                let Some(receipt) = send(request(&sent)).await else {
                    return;
                };
                receipts.put((sent, receipt));
            }
        });
    }
}

fn request(sent: &Sent) -> Value {
    json!({"key": sent.key, "body": {"text": sent.key}})
}

/// What a client does that got no answer: the same again, with the same key.
async fn ask_again(house: &House, sent: &Sent) -> Value {
    let answer = house
        .http(sent.user)
        .post("/v1/rooms/lobby/messages", &request(sent))
        .await;
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    answer.json()
}

/// What comes next behind a cursor: a receipt may be there before the bridge has read the event.
async fn next_page(http: &Http, cursor: &str) -> (Vec<String>, String) {
    let page = http.get(&format!("/v1/events?cursor={cursor}&wait=50")).await;
    let lines = page.lines("events");
    (lines, page.ok()["cursor"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_ends_polls_and_leaves_nothing_behind() {
    let mut house = House::start().await;
    house.room("lobby", &[]).await;
    let alice = house.http("alice");
    let cursor = cursor_now(&alice).await;
    let receipt = alice.say("lobby", "before the stop").await;
    let behind = next_page(&alice, &cursor).await.1;
    let mut polls = JoinSet::new();
    for _ in 0..=POLLS_OF_ONE {
        let (alice, path) = (alice.clone(), format!("/v1/events?cursor={behind}&wait=50"));
        polls.spawn(async move { alice.get(&path).await.ok() });
    }
    // One more than a principal may have ends one of them: so all the others are parked.
    let first = tokio::time::timeout(DEADLINE, polls.join_next()).await;
    let first = first.expect("a poll is superseded").unwrap().unwrap();
    assert_eq!(first["superseded"], true, "{first}");
    let server = house.server_pid().unwrap();
    let status = house.stop();
    assert!(status.success(), "{status}");
    assert!(!is_alive(server), "nats-server was left behind");
    assert!(!house.endpoints_file().exists(), "endpoints.json was left behind");
    let pages = polls.join_all().await;
    assert_eq!(pages.len(), POLLS_OF_ONE);
    assert!(
        pages
            .iter()
            .all(|page| page["events"] == json!([]) && page["superseded"].is_null()),
        "{pages:?}"
    );

    house.restart().await;
    let alice = house.http("alice");
    let (lines, _) = read_all(&alice, &cursor).await;
    assert_eq!(texts(&lines), ["before the stop"]);
    assert_receipt(&receipt, &lines[0]);
    let after = alice.say("lobby", "after it").await;
    assert_eq!(
        after["n"].as_u64(),
        receipt["n"].as_u64().map(|n| n + 1),
        "the room counts on"
    );
    let (lines, _) = next_page(&alice, pages[0]["cursor"].as_str().unwrap()).await;
    assert_eq!(
        texts(&lines),
        ["after it"],
        "the cursor of the poll that was ended still works"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_dies_is_started_again() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, bob) = (house.http("alice"), house.nats("bob").await);
    bob.listen(&["lobby"]).await;
    let poll = Poll::from_now(&alice).await;
    alice.say("lobby", "before").await;
    bob.mail
        .wait("the first event", |got| (got.len() == 1).then_some(()))
        .await;
    let server = house.server_pid().unwrap();
    crate::support::house::signal(server, rustix::process::Signal::KILL);
    let killed = Instant::now();
    let request = json!({"key": "after", "body": {"text": "after"}});
    eventually("a send is acknowledged again", async || {
        let answer = alice.post("/v1/rooms/lobby/messages", &request).await;
        assert!(matches!(answer.status, 200 | 201 | 503), "{answer:?}");
        (answer.status != 503).then_some(())
    })
    .await;
    let lines = poll
        .mail
        .wait("both events", |got| (got.len() >= 2).then(|| got.to_vec()))
        .await;
    let lines: Vec<String> = lines
        .iter()
        .map(|got| String::from_utf8(got.payload.to_vec()).unwrap())
        .collect();
    assert_eq!(texts(&lines), ["before", "after"]);
    eventually("bob is answered again", async || {
        let asked = bob.request("chat.api.main.bob.rooms.list", "{}", async_nats::HeaderMap::new());
        tokio::time::timeout(Duration::from_secs(1), asked).await.ok()?.ok()
    })
    .await;
    let back = killed.elapsed();
    assert!(
        back < ALL_BACK_WITHIN,
        "sending, polls and logins were back only after {back:?}"
    );
    alice.say("lobby", "bob is back").await;
    bob.mail
        .wait("bob hears the room again", |got| {
            got.last()?.payload.windows(4).any(|part| part == b"back").then_some(())
        })
        .await;
}
