//! What is told and not kept: typing, presence, signals; and the heads of rooms.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::Http;
use crate::support::mailbox::Delivery;
use crate::support::nats::parse;
use crate::support::poll::cursor_now;

const NOW: &str = "chat.room.main.lobby.now";

fn json_of(delivery: &Delivery) -> Value {
    serde_json::from_slice(&delivery.payload).unwrap()
}

async fn tell(who: &Http, body: &Value) -> u16 {
    who.post("/v1/rooms/lobby/typing", &json!({"body": body})).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_is_heard_by_who_listens_and_kept_nowhere() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "reader")]).await;
    let (bob, carol) = (house.http("bob"), house.http("carol"));
    let alice = house.nats("alice").await;
    alice.subscribe(NOW).await;
    alice.settle().await;
    let cursor = cursor_now(&carol).await;
    let parked = tokio::spawn({
        let (carol, path) = (carol.clone(), format!("/v1/events?cursor={cursor}&wait=25"));
        async move { carol.get(&path).await }
    });
    // Between two polls or parked: heard once either way.
    let answer = bob.post("/v1/rooms/lobby/typing", &json!({"body": {"on": true}})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let receipt = answer.json();
    assert_eq!((&receipt["durability"], &receipt["seq"]), (&json!("none"), &json!(0)));
    let page = parked.await.unwrap().ok();
    let told = &page["ephemeral"][0];
    for (field, expected) in [
        ("kind", json!("typing")),
        ("from", json!("bob")),
        ("room", json!("lobby")),
        ("id", receipt["id"].clone()),
        ("body", json!({"on": true})),
    ] {
        assert_eq!(told[field], expected, "{page}");
    }
    assert_eq!(page["events"], json!([]));
    let cursor = page["cursor"].as_str().unwrap();
    let again = carol.get(&format!("/v1/events?cursor={cursor}&wait=0")).await.ok();
    assert_eq!(again["ephemeral"], json!([]), "{again}");
    alice
        .mail
        .wait("alice hears it", |all| {
            all.iter().any(|one| json_of(one)["id"] == receipt["id"]).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_limits_and_needs_rights_and_never_stands_in_the_log() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "reader")]).await;
    let (bob, carol, eve) = (house.http("bob"), house.http("carol"), house.http("eve"));
    let alice = house.nats("alice").await;
    let signal = alice
        .client
        .request("chat.in.main.alice.lobby.signal", r#"{"sdp":"x"}"#.into())
        .await
        .unwrap();
    assert_eq!(parse(&signal)["durability"], "none", "{signal:?}");
    let empty = alice
        .client
        .request("chat.in.main.alice.lobby.typing", "".into())
        .await
        .unwrap();
    assert_eq!(parse(&empty)["durability"], "none", "{empty:?}");
    assert_eq!(tell(&carol, &json!({})).await, 403);
    assert_eq!(tell(&eve, &json!({})).await, 404);
    assert_eq!(tell(&bob, &json!({"text": "x".repeat(5000)})).await, 413);
    // 30 at once and 10 a second: of so many within seconds some are too many.
    let body = json!({});
    let statuses = join_all((0..90).map(|_| tell(&bob, &body))).await;
    assert!(statuses.contains(&202) && statuses.contains(&429), "{statuses:?}");
    assert_eq!(
        tell(&house.http("alice"), &json!({})).await,
        202,
        "one sender's limit is another's"
    );
    let kinds: Vec<Value> = house
        .log()
        .iter()
        .map(|line| crate::support::events::parse(line)["kind"].clone())
        .collect();
    assert!(
        kinds.iter().all(|kind| *kind != "typing" && *kind != "signal"),
        "{kinds:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_hears_nothing_of_it() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "member")]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let before = cursor_now(&bob).await;
    assert_eq!(tell(&house.http("carol"), &json!({"text": "told before"})).await, 202);
    alice.delete("/v1/rooms/lobby/members/bob").await.ok();
    assert_eq!(tell(&alice, &json!({"text": "told after"})).await, 202);
    let page = bob.get(&format!("/v1/events?cursor={before}&wait=0")).await.ok();
    assert_eq!(page["ephemeral"], json!([]), "{page}");
    assert_eq!(page["events"][0]["kind"], "member", "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rooms_head_is_told_a_little_later_to_who_may_have_missed_its_last_event() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let alice = house.nats("alice").await;
    alice.subscribe(NOW).await;
    alice.settle().await;
    let receipt = alice.say("lobby", "the last for a long time").await;
    let head = alice
        .mail
        .wait("the head", |all| {
            all.iter().map(json_of).find(|one| one["head"]["n"] == receipt["n"])
        })
        .await;
    assert_eq!(head["head"]["seq"], receipt["seq"]);
    assert_eq!((&head["room"], &head["tenant"]), (&json!("lobby"), &json!("main")));
    // A device hears it too.
    let device = house.paho("alice").await;
    assert_eq!(device.subscribe("chat/room/main/lobby/now").await["granted"], true);
    let receipt = alice.say("lobby", "one more").await;
    eventually("the device hears the head", async || {
        let all = device.mail.all();
        all.iter()
            .map(json_of)
            .any(|one| one["head"]["n"] == receipt["n"])
            .then_some(())
    })
    .await;
}
