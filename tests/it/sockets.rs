//! WebSocket over HTTP: one connection to send and to hear.

use serde_json::{Value, json};

use crate::support::events::{assert_receipt, texts};
use crate::support::house::House;
use crate::support::script::Script;
use crate::support::stream::{Raw, ask, frame, say};

#[tokio::test(flavor = "multi_thread")]
async fn over_a_websocket_one_sends_and_hears() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "reader")]).await;
    let script = Script::events("bob").await;
    script.call("open", ask(&house, "ws", "bob", &json!({}))).await;
    for number in 0..50 {
        say(
            &script,
            &json!({"op": "send", "ref": format!("{number}"), "room": "lobby", "body": {"text": number.to_string()}}),
        )
        .await;
    }
    for number in 0..50 {
        let reference = number.to_string();
        let receipt = frame(&script, "a receipt", |frame| {
            frame["op"] == "receipt" && frame["ref"] == reference
        })
        .await;
        let event = frame(&script, "its event", |frame| {
            frame["event"]["id"] == receipt["receipt"]["id"]
        })
        .await;
        assert_receipt(&receipt["receipt"], &event["event"].to_string());
        assert_eq!(
            (&event["op"], &event["event"]["body"]["text"]),
            (&json!("event"), &json!(reference))
        );
    }
    let said: Vec<String> = (0..50).map(|number: usize| number.to_string()).collect();
    assert_eq!(texts(&house.messages()), said, "in the order in which they were sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_pings_and_what_is_not_kept() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "reader")]).await;
    let script = Script::events("bob").await;
    script.call("open", ask(&house, "ws", "bob", &json!({}))).await;
    let again = json!({"op": "send", "ref": "again", "room": "lobby", "key": "k", "body": 1});
    for duplicate in [false, true] {
        say(&script, &again).await;
        frame(&script, "the receipt", |frame| {
            frame["ref"] == "again" && frame["receipt"]["duplicate"] == duplicate
        })
        .await;
    }
    say(&script, &json!({"op": "ping", "ref": "p"})).await;
    frame(&script, "a pong", |frame| *frame == json!({"op": "pong", "ref": "p"})).await;
    house
        .http("alice")
        .post("/v1/rooms/lobby/typing", &json!({"body": {"on": true}}))
        .await;
    let heard = frame(&script, "typing", |frame| frame["op"] == "ephemeral").await;
    assert_eq!(heard["event"]["from"], "alice", "{heard}");
    let mut carol = Raw::get(&house, "carol", "/v1/events/stream").await;
    assert!(carol.reads("id: ").await);
    say(&script, &json!({"op": "typing", "ref": "t", "room": "lobby"})).await;
    frame(&script, "its receipt", |frame| {
        frame["ref"] == "t" && frame["receipt"]["durability"] == "none"
    })
    .await;
    assert!(carol.reads("event: ephemeral\ndata: {").await);
}

/// Frames that are refused: as JSON, and the code.
const WRONG: &[(&str, &str)] = &[
    (r#"{"op":"shout","ref":"1"}"#, "invalid-request"),
    (
        r#"{"op":"send","ref":"2","room":"lobby","body":{},"from":"alice"}"#,
        "invalid-request",
    ),
    (r#"{"op":"send","ref":"3","room":"lobby","body":{}}"#, "forbidden"),
    (r#"{"op":"send","ref":"4","room":"nowhere","body":{}}"#, "not-found"),
    (r#"{"op":"subscribe","ref":"5","rooms":["nowhere"]}"#, "not-found"),
    (r#"{"op":"subscribe","ref":"6","cursor":"nonsense"}"#, "invalid-cursor"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_and_ends_nothing() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "reader")]).await;
    house.room("garden", &[("bob", "member")]).await;
    let script = Script::events("bob").await;
    let rooms = json!({"rooms": "lobby"});
    script.call("open", ask(&house, "ws", "bob", &rooms)).await;
    for (wrong, code) in WRONG {
        let wrong: Value = serde_json::from_str(wrong).unwrap();
        say(&script, &wrong).await;
        let told = frame(&script, "an error", |frame| frame["ref"] == wrong["ref"]).await;
        assert_eq!(
            (&told["op"], &told["problem"]["code"]),
            (&json!("error"), &json!(code)),
            "{told}"
        );
    }
    let binary = json!({"name": "ws", "frame": "{}", "binary": true});
    script.call("say", binary).await;
    let is_told = |frame: &Value| {
        frame["problem"]["detail"]
            .as_str()
            .is_some_and(|text| text.contains("binary"))
    };
    frame(&script, "an error", is_told).await;

    say(&script, &json!({"op": "subscribe", "ref": "7", "rooms": ["garden"]})).await;
    let there = frame(&script, "a cursor", |frame| {
        frame["op"] == "cursor" && frame["ref"] == "7"
    })
    .await;
    house.http("alice").say("lobby", "not asked for any more").await;
    house.http("alice").say("garden", "asked for").await;
    let event = frame(&script, "an event", |frame| frame["op"] == "event").await;
    assert_eq!(event["event"]["room"], "garden", "{event}");
    let path = format!(
        "/v1/events?rooms=garden&wait=0&cursor={}",
        there["cursor"].as_str().unwrap()
    );
    assert_eq!(
        house.http("bob").get(&path).await.lines("events"),
        [event["event"].to_string()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_too_large_ends_the_connection() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let script = Script::events("bob").await;
    script.call("open", ask(&house, "ws", "bob", &json!({}))).await;
    let large = json!({"op": "send", "room": "lobby", "body": {"text": "x".repeat(100_000)}});
    let large = json!({"name": "ws", "frame": large.to_string()});
    script.call("say", large).await;
    let closed = |all: &[String]| all.iter().any(|line| line.starts_with("closed 1009")).then_some(());
    script.happened.wait("it is closed for its size", closed).await;
    assert_eq!(texts(&house.messages()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_pages_may_open_a_websocket() {
    let house = House::start_with([("NATTERJACK_BRIDGE__ORIGINS", r#"["https://chat.example"]"#)]).await;
    let script = Script::events("bob").await;
    for (origin, status) in [
        ("https://evil.example", Some(403)),
        ("null", Some(403)),
        ("https://chat.example", None),
        (house.endpoints.http.as_str(), None),
    ] {
        let more = json!({"headers": {"Origin": origin}});
        let answer = script.call("open", ask(&house, "ws", "bob", &more)).await;
        assert_eq!(answer["status"].as_u64(), status, "{origin}: {answer}");
    }
}
