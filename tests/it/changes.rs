//! Messages that are edited and deleted, over every transport: what readers hear, what history shows, and who may not.

use async_nats::HeaderMap;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::events::{assert_receipt, assert_unbroken, lines_of, parse};
use crate::support::eventually;
use crate::support::house::{House, seq};
use crate::support::http::{Answer, Http};
use crate::support::mailbox::Delivery;
use crate::support::nats::Nats;
use crate::support::poll::Poll;
use crate::support::script::Script;
use crate::support::stream::{ask, frame, say};

fn path(id: &Value) -> String {
    format!("/v1/rooms/lobby/messages/{}", id.as_str().unwrap())
}

async fn edit(http: &Http, id: &Value, text: &str) -> Answer {
    let body = json!({"body": {"text": text}});
    http.call(Method::PATCH, &path(id), &[], body.to_string().into()).await
}

async fn native(nats: &Nats, kind: &str, payload: &Value) -> Value {
    let subject = nats.inbound("lobby", kind);
    let answer = nats
        .request(&subject, payload.to_string(), HeaderMap::new())
        .await
        .unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// A message once the archive has all up to `up_to`.
async fn shown(house: &House, user: &str, id: &Value, up_to: &Value) -> Value {
    let (http, up_to) = (house.http(user), up_to.as_u64().unwrap());
    eventually("the archive has it", async || {
        let answer = http.get(&path(id)).await;
        let shown = (answer.status == 200).then(|| answer.json())?;
        let edits = shown["edits"].as_array().unwrap().iter();
        let is_there = edits.chain([&shown["message"]]).any(|event| seq(event) >= up_to);
        (is_there || shown["message"]["deleted"].is_object()).then(|| shown.clone())
    })
    .await
}

/// bob edits a message over each transport, and all hear the same. Gives the lines of the message and its edits.
async fn edited_over_every_transport(house: &House, id: &Value, said: &Value, heard_by: (&Nats, &Poll)) -> Vec<String> {
    let (bob, poll) = heard_by;
    let socket = Script::events("bob").await;
    socket.call("open", ask(house, "ws", "bob", &json!({}))).await;
    let by_http = edit(&house.http("bob"), id, "by HTTP").await.ok();
    let by_nats = native(bob, "edit", &json!({"target": id, "body": {"text": "by NATS"}})).await;
    let asked = json!({"op": "send", "ref": "e", "room": "lobby", "kind": "edit", "target": id, "body": {"text": "by WebSocket"}});
    say(&socket, &asked).await;
    let by_socket = frame(&socket, "a receipt", |frame| frame["ref"] == "e").await["receipt"].clone();
    let service = json!({"room": "lobby", "id": id, "body": {"text": "by a service"}});
    let by_service = bob.api("messages.edit", &service).await;
    let device = house.mqtt("bob").await;
    let by_mqtt = json!({"target": id, "body": {"text": "by MQTT"}, "key": "m"});
    device
        .publish("chat/in/main/bob/lobby/edit", &by_mqtt.to_string())
        .await;

    let receipts = [said, &by_http, &by_nats, &by_socket, &by_service];
    let all = |got: &[Delivery]| {
        let lines = lines_of("lobby", got);
        (lines.len() > receipts.len()).then_some(lines)
    };
    let heard = poll.mail.wait("alice hears all", all).await;
    assert_eq!(heard, bob.mail.wait("bob hears all", all).await);
    assert_unbroken(&heard);
    for (receipt, line) in receipts.iter().zip(&heard) {
        assert_receipt(receipt, line);
    }
    for line in &heard[1..] {
        let event = parse(line);
        assert_eq!(
            (&event["kind"], &event["from"]),
            (&json!("edit"), &json!("bob")),
            "{line}"
        );
        assert_eq!(event["target"], json!({"id": id, "seq": said["seq"]}), "{line}");
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn over_every_transport_messages_are_changed_and_all_hear_the_same() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "moderator")]).await;
    let (alice, bob) = (house.http("alice"), house.nats("bob").await);
    bob.listen(&["lobby"]).await;
    let poll = Poll::from_now(&alice).await;
    let said = bob.say("lobby", "first").await;
    let id = &said["id"];
    let heard = edited_over_every_transport(&house, id, &said, (&bob, &poll)).await;
    let last = parse(heard.last().unwrap());
    let now = shown(&house, "alice", id, &last["seq"]).await;
    let mut expected = parse(&heard[0]);
    expected["body"] = json!({"text": "by MQTT"});
    expected["edited_at"] = last["at"].clone();
    assert_eq!(now["message"], expected);
    assert_eq!(now["original"], parse(&heard[0]));
    let edits: Vec<Value> = heard[1..].iter().map(|line| parse(line)).collect();
    assert_eq!(now["edits"], json!(edits));
    assert_eq!(bob.api("messages.get", &json!({"room": "lobby", "id": id})).await, now);
    let page = alice.get("/v1/rooms/lobby/messages").await.ok();
    assert_eq!(page["messages"], json!([expected]));

    // A moderator takes it away.
    let deleted = house.http("carol").delete(&path(id)).await.ok();
    let gone = shown(&house, "alice", id, &deleted["seq"]).await;
    assert_eq!((&gone["message"]["body"], &gone["edits"]), (&json!(null), &json!([])));
    assert_eq!(gone["message"]["deleted"]["by"], "carol");
    let all = gone.to_string();
    assert!(!all.contains("first") && !all.contains("by MQTT"), "{all}");
    edit(&house.http("bob"), id, "again").await.is_problem(404, "not-found");
    let verified = house.run(&["verify"]);
    assert!(verified.contains(": 0 faults"), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_change_a_message_is_told_so_and_changes_nothing() {
    let house = House::start().await;
    house
        .room("lobby", &[("bob", "member"), ("red", "reader"), ("dev", "device")])
        .await;
    house.room("garden", &[("bob", "member")]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let of_alice = alice.say("lobby", "mine").await;
    let of_bob = bob.say("lobby", "his").await;
    let elsewhere = bob.say("garden", "elsewhere").await;
    edit(&bob, &of_alice["id"], "forged").await.is_problem(403, "forbidden");
    edit(&alice, &of_bob["id"], "forged").await.is_problem(403, "forbidden");
    bob.delete(&path(&of_alice["id"])).await.is_problem(403, "forbidden");
    for user in ["red", "dev"] {
        let http = house.http(user);
        edit(&http, &of_alice["id"], "forged")
            .await
            .is_problem(403, "forbidden");
        http.delete(&path(&of_alice["id"])).await.is_problem(403, "forbidden");
    }
    // Of another room, of nobody, no message at all.
    let made = parse(&house.log()[1]);
    for id in [&elsewhere["id"], &json!("0192"), &made["id"]] {
        edit(&bob, id, "forged").await.is_problem(404, "not-found");
        bob.delete(&path(id)).await.is_problem(404, "not-found");
        bob.get(&path(id)).await.is_problem(404, "not-found");
    }
    for body in ["{}", r#"{"body":1,"target":"x"}"#, r#"{"body":1,"reply_to":"x"}"#, ""] {
        let answer = bob.call(Method::PATCH, &path(&of_bob["id"]), &[], body.into()).await;
        answer.is_problem(400, "invalid-request");
    }
    let asked = json!({"body": 1, "target": of_bob["id"]});
    bob.post("/v1/rooms/lobby/messages", &asked)
        .await
        .is_problem(400, "invalid-request");
    assert!(house.log().iter().all(|line| !line.contains("forged")));

    // The same key gives the first receipt, and is no other's.
    let key = [("idempotency-key", "k")];
    let body = json!({"body": {"text": "once"}}).to_string();
    let send = async |id: &Value, body: &str| bob.call(Method::PATCH, &path(id), &key, body.to_owned().into()).await;
    let first = send(&of_bob["id"], &body).await.ok();
    let again = send(&of_bob["id"], &body).await.ok();
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
    let another = bob.say("lobby", "another").await;
    send(&another["id"], &body)
        .await
        .is_problem(422, "idempotency-mismatch");
}

/// Of a message that the writer has forgotten the archive knows who wrote it; and what is remembered outlives a crash.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_message_is_changed_through_a_bridge_and_a_young_one_after_a_crash() {
    let mut house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (bob, alice) = (house.http("bob"), house.http("alice"));
    let old = [bob.say("lobby", "old 1").await, bob.say("lobby", "old 2").await];
    let many: Vec<Value> = (0..100).map(|number| json!({"body": number})).collect();
    for _ in 0..10 {
        let batch = json!({"messages": many});
        alice.post("/v1/rooms/lobby/messages:batch", &batch).await.ok();
    }
    let young = bob.say("lobby", "young").await;
    let nats = house.nats("bob").await;
    let asked = json!({"target": old[0]["id"], "body": {"text": "new"}});
    let refused = native(&nats, "edit", &asked).await;
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&json!("target-unknown"), &json!(404)),
        "{refused}"
    );
    edit(&alice, &old[0]["id"], "forged").await.is_problem(403, "forbidden");
    let receipt = edit(&bob, &old[0]["id"], "new").await.ok();
    let now = shown(&house, "alice", &old[0]["id"], &receipt["seq"]).await;
    assert_eq!(now["message"]["body"], json!({"text": "new"}));
    let by_service = json!({"room": "lobby", "id": old[1]["id"]});
    let deleted = nats.api("messages.delete", &by_service).await;
    house.archived("bob", "lobby", seq(&young)).await;
    shown(&house, "alice", &old[1]["id"], &deleted["seq"]).await;
    assert_eq!(nats.api("messages.delete", &by_service).await["code"], "not-found");

    house.kill_everything();
    house.restart().await;
    let nats = house.nats("bob").await;
    let asked = json!({"target": young["id"], "body": {"text": "after the crash"}});
    let receipt = native(&nats, "edit", &asked).await;
    let now = shown(&house, "alice", &young["id"], &receipt["seq"]).await;
    assert_eq!(now["message"]["body"], json!({"text": "after the crash"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn reactions_and_pins_are_heard_and_shown() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("red", "reader")]).await;
    let (alice, bob, red) = (house.http("alice"), house.http("bob"), house.http("red"));
    let said = alice.say("lobby", "hello").await;
    let other = alice.say("lobby", "there").await;
    let thumb = format!("{}/reactions/%F0%9F%91%8D", path(&said["id"]));
    let nothing = json!({});
    let put = async |http: &Http, path: &str| http.call(Method::PUT, path, &[], "".into()).await;
    for http in [&alice, &bob, &bob] {
        put(http, &thumb).await.ok();
    }
    let nats = house.nats("bob").await;
    native(&nats, "react", &json!({"target": said["id"], "body": {"emoji": "+1"}})).await;
    alice.delete(&thumb).await.ok();
    put(&red, &thumb).await.is_problem(403, "forbidden");
    let pin = format!("{}/pin", path(&said["id"]));
    put(&bob, &pin).await.is_problem(403, "forbidden");
    let unpinned = format!("{}/pin", path(&other["id"]));
    for pin in [&pin, &unpinned] {
        put(&alice, pin).await.ok();
    }
    let last = alice.delete(&unpinned).await.ok();
    let long = format!("{}/reactions/{}", path(&said["id"]), "x".repeat(65));
    put(&bob, &long).await.is_problem(400, "invalid-request");
    let strange = native(&nats, "react", &json!({"target": said["id"], "body": nothing})).await;
    assert_eq!(strange["code"], "invalid-request", "{strange}");
    put(&bob, "/v1/rooms/lobby/messages/m/reactions/x")
        .await
        .is_problem(404, "not-found");

    let pins = eventually("what is pinned is known", async || {
        let page = bob.get("/v1/rooms/lobby/pins").await.ok();
        (page["messages"].as_array().unwrap().len() == 1).then_some(page)
    })
    .await;
    let message = &pins["messages"][0];
    assert_eq!(
        (&message["id"], &message["pinned"]["by"]),
        (&said["id"], &json!("alice"))
    );
    let one = json!([{"emoji": "+1", "count": 1}, {"emoji": "👍", "count": 1}]);
    assert_eq!(message["reactions"], one);
    let kinds: Vec<Value> = house.log().iter().map(|line| parse(line)["kind"].clone()).collect();
    assert_eq!(kinds.last().unwrap(), "unpin");
    assert_eq!(parse(house.log().last().unwrap())["seq"], last["seq"]);
    house.run(&["verify"]);
}
