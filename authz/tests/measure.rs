//! What a view of a million memberships takes, and how many decisions a second it gives.
//!
//! `cargo nextest run --release -p natterjack-authz -E 'test(measure)' --run-ignored only --no-capture`
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Instant;

use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, Id, Kind, Principal, Seq};
use serde_json::json;
use serde_json::value::to_raw_value;

use natterjack_authz::policy::{Permission, View, may};

const ROOMS: u64 = 10_000;
const MEMBERS: u64 = 100;
const USERS: u64 = 100_000;
const DECISIONS: u64 = 2_000_000;

fn name(kind: &str, number: u64) -> Id {
    format!("{kind}-{number:06}").parse().unwrap()
}

fn event(seq: u64, room: u64, kind: Kind, body: &serde_json::Value) -> Event {
    Event {
        v: 1,
        seq: Seq(seq),
        n: 1,
        prev: Seq::ZERO,
        id: String::new(),
        tenant: "main".parse().unwrap(),
        room: name("room", room),
        from: "admin".parse().unwrap(),
        via: None,
        kind,
        at: clock::format_ms(1_795_413_600_000),
        key: None,
        reply_to: None,
        target: None,
        body: to_raw_value(body).unwrap(),
        erased: None,
    }
}

fn member(room: u64, place: u64) -> u64 {
    (room * 7919 + place * 104_729) % USERS
}

/// The memory that this process has and no file backs, in MiB.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1024
}

#[test]
#[ignore = "a measurement, to be run alone"]
fn a_view_of_a_million_memberships() {
    let (before, begun) = (memory_mib(), Instant::now());
    let (mut view, mut seq) = (View::default(), 0);
    for room in 0..ROOMS {
        seq += 1;
        view.apply(&event(seq, room, Kind::Room, &json!({"title": "A room"})));
        for place in 0..MEMBERS {
            seq += 1;
            let body = json!({"user": name("user", member(room, place)), "role": "member"});
            view.apply(&event(seq, room, Kind::Member, &body));
        }
    }
    let (folded, memory) = (begun.elapsed(), memory_mib() - before);
    let bytes = view.to_bytes().unwrap();
    let begun = Instant::now();
    let read = View::from_bytes(&bytes).unwrap();
    let started = begun.elapsed();
    assert_eq!(read.hash(), view.hash());
    let begun = Instant::now();
    let mut allowed = 0;
    for number in 0..DECISIONS {
        let room = number % ROOMS;
        let who = Principal {
            tenant: "main".parse().unwrap(),
            user: name("user", member(room, number % (2 * MEMBERS))),
        };
        allowed += u64::from(may(&read, &who, &name("room", room), Permission::RoomSend).is_ok());
    }
    let decided = begun.elapsed();
    assert!(allowed > 0 && allowed < DECISIONS);
    eprintln!(
        "{} memberships: {memory} MiB, folded from events (made as well) in {folded:?}; {} MiB of checkpoint read in {started:?}; \
         {DECISIONS} decisions (names made as well) in {decided:?}",
        ROOMS * MEMBERS,
        bytes.len() >> 20
    );
}
