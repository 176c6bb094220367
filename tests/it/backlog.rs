//! What the server keeps of a device while nobody takes it, and the device's token is revoked meanwhile.

use serde_json::{Value, json};

use crate::support::events::texts;
use crate::support::eventually;
use crate::support::mqtt::Mqtt;
use crate::support::roles::{Roles, free_port, is_ready};

const TO_LOBBY: &str = "chat/in/main/dev1/lobby/msg";
const SMALL: &str = "16777216";
const LARGE: &str = "134217728";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_sent_before_its_revocation_is_not_written_after_it() {
    let mut roles = Roles::start().await;
    let with = |bytes| {
        [
            ("NATTERJACK_STORE__LOG_MAX_BYTES", bytes),
            ("NATTERJACK_STORE__TRIM", "false"),
        ]
    };
    let store = roles.store_set(&with(SMALL));
    let port = free_port();
    roles.bridge(port);
    let admin = roles.http(port, "admin");
    is_ready(&admin).await;
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[("dev1", "device")]).await;
    let made = admin
        .post("/v1/keys", &json!({"user": "dev1", "name": "lost"}))
        .await
        .created();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let mqtt_url = roles.mqtt_url();
    let device = async |password: &str| Mqtt::connect(&mqtt_url, "main:dev1", "dev1", password).await.ok();
    let lost = eventually("the device is let in", async || device(&text("key")).await).await;
    lost.publish(TO_LOBBY, "while it was good").await;
    eventually("it stands in the log", async || {
        (texts(&roles.log("lobby").await) == ["while it was good"]).then_some(())
    })
    .await;

    // The log is full for messages, so what the device sends waits; revocations are written all the same.
    let filler = json!({"body": {"large": "x".repeat(120_000)}});
    eventually("the log is full", async || {
        (alice.send("lobby", &filler).await["code"] == "log-full").then_some(())
    })
    .await;
    lost.publish(TO_LOBBY, "waited for the revocation").await;
    eventually("the key is ended", async || {
        let answer = admin.delete(&format!("/v1/keys/{}", text("id"))).await;
        (answer.status == 404 || answer.ok()["state"] == "done").then_some(())
    })
    .await;
    drop(lost);

    roles.kill(store);
    roles.store_set(&with(LARGE));
    let token = roles.token("dev1");
    let found = eventually("the device is let in", async || device(&token).await).await;
    assert!(found.subscribe("chat/user/main/dev1").await);
    // As long as clocks may differ, what comes is not told from what came before.
    let mut sent = 0;
    let written = eventually("what is sent by a good token is written", async || {
        sent += 1;
        found.publish(TO_LOBBY, &format!("by a good token {sent}")).await;
        let all = texts(&roles.log("lobby").await);
        all.iter()
            .any(|text| text.starts_with("by a good token"))
            .then_some(all)
    })
    .await;
    assert!(
        !written.contains(&"waited for the revocation".to_owned()),
        "{written:?}"
    );
    found
        .mail
        .wait("it is told", |all| {
            let told = all
                .iter()
                .map(|one| serde_json::from_slice::<Value>(&one.payload).unwrap());
            told.into_iter().find(|told| told["code"] == "token-revoked")
        })
        .await;
}
