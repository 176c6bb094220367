//! Rooms get every event once and in order, whichever store is killed, and whatever happens to their stream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use futures_util::future::join_all;
use natterjack_nats_config::local_server::Tool;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::events::{assert_unbroken, parse};
use crate::support::eventually;
use crate::support::nats::Nats;
use crate::support::roles::{Roles, change};

/// How often a store is killed.
const KILLS: usize = 6;

/// A tool's own stream of all rooms: a subscriber that misses nothing, in an account of its own.
struct Ears {
    stream: stream::Stream,
}

impl Ears {
    fn tool() -> (Tool, String) {
        let key = KeyPair::new_user();
        let tool = Tool {
            name: "ears".parse().unwrap(),
            tenant: "main".parse().unwrap(),
            nkey: key.public_key(),
        };
        (tool, key.seed().unwrap())
    }

    async fn open(roles: &Roles, seed: String) -> Self {
        let client = async_nats::ConnectOptions::with_nkey(seed)
            .connect(roles.nats_url())
            .await
            .unwrap();
        let config = stream::Config {
            name: "EARS".into(),
            subjects: vec!["chat.room.main.*.log".into()],
            ..stream::Config::default()
        };
        let stream = jetstream::new(client).create_stream(config).await.unwrap();
        Self { stream }
    }

    /// What it heard of a room, behind a `Chat-Seq`, once it has heard the last that is given.
    async fn heard(&self, room: &str, behind: u64, last: u64) -> Vec<String> {
        eventually("the last event is heard", async || {
            let end = self.stream.get_info().await.ok()?.state.last_sequence;
            let mut lines = Vec::new();
            let mut top = 0;
            for seq in 1..=end {
                let message = self.stream.get_raw_message(seq).await.ok()?;
                let chat_seq: u64 = message.headers.get("Chat-Seq")?.as_str().parse().ok()?;
                if message.subject.as_str() == format!("chat.room.main.{room}.log") && chat_seq > behind {
                    top = top.max(chat_seq);
                    lines.push(String::from_utf8(message.payload.to_vec()).unwrap());
                }
            }
            (top >= last).then_some(lines)
        })
        .await
    }
}

fn seq(receipt: &Value) -> u64 {
    receipt["seq"]
        .as_u64()
        .unwrap_or_else(|| panic!("no receipt: {receipt}"))
}

/// Sends to both rooms, as fast as receipts come, while stores are killed in turns; gives how much was sent.
async fn send_while_stores_are_killed(roles: &mut Roles, alice: &Nats, stores: &mut [u32; 2]) -> usize {
    let stop = AtomicBool::new(false);
    let is_over = &stop;
    let send = async |number: usize| {
        let mut sent = 0;
        while !is_over.load(Ordering::SeqCst) {
            let room = ["lobby", "garden"][sent % 2];
            let receipt = change(alice, room, "msg", json!({"text": format!("{number}-{sent}")})).await;
            assert!(receipt["seq"].is_u64(), "{receipt}");
            sent += 1;
        }
        sent
    };
    // One of them leads; killing in turns hits the leader and the standby, at moments that nobody chose.
    let kill = async {
        for kill in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(300 + rand::random_range(0..1500))).await;
            let place = kill % 2;
            roles.kill(stores[place]);
            stores[place] = roles.store();
        }
        stop.store(true, Ordering::SeqCst);
    };
    let (sent, ()) = tokio::join!(join_all((0..6).map(send)), kill);
    sent.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_killed_under_load_leave_no_gap_and_no_repetition_in_any_room() {
    let (tool, seed) = Ears::tool();
    let mut roles = Roles::start_with(&[tool]).await;
    let mut stores = [roles.store(), roles.store()];
    let alice = roles.nats("alice").await;
    for room in ["lobby", "garden"] {
        roles.room(&alice, room, &[]).await;
    }
    let ears = Ears::open(&roles, seed).await;
    let start = seq(&change(&alice, "lobby", "msg", json!({"text": "start"})).await);
    let sent = send_while_stores_are_killed(&mut roles, &alice, &mut stores).await;
    eprintln!("{sent} messages sent over {KILLS} kills");
    for room in ["lobby", "garden"] {
        let last = seq(&change(&alice, room, "msg", json!({"text": "end"})).await);
        let heard = ears.heard(room, start, last).await;
        let log: Vec<String> = roles
            .log(room)
            .await
            .into_iter()
            .filter(|line| parse(line)["seq"].as_u64() > Some(start))
            .collect();
        assert_eq!(heard.len(), log.len(), "{room}: heard and logged");
        assert_eq!(heard, log, "{room}");
        assert_unbroken(&heard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_of_rooms_is_filled_again_and_nobody_hears_history_as_news() {
    let (tool, seed) = Ears::tool();
    let mut roles = Roles::start_with(&[tool]).await;
    let store = roles.store();
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[]).await;
    let ears = Ears::open(&roles, seed).await;
    let start = seq(&change(&alice, "lobby", "msg", json!({"text": "start"})).await);
    let mut heard = start;
    for number in 0..50 {
        heard = seq(&change(&alice, "lobby", "msg", json!({"text": number.to_string()})).await);
    }
    assert_unbroken(&ears.heard("lobby", start, heard).await);
    roles.kill(store);
    let core = roles.core().await;
    jetstream::new(core.clone())
        .delete_stream("CHAT_ROOMS_0")
        .await
        .unwrap();
    roles.store();
    let before = seq(&change(&alice, "lobby", "msg", json!({"text": "while it is filled"})).await);
    eventually("the rooms are filled again", async || {
        let rooms = jetstream::new(core.clone()).get_stream("CHAT_ROOMS_0").await.ok()?;
        let held = rooms
            .get_last_raw_message_by_subject("chat.fan.main.lobby")
            .await
            .ok()?;
        let held: u64 = held.headers.get("Chat-Seq")?.as_str().parse().ok()?;
        (held >= before && rooms.cached_info().config.republish.is_some()).then_some(())
    })
    .await;
    let last = seq(&change(&alice, "lobby", "msg", json!({"text": "after"})).await);
    let end = ears.heard("lobby", before, last).await;
    assert_eq!(end.len(), 1, "{end:?}");
    let heard = ears.heard("lobby", start, last).await;
    let mut once = heard.clone();
    once.dedup();
    assert_eq!(heard, once, "history was heard again");
    let seqs: Vec<u64> = heard.iter().map(|line| parse(line)["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "history was heard again");
}
