//! Tokens that are taken back: what they opened ends, and nothing of it is accepted any more.

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::events::texts;
use crate::support::eventually;
use crate::support::everywhere::{Everywhere, revoke};
use crate::support::house::{House, signal};
use crate::support::http::Http;
use crate::support::nats::{Nats, parse};
use crate::support::poll::cursor_now;
use crate::support::roles::{Roles, free_port, is_ready};

fn jti(token: &str) -> String {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

fn by(house: &House, token: &str) -> Http {
    Http::new(&house.endpoints.http, Some(token))
}

const BEFORE: &str = "before it is frozen";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_tokens_are_revoked_is_out_until_a_new_one() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, admin, token) = (house.http("alice"), house.http("admin"), house.token("bob"));
    let mut bob = Everywhere::enter(&house, "bob", &token).await;
    let cursor = cursor_now(&bob.http).await;
    let ticket = bob.http.post("/v1/tickets", &json!({})).await.created()["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    let poll_path = format!("/v1/events?cursor={cursor}&wait=50");
    let parked = bob.http.get(&poll_path);
    let revoked = async {
        house.http("carol").get("/v1/me").await.ok();
        revoke(&admin, json!({"user": "bob"})).await
    };
    let (ended, answer) = tokio::join!(parked, revoked);
    ended.is_problem(401, "token-revoked");
    assert!(answer["connections_closed"].as_u64().unwrap() >= 3, "{answer}");
    alice.say("lobby", "behind bob's back").await;
    bob.is_out(&house, "token-revoked").await;
    for heard in bob.heard() {
        assert!(heard.is_empty(), "{heard:?}");
    }
    // Nor is it used up by that.
    for _ in 0..2 {
        let by_ticket = Http::new(&house.endpoints.http, None)
            .get(&format!("/v1/events?wait=0&ticket={ticket}"))
            .await;
        by_ticket.is_problem(401, "token-revoked");
    }
    // The tokens of others are good, and so is a new one, as soon as it is surely issued after.
    alice.get("/v1/me").await.ok();
    let token = eventually("a new token is good", async || {
        let token = house.token("bob");
        (by(&house, &token).get("/v1/me").await.status == 200).then_some(token)
    })
    .await;
    let back = Nats::connect(&house.endpoints.nats, "bob", &token).await.unwrap();
    assert!(back.say("lobby", "back again").await["seq"].is_u64());
    assert_eq!(texts(&house.messages()), ["behind bob's back", "back again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_is_revoked_and_the_others_live_on() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, lost, kept) = (house.http("admin"), house.token("bob"), house.token("bob"));
    let mut lost_everywhere = Everywhere::enter(&house, "bob", &lost).await;
    let phone = Nats::connect(&house.endpoints.nats, "bob", &kept).await.unwrap();
    revoke(&admin, json!({"user": "bob", "jti": jti(&lost)})).await;
    lost_everywhere.is_out(&house, "token-revoked").await;
    by(&house, &kept).say("lobby", "by the other").await;
    // Its connection could have been the lost one's, so it was renewed; once that is over it is heard as before.
    phone
        .happened
        .wait("the phone is back", |all| {
            (all.iter().filter(|line| *line == "connected").count() >= 2).then_some(())
        })
        .await;
    assert!(phone.say("lobby", "by the phone").await["seq"].is_u64());
    assert_eq!(texts(&house.messages()), ["by the other", "by the phone"]);
    let mut house = house;
    house.stop();
    house.restart().await;
    by(&house, &lost).get("/v1/me").await.is_problem(401, "token-revoked");
    by(&house, &kept).get("/v1/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_issued_before_a_time_is_revoked() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, token) = (house.http("admin"), house.token("bob"));
    let mut bob = Everywhere::enter(&house, "bob", &token).await;
    let far = json!({"before": "2999-01-01T00:00:00Z"});
    admin
        .post("/v1/revocations", &far)
        .await
        .is_problem(400, "invalid-request");
    // Long ago: nothing is revoked that is good today.
    revoke(&admin, json!({"before": "2020-01-01T00:00:00Z"})).await;
    bob.http.get("/v1/me").await.ok();
    let later = eventually("a token of a later second", async || {
        let later = house.token("admin");
        (issued(&later) > issued(&token) + 1).then_some(later)
    })
    .await;
    let before = json!({"before": house_time(issued(&token) + 1)});
    revoke(&by(&house, &later), before).await;
    bob.is_out(&house, "token-revoked").await;
    by(&house, &later).get("/v1/me").await.ok();
}

fn issued(token: &str) -> i64 {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["iat"]
        .as_i64()
        .unwrap()
}

fn house_time(seconds: i64) -> String {
    natterjack_nats_config::clock::format_ms(seconds * 1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_administrator_revokes_what_is_not_their_own() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (bob, alice, admin) = (house.http("bob"), house.http("alice"), house.http("admin"));
    for what in [
        json!({"user": "alice"}),
        json!({"user": "alice", "jti": "x"}),
        json!({"before": "2020-01-01T00:00:00Z"}),
    ] {
        bob.post("/v1/revocations", &what).await.is_problem(403, "forbidden");
    }
    for what in [
        json!({}),
        json!({"jti": "x"}),
        json!({"user": "bob", "jti": ""}),
        json!({"user": "bob", "jti": "x".repeat(129)}),
        json!({"user": "bob", "before": "yesterday"}),
        json!({"user": "a.b"}),
        json!({"user": "bob", "room": "lobby", "jti": "x"}),
        json!({"user": "bob", "settled": 1}),
        json!({"user": "bob", "valid_after_ms": 1}),
    ] {
        admin
            .post("/v1/revocations", &what)
            .await
            .is_problem(400, "invalid-request");
    }
    // Nor over NATS, where what only the writer and the bridges say could be written too.
    let nats = house.nats("admin").await;
    for body in [
        json!({"user": "bob", "settled": 1}),
        json!({"user": "bob", "valid_after_ms": 1}),
    ] {
        let asked = nats.request(
            "chat.in.main.admin._.token",
            json!({"body": body}).to_string(),
            HeaderMap::new(),
        );
        let answer = parse(&asked.await.unwrap());
        assert_eq!(answer["code"], "invalid-request", "{answer}");
    }
    alice.get("/v1/me").await.ok();
    // A membership is revoked as it is removed.
    revoke(&alice, json!({"user": "bob", "room": "lobby"})).await;
    bob.get("/v1/rooms/lobby").await.is_problem(404, "not-found");
    // One's own tokens are one's own to revoke: signing out everywhere.
    revoke(&bob, json!({"user": "bob"})).await;
    bob.get("/v1/me").await.is_problem(401, "token-revoked");
    let said = house.run(&["revoke", "--of", "carol"]);
    assert_eq!(said.trim(), "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_authz_is_frozen_a_revocation_is_pending_and_nothing_of_the_user_is_taken_over_nats() {
    let mut roles = Roles::start().await;
    roles.store();
    let port = free_port();
    roles.bridge(port);
    is_ready(&roles.http(port, "admin")).await;
    let (alice, bob) = (roles.nats("alice").await, roles.nats("bob").await);
    roles.room(&alice, "lobby", &[("bob", "member")]).await;
    let (lost, admin, by_kept) = (roles.token("bob"), roles.http(port, "admin"), roles.http(port, "bob"));
    // Both are given the room by a renewal of their connections, for which authz is needed.
    tokio::join!(alice.listen(&["lobby"]), bob.listen(&["lobby"]));
    eventually("both have the room", async || {
        by_kept.say("lobby", BEFORE).await;
        (!alice.mail.all().is_empty() && !bob.mail.all().is_empty()).then_some(())
    })
    .await;
    signal(roles.authz(), Signal::STOP);
    let answer = admin
        .post("/v1/revocations", &json!({"user": "bob", "jti": jti(&lost)}))
        .await
        .ok();
    assert_eq!(answer["state"], "pending", "{answer}");
    assert!(!answer["waiting_for"].as_array().unwrap().is_empty(), "{answer}");
    // The connection may be the lost token's: nobody can know.
    for answer in [bob.say("lobby", "by whom?").await, bob.api("me.get", &json!({})).await] {
        assert_eq!(
            (&answer["code"], &answer["retryable"]),
            (&json!("revocation-in-progress"), &json!(true)),
            "{answer}"
        );
    }
    assert!(alice.say("lobby", "others go on").await["seq"].is_u64());
    by_kept.say("lobby", "and so does a token that says which it is").await;
    Http::new(&format!("http://127.0.0.1:{port}"), Some(&lost))
        .get("/v1/me")
        .await
        .is_problem(401, "token-revoked");
    signal(roles.authz(), Signal::CONT);
    // Whoever asked is gone; it is seen through all the same.
    eventually("the revocation is over", async || {
        bob.say("lobby", "back").await["seq"].is_u64().then_some(())
    })
    .await;
    let messages = roles.log("lobby").await;
    let messages: Vec<_> = messages
        .into_iter()
        .filter(|line| line.contains("\"kind\":\"msg\"") && !line.contains(BEFORE))
        .collect();
    assert_eq!(
        texts(&messages),
        ["others go on", "and so does a token that says which it is", "back"]
    );
}
