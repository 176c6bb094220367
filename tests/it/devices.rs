//! MQTT devices: `QoS` 1 in and out, over outages of the workers and of the devices.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::support::events::{assert_unbroken, lines_of, parse, texts};
use crate::support::eventually;
use crate::support::mailbox::{Delivery, Mailbox};
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::roles::{Roles, change};
use crate::support::script::Script;

const LOBBY: &str = "chat/room/main/lobby/log";
const TO_LOBBY: &str = "chat/in/main/dev1/lobby/msg";

async fn publish(device: &Script, topic: &str, text: &str, qos: u8) {
    let answer = device.publish_qos(topic, text.as_bytes(), qos).await;
    assert_eq!(answer["acknowledged"], true, "{answer}");
}

/// Waits until the log has so many messages of a room, and gives all their texts.
async fn logged(roles: &Roles, room: &str, count: usize) -> Vec<String> {
    eventually("the log has the messages", async || {
        let texts = texts(&roles.log(room).await);
        (texts.len() >= count).then_some(texts)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_to_a_device_outlives_the_worker_and_stands_once_and_in_order() {
    let mut roles = Roles::start().await;
    let mut store = roles.store();
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[("dev1", "device")]).await;
    let device = roles.paho("dev1", true).await;
    assert_eq!(device.subscribe("chat/user/main/dev1").await["granted"], true);
    publish(&device, TO_LOBBY, "before", 1).await;
    publish(&device, TO_LOBBY, "before, QoS 0", 0).await;
    publish(&device, TO_LOBBY, "before, QoS 2", 2).await;
    logged(&roles, "lobby", 3).await;

    roles.kill(store);
    let mut expected = Vec::new();
    for number in 0..20 {
        publish(&device, TO_LOBBY, &format!("away {number}"), 1).await;
        expected.push(format!("away {number}"));
    }
    publish(&device, TO_LOBBY, "away, QoS 2", 2).await;
    expected.push("away, QoS 2".to_owned());
    publish(&device, "chat/in/main/dev1/cellar/msg", "no member", 1).await;
    store = roles.store();
    let all = logged(&roles, "lobby", 3 + expected.len()).await;
    assert_eq!(all[3..], expected);
    let notice = device
        .mail
        .wait("the refusal is told", |all| {
            all.iter().find(|one| one.subject == "chat/user/main/dev1").cloned()
        })
        .await;
    let notice: Value = serde_json::from_slice(&notice.payload).unwrap();
    assert_eq!(notice["code"], "not-found", "{notice}");

    // Killed while it works: what was handed out and not acknowledged comes again, and is one event all the same.
    let mut sent = 0;
    for _ in 0..4 {
        for number in sent..sent + 25 {
            publish(&device, TO_LOBBY, &format!("under fire {number}"), 1).await;
            expected.push(format!("under fire {number}"));
        }
        sent += 25;
        roles.kill(store);
        store = roles.store();
    }
    let all = logged(&roles, "lobby", 3 + expected.len()).await;
    assert_eq!(all[3..], expected);
    assert_unbroken(&roles.log("lobby").await);
}

/// The one thing that is told on a user's own subject with these words in it.
async fn told(mail: &Mailbox<Delivery>, words: &str) -> Value {
    let notice = mail.wait("it is told", |all| {
        let notices = all.iter().filter(|one| one.subject.starts_with("chat/user/"));
        notices
            .map(|one| serde_json::from_slice::<Value>(&one.payload).unwrap())
            .find(|notice| notice.to_string().contains(words))
    });
    notice.await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_repeats_a_key_is_told_that_it_stands() {
    let mut roles = Roles::start().await;
    roles.store();
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[("dev1", "device")]).await;
    let device = roles.paho("dev1", true).await;
    assert_eq!(device.subscribe("chat/user/main/dev1").await["granted"], true);
    for qos in [0, 1] {
        let request = json!({"key": format!("k{qos}"), "body": {"text": "21.5"}}).to_string();
        publish(&device, TO_LOBBY, &request, qos).await;
        logged(&roles, "lobby", 1 + usize::from(qos)).await;
        publish(&device, TO_LOBBY, &request, qos).await;
        let notice = told(&device.mail, &format!("\"k{qos}\"")).await;
        let last = roles.log("lobby").await.pop().unwrap();
        assert_eq!(
            (&notice["duplicate"], &notice["room"]),
            (&json!(true), &json!("lobby")),
            "{notice}"
        );
        assert_eq!(notice["seq"], parse(&last)["seq"], "{notice}");
    }
    let refused = json!({"key": "k1", "body": {"text": "another"}}).to_string();
    publish(&device, TO_LOBBY, &refused, 1).await;
    let notice = told(&device.mail, "idempotency-mismatch").await;
    assert_eq!(
        (&notice["key"], &notice["room"]),
        (&json!("k1"), &json!("lobby")),
        "{notice}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_passes_for_a_device() {
    let mut roles = Roles::start().await;
    roles.store();
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[("dev1", "device")]).await;
    // What the server says of a message that it keeps: only of a device's is it believed.
    let mut headers = HeaderMap::new();
    headers.insert("Nmqtt-Pub", "1");
    let answer = alice
        .request("chat.in.main.alice.lobby.msg", "by NATS", headers)
        .await
        .unwrap();
    assert!(crate::support::nats::parse(&answer)["seq"].is_u64(), "{answer:?}");
    let device = roles.paho("dev1", true).await;
    let claims = json!({"body": {"text": "by MQTT"}, "from": "alice"}).to_string();
    for (topic, payload) in [
        ("chat/in/main/alice/lobby/msg", "as alice"),
        ("$MQTT/msgs/chat/in/main/alice/lobby/msg", "kept as alice"),
        ("$JS/API/STREAM/PURGE/$MQTT_msgs", "{}"),
        ("$JS/API/CONSUMER/DELETE/$MQTT_msgs/CHAT_IN", ""),
        ("$JS/API/CONSUMER/RESET/$MQTT_msgs/CHAT_IN", "{}"),
        ("$JS/ACK/$MQTT_msgs/CHAT_IN/1/1/1/1/0", "+ACK"),
        (TO_LOBBY, claims.as_str()),
    ] {
        publish(&device, topic, payload, 1).await;
    }
    publish(&device, TO_LOBBY, "at last", 1).await;
    let texts = logged(&roles, "lobby", 2).await;
    assert_eq!(texts, ["by NATS", "at last"]);
}

/// What a session got of the lobby, each with its `QoS`.
fn heard(mail: &Mailbox<Delivery>) -> Vec<(String, String)> {
    let of_lobby = mail.all().into_iter().filter(|one| one.subject == LOBBY);
    of_lobby
        .map(|one| {
            (
                String::from_utf8(one.payload.to_vec()).unwrap(),
                one.headers["qos"].clone(),
            )
        })
        .collect()
}

/// Waits until events are kept for a session: they come with `QoS` 1.
async fn is_kept(mail: &Mailbox<Delivery>, alice: &Nats) {
    eventually("events are kept for the session", async || {
        let receipt = alice.say("lobby", "is it kept?").await;
        mail.wait("it is heard", |all| {
            let is_it = |one: &&Delivery| parse(std::str::from_utf8(&one.payload).unwrap())["seq"] == receipt["seq"];
            all.iter().find(is_it).map(|one| one.headers["qos"].clone())
        })
        .await
        .eq("1")
        .then_some(())
    })
    .await;
}

/// Waits until a session has heard an event, and gives the exact lines that it got behind another one.
async fn behind(mail: &Mailbox<Delivery>, first: &Value, last: &Value) -> Vec<String> {
    let seq_of = |line: &str| parse(line)["seq"].as_u64().unwrap();
    let last = last["seq"].as_u64().unwrap_or_else(|| panic!("no receipt: {last}"));
    mail.wait("the last event is heard", |all| {
        let lines = lines_of("lobby", all);
        lines.iter().any(|line| seq_of(line) >= last).then_some(())
    })
    .await;
    let lines = heard(mail).into_iter().map(|(line, _)| line);
    lines
        .filter(|line| seq_of(line) > first["seq"].as_u64().unwrap())
        .collect()
}

/// Ends both connections; the sessions stay. They say so before they go: what is under way to somebody who vanishes is handed
/// out again only when its time has run out.
async fn go(paho: Script, rumqttc: Mqtt) {
    paho.call("disconnect", json!({})).await;
    rumqttc.client.disconnect().await.unwrap();
    let is_gone = |all: &[String]| all.iter().any(|line| line.starts_with("disconnected")).then_some(());
    rumqttc.happened.wait("it is gone", is_gone).await;
}

/// Sends, and has the worker replaced meanwhile; gives the texts and the last receipt.
async fn send_over_a_failover(roles: &mut Roles, alice: &Nats, store: u32) -> (Vec<String>, Value) {
    let (mut texts, mut last) = (Vec::new(), Value::Null);
    for number in 0..30 {
        if number == 15 {
            roles.kill(store);
            roles.store();
        }
        let text = format!("away {number}");
        last = change(alice, "lobby", "msg", json!({"text": text})).await;
        texts.push(text);
    }
    (texts, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_gets_what_came_while_it_was_away_each_once() {
    let mut roles = Roles::start().await;
    let store = roles.store();
    let alice = roles.nats("alice").await;
    roles
        .room(&alice, "lobby", &[("dev1", "device"), ("dev2", "device")])
        .await;
    let paho = roles.paho("dev1", false).await;
    assert_eq!(paho.subscribe(LOBBY).await["granted"], true);
    let (url, token) = (roles.mqtt_url(), roles.token("dev2"));
    let session = async || Mqtt::session(&url, "main:dev2", ("dev2", &token), false).await.unwrap();
    let rumqttc = session().await;
    assert!(rumqttc.subscribe(LOBBY).await);
    is_kept(&paho.mail, &alice).await;
    is_kept(&rumqttc.mail, &alice).await;

    // Online: one copy, not two.
    let first = alice.say("lobby", "first").await;
    let mut last = Value::Null;
    for number in 0..20 {
        last = alice.say("lobby", &format!("online {number}")).await;
    }
    for mail in [&paho.mail, &rumqttc.mail] {
        let lines = behind(mail, &first, &last).await;
        assert_eq!(
            texts(&lines),
            (0..20).map(|number| format!("online {number}")).collect::<Vec<_>>()
        );
        assert!(
            heard(mail)
                .iter()
                .skip(heard(mail).len() - 20)
                .all(|(_, qos)| qos == "1")
        );
    }

    // Away, and the worker is replaced meanwhile.
    go(paho, rumqttc).await;
    let (away, last) = send_over_a_failover(&mut roles, &alice, store).await;
    let paho = roles.paho("dev1", false).await;
    let rumqttc = session().await;
    for mail in [&paho.mail, &rumqttc.mail] {
        let lines = behind(mail, &first, &last).await;
        assert_eq!(texts(&lines), away);
        assert_unbroken(&lines);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_members_session_is_kept_nothing_and_begins_anew_when_they_come_back() {
    let mut roles = Roles::start().await;
    roles.store();
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[("dev1", "device")]).await;
    let device = roles.paho("dev1", false).await;
    assert_eq!(device.subscribe(LOBBY).await["granted"], true);
    is_kept(&device.mail, &alice).await;
    drop(device);

    alice.say("lobby", "before the removal, not heard").await;
    change(&alice, "lobby", "member", json!({"user": "dev1", "role": null})).await;
    let between = alice.say("lobby", "between").await;
    let device = roles.paho("dev1", false).await;
    device
        .happened
        .wait("its session is there", |all| {
            all.iter().any(|line| line == "session present").then_some(())
        })
        .await;
    assert_eq!(device.subscribe(LOBBY).await["granted"], false);
    assert_eq!(device.subscribe("chat/user/main/dev1").await["granted"], true);
    alice.say("lobby", "still between").await;
    // Its refusal comes behind whatever else is on its way to it.
    publish(&device, TO_LOBBY, "no member", 1).await;
    device
        .mail
        .wait("it is refused", |all| {
            all.iter().any(|one| one.subject == "chat/user/main/dev1").then_some(())
        })
        .await;
    assert_eq!(heard(&device.mail), []);
    drop(device);

    let visible_from = between["seq"].as_u64().unwrap() + 4096;
    let body = json!({"user": "dev1", "role": "device", "visible_from": visible_from});
    let back = change(&alice, "lobby", "member", body).await;
    let device = roles.paho("dev1", false).await;
    let last = alice.say("lobby", "again").await;
    let lines = behind(&device.mail, &json!({"seq": 0}), &last).await;
    assert_eq!(texts(&lines), ["again"]);
    assert!(
        lines
            .iter()
            .all(|line| parse(line)["seq"].as_u64() >= back["seq"].as_u64()),
        "{lines:?}"
    );
}
