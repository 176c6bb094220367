//! What the server keeps of a device while nobody takes it, and the device's token is revoked meanwhile.

use serde_json::{Value, json};

use crate::support::events::texts;
use crate::support::eventually;
use crate::support::http::Http;
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::roles::{Roles, free_port, is_ready};

const TO_LOBBY: &str = "chat/in/main/dev1/lobby/msg";
const SMALL: &str = "16777216";
const LARGE: &str = "134217728";

fn with(log_max_bytes: &str) -> [(&str, &str); 2] {
    [
        ("NATTERJACK_STORE__LOG_MAX_BYTES", log_max_bytes),
        ("NATTERJACK_STORE__TRIM", "false"),
    ]
}

/// The device over MQTT, as soon as it is let in.
async fn device(roles: &Roles, password: &str) -> Mqtt {
    let url = roles.mqtt_url();
    eventually("the device is let in", async || {
        Mqtt::connect(&url, "main:dev1", "dev1", password).await.ok()
    })
    .await
}

/// Fills the log until it takes no messages any more; policy it takes all the same.
async fn fill_the_log(alice: &Nats) {
    let filler = json!({"body": {"large": "x".repeat(120_000)}});
    eventually("the log is full", async || {
        (alice.send("lobby", &filler).await["code"] == "log-full").then_some(())
    })
    .await;
}

async fn end_key(admin: &Http, id: &str) {
    eventually("the key is ended", async || {
        let answer = admin.delete(&format!("/v1/keys/{id}")).await;
        (answer.status == 404 || answer.ok()["state"] == "done").then_some(())
    })
    .await;
}

/// Sends until something of it is written: as long as clocks may differ, what comes is not told from what came before. Gives
/// what stands in the log then.
async fn send_until_written(roles: &Roles, device: &Mqtt) -> Vec<String> {
    let mut sent = 0;
    eventually("what is sent by a good token is written", async || {
        sent += 1;
        device.publish(TO_LOBBY, &format!("by a good token {sent}")).await;
        let all = texts(&roles.log("lobby").await);
        all.iter()
            .any(|text| text.starts_with("by a good token"))
            .then_some(all)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_sent_before_its_revocation_is_not_written_after_it() {
    let (mut roles, port) = (Roles::start().await, free_port());
    let store = roles.store_set(&with(SMALL));
    roles.bridge(port);
    let admin = roles.http(port, "admin");
    is_ready(&admin).await;
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[("dev1", "device")]).await;
    let asked = json!({"user": "dev1", "name": "lost"});
    let made = admin.post("/v1/keys", &asked).await.created();
    let lost = device(&roles, made["key"].as_str().unwrap()).await;
    lost.publish(TO_LOBBY, "while it was good").await;
    eventually("it stands in the log", async || {
        (texts(&roles.log("lobby").await) == ["while it was good"]).then_some(())
    })
    .await;

    fill_the_log(&alice).await;
    lost.publish(TO_LOBBY, "waited for the revocation").await;
    end_key(&admin, made["id"].as_str().unwrap()).await;
    drop(lost);

    roles.kill(store);
    roles.store_set(&with(LARGE));
    let found = device(&roles, &roles.token("dev1")).await;
    assert!(found.subscribe("chat/user/main/dev1").await);
    let written = send_until_written(&roles, &found).await;
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
