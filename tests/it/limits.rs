//! How much who may do: each limit refuses, says which it is, and lets in again.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::{Answer, Http};
use crate::support::nats::Nats;

/// Does something until a limit refuses it.
async fn until_limited(mut ask: impl AsyncFnMut() -> Value) -> Value {
    eventually("a limit refuses", async || {
        let answer = ask().await;
        (answer["code"] == "rate-limited").then_some(answer)
    })
    .await
}

fn is_by(problem: &Value, limiter: &str) {
    assert_eq!(
        (&problem["limiter"], &problem["status"], &problem["retryable"]),
        (&json!(limiter), &json!(429), &json!(true)),
        "{problem}"
    );
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 0, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(limiter), "{problem}");
}

async fn send(by: &Http) -> Answer {
    by.post("/v1/rooms/lobby/messages", &json!({"body": {"text": "x"}}))
        .await
}

/// What `/metrics` says of a limiter.
async fn counted(house: &House, limiter: &str) -> f64 {
    let text = Http::new(&house.endpoints.http, None).get("/metrics").await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = format!("natterjack_limited_total{{limiter=\"{limiter}\"}} ");
    let count = text.lines().find_map(|found| found.strip_prefix(&line));
    count.map_or(0.0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_much_is_told_so_over_http_and_nats_and_nobody_else_is() {
    let house = House::start_with([
        ("NATTERJACK_LIMITS__BURST_SECS", "3"),
        ("NATTERJACK_LIMITS__ROLES__MEMBER__SENDS", "1"),
    ])
    .await;
    house.room("lobby", &[("bob", "member"), ("admin", "member")]).await;
    let (bob, nats) = (house.http("bob"), house.nats("bob").await);
    let refused = eventually("a limit refuses", async || {
        let answer = send(&bob).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    is_by(&refused.json(), "sends per principal");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    let over_nats = until_limited(async || nats.say("lobby", "x").await).await;
    is_by(&over_nats, "sends per principal");
    assert!(counted(&house, "sends per principal").await >= 1.0);
    // What is repeated is no event more, and policy is never held up.
    let (alice, admin) = (house.http("alice"), house.http("admin"));
    for _ in 0..10 {
        admin.say("lobby", "an administrator has no such limit").await;
    }
    alice
        .put("/v1/rooms/lobby/members/carol", &json!({"role": "member"}))
        .await
        .ok();
    eventually("there is some again", async || {
        (send(&bob).await.status == 201).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_and_a_tenant_have_limits_of_their_own() {
    for (setting, limiter) in [
        ("NATTERJACK_LIMITS__ROOM_SENDS", "sends per room"),
        ("NATTERJACK_LIMITS__TENANT_SENDS", "sends per tenant"),
    ] {
        let house = House::start_with([(setting, "1"), ("NATTERJACK_LIMITS__BURST_SECS", "2")]).await;
        house.room("lobby", &[("bob", "member")]).await;
        house.room("attic", &[]).await;
        let (alice, bob) = (house.http("alice"), house.http("bob"));
        let mut turn = 0;
        let refused = until_limited(async || {
            turn += 1;
            send(if turn % 2 == 0 { &alice } else { &bob }).await.json()
        })
        .await;
        is_by(&refused, limiter);
        if limiter == "sends per room" {
            alice.say("attic", "another room").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_much_is_told_so() {
    let house = House::start_with([
        ("NATTERJACK_LIMITS__BURST_SECS", "3"),
        ("NATTERJACK_LIMITS__ROLES__MEMBER__REQUESTS", "1"),
    ])
    .await;
    let (bob, admin) = (house.http("bob"), house.http("admin"));
    let refused = until_limited(async || bob.get("/v1/me").await.json()).await;
    is_by(&refused, "requests per principal");
    let nats = house.nats("bob").await;
    let refused = until_limited(async || nats.api("me.get", &json!({})).await).await;
    is_by(&refused, "requests per principal");
    assert!(counted(&house, "requests per principal").await >= 2.0);
    for _ in 0..10 {
        admin.get("/v1/me").await.ok();
    }
    eventually("there is some again", async || {
        (bob.get("/v1/me").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_so_many_connections() {
    let house = House::start_with([("NATTERJACK_LIMITS__ROLES__MEMBER__CONNECTIONS", "2")]).await;
    let token = house.token("bob");
    let connect = async |user: &str, token: &str| Nats::connect(&house.endpoints.nats, user, token).await;
    let first = connect("bob", &token).await.unwrap();
    let _second = connect("bob", &token).await.unwrap();
    assert!(connect("bob", &token).await.is_err());
    connect("carol", &house.token("carol")).await.unwrap();
    first.client.drain().await.unwrap();
    eventually("a place is free", async || connect("bob", &token).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_logins_costs_little_and_does_not_shut_out_who_is_known() {
    const FLOOD: usize = 150;
    let house = House::start_with([
        ("NATTERJACK_LIMITS__BURST_SECS", "5"),
        ("NATTERJACK_LIMITS__REFUSED_LOGINS", "1"),
    ])
    .await;
    let (known, new) = (house.token("bob"), house.token("bob"));
    let key = house.run(&["key", "create", "--of", "bob", "--name", "x"]);
    let connect = async |token: &str| Nats::connect(&house.endpoints.nats, "bob", token).await;
    connect(&known).await.unwrap();
    let forged = format!("{}x", house.token("mallory"));
    let flood = (0..FLOOD).map(|_| connect(&forged));
    for one in futures_util::future::join_all(flood).await {
        assert!(one.is_err());
    }
    connect(&known).await.unwrap();
    connect(key.trim()).await.unwrap();
    let log = std::fs::read_to_string(house.log_file()).unwrap();
    let told = log
        .lines()
        .filter(|line| line.contains("a connection is refused"))
        .count();
    assert!((1..FLOOD).contains(&told), "{told} of {FLOOD} are in the log");
    assert!(log.contains("is not acceptable"), "some were looked at");
    eventually("a new token is good after a pause", async || connect(&new).await.ok()).await;
}
