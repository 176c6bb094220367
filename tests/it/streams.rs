//! Streams over HTTP: how they begin, what they carry besides events, and how they end.

use std::time::Duration;

use serde_json::json;

use crate::support::events::parse;
use crate::support::house::House;
use crate::support::http::Http;
use crate::support::mailbox::Delivery;
use crate::support::poll::{Poll, cursor_now, read_all};
use crate::support::script::Script;
use crate::support::stream::{Raw, ask, frame};

/// The polls and streams that one principal may have (http-api: caps).
const STREAMS_OF_ONE: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_where_it_stands_and_is_never_silent_for_long() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let mut stream = Raw::get(&house, "bob", "/v1/events/stream?rooms=lobby").await;
    assert!(stream.reads("\n\n").await);
    let head = stream.text.to_ascii_lowercase();
    for header in [
        "http/1.1 200",
        "content-type: text/event-stream",
        "x-accel-buffering: no",
        "cache-control: no-store",
        "vary: accept, authorization",
        "x-request-id: ",
    ] {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    assert!(stream.reads("retry: 1000\nid: ").await);
    house.http("alice").say("lobby", "hello").await;
    assert!(stream.reads("\"text\":\"hello\"").await);
    let id = stream
        .text
        .rsplit("id: ")
        .next()
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(
        read_all(&house.http("bob"), &format!("{id}&rooms=lobby")).await.0,
        [""; 0]
    );
    // Elsewhere something happens: the silent stream's cursor goes on with it.
    house.http("alice").put("/v1/rooms/garden", &json!({})).await.created();
    assert!(stream.reads("\n:\nid: ").await, "a comment, and the cursor");
    assert!(stream.reads("\n:\n\n").await, "a comment");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_asked_for_by_path_by_accept_or_by_format() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let cursor = cursor_now(&house.http("bob")).await;
    house.http("alice").say("lobby", "hello").await;
    let script = Script::events("bob").await;
    for (accept, path) in [
        ("*/*", "/v1/events/stream"),
        ("text/event-stream", "/v1/events"),
        ("*/*", "/v1/events?format=sse"),
    ] {
        let more = json!({"headers": {"Accept": accept}, "path": path, "cursor": cursor, "count": 1});
        let answer = script.call("read", ask(&house, "sse", "bob", &more)).await;
        assert_eq!(
            parse(answer["events"][0][1].as_str().unwrap())["body"]["text"],
            "hello",
            "{path}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_goes_on_behind_the_last_event_s_id() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let bob = house.http("bob");
    let old = cursor_now(&bob).await;
    house.http("alice").say("lobby", "one").await;
    let (_, later) = read_all(&bob, &old).await;
    house.http("alice").say("lobby", "two").await;
    let script = Script::events("bob").await;
    let more = json!({"cursor": old, "count": 1, "headers": {"Last-Event-ID": later}});
    let answer = script.call("read", ask(&house, "sse", "bob", &more)).await;
    assert_eq!(
        parse(answer["events"][0][1].as_str().unwrap())["body"]["text"],
        "two",
        "{answer}"
    );
    for (path, status, code) in [
        ("/v1/events/stream?cursor=nonsense", 400, "invalid-cursor"),
        ("/v1/events/stream?wait=5", 400, "invalid-request"),
        ("/v1/events?format=sse&limit=5", 400, "invalid-request"),
        ("/v1/events?format=xml", 400, "invalid-request"),
        ("/v1/events/stream?rooms=nowhere", 404, "not-found"),
        ("/v1/ws", 400, "invalid-request"),
    ] {
        bob.get(path).await.is_problem(status, code);
    }
    let nobody = Http::new(&house.endpoints.http, None);
    nobody.get("/v1/events/stream").await.is_problem(401, "token-missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_says_so() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let script = Script::events("bob").await;
    let short = house.run(&["token", "--user", "bob", "--ttl", "4s"]).trim().to_owned();
    for transport in ["sse", "ws"] {
        let more = json!({"token": short, "once": true});
        script.call("follow", ask(&house, transport, "bob", &more)).await;
    }
    let ended = |all: &[String]| {
        let told = all
            .iter()
            .filter(|line| line.starts_with("error ") && line.contains("\"token-expired\""))
            .count();
        let over = all
            .iter()
            .filter(|line| line.starts_with("ended") || line.starts_with("lost: ConnectionClosed"))
            .count();
        (told == 2 && over == 2).then_some(())
    };
    script.happened.wait("both are told and ended", ended).await;
    for transport in ["sse", "ws"] {
        script
            .call(
                "follow",
                ask(&house, transport, "bob", &json!({"token": short, "once": true})),
            )
            .await;
    }
    let refused = |all: &[String]| {
        let refused = all
            .iter()
            .filter(|line| line.starts_with("refused 401") && line.contains("token-expired"));
        (refused.count() == 2).then_some(())
    };
    script.happened.wait("both are refused", refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_taken_away_ends_with_the_membership() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    house.room("garden", &[("bob", "member")]).await;
    let alice = house.http("alice");
    let (all, one) = (Script::events("bob").await, Script::events("bob").await);
    for transport in ["sse", "ws"] {
        let cursor = cursor_now(&house.http("bob")).await;
        all.call("follow", ask(&house, transport, "bob", &json!({"cursor": cursor})))
            .await;
        let of_lobby = house.http("bob").get("/v1/events?rooms=lobby&wait=0").await.ok();
        let more = json!({"cursor": of_lobby["cursor"], "rooms": "lobby", "once": true});
        one.call("follow", ask(&house, transport, "bob", &more)).await;
    }
    alice.say("lobby", "before").await;
    alice.delete("/v1/rooms/lobby/members/bob").await.ok();
    alice.say("lobby", "secret").await;
    alice.say("garden", "after").await;
    let lines = |got: &[Delivery]| -> Vec<String> {
        got.iter()
            .map(|got| String::from_utf8(got.payload.to_vec()).unwrap())
            .collect()
    };
    let got = all.mail.wait("both heard the garden", |got| {
        let lines = lines(got);
        (lines.iter().filter(|line| line.contains("\"after\"")).count() == 2).then_some(lines)
    });
    let got = got.await;
    assert_eq!(got.len(), 6, "{got:?}");
    assert!(!got.iter().any(|line| line.contains("secret")), "{got:?}");
    let told = |all: &[String]| {
        let told = all
            .iter()
            .filter(|line| line.starts_with("error ") && line.contains("\"not-found\""));
        (told.count() == 2).then_some(())
    };
    one.happened.wait("the lobby's streams end", told).await;
    assert!(!lines(&one.mail.all()).iter().any(|line| line.contains("secret")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_too_many_streams_gives_its_place() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let mut oldest = Raw::get(&house, "bob", "/v1/events/stream").await;
    assert!(oldest.reads("id: ").await);
    let mut others = Vec::new();
    for _ in 0..STREAMS_OF_ONE {
        let mut other = Raw::get(&house, "bob", "/v1/events/stream").await;
        assert!(other.reads("id: ").await);
        others.push(other);
    }
    assert!(oldest.reads("retry: 60000\nevent: error\ndata: ").await);
    assert!(oldest.reads("\"code\":\"rate-limited\"").await);
    assert!(!oldest.reads("never").await, "it ends");
    house.http("alice").say("lobby", "to the others").await;
    for other in &mut others {
        assert!(other.reads("to the others").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_and_they_go_on_after_it() {
    let mut house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let mut sse = Raw::get(&house, "bob", "/v1/events/stream").await;
    assert!(sse.reads("id: ").await);
    let script = Script::events("bob").await;
    script.call("open", ask(&house, "ws", "bob", &json!({}))).await;
    let first = frame(&script, "where it begins", |frame| frame["op"] == "cursor").await;
    assert!(house.stop().success());
    assert!(!sse.reads("never").await, "it ends");
    let closed = |all: &[String]| all.iter().any(|line| line.starts_with("closed 1001")).then_some(());
    script.happened.wait("it is closed in words", closed).await;
    house.restart().await;
    house.http("alice").say("lobby", "after").await;
    let more = json!({"cursor": first["cursor"], "count": 1});
    let answer = script.call("read", ask(&house, "ws", "bob", &more)).await;
    assert_eq!(
        parse(answer["events"][0][1].as_str().unwrap())["body"]["text"],
        "after",
        "{answer}"
    );
}

/// Messages of 60 KB: more than all the buffers between a bridge and a reader hold.
const FLOOD: usize = 300;
/// Longer than a bridge waits for who does not read.
const CUT_WITHIN: Duration = Duration::from_secs(160);

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut_and_nobody_else_is() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "member")]).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut sse = Raw::get(&house, "bob", "/v1/events/stream").await;
    let mut ws = Raw::get_with(&house, "bob", "/v1/ws", upgrade).await;
    let carol = Poll::from_now(&house.http("carol")).await;
    let alice = house.http("alice");
    for _ in 0..FLOOD {
        alice.say("lobby", &"x".repeat(60_000)).await;
    }
    let heard = |got: &[Delivery]| (got.len() == FLOOD).then_some(());
    carol.mail.wait("carol hears all of it", heard).await;
    // An empty line before the next request; a pong that nobody asked for.
    let both = async { tokio::join!(sse.is_cut(b"\r\n"), ws.is_cut(b"\x8a\x80\0\0\0\0")) };
    tokio::time::timeout(CUT_WITHIN, both).await.expect("both are cut");
    alice.say("lobby", "goes on").await;
}
