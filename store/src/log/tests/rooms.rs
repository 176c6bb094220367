//! What the rooms hear, and what is dropped on its way to the writer.

use std::time::Duration;

use async_nats::{Client, jetstream};
use natterjack_nats_config::contract::{Kind, Seq};
use serde_json::json;
use tokio::time::timeout;

use super::support::{Bus, LONG, bundle, make_lobby, request, send};

#[tokio::test(flavor = "multi_thread")]
async fn rooms_hear_every_event_once_and_in_order_across_writers_and_never_history_again() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let bridge = bus.bridge().await;
    let store = bus.store().await;
    // A stream that takes in what is republished is a subscriber that misses nothing.
    let ears = jetstream::new(store.clone())
        .create_stream(jetstream::stream::Config {
            name: "EARS".into(),
            subjects: vec!["chat.room.main.lobby.log".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    make_lobby(&bridge).await;
    send(&bridge, "one").await;
    let mut second = bus.writer("second").await;
    first.stop().await;
    second.is_leading().await;
    let last = send(&bridge, "two").await;
    assert_eq!(
        timeout(LONG, heard_until(&ears, last.n)).await.expect("not heard"),
        [1, 2, 3, 4]
    );
    // ROOMS is lost: it is filled again from the log, and nobody hears that.
    second.stop().await;
    jetstream::new(store.clone())
        .delete_stream("CHAT_ROOMS_0")
        .await
        .unwrap();
    let mut third = bus.writer("third").await;
    third.is_leading().await;
    let after = send(&bridge, "three").await;
    timeout(LONG, rooms_hold(&store, after.seq))
        .await
        .expect("ROOMS was not filled again");
    let heard = ears.get_info().await.unwrap().state.last_sequence;
    assert!(heard <= last.n + 1, "history was heard again: {heard} events");
    third.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_reply_a_client_could_steer_is_dropped() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    // In CORE nobody may publish here but the service import; were a worker able to, it would not be answered.
    let bundle = bundle(&[request(Kind::Msg, &json!({"body": 1}))]);
    bridge
        .publish_with_reply("chat.write.0", "chat.log.0.1", bundle)
        .await
        .unwrap();
    bridge.flush().await.unwrap();
    assert_eq!(
        send(&bridge, "next").await.n,
        3,
        "the request with the steered reply was taken"
    );
    writer.stop().await;
    bus.server.shutdown().await;
}

/// The numbers of all events that a listening stream has taken in, once it has the one that is given.
async fn heard_until(ears: &jetstream::stream::Stream, last: u64) -> Vec<u64> {
    loop {
        let mut heard = Vec::new();
        let end = ears.get_info().await.unwrap().state.last_sequence;
        for seq in 1..=end {
            let message = ears.get_raw_message(seq).await.unwrap();
            let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            heard.push(event["n"].as_u64().unwrap());
        }
        if heard.last() == Some(&last) {
            return heard;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until ROOMS has an event as the lobby's last one.
async fn rooms_hold(store: &Client, seq: Seq) {
    loop {
        if let Ok(stream) = jetstream::new(store.clone()).get_stream("CHAT_ROOMS_0").await {
            let held = stream.get_last_raw_message_by_subject("chat.fan.main.lobby").await;
            if held.is_ok_and(|held| held.headers.get("Chat-Seq").unwrap().as_str() == seq.to_string()) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
