//! TLS for NATS, WebSocket and MQTT, by the certificate of the HTTP door.

use std::path::PathBuf;

use async_nats::ConnectOptions;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::eventually;
use crate::support::house::{House, natterjack, signal};
use crate::support::script::Script;
use crate::tls::Files;

/// A client who trusts what is in the file of the certificate now.
async fn nats(files: &Files, house: &House, user: &str) -> Result<async_nats::Client, async_nats::ConnectError> {
    ConnectOptions::with_token(house.token(user))
        .custom_inbox_prefix(format!("_INBOX.main.{user}"))
        .add_root_certificates(files.cert())
        .connect(&house.endpoints.nats)
        .await
}

async fn house(files: &Files) -> House {
    let house = files.house().await;
    house.run(&["room", "create", "lobby"]);
    for user in ["bob", "carol", "dev1"] {
        house.run(&["room", "add", "lobby", user]);
    }
    house
}

/// What a server says to who does not speak TLS, until it hangs up.
async fn said_in_the_clear(url: &str, said: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(url.split_once("://").unwrap().1).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_native_client_speaks_tls_and_nobody_in_the_clear() {
    let files = Files::new();
    let house = house(&files).await;
    assert!(house.endpoints.nats.starts_with("tls://"), "{:?}", house.endpoints);
    let bob = nats(&files, &house, "bob").await.unwrap();
    let hello = json!({"body": {"text": "by NATS"}}).to_string();
    let receipt = bob.request("chat.in.main.bob.lobby.msg", hello.into()).await.unwrap();
    let receipt: Value = serde_json::from_slice(&receipt.payload).unwrap();
    assert_eq!(receipt["durability"], "log", "{receipt}");
    let token = house.token("carol");
    let carol = Script::websocket_over_tls(&house.endpoints.ws, "carol", &token, &files.cert())
        .await
        .unwrap();
    assert_eq!(carol.say("lobby", "by WebSocket").await["durability"], "log");
    carol.subscribe("chat.room.main.lobby.log").await;
    let token = house.token("dev1");
    let device = Script::paho_over_tls(&house.endpoints.mqtt, "dev1", &token, &files.cert())
        .await
        .unwrap();
    device.publish("chat/in/main/dev1/lobby/msg", b"by MQTT").await;
    carol
        .mail
        .wait("carol hears the device", |got| {
            got.iter()
                .any(|got| String::from_utf8_lossy(&got.payload).contains("by MQTT"))
                .then_some(())
        })
        .await;
    // Who trusts others does not come in, and nobody without TLS.
    assert!(nats(&Files::new(), &house, "bob").await.is_err());
    let connect = b"CONNECT {\"verbose\":true,\"auth_token\":\"x\"}\r\nPING\r\n";
    let answer = String::from_utf8(said_in_the_clear(&house.endpoints.nats, connect).await).unwrap();
    assert!(
        answer.contains("\"tls_required\":true") && !answer.contains("PONG"),
        "{answer}"
    );
    let upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let answer = said_in_the_clear(&house.endpoints.ws, upgrade).await;
    assert!(!String::from_utf8_lossy(&answer).contains(" 101 "), "{answer:?}");
    let connect = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04main";
    let answer = said_in_the_clear(&house.endpoints.mqtt, connect).await;
    assert_ne!(answer.first(), Some(&0x20), "a CONNACK: {answer:?}");
    // What looks at the log and at the servers finds its way.
    house.run(&["verify"]);
    house.run(&["doctor"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_by_the_servers_too() {
    let mut files = Files::new();
    let house = house(&files).await;
    nats(&files, &house, "bob").await.unwrap();
    files.renew();
    signal(house.pid(), Signal::HUP);
    // The file has the new one only, so who connects by it has been shown that.
    let bob = eventually("NATS shows it", async || nats(&files, &house, "bob").await.ok()).await;
    let token = house.token("carol");
    eventually("WebSocket shows it", async || {
        Script::websocket_over_tls(&house.endpoints.ws, "carol", &token, &files.cert())
            .await
            .ok()
    })
    .await;
    let token = house.token("dev1");
    eventually("MQTT shows it", async || {
        Script::paho_over_tls(&house.endpoints.mqtt, "dev1", &token, &files.cert())
            .await
            .ok()
    })
    .await;
    let receipt = bob.request("chat.in.main.bob.lobby.msg", "hello".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&receipt.payload).contains("durability"));
}

#[test]
fn with_a_certificate_other_addresses_need_no_word_that_it_is_insecure() {
    let files = Files::new();
    let listen = ["HTTP", "NATS", "WS", "MQTT"].map(|door| format!("NATTERJACK_LISTEN__{door}"));
    let check = |cert: PathBuf, key: PathBuf, more: &[&str]| {
        let mut config = natterjack();
        config.arg("config");
        config.envs(listen.iter().map(|name| (name, "0.0.0.0:4999")));
        config.envs(more.iter().map(|name| (name, "0.0.0.0:4998")));
        config
            .env("NATTERJACK_BRIDGE__TLS__CERT", cert)
            .env("NATTERJACK_BRIDGE__TLS__KEY", key);
        config.output().unwrap().status.success()
    };
    assert!(check(files.cert(), files.key(), &[]));
    assert!(!check(PathBuf::new(), PathBuf::new(), &[]));
    // What the servers of a cluster tell each other is not encrypted.
    assert!(!check(files.cert(), files.key(), &["NATTERJACK_LISTEN__CLUSTER"]));
}
