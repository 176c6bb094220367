//! Who the caller is, and whom they may know of.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::Http;

async fn users(http: &Http, query: &str) -> Vec<String> {
    let mut users = Vec::new();
    let mut next = String::new();
    loop {
        let page = http.get(&format!("/v1/users?{query}{next}")).await.ok();
        let got = page["users"].as_array().unwrap().iter();
        users.extend(got.map(|user| user["user"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(after) => next = format!("&next={after}"),
            None => return users,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_learns_what_its_token_is_good_for() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let me = house.http("bob").get("/v1/me").await.ok();
    assert_eq!(
        (&me["tenant"], &me["user"], &me["role"], &me["rooms"]),
        (&json!("main"), &json!("bob"), &json!("member"), &json!(1)),
    );
    assert_eq!(me["permissions"], json!(["room.create", "room.direct"]));
    assert_eq!(
        (&me["limits"]["body_bytes"], &me["limits"]["polls"]),
        (&json!(65536), &json!(16)),
    );
    assert!(
        me["expires_at"].as_str().unwrap().ends_with('Z') && me["expires_in"].as_u64().unwrap() > 0,
        "{me}"
    );
    let admin = house.http("admin").get("/v1/me").await.ok();
    assert!(
        admin["permissions"]
            .as_array()
            .unwrap()
            .contains(&json!("tenant.admin")),
        "{admin}"
    );
    let native = house.nats("bob").await.api("me.get", &json!({})).await;
    assert_eq!(
        (&native["permissions"], &native["limits"]["polls"]),
        (&me["permissions"], &json!(16))
    );
    assert_eq!(native["limits"]["body_bytes"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_who_share_no_room_do_not_learn_of_each_other() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("Carol", "reader")]).await;
    house.room("cellar", &[("dave", "member"), ("bob2", "member")]).await;
    let (bob, dave) = (house.http("bob"), house.http("dave"));
    assert_eq!(users(&bob, "limit=1").await, ["Carol", "alice", "bob"]);
    assert_eq!(users(&bob, "q=CAR").await, ["Carol"]);
    assert_eq!(users(&bob, "q=dave").await, [] as [&str; 0]);
    assert_eq!(users(&dave, "limit=200&q=bob").await, ["bob2"]);
    assert_eq!(users(&house.http("eve"), "").await, [] as [&str; 0]);
    let admin = house.http("admin");
    assert_eq!(
        users(&admin, "limit=2").await,
        ["Carol", "admin", "alice", "bob", "bob2", "dave"]
    );
    assert_eq!(users(&admin, "q=bob").await, ["bob", "bob2"]);
    let page = admin.get("/v1/users?q=admin").await.ok();
    assert_eq!(page["users"], json!([{"user": "admin", "role": "admin"}]));
    let native = house
        .nats("dave")
        .await
        .api("users.list", &json!({"q": "ALI", "limit": 1}))
        .await;
    assert_eq!(
        native,
        json!({"users": [{"user": "alice", "role": "member"}], "next": null})
    );
    for bad in ["limit=0", "next=!", "q=a&q=b", &format!("q={}", "a".repeat(65))] {
        bob.get(&format!("/v1/users?{bad}"))
            .await
            .is_problem(400, "invalid-request");
    }
    // Who is taken out of the room is known no more.
    house.http("alice").delete("/v1/rooms/lobby/members/bob").await.ok();
    assert_eq!(users(&bob, "").await, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn since_when_somebody_is_a_member_is_told_by_the_archive() {
    const BOB: &str = "/v1/rooms/lobby/members/bob";
    let house = House::start().await;
    house.room("lobby", &[("bob", "reader")]).await;
    let alice = house.http("alice");
    // bob as the list shows him, once the archive knows of his present role.
    let bob = async || {
        eventually("the archive knows since when", async || {
            let list = alice.get("/v1/rooms/lobby/members?joined=true").await.ok();
            let members = list["members"].as_array().unwrap();
            let bob = members.iter().find(|member| member["user"] == "bob").unwrap();
            bob["joined"].is_u64().then(|| bob.clone())
        })
        .await
    };
    let first = bob().await;
    assert_eq!(first["joined"], first["since"], "{first}");
    assert!(first["joined_at"].as_str().unwrap().ends_with('Z'), "{first}");
    let promoted = alice.put(BOB, &json!({"role": "moderator"})).await.ok();
    let second = bob().await;
    assert_eq!(
        (&second["role"], &second["since"]),
        (&json!("moderator"), &promoted["seq"])
    );
    assert_eq!(
        (&second["joined"], &second["joined_at"]),
        (&first["joined"], &first["joined_at"]),
        "a change of role is no joining"
    );
    alice.delete(BOB).await.ok();
    let back = alice.put(BOB, &json!({"role": "reader"})).await.ok();
    let third = bob().await;
    assert_eq!((&third["joined"], &third["since"]), (&back["seq"], &back["seq"]));
    let nats = house.nats("alice").await;
    let native = nats
        .api("members.list", &json!({"room": "lobby", "joined": true}))
        .await;
    assert_eq!(native["members"][1], third);
    let plain = alice.get("/v1/rooms/lobby/members").await.ok();
    assert_eq!(plain["members"][1]["joined"], Value::Null);
    alice
        .get("/v1/rooms/lobby/members?joined=maybe")
        .await
        .is_problem(400, "invalid-request");
    house
        .http("carol")
        .get("/v1/rooms/lobby/members?joined=true")
        .await
        .is_problem(404, "not-found");
}
