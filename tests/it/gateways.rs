//! Gateways: who sends in the names of others, over every door.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::House;
use crate::support::nats::Nats;
use crate::support::script::Script;
use crate::support::stream::{ask, frame, say};

/// A house with a gateway and devices.
async fn house() -> House {
    let house = House::start().await;
    let admin = house.http("admin");
    let role = json!({"scope": "tenant", "permissions": ["send.as"]});
    admin.put("/v1/roles/gateway", &role).await.ok();
    admin.put("/v1/users/gw", &json!({"role": "gateway"})).await.ok();
    house
        .room(
            "lobby",
            &[
                ("gw", "member"),
                ("dev1", "device"),
                ("rita", "reader"),
                ("bob", "member"),
            ],
        )
        .await;
    house
}

fn of(user: &str, text: &str) -> Value {
    json!({"as": user, "body": {"text": text}})
}

/// Who sent what in whose name, as the log has it.
fn said(house: &House) -> Vec<(String, Value, String)> {
    let events = house
        .messages()
        .into_iter()
        .map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events
        .map(|event| (text(&event["from"]), event["via"].clone(), text(&event["body"]["text"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_sends_for_a_device_over_every_door() {
    let house = house().await;
    let (gw, nats) = (house.http("gw"), house.nats("gw").await);
    let bob = house.nats("bob").await;
    bob.listen(&["lobby"]).await;
    gw.post("/v1/rooms/lobby/messages", &of("dev1", "HTTP")).await.created();
    assert!(nats.send("lobby", &of("dev1", "NATS")).await["seq"].is_u64());
    let mqtt = house.mqtt("gw").await;
    mqtt.publish("chat/in/main/gw/lobby/msg", &of("dev1", "MQTT").to_string())
        .await;
    eventually("the device gateway's message", async || {
        (said(&house).len() == 3).then_some(())
    })
    .await;
    let socket = Script::events("gw").await;
    socket.call("open", ask(&house, "ws", "gw", &json!({}))).await;
    say(
        &socket,
        &json!({"op": "send", "ref": "a", "room": "lobby", "as": "dev1", "body": {"text": "WS"}}),
    )
    .await;
    frame(&socket, "a receipt", |frame| {
        frame["op"] == "receipt" && frame["ref"] == "a"
    })
    .await;
    house.run(&["send", "lobby", "CLI", "--as", "dev1", "--user", "gw"]);
    let expected = ["HTTP", "NATS", "MQTT", "WS", "CLI"].map(|text| ("dev1".to_owned(), json!("gw"), text.to_owned()));
    assert_eq!(said(&house), expected);
    is_heard_of_both(&house, &bob).await;
}

/// Whoever hears it hears both names, live and later.
async fn is_heard_of_both(house: &House, bob: &Nats) {
    let heard = bob
        .mail
        .wait("all five", |all| (all.len() == 5).then(|| all.to_vec()))
        .await;
    let heard: Vec<Value> = heard
        .iter()
        .map(|one| serde_json::from_slice(&one.payload).unwrap())
        .collect();
    assert!(
        heard
            .iter()
            .all(|event| event["via"] == "gw" && event["from"] == "dev1"),
        "{heard:?}"
    );
    let history = house.history("bob", "lobby", heard[4]["seq"].as_u64().unwrap()).await;
    assert!(
        history.iter().all(|line| line.contains(r#""from":"dev1","via":"gw""#)),
        "{history:?}"
    );
    let id = heard[0]["id"].as_str().unwrap();
    let reacted = house
        .http("bob")
        .put(&format!("/v1/rooms/lobby/messages/{id}/reactions/x"), &json!({}))
        .await;
    reacted.ok();
    let shown = eventually("the reaction is shown", async || {
        let shown = house.history("bob", "lobby", heard[4]["seq"].as_u64().unwrap()).await;
        shown[0].contains("reactions").then(|| shown[0].clone())
    })
    .await;
    assert!(shown.contains(r#""via":"gw""#), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_and_for_nobody_who_may_not() {
    let house = house().await;
    let path = "/v1/rooms/lobby/messages";
    let (gw, bob) = (house.http("gw"), house.http("bob"));
    for refused in ["rita", "stranger"] {
        gw.post(path, &of(refused, "x")).await.is_problem(403, "forbidden");
    }
    gw.post(path, &of("gw", "x")).await.is_problem(400, "invalid-request");
    bob.post(path, &of("dev1", "x")).await.is_problem(403, "forbidden");
    // Nor by what a client makes up.
    for forged in [
        json!({"via": "gw", "body": {}}),
        json!({"from": "dev1", "via": "bob", "body": {}}),
        json!({"as": "other.dev1", "body": {}}),
        json!({"as": ["dev1"], "body": {}}),
    ] {
        bob.post(path, &forged).await.is_problem(400, "invalid-request");
        gw.post(path, &forged).await.is_problem(400, "invalid-request");
    }
    let nats = house.nats("bob").await;
    assert_eq!(nats.send("lobby", &of("dev1", "x")).await["code"], "forbidden");
    assert_eq!(
        nats.send("lobby", &json!({"via": "gw", "body": {}})).await["code"],
        "invalid-request"
    );
    let keyed = json!({"key": "k", "as": "dev1", "body": {"text": "once"}});
    gw.post(path, &keyed).await.created();
    assert_eq!(gw.post(path, &keyed).await.ok()["duplicate"], true);
    gw.post(path, &json!({"key": "k", "body": {"text": "once"}}))
        .await
        .is_problem(422, "idempotency-mismatch");
    house
        .http("admin")
        .put("/v1/users/dev1", &json!({"role": "blocked"}))
        .await
        .ok();
    gw.post(path, &of("dev1", "x")).await.is_problem(403, "forbidden");
    let typing = json!({"as": "dev1", "body": {}});
    assert!(gw.post("/v1/rooms/lobby/typing", &typing).await.status >= 400);
    assert_eq!(said(&house).len(), 1);
}

const HALL: &str = "/v1/rooms/hall/messages";

/// A room with a gateway that speaks for those whose ids begin with `dev`.
async fn hall() -> House {
    let house = house().await;
    house.run(&["role", "set", "gateway", "--scope", "tenant", "send.as:dev"]);
    house
        .room(
            "hall",
            &[
                ("gw", "member"),
                ("dev1", "device"),
                ("gw-1", "device"),
                ("bob", "member"),
            ],
        )
        .await;
    house
}

/// Of a gateway that speaks for those whose ids begin with its own.
async fn is_told_why(house: &House) {
    let admin = house.http("admin");
    for (named, allowed, rule) in [("gw-1", true, "tenant-role"), ("dev1", false, "role-lacks")] {
        let why = format!("/v1/auth/explain?user=gw&permission=send.as:{named}");
        let why = admin.get(&why).await.ok();
        assert_eq!(
            (&why["allowed"], &why["rule"]),
            (&json!(allowed), &json!(rule)),
            "{why}"
        );
        assert_eq!(why["facts"][1]["permissions"], json!(["send.as:{user}-"]), "{why}");
    }
    admin
        .get("/v1/auth/explain?user=gw&permission=send.as:dev1&room=hall")
        .await
        .is_problem(400, "invalid-request");
    let why = house.run(&["explain", "gw", "send.as:gw-1"]);
    assert!(
        why.starts_with("yes: tenant-role\n") && why.contains("send.as:{user}-"),
        "{why}"
    );
    let why = admin.get("/v1/auth/explain?user=gw&permission=send.as").await.ok();
    assert_eq!(why["allowed"], false, "for everybody: {why}");
    let gw = house.http("gw");
    gw.post(HALL, &of("gw-1", "still")).await.created();
    gw.post(HALL, &of("dev1", "still not"))
        .await
        .is_problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_under_a_prefix_speaks_for_those_alone_and_it_is_told_why() {
    let mut house = hall().await;
    let admin = house.nats("admin").await;
    let gw = house.http("gw");
    gw.post(HALL, &of("dev1", "mine")).await.created();
    gw.post(HALL, &of("bob", "not mine")).await.is_problem(403, "forbidden");
    gw.post(HALL, &of("gw-1", "not mine"))
        .await
        .is_problem(403, "forbidden");
    assert_eq!(
        house.nats("gw").await.send("hall", &of("bob", "x")).await["code"],
        "forbidden"
    );

    // Over NATS, for many gateways at once: each for those that begin with its own id.
    let changed = json!({"role": "gateway", "scope": "tenant", "permissions": ["send.as:{user}-"]});
    let changed = admin.api("roles.put", &changed).await;
    assert!(changed["seq"].is_u64(), "{changed}");
    gw.post(HALL, &of("gw-1", "mine")).await.created();
    gw.post(HALL, &of("dev1", "not mine"))
        .await
        .is_problem(403, "forbidden");
    let listed = admin.api("roles.list", &json!({})).await;
    let roles = listed["roles"].as_array().unwrap();
    let shown = roles.iter().find(|role| role["role"] == "gateway").unwrap();
    assert_eq!(shown["permissions"], json!(["send.as:{user}-"]), "{shown}");
    let own = gw.get("/v1/me").await.ok();
    assert_eq!(own["permissions"], json!(["send.as:gw-"]), "{own}");
    for bad in ["send.as:", "send.as:a.b", "room.read:x"] {
        let body = json!({"scope": "tenant", "permissions": [bad]});
        let put = house.http("admin").put("/v1/roles/other", &body).await;
        put.is_problem(400, "invalid-request");
    }

    for restarted in [false, true] {
        if restarted {
            house.stop();
            house.restart().await;
        }
        is_told_why(&house).await;
    }
    let own = house.nats("gw").await;
    let why = own.api("auth.explain", &json!({"permission": "send.as:gw-1"})).await;
    assert_eq!(why["allowed"], true, "{why}");
    assert!(said(&house).iter().all(|(from, via, _)| from != "bob" && *via == "gw"));
}
