//! Clients that want a bridge to keep something for them for ever, among many who wait for messages.
//!
//! `TEST_PARKED_POLLS` says how many wait (1,000 by default); docs/benchmarks.md has the full size.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::support::crowd::Crowd;
use crate::support::hostile::HOSTILE;
use crate::support::house::House;

/// What a parked poll may cost the bridge's process, in bytes: 16 KiB are buffers of hyper, the rest is state, and what an
/// allocator keeps. Unoptimized it is 30 KiB; it was 45.
const BYTES_OF_ONE: usize = 40 * 1024;
/// What a hostile client may cost it: the largest head, and what its streams may have waiting (`serve.rs`).
const BYTES_OF_HOSTILE: usize = 4 * 1024 * 1024;
/// Longer than a bridge waits for anybody.
const CUT_WITHIN: Duration = Duration::from_secs(150);

fn parked() -> usize {
    std::env::var("TEST_PARKED_POLLS").map_or(1000, |count| count.parse().unwrap())
}

/// Twice as many files as polls: some for everything else.
fn allow_files(polls: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = 2 * polls as u64 + 1000;
    if limit.current.is_some_and(|current| current < wanted) {
        let wanted = limit.maximum.map_or(wanted, |most| wanted.min(most));
        let limit = Rlimit {
            current: Some(wanted),
            ..limit
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

/// How long the middle one and the one of a hundred waited, over all rounds.
fn told(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |percent: usize| took[took.len() * percent / 100];
    eprintln!(
        "{what}: delivered to {} polls, p50 {:.1?}, p99 {:.1?}",
        took.len(),
        at(50),
        at(99)
    );
}

/// So many hostile clients, of each kind in turn; they end when they are cut.
fn attack(house: &House, count: usize) -> JoinSet<()> {
    let chosen = || HOSTILE.iter().cycle().take(count);
    let all = chosen().map(|what| what.cut()).sum();
    let mut hostile = JoinSet::new();
    for what in chosen() {
        let (address, token) = (house.address(), house.token("alice"));
        hostile.spawn(async move { what.attack(&address, &token, all).await });
    }
    hostile
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hostile_are_cut_and_all_others_are_served() {
    let polls = parked();
    allow_files(polls);
    // All of them are of one address.
    let house = House::start_with([
        ("NATTERJACK_BRIDGE__MAX_CONNECTIONS", (polls + 1000).to_string()),
        ("NATTERJACK_BRIDGE__MAX_CONNECTIONS_PER_ADDRESS", "0".to_owned()),
    ])
    .await;
    let before = house.memory();
    let crowd = Crowd::park(&house, polls).await;
    let mut quiet = Vec::new();
    // Whoever was answered and parks again has had all buffers that it will need.
    for round in 0..5 {
        quiet.extend(crowd.hears(&house, &format!("quiet {round}")).await);
        crowd.is_parked(&house).await;
    }
    told("without hostile clients", quiet);
    let parked = house.memory();
    if let (Some(before), Some(parked)) = (before, parked) {
        let each = parked.saturating_sub(before) / polls;
        eprintln!("{polls} parked polls: {each} bytes each");
        assert!(each <= BYTES_OF_ONE, "{each} bytes for each parked poll");
    }
    let count = (polls / 100).max(HOSTILE.len());
    let mut hostile = attack(&house, count);
    let (mut busy, mut most) = (Vec::new(), parked);
    let all_cut = tokio::time::timeout(CUT_WITHIN, async {
        while hostile.join_next().await.transpose().unwrap().is_some() {}
    });
    tokio::pin!(all_cut);
    for round in 0.. {
        let text = format!("busy {round}");
        tokio::select! {
            cut = all_cut.as_mut() => {
                cut.expect("all hostile clients are cut");
                break;
            }
            took = crowd.hears(&house, &text) => busy.extend(took),
        }
        most = most.max(house.memory());
    }
    told("with hostile clients", busy);
    crowd.hears(&house, "afterwards").await;
    if let (Some(parked), Some(most)) = (parked, most) {
        let more = most.saturating_sub(parked);
        eprintln!("{count} hostile clients: {} KiB more at the most", more / 1024);
        assert!(
            more <= count * BYTES_OF_HOSTILE,
            "{more} bytes for {count} hostile clients"
        );
    }
}
