//! The audit trail: who did what, chained so that a change of it is seen.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::Http;
use crate::support::nats::Nats;

async fn page(by: &Http, query: &str) -> Value {
    by.get(&format!("/v1/audit?{query}")).await.ok()
}

fn events(page: &Value) -> Vec<&Value> {
    let entries = page["entries"].as_array().unwrap();
    entries.iter().map(|entry| &entry["event"]).collect()
}

async fn make_key(admin: &Http) -> Value {
    let asked = json!({"user": "bob", "name": "x"});
    admin.post("/v1/keys", &asked).await.created()
}

/// Waits until the trail has something.
async fn found(by: &Http, query: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually("the trail has it", async || {
        let page = page(by, query).await;
        let found = events(&page).into_iter().find(|event| is_it(event));
        found.cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_changed_what_stands_in_the_trail_newest_first() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, alice) = (house.http("admin"), house.http("alice"));
    alice.say("lobby", "no policy").await;
    let made = make_key(&admin).await;
    let made = found(&admin, "", |event| event["seq"] == made["receipt"]["seq"]).await;
    assert_eq!(
        (&made["kind"], &made["from"], &made["body"]["user"]),
        (&json!("key"), &json!("admin"), &json!("bob"))
    );
    let all = page(&admin, "").await;
    assert!(events(&all).iter().all(|event| event["kind"] != "msg"), "{all}");
    // Page after page it is the same, newest first, each with its hash.
    let mut paged = Vec::new();
    let mut next = String::new();
    loop {
        let page = page(&admin, &format!("limit=2{next}")).await;
        paged.extend(page["entries"].as_array().unwrap().clone());
        match page["next"].as_u64() {
            Some(before) => next = format!("&before={before}"),
            None => break,
        }
    }
    assert_eq!(json!(paged), all["entries"]);
    let seqs: Vec<_> = paged
        .iter()
        .map(|entry| entry["event"]["seq"].as_u64().unwrap())
        .collect();
    assert!(seqs.is_sorted_by(|a, b| a > b), "{seqs:?}");
    assert!(paged.iter().all(|entry| entry["hash"].as_str().unwrap().len() == 64));
    let by_alice = page(&admin, "actor=alice&kind=member").await;
    assert!(!events(&by_alice).is_empty(), "{by_alice}");
    for event in events(&by_alice) {
        assert_eq!((&event["from"], &event["kind"]), (&json!("alice"), &json!("member")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_logins_of_one_kind_are_one_entry_and_no_token_is_in_it() {
    let house = House::start().await;
    let admin = house.http("admin");
    let forged = format!("{}x", house.token("mallory"));
    for _ in 0..5 {
        assert!(Nats::connect(&house.endpoints.nats, "mallory", &forged).await.is_err());
        Http::new(&house.endpoints.http, Some(&forged))
            .get("/v1/me")
            .await
            .is_problem(401, "token-invalid");
    }
    let over_http = found(&admin, "kind=login", |event| event["body"]["door"] == "http").await;
    assert_eq!(over_http["from"], "_", "{over_http}");
    let over_nats = found(&admin, "kind=login", |event| event["body"]["door"] == "nats").await;
    assert_eq!(over_nats["body"]["source"], "127.0.0.1", "{over_nats}");
    assert!(
        over_nats["body"]["reason"].as_str().unwrap().contains("not acceptable"),
        "{over_nats}"
    );
    eventually("all of them are counted", async || {
        let page = page(&admin, "kind=login").await;
        let count = events(&page)
            .iter()
            .map(|event| event["body"]["count"].as_u64().unwrap())
            .sum::<u64>();
        (count >= 10).then_some(())
    })
    .await;
    assert!(!house.log().concat().contains(&forged));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_is_for_those_with_tenant_audit() {
    let house = House::start().await;
    let (admin, alice) = (house.http("admin"), house.http("alice"));
    make_key(&admin).await;
    alice.get("/v1/audit").await.is_problem(403, "forbidden");
    let nats = house.nats("admin").await;
    let role = json!({"body": {"user": "carol", "role": "auditor"}}).to_string();
    let asked = nats.request("chat.in.main.admin._.user", role, async_nats::HeaderMap::new());
    assert!(crate::support::nats::parse(&asked.await.unwrap())["seq"].is_u64());
    let carol = house.http("carol");
    eventually("carol is an auditor", async || {
        (carol.get("/v1/audit").await.status == 200).then_some(())
    })
    .await;
    for bad in [
        "kind=msg",
        "kind=x",
        "limit=0",
        "limit=201",
        "before=x",
        "actor=a.b",
        "x=1",
    ] {
        admin
            .get(&format!("/v1/audit?{bad}"))
            .await
            .is_problem(400, "invalid-request");
    }
    let printed = house.run(&["audit", "--kind", "key"]);
    assert!(printed.contains("\tkey\tadmin\t_\t"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_the_trail_is_found_out_and_made_anew_it_is_the_same() {
    let mut house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "reader")]).await;
    let admin = house.http("admin");
    found(&admin, "", |event| event["body"]["user"] == "carol").await;
    // Not the last one: what is missing at the end is taken in again when a store begins.
    let bobs = found(&admin, "", |event| event["body"]["user"] == "bob").await;
    let before = page(&admin, "").await;
    house.run(&["verify"]);
    let archive = house.data().join("archive.db");
    let run = |sql: &str| {
        let done = std::process::Command::new("python3")
            .args(["-c", "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=60); db.execute(sys.argv[2]); db.commit()"])
            .arg(&archive)
            .arg(sql)
            .status();
        assert!(done.unwrap().success());
    };
    house.stop();
    let seq = &bobs["seq"];
    for sql in [
        format!("UPDATE audit SET actor = 'nobody' WHERE seq = {seq}"),
        format!("UPDATE audit SET hash = zeroblob(32) WHERE seq = {seq}"),
        format!("DELETE FROM audit WHERE seq = {seq}"),
    ] {
        run(&sql);
        house.restart().await;
        let said = house.command(&["verify"]);
        assert!(!said.status.success(), "{sql} is not seen");
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("the audit trail is not what"), "{sql}: {said}");
        house.run(&["verify", "--repair"]);
        house.run(&["verify"]);
        assert_eq!(page(&house.http("admin"), "").await, before, "{sql}");
        house.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_tokens_of_those_who_may_do_nothing_are_told_too() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("eve", "member")]).await;
    let (admin, bob, eve) = (house.http("admin"), house.http("bob"), house.http("eve"));
    bob.get("/v1/me").await.ok();
    admin.put("/v1/users/bob", &json!({"role": "blocked"})).await.ok();
    admin.post("/v1/revocations", &json!({"user": "eve"})).await.ok();
    for _ in 0..5 {
        bob.get("/v1/me").await.is_problem(403, "forbidden");
        eve.get("/v1/me").await.is_problem(401, "token-revoked");
    }
    for (user, why) in [
        ("bob", "the user is blocked in the tenant"),
        ("eve", "the token was revoked"),
    ] {
        let told = found(&admin, "kind=login", |event| {
            (&event["body"]["user"], &event["body"]["reason"]) == (&json!(user), &json!(why))
        })
        .await;
        assert_eq!(told["body"]["door"], "http");
    }
}
