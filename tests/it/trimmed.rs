//! The log is trimmed: what was said stays readable, what was acknowledged stays acknowledged, also after a `kill -9`.

use serde_json::{Value, json};

use crate::support::events::{assert_receipt, assert_unbroken, parse, texts};
use crate::support::house::{House, seq};
use crate::support::http::Http;
use crate::support::poll::{cursor_now, read_all};
use crate::support::{DEADLINE, eventually};

/// A checkpoint every sixteen frames, and nothing of the log kept that can go.
fn small() -> Vec<(&'static str, String)> {
    vec![
        ("NATTERJACK_STORE__CHECKPOINT_FRAMES", "16".to_owned()),
        ("NATTERJACK_STORE__LOG_KEEP_BYTES", "0".to_owned()),
        ("NATTERJACK_STORE__LOG_KEEP_SECS", "0".to_owned()),
    ]
}
const MESSAGES: &str = "/v1/rooms/lobby/messages";

/// The sequence of the first event that the log still has.
fn log_begins(house: &House) -> u64 {
    house
        .log()
        .first()
        .map_or(u64::MAX, |line| parse(line)["seq"].as_u64().unwrap())
}

/// Talks until the log has lost an event; everything that was said, with the receipts.
async fn talk_until_trimmed(house: &House, http: &Http, beyond: u64) -> Vec<(String, Value)> {
    let mut said = Vec::new();
    let until = std::time::Instant::now() + DEADLINE * 2;
    while log_begins(house) <= beyond {
        assert!(std::time::Instant::now() < until, "the log is not trimmed");
        for _ in 0..20 {
            let text = format!("message {}", said.len());
            said.push((text.clone(), http.say("lobby", &text).await));
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_is_still_answered_for() {
    let mut house = House::start_with(small()).await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let cursor = cursor_now(&bob).await;
    let request = json!({"key": "the first", "body": {"text": "the first"}});
    let first = alice.post(MESSAGES, &request).await.created();
    let said = talk_until_trimmed(&house, &alice, seq(&first)).await;
    let listed = house.run(&["log", "checkpoints", "--json"]);
    assert!((2..=4).contains(&listed.lines().count()), "{listed}");

    house.kill_everything();
    house.restart().await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let again = alice.post(MESSAGES, &request).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(again.json()["duplicate"], true);
    assert_eq!(again.json()["seq"], first["seq"]);
    let last = bob.say("lobby", "bob is still in").await;

    let mut expected = vec![("the first".to_owned(), first.clone())];
    expected.extend(said);
    expected.push(("bob is still in".to_owned(), last.clone()));
    let expected_texts: Vec<String> = expected.iter().map(|(text, _)| text.clone()).collect();
    let (lines, _) = read_all(&bob, &cursor).await;
    assert_unbroken(&lines);
    assert_eq!(texts(&lines), expected_texts, "an old cursor misses nothing");
    for ((_, receipt), line) in expected.iter().zip(&lines) {
        assert_receipt(receipt, line);
    }
    assert_eq!(house.history("bob", "lobby", seq(&last)).await, lines);

    // The room from its beginning, with the events that made it.
    let page = bob
        .get("/v1/events?cursor=earliest&rooms=lobby&limit=1000&wait=0")
        .await;
    let begin = page.lines("events");
    assert_unbroken(&begin);
    assert_eq!(parse(&begin[0])["n"], 1);
    let erin = house.http("erin");
    erin.get("/v1/events?cursor=earliest&rooms=lobby&wait=0")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_nowhere_is_said_to_be_so() {
    let mut house = House::start_with(small()).await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let cursor = cursor_now(&bob).await;
    let first = alice.say("lobby", "the first").await;
    talk_until_trimmed(&house, &alice, seq(&first)).await;
    house.stop();
    for file in ["archive.db", "archive.db-wal", "archive.db-shm"] {
        let _ = std::fs::remove_file(house.data().join(file));
    }
    house.restart().await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let path = format!("/v1/events?cursor={cursor}&wait=0");
    let expired = eventually("the archive has read what there is", async || {
        let answer = bob.get(&path).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    expired.is_problem(410, "cursor-expired");
    let earliest = expired.json()["earliest_cursor"].as_str().unwrap().to_owned();
    let last = alice.say("lobby", "the last").await;
    let (lines, _) = read_all(&bob, &earliest).await;
    assert_unbroken(&lines);
    assert!(lines.len() > 1, "what the log still has is there");
    assert_receipt(&last, lines.last().unwrap());
    assert!(seq(&parse(&lines[0])) > seq(&first));
}
