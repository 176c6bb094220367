//! One event for one key, however often and over whatever transport it is sent.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::events::{parse, texts};
use crate::support::house::House;

const PATH: &str = "/v1/rooms/lobby/messages";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_ten_times_over_http_and_nats_is_one_event() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let (http, nats) = (house.http("alice"), Arc::new(house.nats("alice").await));
    let request = json!({"key": "once", "body": {"text": "once"}});
    let mut senders = JoinSet::new();
    for _ in 0..5 {
        let (http, nats, over_http, over_nats) = (http.clone(), Arc::clone(&nats), request.clone(), request.clone());
        senders.spawn(async move {
            let answer = http.post(PATH, &over_http).await;
            let receipt = answer.json();
            assert_eq!(
                answer.status,
                if receipt["duplicate"] == true { 200 } else { 201 },
                "{answer:?}"
            );
            receipt
        });
        senders.spawn(async move { nats.send("lobby", &over_nats).await });
    }
    let receipts = senders.join_all().await;
    assert_eq!(receipts.len(), 10);
    let first: Vec<&Value> = receipts
        .iter()
        .filter(|receipt| receipt["duplicate"] == false)
        .collect();
    assert_eq!(first.len(), 1, "{receipts:?}");
    for receipt in &receipts {
        for field in ["id", "seq", "n", "at"] {
            assert_eq!(receipt[field], first[0][field], "{receipts:?}");
        }
    }
    let lines = house.messages();
    assert_eq!(texts(&lines), ["once"]);
    assert_eq!(parse(&lines[0])["id"], first[0]["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_body_is_refused() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    house.room("other", &[]).await;
    let (http, nats) = (house.http("alice"), house.nats("alice").await);
    let request = |text: &str| json!({"key": "K", "body": {"text": text}});
    let receipt = http.post(PATH, &request("first")).await.created();

    http.post(PATH, &request("second"))
        .await
        .is_problem(422, "idempotency-mismatch");
    http.post("/v1/rooms/other/messages", &request("first"))
        .await
        .is_problem(422, "idempotency-mismatch");
    let problem = nats.send("lobby", &request("second")).await;
    assert_eq!(problem["code"], "idempotency-mismatch", "{problem}");

    // The key may be told in each of these ways; the body's white space does not count.
    let body = bytes::Bytes::from_static(b"{ \"body\" :\n{ \"text\": \"first\" } }");
    for header in ["K", "\"K\""] {
        let again = http
            .call(hyper::Method::POST, PATH, &[("idempotency-key", header)], body.clone())
            .await
            .ok();
        assert_eq!((&again["id"], &again["duplicate"]), (&receipt["id"], &json!(true)));
    }
    let again = http
        .put(&format!("{PATH}/by-key/K"), &json!({"body": {"text": "first"}}))
        .await
        .ok();
    assert_eq!((&again["id"], &again["duplicate"]), (&receipt["id"], &json!(true)));

    // Somebody else's key, and one in other letters, are other keys.
    let bobs = house.http("bob").post(PATH, &request("second")).await.created();
    let small = http
        .post(PATH, &json!({"key": "k", "body": {"text": "second"}}))
        .await
        .created();
    assert!(receipt["id"] != bobs["id"] && bobs["id"] != small["id"]);
    let messages: Vec<String> = house.messages();
    assert_eq!(texts(&messages), ["first", "second", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_known_after_a_restart() {
    let mut house = House::start().await;
    house.room("lobby", &[]).await;
    let request = json!({"key": "K", "body": {"text": "first"}});
    let receipt = house.http("alice").post(PATH, &request).await.created();
    house.kill_everything();
    house.restart().await;
    let again = house.http("alice").post(PATH, &request).await.ok();
    assert_eq!(
        (&again["id"], &again["seq"], &again["at"]),
        (&receipt["id"], &receipt["seq"], &receipt["at"])
    );
    let other = json!({"key": "K", "body": {"text": "second"}});
    house
        .http("alice")
        .post(PATH, &other)
        .await
        .is_problem(422, "idempotency-mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_may_depend_on_the_rooms_last_event() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let alice = house.http("alice");
    let last = alice.say("lobby", "one").await["seq"].clone();
    alice.say("lobby", "two").await;
    let request = json!({"body": {"text": "three"}, "if_last": last});
    alice.post(PATH, &request).await.is_problem(412, "sequence-conflict");
}
