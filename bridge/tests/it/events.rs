use std::time::{Duration, Instant};

use natterjack_bridge::Caps;
use natterjack_nats_config::contract::Seq;

use super::support::{Book, Bridge, Nats, Reply, member, message, until};

/// Long enough for a poll to be parked on any machine that is not overloaded; where it is, the test still passes.
const PARKS_WITHIN: Duration = Duration::from_millis(200);

async fn poll(bridge: &Bridge, user: &str, query: &str) -> Reply {
    bridge.get(&format!("/v1/events?{query}"), &bridge.token(user)).await
}

/// The cursor of now.
async fn now(bridge: &Bridge, user: &str) -> String {
    poll(bridge, user, "wait=0").await.cursor()
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
    let polls = cursors.iter().enumerate().map(|(number, cursor)| {
        let bridge = &bridge;
        async move {
            let started = Instant::now();
            let reply = poll(bridge, &format!("user{number}"), &format!("cursor={cursor}&wait=3")).await;
            (number, reply.seqs(), started.elapsed() < Duration::from_secs(3))
        }
    });
    let speak = async {
        tokio::time::sleep(PARKS_WITHIN).await;
        (book.say("room3", "hello").await, book.say("room7", "hello").await)
    };
    let (replies, (third, seventh)) = tokio::join!(futures_util::future::join_all(polls), speak);
    for (number, seqs, was_woken) in replies {
        let expected = match number {
            3 => (vec![third.0], true),
            7 => (vec![seventh.0], true),
            _ => (vec![], false),
        };
        assert_eq!((seqs, was_woken), expected, "user{number}");
    }
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
        tokio::time::sleep(PARKS_WITHIN).await;
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
        tokio::time::sleep(PARKS_WITHIN).await;
        book.frame(&[member("lobby", "frank", Some("member"))]).await
    });
    assert_eq!(added.seqs(), [seq.0]);
    let parked = format!("cursor={}&wait=20", added.cursor());
    let (heard, seq) = tokio::join!(poll(&bridge, "frank", &parked), async {
        tokio::time::sleep(PARKS_WITHIN).await;
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
    let polls = (0..3u64).map(|number| {
        let bridge = &bridge;
        async move {
            tokio::time::sleep(Duration::from_millis(number * 200)).await;
            poll(bridge, "alice", "wait=2").await.json()["superseded"] == true
        }
    });
    assert_eq!(futures_util::future::join_all(polls).await, [true, false, false]);
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_parked_poll_ends_with_its_token_and_with_the_bridge() {
    let nats = Nats::start().await;
    let _book = Book::with_lobby(&nats).await;
    let bridge = Bridge::start(&nats, Caps::default()).await;
    let brief = bridge.token_for("alice", Duration::from_secs(2));
    let started = Instant::now();
    let reply = bridge.get("/v1/events?wait=50", &brief).await;
    assert_eq!(reply.problem(), "token-expired");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(bridge.get("/v1/events", &brief).await.problem(), "token-expired");

    let (reply, ()) = tokio::join!(poll(&bridge, "alice", "wait=50"), async {
        tokio::time::sleep(PARKS_WITHIN).await;
        bridge.stop.cancel();
    });
    assert!(reply.seqs().is_empty());
    bridge.shutdown().await;
}
