//! API keys: they open what a token opens, until they are revoked.

use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use natterjack_nats_config::clock;
use serde_json::{Value, json};

use crate::support::crowd::metric;
use crate::support::eventually;
use crate::support::everywhere::Everywhere;
use crate::support::house::House;
use crate::support::http::{Answer, Http};
use crate::support::nats::{Nats, parse};
use crate::support::poll::cursor_now;

/// A new key: its id and itself.
async fn make(by: &Http, asked: &Value) -> (String, String) {
    let made = by.post("/v1/keys", asked).await.created();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    assert_eq!(made["state"], "done", "{made}");
    assert!(text("key").starts_with(&format!("nj_{}_", text("id"))), "{made}");
    (text("id"), text("key"))
}

fn by(house: &House, key: &str) -> Http {
    Http::new(&house.endpoints.http, Some(key))
}

async fn basic(house: &House, user: &str, key: &str) -> Answer {
    let pair = format!("Basic {}", STANDARD.encode(format!("{user}:{key}")));
    let nobody = Http::new(&house.endpoints.http, None);
    nobody
        .call(Method::GET, "/v1/me", &[("authorization", &pair)], Bytes::new())
        .await
}

async fn delete(by: &Http, id: &str) {
    eventually("the key is ended everywhere", async || {
        let answer = by.delete(&format!("/v1/keys/{id}")).await;
        // Pending at first, on a busy machine; then it is gone, and seen through all the same.
        (answer.status == 404 || answer.ok()["state"] == "done").then_some(())
    })
    .await;
}

/// Neither in the log nor in what is logged.
fn stand_nowhere(house: &House, keys: &[&str]) {
    let logged = std::fs::read_to_string(house.log_file()).unwrap();
    for key in keys {
        assert!(!house.log().concat().contains(key) && !logged.contains(key));
    }
}

async fn lists_only(by: &Http, id: &str) {
    let listed = by.get("/v1/keys").await.ok();
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["id"]), (1, &json!(id)), "{listed}");
    assert!(
        listed["next"].is_null() && !listed.to_string().contains("sha256"),
        "{listed}"
    );
}

async fn parked_polls(house: &House) -> u64 {
    let metrics = house.http("alice").get("/metrics").await.body;
    metric(&metrics, "natterjack_used{queue=\"parked_polls\"}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_what_a_token_does_and_with_its_end_all_of_that_ends() {
    let mut house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, admin, bob) = (house.http("alice"), house.http("admin"), house.http("bob"));
    let (lost, lost_key) = make(&admin, &json!({"user": "bob", "name": "a lost phone"})).await;
    let (kept, kept_key) = make(&bob, &json!({"name": "a kept one"})).await;
    let mut everywhere = Everywhere::enter(&house, "bob", &lost_key).await;
    assert!(everywhere.nats.say("lobby", "by a key").await["seq"].is_u64());
    assert_eq!(basic(&house, "bob", &lost_key).await.ok()["user"], "bob");
    assert_eq!(basic(&house, "main.bob", &lost_key).await.ok()["user"], "bob");
    basic(&house, "alice", &lost_key).await.is_problem(401, "token-invalid");
    let phone = Nats::connect(&house.endpoints.nats, "bob", &kept_key).await.unwrap();

    let cursor = cursor_now(&everywhere.http).await;
    let poll_path = format!("/v1/events?cursor={cursor}&wait=50");
    let before = parked_polls(&house).await;
    let end = async {
        eventually("the poll is parked", async || {
            (parked_polls(&house).await > before).then_some(())
        })
        .await;
        delete(&bob, &lost).await;
    };
    let (ended, ()) = tokio::join!(everywhere.http.get(&poll_path), end);
    ended.is_problem(401, "token-revoked");
    everywhere.is_out(&house, "token-invalid").await;
    alice.say("lobby", "behind the key's back").await;
    for heard in everywhere.heard() {
        assert!(!heard.contains(&"behind the key's back".to_owned()), "{heard:?}");
    }
    // The other key lives on; its connection was renewed, as it could have been the lost one's.
    by(&house, &kept_key).say("lobby", "by the other").await;
    phone
        .happened
        .wait("the phone is back", |all| {
            (all.iter().filter(|line| *line == "connected").count() >= 2).then_some(())
        })
        .await;
    assert!(phone.say("lobby", "by the phone").await["seq"].is_u64());
    bob.delete(&format!("/v1/keys/{lost}"))
        .await
        .is_problem(404, "not-found");

    // Neither the log nor what is logged has a key; and both outlive a restart.
    stand_nowhere(&house, &[&lost_key, &kept_key]);
    house.stop();
    house.restart().await;
    by(&house, &lost_key)
        .get("/v1/me")
        .await
        .is_problem(401, "token-invalid");
    by(&house, &kept_key).get("/v1/me").await.ok();
    lists_only(&house.http("bob"), &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_keys_are_ones_own_and_others_an_administrators() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    let (id, key) = make(&alice, &json!({"name": "mine"})).await;
    bob.post("/v1/keys", &json!({"user": "alice", "name": "x"}))
        .await
        .is_problem(403, "forbidden");
    bob.get("/v1/keys?user=alice").await.is_problem(403, "forbidden");
    bob.delete(&format!("/v1/keys/{id}")).await.is_problem(404, "not-found");
    // Nor by the way of revocations.
    let what = json!({"user": "bob", "jti": format!("nj_{id}")});
    bob.post("/v1/revocations", &what).await.is_problem(404, "not-found");
    let listed = admin.get("/v1/keys?user=alice").await.ok();
    assert_eq!(
        (&listed["keys"][0]["name"], &listed["keys"][0]["user"]),
        (&json!("mine"), &json!("alice")),
        "{listed}"
    );
    // Who has got hold of a key makes no other.
    by(&house, &key)
        .post("/v1/keys", &json!({"name": "for later"}))
        .await
        .is_problem(403, "forbidden");
    for bad in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "a\nb"}),
        json!({"name": "x", "expires": "tomorrow"}),
        json!({"name": "x", "expires": "2020-01-01T00:00:00Z"}),
        json!({"name": "x", "user": "a.b"}),
        json!({"name": "x", "sha256": "00"}),
    ] {
        alice.post("/v1/keys", &bad).await.is_problem(400, "invalid-request");
    }
    for bad in [&key[..key.len() - 1], "nj_", "nj_x_y", &format!("{key}A")] {
        by(&house, bad).get("/v1/me").await.is_problem(401, "token-invalid");
        assert!(Nats::connect(&house.endpoints.nats, "alice", bad).await.is_err());
    }
    delete(&admin, &id).await;
    by(&house, &key).get("/v1/me").await.is_problem(401, "token-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_ends_at_its_time_and_with_all_of_its_users_tokens() {
    let house = House::start().await;
    let bob = house.http("bob");
    let soon = clock::format_ms(clock::now_ms() + 3000);
    let (_, short) = make(&bob, &json!({"name": "for a moment", "expires": soon})).await;
    let (_, long) = make(&bob, &json!({"name": "for long"})).await;
    eventually("its time is over", async || {
        let answer = by(&house, &short).get("/v1/me").await;
        (answer.status == 401).then(|| answer.is_problem(401, "token-expired"))
    })
    .await;
    assert!(Nats::connect(&house.endpoints.nats, "bob", &short).await.is_err());
    assert_eq!(bob.get("/v1/keys").await.ok()["keys"].as_array().unwrap().len(), 1);
    by(&house, &long).get("/v1/me").await.ok();
    house.run(&["revoke", "--of", "bob"]);
    by(&house, &long).get("/v1/me").await.is_problem(401, "token-invalid");
}

fn has_heard_nothing_of(other: &Nats, keys: &[&str]) {
    for heard in other.mail.all() {
        let text = String::from_utf8(heard.payload.to_vec()).unwrap();
        assert!(!keys.iter().any(|key| text.contains(key)), "{}", heard.subject);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_ended_from_the_shell() {
    let house = House::start().await;
    let made = house.run(&["key", "create", "--of", "dev1", "--name", "thermometer"]);
    let key = made.strip_suffix('\n').unwrap();
    let me = by(&house, key).get("/v1/me").await.ok();
    assert_eq!(me["user"], "dev1", "{me}");
    let listed = house.run(&["key", "list", "--of", "dev1"]);
    let row: Vec<&str> = listed.trim_end().split('\t').collect();
    assert!(key.starts_with(&format!("nj_{}_", row[0])), "{listed}");
    assert_eq!((row[2], row[3]), ("-", "thermometer"), "{listed}");
    // A key is a token for the commands too.
    assert_eq!(house.run(&["key", "list", "--token", key]), listed);
    assert_eq!(house.run(&["key", "revoke", row[0]]), "revoked\n");
    assert_eq!(house.run(&["key", "list", "--of", "dev1"]), "");
    assert!(
        house
            .refused(&["key", "list", "--token", key])
            .contains("token-invalid")
    );
}

/// A new key, made over NATS.
async fn make_over_nats(by: &Nats, asked: &Value) -> (String, String) {
    let made = by.api("keys.create", asked).await;
    let text = |field: &str| made[field].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    assert_eq!(made["state"], "done", "{made}");
    (text("id"), text("key"))
}

/// The answer goes to the inbox of whoever asked, which nobody else hears, whoever they are.
async fn listen_for_answers_to_bob(others: [&Nats; 2]) {
    for other in others {
        other.subscribe("_INBOX.main.bob.>").await;
        other.is_refused("subscription", "_INBOX.main.bob.>").await;
        for own in ["_INBOX.main", "chat.user.main"] {
            let last = if own.starts_with('_') { ".>" } else { "" };
            other.subscribe(&format!("{own}.{}{last}", other.user)).await;
        }
    }
}

/// The connection over which the end of one's own key is asked for is renewed with all others, and the answer may be lost with that.
async fn end_own(bob: &Nats, id: &str) {
    eventually("one's own is ended too", async || {
        let subject = "chat.api.main.bob.keys.revoke";
        let asked = bob.request(subject, json!({"id": id}).to_string(), HeaderMap::new());
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?.ok()?;
        (parse(&answer)["code"] == "not-found").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_ended_over_nats_and_shown_to_whoever_asked() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (alice, bob, admin) = tokio::join!(house.nats("alice"), house.nats("bob"), house.nats("admin"));
    listen_for_answers_to_bob([&alice, &admin]).await;
    alice.listen(&["lobby"]).await;
    let token = house.token("bob");
    let (lathe, lathe_key) = make_over_nats(&bob, &json!({"token": token, "name": "lathe"})).await;
    let (drill, drill_key) = make_over_nats(&bob, &json!({"token": token, "name": "drill"})).await;
    assert_eq!(by(&house, &lathe_key).get("/v1/me").await.ok()["user"], "bob");
    let by_key = Nats::connect(&house.endpoints.nats, "bob", &lathe_key).await.unwrap();
    assert!(by_key.say("lobby", "by a key").await["seq"].is_u64());

    let listed = bob.api("keys.list", &json!({"limit": 1})).await;
    let first = lathe.clone().min(drill.clone());
    assert_eq!(
        (&listed["keys"][0]["id"], &listed["next"]),
        (&json!(first), &json!(first)),
        "{listed}"
    );
    let listed = bob.api("keys.list", &json!({"next": listed["next"]})).await;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "{listed}");
    let of_bob = json!({"user": "bob"});
    assert_eq!(alice.api("keys.list", &of_bob).await["code"], "forbidden");
    let listed = admin.api("keys.list", &of_bob).await;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2, "{listed}");
    let has_secret = ["sha256", &lathe_key, &drill_key]
        .iter()
        .any(|one| listed.to_string().contains(*one));
    assert!(!has_secret, "{listed}");

    let which = json!({"id": lathe});
    assert_eq!(alice.api("keys.revoke", &which).await["code"], "not-found");
    let ended = admin.api("keys.revoke", &which).await;
    assert!(ended["seq"].is_u64() && ended["state"].is_string(), "{ended}");
    eventually("the key is ended everywhere", async || {
        let gone = admin.api("keys.revoke", &which).await["code"] == "not-found";
        (gone && by(&house, &lathe_key).get("/v1/me").await.status == 401).then_some(())
    })
    .await;
    by(&house, &drill_key).get("/v1/me").await.ok();
    end_own(&bob, &drill).await;
    by(&house, &drill_key)
        .get("/v1/me")
        .await
        .is_problem(401, "token-invalid");
    stand_nowhere(&house, &[&lathe_key, &drill_key, &token]);
    for other in [&alice, &admin] {
        has_heard_nothing_of(other, &[&lathe_key, &drill_key]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats_too_a_key_makes_no_key() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let bob = house.nats("bob").await;
    let token = house.token("bob");
    let (_, key) = make_over_nats(&bob, &json!({"token": token, "name": "found"})).await;
    let finder = Nats::connect(&house.endpoints.nats, "bob", &key).await.unwrap();
    let others = house.token("alice");
    for (asked, code) in [
        (json!({"name": "x"}), "token-missing"),
        (json!({"name": "x", "token": ""}), "token-missing"),
        (json!({"name": "x", "token": key}), "forbidden"),
        (json!({"name": "x", "token": others}), "token-invalid"),
        (json!({"name": "x", "token": others, "user": "alice"}), "token-invalid"),
        (json!({"name": "x", "token": format!("{token}x")}), "token-invalid"),
        (json!({"name": "x", "token": token, "user": "alice"}), "forbidden"),
        (json!({"name": "", "token": token}), "invalid-request"),
        (
            json!({"name": "x", "token": token, "expires": "soon"}),
            "invalid-request",
        ),
        (json!({"name": "x", "token": token, "id": "1"}), "invalid-request"),
        (json!({"token": token}), "invalid-request"),
    ] {
        for by in [&finder, &bob] {
            let answer = by.api("keys.create", &asked).await;
            assert_eq!(answer["code"], code, "{asked}: {answer}");
        }
    }
    // Nor by asking the writer.
    let body = json!({"user": "bob", "id": "0".repeat(24), "name": "x", "sha256": "0".repeat(64)});
    let answer = finder
        .request(
            "chat.in.main.bob._.key",
            json!({"body": body}).to_string(),
            HeaderMap::new(),
        )
        .await
        .unwrap();
    assert_eq!(parse(&answer)["code"], "forbidden");
    let listed = bob.api("keys.list", &json!({})).await;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "{listed}");
    stand_nowhere(&house, &[&key, &token, &others]);
}
