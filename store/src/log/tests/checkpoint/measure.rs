//! How long a start takes with many rooms, and how much memory.

use std::time::Instant;

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, MANIFEST_VERSION, MAX_FRAME_EVENTS, Seq};
use serde_json::value::to_raw_value;

use super::*;
use crate::log::checkpoint::codec::{Encoded, decode};
use crate::log::state::STATE_VERSION;

/// Rooms, each with one member who is in no other.
const ROOMS: u64 = 1_000_000;
/// Messages behind the checkpoint, in full bundles: about what lies between two checkpoints.
const TAIL: usize = 200_000;
const START_MS: i64 = 1_795_413_600_000;

fn event(seq: Seq, room: &str, (n, prev): (u64, Seq), kind: Kind, body: &serde_json::Value) -> Event {
    Event {
        v: 1,
        seq,
        n,
        prev,
        id: uuid::Uuid::now_v7().to_string(),
        tenant: id("main"),
        room: id(room),
        from: id("admin"),
        via: None,
        kind,
        at: clock::format_ms(START_MS),
        key: None,
        reply_to: None,
        target: None,
        body: to_raw_value(body).unwrap(),
        erased: None,
    }
}

/// The state of a log in which each room was made with its owner.
fn state() -> State {
    let mut state = State::default();
    state.apply(&event(
        Seq::of(1, 0),
        "_",
        (1, Seq::ZERO),
        Kind::User,
        &json!({"user": "admin", "role": "admin"}),
    ));
    state.pass_frame(1);
    let a_frame = MAX_FRAME_EVENTS as u64 / 2;
    for number in 0..ROOMS {
        let (frame, index) = (2 + number / a_frame, usize::try_from(number % a_frame).unwrap() * 2);
        let (made, joined) = (Seq::of(frame, index), Seq::of(frame, index + 1));
        let room = format!("room-{number:07}");
        state.apply(&event(
            made,
            &room,
            (1, Seq::ZERO),
            Kind::Room,
            &json!({"title": format!("Room {number}")}),
        ));
        let member = json!({"user": format!("user-{number:07}"), "role": "owner", "visible_from": 0});
        state.apply(&event(joined, &room, (2, made), Kind::Member, &member));
        if index + 2 == MAX_FRAME_EVENTS {
            state.pass_frame(frame);
        }
    }
    state.pass_frame(2 + ROOMS / a_frame);
    state
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    eprintln!("{what}: {:.2} s", start.elapsed().as_secs_f64());
    done
}

pub(super) async fn run() {
    eprintln!("resident at first: {} MB", resident_mb());
    let before = timed("folding the events that made the rooms", state);
    let encoded = timed("encoding", || encode(&before).unwrap());
    eprintln!(
        "policy part {} MB, writer's part {} MB",
        encoded.policy.len() >> 20,
        encoded.writer.len() >> 20
    );
    let (end, at_ms, hash) = (before.end(), before.at_ms(), before.stamp().hash);
    eprintln!("resident with the state that was folded: {} MB", resident_mb());
    drop(before);
    let bus = Bus::start().await;
    let store = bus.store().await;
    put_away(&store, &encoded, (end, at_ms, hash)).await;
    let again = timed("decoding", || decode(&encoded).unwrap());
    drop((again, encoded));

    let start = Instant::now();
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    eprintln!(
        "start with an empty tail, until it writes: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    fill(&bus).await;
    first.stop().await;
    let start = Instant::now();
    let mut second = bus.writer("second").await;
    second.is_leading().await;
    let took = start.elapsed();
    eprintln!(
        "start with {TAIL} events behind the checkpoint, until it writes: {:.2} s; resident {} MB",
        took.as_secs_f64(),
        resident_mb()
    );
    second.stop().await;
    bus.server.shutdown().await;
    assert!(took <= Duration::from_secs(5), "the goal is 5 s");
}

/// The checkpoint, and a log that begins behind it.
async fn put_away(store: &Client, encoded: &Encoded, (end, at_ms, hash): (u64, i64, String)) {
    let config = jetstream::stream::Config {
        first_sequence: Some(end + 1),
        ..natterjack_nats_config::stream::log_config(&log(), 1, 1 << 30)
    };
    jetstream::new(store.clone()).create_stream(config).await.unwrap();
    let bucket = bucket(store).await;
    let start = Instant::now();
    bucket.put(0, Part::Policy, &encoded.policy).await.unwrap();
    bucket.put(0, Part::Writer, &encoded.writer).await.unwrap();
    eprintln!("putting away: {:.2} s", start.elapsed().as_secs_f64());
    let manifest = Manifest {
        v: MANIFEST_VERSION,
        state_version: STATE_VERSION,
        end,
        frame_id: String::new(),
        at_ms,
        hash,
        policy: Piece::of(&encoded.policy),
        writer: Piece::of(&encoded.writer),
        log_first: end + 1,
        log_bytes: 0,
        maker: "measure".to_owned(),
        made_at_ms: at_ms,
    };
    bucket.confirm(0, &manifest).await.unwrap();
}

async fn fill(bus: &Bus) {
    let bridge = bus.bridge().await;
    let made = ask_one(&bridge, request(Kind::Room, &json!({"key": "lobby", "body": {}}))).await;
    assert!(matches!(made, Outcome::Receipt(_)), "{made:?}");
    let text = "x".repeat(200);
    for bundle in 0..TAIL / 250 {
        let requests: Vec<Request> = (0..250)
            .map(|number| {
                let key = format!("{bundle}-{number}");
                request(Kind::Msg, &json!({"key": key, "body": {"text": text}}))
            })
            .collect();
        assert!(
            ask(&bridge, &requests)
                .await
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Receipt(_)))
        );
    }
}
