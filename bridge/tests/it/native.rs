use std::time::Duration;

use async_nats::{Client, Message};
use natterjack_bridge::Caps;
use serde_json::{Value, json};

use super::support::{Book, Bridge, Nats};

async fn ask(client: &Client, user: &str, call: &str, request: &Value) -> Message {
    let subject = format!("chat.api.main.{user}.{call}");
    client.request(subject, request.to_string().into()).await.unwrap()
}

fn json_of(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test]
async fn native_clients_get_the_same_answers() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let alice = nats.client("alice").await;

    assert_eq!(
        json_of(&ask(&alice, "alice", "me.get", &json!({})).await)["user"],
        "alice"
    );
    let rooms = json_of(&ask(&alice, "alice", "rooms.list", &json!({"limit": 5})).await);
    assert_eq!(rooms["rooms"][0]["id"], "lobby");
    let members = json_of(&ask(&alice, "alice", "members.list", &json!({"room": "lobby", "limit": 1})).await);
    assert_eq!(
        (&members["members"][0]["user"], &members["next"]),
        (&"alice".into(), &"alice".into())
    );

    // A parked poll holds up no other request.
    let first = json_of(&ask(&alice, "alice", "events.get", &json!({"wait": 0})).await);
    let parked = json!({"cursor": first["cursor"], "wait": 9, "rooms": []});
    let (events, seq) = tokio::join!(ask(&alice, "alice", "events.get", &parked), async {
        ask(&alice, "alice", "me.get", &json!({})).await;
        book.say("lobby", "hello").await
    });
    assert_eq!(json_of(&events)["events"][0]["seq"], seq.0);

    // The same cursor over HTTP.
    let path = format!("/v1/events?cursor={}", first["cursor"].as_str().unwrap());
    let over_http = bridge.get(&path, &bridge.token("alice")).await;
    assert_eq!(over_http.json()["events"], json_of(&events)["events"]);
    bridge.shutdown().await;
}

#[tokio::test]
async fn refusals_are_problems_with_the_service_s_headers() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let erin = nats.client("erin").await;
    let table = [
        ("members.list", json!({"room": "lobby"}), "404", "not-found"),
        ("history.get", json!({"room": "lobby"}), "404", "not-found"),
        ("history.get", json!({"room": "a.b"}), "400", "invalid-request"),
        ("events.get", json!({"rooms": ["lobby"], "wait": 0}), "404", "not-found"),
        ("events.get", json!({"user": "alice"}), "400", "invalid-request"),
        ("rooms.put", json!({}), "400", "invalid-request"),
        ("members.put", json!([]), "400", "invalid-request"),
    ];
    for (call, request, status, code) in table {
        let answer = ask(&erin, "erin", call, &request).await;
        let headers = answer.headers.as_ref().unwrap();
        assert_eq!(
            headers.get("Nats-Service-Error-Code").unwrap().as_str(),
            status,
            "{call}"
        );
        assert!(headers.get("Nats-Service-Error").is_some());
        assert_eq!(json_of(&answer)["code"], code, "{call} {request}");
    }
    bridge.shutdown().await;
}

#[tokio::test]
async fn only_what_came_through_the_import_is_answered() {
    let nats = Nats::start().await;
    let book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    // From inside CORE a reply subject can be anything; such a request is dropped, whoever makes it.
    let bridge_s_own = nats.core().await;
    let request = bridge_s_own.request("chat.api.main.alice.me.get", "".into());
    let answer = tokio::time::timeout(Duration::from_secs(1), request).await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
    drop(book);
    bridge.shutdown().await;
}
