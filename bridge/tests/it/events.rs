use std::fmt::Debug;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use natterjack_bridge::Caps;
use natterjack_nats_config::contract::Seq;

use super::support::{Book, Bridge, Nats, Reply, member, message, until};

async fn poll(bridge: &Bridge, user: &str, query: &str) -> Reply {
    bridge.get(&format!("/v1/events?{query}"), &bridge.token(user)).await
}

/// The cursor of now.
async fn now(bridge: &Bridge, user: &str) -> String {
    poll(bridge, user, "wait=0").await.cursor()
}

/// Waits until so many polls are parked; none is answered meanwhile.
async fn all_parked<T: Debug>(bridge: &Bridge, polls: &mut FuturesUnordered<impl Future<Output = T>>, count: usize) {
    tokio::select! {
        () = bridge.parked(count) => {}
        Some(early) = polls.next() => panic!("answered: {early:?}"),
    }
}

/// Waits until the bridge has read what was appended.
async fn read_up_to(bridge: &Bridge, seq: Seq) {
    let seen = async || {
        let reply = poll(bridge, "alice", "cursor=earliest&rooms=lobby&limit=1000&wait=0").await;
        reply.seqs().contains(&seq.0).then_some(())
    };
    until("the bridge reads the log", seen).await;
}

#[tokio::test]
async fn a_poll_gets_what_follows_its_cursor_with_the_log_s_own_bytes() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let start = now(&bridge, "bob").await;
    let first = book
        .frame(&[
            message("lobby", "one"),
            message("lobby", "two"),
            message("lobby", "three"),
        ])
        .await;
    read_up_to(&bridge, Seq(first.0 + 2)).await;

    let all = poll(&bridge, "bob", &format!("cursor={start}")).await;
    assert_eq!(all.seqs(), [first.0, first.0 + 1, first.0 + 2]);
    assert_eq!(all.json()["more"], false);

    // The cursor may stand inside a frame.
    let page = poll(&bridge, "bob", &format!("cursor={start}&limit=2")).await;
    assert_eq!(
        (page.seqs(), &page.json()["more"]),
        (vec![first.0, first.0 + 1], &true.into())
    );
    let rest = poll(&bridge, "bob", &format!("cursor={}&limit=2", page.cursor())).await;
    assert_eq!((rest.seqs(), &rest.json()["more"]), (vec![first.0 + 2], &false.into()));
    let tight = poll(&bridge, "bob", &format!("cursor={start}&max_bytes=1")).await;
    assert_eq!(tight.seqs(), [first.0]);

    // Nothing there: an advanced cursor.
    let nothing = poll(&bridge, "bob", &format!("cursor={}&wait=0", rest.cursor())).await;
    assert!(nothing.seqs().is_empty());
    let text = String::from_utf8(all.bytes.to_vec()).unwrap();
    assert!(text.contains(r#""body":{"text":"two"}"#), "{text}");
    bridge.shutdown().await;
}

#[tokio::test]
async fn of_ten_parked_polls_only_those_concerned_are_answered() {
    let nats = Nats::start().await;
    let mut book = Book::open(&nats).await;
    for number in 0..10 {
        book.room(&format!("room{number}"), &[&format!("user{number}"), "alice"])
            .await;
    }
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let mut cursors = Vec::new();
    for number in 0..10 {
        cursors.push(now(&bridge, &format!("user{number}")).await);
    }
    let mut polls = FuturesUnordered::new();
    for (number, cursor) in cursors.iter().enumerate() {
        let (user, query) = (format!("user{number}"), format!("cursor={cursor}&wait=50"));
        let bridge = &bridge;
        polls.push(async move { (number, poll(bridge, &user, &query).await.seqs()) });
    }
    all_parked(&bridge, &mut polls, 10).await;
    let mut expected = Vec::new();
    for number in [3, 7] {
        let said = book.say(&format!("room{number}"), "hello").await;
        expected.push((number, vec![said.0]));
    }
    let mut answered = vec![polls.next().await.unwrap(), polls.next().await.unwrap()];
    answered.sort();
    assert_eq!(answered, expected);
    all_parked(&bridge, &mut polls, 8).await;
    drop(polls);
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_room_taken_away_ends_with_its_member_event() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    book.room("garden", &["bob"]).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let start = now(&bridge, "bob").await;
    let only_lobby = poll(&bridge, "bob", "wait=0&rooms=lobby").await.cursor();

    let parked = format!("cursor={start}&wait=20");
    let (taken, seq) = tokio::join!(poll(&bridge, "bob", &parked), async {
        bridge.parked(1).await;
        let removal = [member("lobby", "bob", None), message("lobby", "bob is gone")];
        let seq = book.frame(&removal).await;
        book.say("lobby", "still gone").await;
        seq
    });
    assert_eq!(taken.seqs(), [seq.0], "his removal and nothing after it");

    // The poll lives on for his other rooms.
    let garden = book.say("garden", "hello").await;
    let next = poll(&bridge, "bob", &format!("cursor={}&wait=20", taken.cursor())).await;
    assert_eq!(next.seqs(), [garden.0]);

    // Of the room itself he gets the end, and then is told that there is nothing.
    let end = poll(&bridge, "bob", &format!("cursor={only_lobby}&rooms=lobby")).await;
    assert_eq!(end.seqs(), [seq.0]);
    let after = poll(&bridge, "bob", &format!("cursor={}&rooms=lobby", end.cursor())).await;
    assert_eq!(after.problem(), "not-found");
    bridge.shutdown().await;
}

#[tokio::test]
async fn whoever_is_added_hears_of_it_and_of_what_follows() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let start = format!("wait=20&cursor={}", now(&bridge, "frank").await);
    let (added, seq) = tokio::join!(poll(&bridge, "frank", &start), async {
        bridge.parked(1).await;
        book.frame(&[member("lobby", "frank", Some("member"))]).await
    });
    assert_eq!(added.seqs(), [seq.0]);
    let parked = format!("cursor={}&wait=20", added.cursor());
    let (heard, seq) = tokio::join!(poll(&bridge, "frank", &parked), async {
        bridge.parked(1).await;
        book.say("lobby", "welcome").await
    });
    assert_eq!(heard.seqs(), [seq.0]);
    bridge.shutdown().await;
}

#[tokio::test]
async fn cursors_survive_a_restart_and_reach_back_beyond_memory() {
    let nats = Nats::start().await;
    let mut book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let start = now(&bridge, "bob").await;
    let mut said = Vec::new();
    for number in 0..30 {
        let pair = book
            .frame(&[message("lobby", &format!("{number}")), message("lobby", "again")])
            .await;
        said.extend([pair.0, pair.0 + 1]);
    }
    bridge.shutdown().await;

    // This one keeps only the last five events in memory; the rest comes from the log.
    let bridge = Bridge::start(
        &nats,
        Caps {
            ring_events: 5,
            ..Caps::default()
        },
    )
    .await;
    let (mut cursor, mut got) = (start, Vec::new());
    while got.len() < said.len() {
        let page = poll(&bridge, "bob", &format!("cursor={cursor}&limit=7&wait=0")).await;
        assert!(!page.seqs().is_empty(), "{page:?} after {got:?}");
        got.extend(page.seqs());
        cursor = page.cursor();
    }
    assert_eq!(got, said);
    let rest = poll(&bridge, "bob", &format!("cursor={cursor}&wait=0")).await;
    assert!(rest.seqs().is_empty() && rest.json()["more"] == false);
    let all = poll(&bridge, "bob", "cursor=earliest&rooms=lobby&limit=1000")
        .await
        .seqs();
    assert_eq!(all.len(), said.len() + 3);
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_cursor_serves_only_its_own_reader_and_rooms() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let cursor = now(&bridge, "bob").await;
    assert_eq!(
        poll(&bridge, "alice", &format!("cursor={cursor}")).await.problem(),
        "invalid-cursor"
    );
    let other = poll(&bridge, "bob", &format!("cursor={cursor}&rooms=lobby")).await;
    assert_eq!(other.problem(), "cursor-filter-mismatch");
    bridge.shutdown().await;
}

#[tokio::test]
async fn the_oldest_of_too_many_polls_makes_room() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(
        &nats,
        Caps {
            polls_per_principal: 2,
            ..Caps::default()
        },
    )
    .await;
    let mut polls = FuturesUnordered::new();
    let one = async |number| {
        (
            number,
            poll(&bridge, "alice", "wait=50").await.json()["superseded"] == true,
        )
    };
    for count in 1..=2 {
        polls.push(one(count));
        all_parked(&bridge, &mut polls, count).await;
    }
    polls.push(one(3));
    assert_eq!(polls.next().await, Some((1, true)), "the oldest makes room");
    all_parked(&bridge, &mut polls, 2).await;
    drop(polls);
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_parked_poll_ends_with_its_token_and_with_the_bridge() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let brief = bridge.token_for("alice", Duration::from_secs(2));
    let reply = bridge.get("/v1/events?wait=50", &brief).await;
    assert_eq!(reply.problem(), "token-expired");
    assert_eq!(bridge.get("/v1/events", &brief).await.problem(), "token-expired");

    let (reply, ()) = tokio::join!(poll(&bridge, "alice", "wait=50"), async {
        bridge.parked(1).await;
        bridge.stop.cancel();
    });
    assert!(reply.seqs().is_empty());
    bridge.shutdown().await;
}
