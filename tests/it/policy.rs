//! Roles of a tenant's own, kinds of rooms, rooms of two, bans, blocked users, and why.

use natterjack_authz::policy::{KINDS, KindRules, Permission, ROOM_ROLES, TENANT_ROLES};
use natterjack_nats_config::contract::RoleScope;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::{House, seq};
use crate::support::http::{Answer, Http};
use crate::support::poll::Poll;

async fn role(admin: &Http, name: &str, scope: &str, permissions: &[&str]) -> Value {
    let body = json!({"scope": scope, "permissions": permissions});
    admin.put(&format!("/v1/roles/{name}"), &body).await.ok()
}

async fn texts(http: &Http, path: &str) -> Vec<String> {
    let page = http.get(path).await.ok();
    let messages = page["messages"].as_array().unwrap().iter();
    messages
        .map(|message| message["body"]["text"].as_str().unwrap().to_owned())
        .collect()
}

fn member(user: &str) -> String {
    format!("/v1/rooms/lobby/members/{user}")
}

const MESSAGES: &str = "/v1/rooms/lobby/messages";
const LOBBY: &str = "chat.room.main.lobby.log";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_role_reaches_everybody_who_holds_it() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    role(&admin, "listener", "room", &["room.read", "room.send"]).await;
    let given = alice.put(&member("bob"), &json!({"role": "listener"})).await.ok();
    let native = house.nats("bob").await;
    native.subscribe(LOBBY).await;
    native.settle().await;
    let poll = Poll::from_now(&bob).await;
    poll.is_parked().await;
    let said = native.say("lobby", "I listen").await;
    assert!(said["id"].is_string(), "{said}");
    admin.delete("/v1/roles/listener").await.is_problem(409, "conflict");

    // One permission less: the connection is renewed, and what he may do is what the role says now.
    let changed = role(&admin, "listener", "room", &["room.send"]).await;
    assert_eq!(
        (&changed["state"], seq(&changed) > seq(&given)),
        (&json!("done"), true),
        "{changed}"
    );
    assert_eq!(changed["connections_closed"], 1, "{changed}");
    let secret = alice.say("lobby", "not for bob").await;
    let happened = &native.happened;
    happened
        .wait("the subscription is refused", |all| {
            all.iter()
                .any(|line| line.contains("Permissions Violation"))
                .then_some(())
        })
        .await;
    bob.get(MESSAGES).await.is_problem(403, "forbidden");
    let spoke = native.say("lobby", "I speak").await;
    house.archived("alice", "lobby", seq(&spoke)).await;
    let heard = |deliveries: Vec<String>| deliveries.iter().any(|line| line.contains("not for bob"));
    let polled: Vec<String> = poll.mail.all().iter().map(|line| format!("{line:?}")).collect();
    assert!(!heard(polled), "{secret}");
    let lines: Vec<String> = native.mail.all().iter().map(|line| format!("{line:?}")).collect();
    assert!(!heard(lines), "{secret}");

    // And back again.
    role(&admin, "listener", "room", &["room.read"]).await;
    assert_eq!(texts(&bob, MESSAGES).await.len(), 3);
    bob.post(MESSAGES, &json!({"body": 1}))
        .await
        .is_problem(403, "forbidden");
    alice.delete(&member("bob")).await.ok();
    admin.delete("/v1/roles/listener").await.ok();
    admin.get("/v1/roles/listener").await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_made_by_administrators_and_give_nothing_that_they_lack() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let (admin, alice) = (house.http("admin"), house.http("alice"));
    let body = json!({"scope": "room", "permissions": ["room.read"]});
    alice.put("/v1/roles/mine", &body).await.is_problem(403, "forbidden");
    for built_in in ["member", "owner", "admin", "blocked"] {
        let path = format!("/v1/roles/{built_in}");
        admin.put(&path, &body).await.is_problem(409, "conflict");
        admin.delete(&path).await.is_problem(409, "conflict");
    }
    let odd = json!({"scope": "room", "permissions": ["tenant.admin"]});
    admin
        .put("/v1/roles/odd", &odd)
        .await
        .is_problem(400, "invalid-request");
    admin.delete("/v1/roles/odd").await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats_and_from_a_shell_it_is_the_same() {
    let house = House::start().await;
    let alice = house.http("alice");
    house.room("lobby", &[]).await;
    let native = house.nats("alice").await;
    let ask = json!({"role": "mine", "scope": "room", "permissions": ["room.read"]});
    assert_eq!(native.api("roles.put", &ask).await["code"], "forbidden");
    assert_eq!(
        native
            .api("users.put", &json!({"user": "alice", "role": "admin"}))
            .await["code"],
        "forbidden"
    );
    let straight = native
        .request(
            "chat.in.main.alice._.role",
            ask.to_string(),
            async_nats::HeaderMap::new(),
        )
        .await
        .unwrap();
    let straight: Value = serde_json::from_slice(&straight.payload).unwrap();
    assert_eq!(straight["code"], "forbidden", "{straight}");
    let native = house.nats("admin").await;
    let made = native.api("roles.put", &ask).await;
    assert_eq!(made["state"], "done", "{made}");
    let all = native.api("roles.list", &json!({})).await;
    let own: Vec<_> = all["roles"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|role| role["built_in"] == false)
        .collect();
    assert_eq!(
        (own.len(), &own[0]["role"], &own[0]["since"]),
        (1, &json!("mine"), &made["seq"])
    );
    let shown = alice.get("/v1/roles/member?scope=tenant").await.ok();
    assert_eq!(shown["permissions"], json!(["room.create", "room.direct"]));

    let listed = house.run(&["role", "list"]);
    assert!(listed.contains("room\tmine\town\troom.read\n"), "{listed}");
    clerks_give_no_more_than_they_have(&house).await;
}

async fn clerks_give_no_more_than_they_have(house: &House) {
    house.run(&["role", "set", "clerk", "--scope", "tenant", "tenant.admin"]);
    house.run(&["role", "give", "carl", "clerk"]);
    let carl = house.http("carl");
    let more = json!({"scope": "tenant", "permissions": ["tenant.admin", "tenant.audit"]});
    carl.put("/v1/roles/clerk", &more).await.is_problem(403, "forbidden");
    carl.put("/v1/users/carl", &json!({"role": "admin"}))
        .await
        .is_problem(403, "forbidden");
    carl.put("/v1/users/dora", &json!({"role": "guest"})).await.ok();
    house.run(&["role", "give", "carl", "member"]);
    house.run(&["role", "delete", "clerk"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_of_rooms_say_who_sends() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("dev", "device")]).await;
    let alice = house.http("alice");
    let (bob, dev) = (house.nats("bob").await, house.nats("dev").await);
    let send = async |who: &crate::support::nats::Nats, kind: &str| {
        let subject = format!("chat.in.main.{}.lobby.{kind}", who.user);
        let answer = who.request(&subject, "x", async_nats::HeaderMap::new()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        answer["id"].is_string()
    };
    for (kind, expected) in [
        ("announcement", [false, false, false, false]),
        ("device", [false, true, true, false]),
        ("group", [true, true, true, true]),
    ] {
        let room = alice.put("/v1/rooms/lobby", &json!({"kind": kind})).await.ok();
        assert_eq!(room["room"]["kind"], kind, "{room}");
        let allowed = [
            send(&bob, "msg").await,
            send(&bob, "command").await,
            send(&dev, "msg").await,
            send(&dev, "command").await,
        ];
        assert_eq!(allowed, expected, "{kind}");
        alice.say("lobby", "the owner speaks in all of them").await;
        bob.subscribe(LOBBY).await;
    }
    house
        .http("bob")
        .put("/v1/rooms/lobby", &json!({"kind": "device"}))
        .await
        .is_problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_find_one_room_however_they_race() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("gast", "member")]).await;
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    admin.put("/v1/users/gast", &json!({"role": "guest"})).await.ok();
    let nobody = json!({});
    let racers = (0..8).map(|number| {
        let (http, other) = if number % 2 == 0 {
            (&alice, "bob")
        } else {
            (&bob, "alice")
        };
        let path = format!("/v1/direct/{other}");
        let nobody = &nobody;
        async move { http.put(&path, nobody).await }
    });
    let answers = futures_util::future::join_all(racers).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 1, "one of them made it");
    let rooms: Vec<Value> = answers.iter().map(Answer::json).collect();
    let id = rooms[0]["id"].as_str().unwrap().to_owned();
    for room in &rooms {
        assert_eq!(
            (&room["id"], &room["kind"], &room["members"]),
            (&json!(id), &json!("direct"), &json!(2)),
            "{room}"
        );
        assert_eq!(room["role"], "member", "{room}");
    }
    alice.say(&id, "hello bob").await;
    bob.say(&id, "hello alice").await;
    let native = house
        .nats("bob")
        .await
        .api("direct.put", &json!({"user": "alice"}))
        .await;
    assert_eq!(
        (&native["id"], &native["with"]),
        (&json!(id), &json!("alice")),
        "{native}"
    );
    let typed = house.run(&["room", "direct", "alice", "--user", "bob"]);
    assert_eq!(typed.trim(), id);

    is_closed_to_everybody_else(&house, &id).await;
}

async fn is_closed_to_everybody_else(house: &House, id: &str) {
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    let nobody = json!({});
    for who in [&alice, &bob, &admin] {
        let path = format!("/v1/rooms/{id}/members/eve");
        let answer = who.put(&path, &json!({"role": "member"})).await;
        answer.is_problem(403, "forbidden");
    }
    house
        .http("gast")
        .get(&format!("/v1/rooms/{id}"))
        .await
        .is_problem(404, "not-found");
    alice
        .delete(&format!("/v1/rooms/{id}/members/alice"))
        .await
        .is_problem(409, "conflict");
    alice
        .put("/v1/direct/alice", &nobody)
        .await
        .is_problem(400, "invalid-request");
    alice
        .put("/v1/direct/nobody", &nobody)
        .await
        .is_problem(404, "not-found");
    alice.put("/v1/direct/gast", &nobody).await.is_problem(403, "forbidden");
    house
        .http("gast")
        .put("/v1/direct/alice", &nobody)
        .await
        .is_problem(403, "forbidden");
    let squatter = "dm-0000000000000000000000000000000000000000";
    let path = format!("/v1/rooms/{squatter}");
    alice.put(&path, &json!({})).await.is_problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_banned_stays_out_until_the_room_is_managed_otherwise() {
    let house = House::start().await;
    house.room("lobby", &[("mod", "moderator"), ("bob", "member")]).await;
    let (alice, moderator, bob) = (house.http("alice"), house.http("mod"), house.http("bob"));
    let poll = Poll::from_now(&bob).await;
    poll.is_parked().await;
    let native = house.nats("bob").await;
    native.subscribe(LOBBY).await;
    native.settle().await;
    let (ban, reason) = ("/v1/rooms/lobby/bans/bob", json!({"reason": "spam"}));
    bob.put("/v1/rooms/lobby/bans/mod", &reason)
        .await
        .is_problem(403, "forbidden");
    let banned = moderator.put(ban, &reason).await.ok();
    assert_eq!(
        (&banned["state"], &banned["connections_closed"]),
        (&json!("done"), &json!(1)),
        "{banned}"
    );
    bob.get(MESSAGES).await.is_problem(404, "not-found");
    bob.get(ban).await.is_problem(404, "not-found");
    let shown = moderator.get(ban).await.ok();
    assert_eq!(shown, json!({"user": "bob", "reason": "spam", "since": banned["seq"]}));
    moderator
        .put(&member("bob"), &json!({"role": "reader"}))
        .await
        .is_problem(403, "forbidden");
    moderator.delete(ban).await.is_problem(403, "forbidden");
    // A stranger, and over NATS.
    let native = house.nats("mod").await;
    let ask = json!({"room": "lobby", "user": "eve"});
    assert_eq!(native.api("bans.put", &ask).await["state"], "done");
    let list = native.api("bans.list", &json!({"room": "lobby"})).await;
    let names: Vec<_> = list["bans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ban| &ban["user"])
        .collect();
    assert_eq!(names, ["bob", "eve"]);
    house.run(&["room", "unban", "lobby", "eve", "--user", "alice"]);
    moderator.put(&member("eve"), &json!({"role": "member"})).await.ok();
    house.run(&["room", "ban", "lobby", "eve", "--reason", "again", "--user", "mod"]);
    alice.put(&member("eve"), &json!({"role": "member"})).await.ok();
    moderator
        .get("/v1/rooms/lobby/bans/eve")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_blocked_is_out_of_everything() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "owner")]).await;
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    let native = house.nats("bob").await;
    native.subscribe(LOBBY).await;
    native.settle().await;
    let polling = tokio::spawn({
        let bob = house.http("bob");
        async move { bob.get("/v1/events?wait=50").await }
    });
    eventually("the poll is parked", async || {
        let metrics = admin.get("/metrics").await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let parked = text
            .lines()
            .find(|line| line.contains("parked_polls") && !line.starts_with('#'));
        parked.filter(|line| line.ends_with(" 1")).map(|_| ())
    })
    .await;
    let blocked = admin.put("/v1/users/bob", &json!({"role": "blocked"})).await.ok();
    assert_eq!(
        (&blocked["state"], &blocked["connections_closed"]),
        (&json!("done"), &json!(1)),
        "{blocked}"
    );
    polling.await.unwrap().is_problem(403, "forbidden");
    for path in ["/v1/me", "/v1/rooms", MESSAGES, "/v1/events?wait=0", "/v1/roles"] {
        bob.get(path).await.is_problem(403, "forbidden");
    }
    bob.post(MESSAGES, &json!({"body": 1}))
        .await
        .is_problem(403, "forbidden");
    let url = &house.endpoints.nats;
    let refused = crate::support::nats::Nats::connect(url, "bob", &house.token("bob")).await;
    assert!(refused.is_err(), "he is not let in again");
    let without = alice.say("lobby", "without bob").await;
    let heard: Vec<String> = native.mail.all().iter().map(|line| format!("{line:?}")).collect();
    assert!(!heard.iter().any(|line| line.contains("without bob")), "{heard:?}");
    admin
        .put("/v1/users/admin", &json!({"role": "blocked"}))
        .await
        .is_problem(409, "conflict");
    admin.put("/v1/users/bob", &json!({"role": null})).await.ok();
    house.archived("alice", "lobby", seq(&without)).await;
    assert_eq!(texts(&bob, MESSAGES).await, ["without bob"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_reads_from_then_on_on_every_path() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let room = alice.put("/v1/rooms/lobby", &json!({"history": "joined"})).await.ok();
    assert_eq!(room["room"]["history"], "joined");
    let cursor = crate::support::poll::cursor_now(&bob).await;
    let before = alice.say("lobby", "a secret from before").await;
    let id = before["id"].as_str().unwrap();
    let joined = alice
        .put(&member("bob"), &json!({"role": "member", "visible_from": 1}))
        .await
        .ok();
    let after = alice.say("lobby", "a secret for bob").await;
    house.archived("alice", "lobby", seq(&after)).await;

    assert_eq!(texts(&bob, MESSAGES).await, ["a secret for bob"]);
    let page = format!("{MESSAGES}?before={}", seq(&joined));
    assert!(texts(&bob, &page).await.is_empty());
    bob.get(&format!("{MESSAGES}/{id}")).await.is_problem(404, "not-found");
    let reaction = format!("{MESSAGES}/{id}/reactions/x");
    bob.put(&reaction, &json!({})).await.is_problem(404, "target-unknown");
    for path in [
        format!("/v1/events?wait=0&cursor={cursor}"),
        "/v1/events?wait=0&cursor=earliest&rooms=lobby".to_owned(),
    ] {
        let lines = bob.get(&path).await.lines("events");
        let seqs: Vec<u64> = lines
            .iter()
            .map(|line| seq(&serde_json::from_str(line).unwrap()))
            .collect();
        assert_eq!(seqs, [seq(&joined), seq(&after)], "{path}");
    }
    let native = house.nats("bob").await;
    let page = native.api("history.get", &json!({"room": "lobby"})).await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    eventually("both are indexed", async || {
        let found = alice.get("/v1/search?q=secret").await.ok();
        (found["results"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    let found = bob.get("/v1/search?q=secret").await.ok();
    assert_eq!(found["results"].as_array().unwrap().len(), 1, "{found}");
    let rooms = bob.get("/v1/rooms?unread=true").await.ok();
    // His own membership and what came behind it.
    assert_eq!(rooms["rooms"][0]["unread"], 2, "{rooms}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_explained_by_the_events_that_it_rests_on() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let (admin, alice, bob) = (house.http("admin"), house.http("alice"), house.http("bob"));
    let made = role(&admin, "listener", "room", &["room.read"]).await;
    let given = alice.put(&member("bob"), &json!({"role": "listener"})).await.ok();
    let ask = json!({"user": "bob", "permission": "room.send", "room": "lobby"});
    let answer = admin.post("/v1/auth/explain", &ask).await.ok();
    assert_eq!(
        (&answer["allowed"], &answer["rule"]),
        (&json!(false), &json!("role-lacks")),
        "{answer}"
    );
    let facts = answer["facts"].as_array().unwrap();
    let of = |name: &str| facts.iter().find(|fact| fact["fact"] == name).unwrap();
    assert_eq!(
        (&of("member")["seq"], &of("role")["seq"]),
        (&given["seq"], &made["seq"])
    );
    assert_eq!(of("tenant-role")["seq"], Value::Null, "a default");
    assert!(of("room")["seq"].is_u64());

    let own = bob.get("/v1/auth/explain?permission=room.read&room=lobby").await.ok();
    assert_eq!(
        (&own["allowed"], &own["rule"], &own["user"]),
        (&json!(true), &json!("room-role"), &json!("bob"))
    );
    alice.post("/v1/auth/explain", &ask).await.is_problem(403, "forbidden");
    let odd = "/v1/auth/explain?permission=room.fly";
    bob.get(odd).await.is_problem(400, "invalid-request");
    // Who asks about oneself does not learn of rooms.
    let eve = house.http("eve");
    for room in ["lobby", "nowhere"] {
        let path = format!("/v1/auth/explain?permission=room.read&room={room}");
        assert_eq!(eve.get(&path).await.ok()["rule"], "no-such-room");
    }
    let typed = house.run(&["explain", "bob", "room.read", "lobby"]);
    assert!(typed.starts_with("yes: room-role\n"), "{typed}");
    assert!(
        typed.contains(&format!("{}\tmember listener\n", given["seq"])),
        "{typed}"
    );
    let native = house
        .nats("bob")
        .await
        .api("auth.explain", &json!({"permission": "room.create"}))
        .await;
    assert_eq!(native["rule"], "tenant-role", "{native}");
}

/// The rows of a table of docs/roles.md, without the marks.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/roles.md")).unwrap();
    let section = docs.split(&format!("## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    rows.map(cells).collect()
}

/// What a table says in some of its columns.
fn told<const N: usize>(heading: &str, columns: [usize; N]) -> Vec<[String; N]> {
    let rows = rows(heading).into_iter();
    rows.map(|row| columns.map(|column| row[column].clone())).collect()
}

fn verbs(list: &[Permission]) -> String {
    let verbs: Vec<_> = list.iter().map(|permission| permission.as_str()).collect();
    if verbs.is_empty() {
        "nothing".to_owned()
    } else {
        verbs.join(" ")
    }
}

fn scopes(permission: Permission) -> &'static str {
    match (permission.is_of(RoleScope::Tenant), permission.is_of(RoleScope::Room)) {
        (true, true) => "tenant, room",
        (true, false) => "tenant",
        _ => "room",
    }
}

fn row(rules: &KindRules) -> [String; 3] {
    let without = rules.without.iter();
    let without: Vec<_> = without.map(|(role, list)| format!("{role}: {}", verbs(list))).collect();
    let without = if without.is_empty() {
        verbs(&[])
    } else {
        without.join("; ")
    };
    [rules.kind.as_str().to_owned(), verbs(rules.nobody), without]
}

#[test]
fn the_tables_of_roles_are_those_of_the_code() {
    let known: Vec<_> = Permission::ALL
        .iter()
        .map(|permission| [permission.as_str().to_owned(), scopes(*permission).to_owned()])
        .collect();
    assert_eq!(told("Permissions", [0, 2]), known);
    for (heading, roles) in [("Roles in the tenant", TENANT_ROLES), ("Roles in a room", ROOM_ROLES)] {
        let known: Vec<_> = roles
            .iter()
            .map(|(role, list)| [(*role).to_owned(), verbs(list)])
            .collect();
        assert_eq!(told(heading, [0, 1]), known);
    }
    let known: Vec<_> = KINDS.iter().map(row).collect();
    assert_eq!(told("Kinds of rooms", [0, 2, 3]), known);
}
