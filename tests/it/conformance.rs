//! One cursor, every transport: long-poll, server-sent events, WebSocket and `events.get` tell the same events with the same
//! bytes, whichever of them a reader changes to, and whatever becomes of the bridges meanwhile.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::events::{assert_unbroken, parse};
use crate::support::house::{House, seq};
use crate::support::http::Http;
use crate::support::mailbox::Delivery;
use crate::support::nats::Nats;
use crate::support::nginx::Nginx;
use crate::support::poll::{cursor_now, read_all};
use crate::support::roles::{Roles, change};
use crate::support::script::Script;
use crate::support::stream::{Got, Readers, TRANSPORTS, Transport, lines};

/// Messages of a burst.
const BURST: usize = 90;
/// What is read by one transport before the next has its turn.
const TURN: usize = 4;

/// A reader who speaks HTTP to this URL.
async fn readers(house: &House, url: &str, user: &str) -> Readers {
    Readers {
        http: Http::new(url, Some(&house.token(user))),
        nats: house.nats(user).await,
        script: Script::events(user).await,
        token: house.token(user),
    }
}

/// What the log has of these rooms behind a place: the exact lines.
fn logged(house: &House, rooms: &[&str], behind: u64) -> Vec<String> {
    let of_rooms = |line: &String| {
        let event = parse(line);
        rooms.contains(&event["room"].as_str().unwrap()) && seq(&event) > behind
    };
    house.log().into_iter().filter(of_rooms).collect()
}

/// Messages whose text no transport may touch, in two rooms, and changes of rights between them. Gives where it began.
async fn talk(alice: &Http) -> u64 {
    let first = alice.say("lobby", "begin").await;
    for (number, text) in [
        "\n\r\t",
        "data: x\n\nid: y",
        "\u{2028}\u{2029}",
        "\"\\\u{7f}",
        "ünï\u{1f438}",
    ]
    .iter()
    .cycle()
    .take(25)
    .enumerate()
    {
        let room = if number % 3 == 0 { "garden" } else { "lobby" };
        alice.say(room, text).await;
        if number % 10 == 5 {
            let carol = json!({"role": if number < 10 { "member" } else { "reader" }});
            alice.put("/v1/rooms/lobby/members/carol", &carol).await.ok();
        }
    }
    seq(&first)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_tells_the_same_and_goes_on_from_every_cursor() {
    let house = House::start().await;
    tells_the_same(&house, &house.endpoints.http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_tells_the_same_through_a_proxy_that_buffers() {
    let house = House::start().await;
    let nginx = Nginx::before(&house.address()).await;
    tells_the_same(&house, &nginx.url()).await;
}

async fn tells_the_same(house: &House, url: &str) {
    house.room("lobby", &[("bob", "member")]).await;
    house.room("garden", &[("bob", "reader")]).await;
    let readers = readers(house, url, "bob").await;
    let cursor = cursor_now(&readers.http).await;
    let begun = talk(&Http::new(url, Some(&house.token("alice")))).await;
    let expected = logged(house, &["lobby", "garden"], begun - 1);
    assert!(expected.len() > 25, "{expected:?}");
    for by in TRANSPORTS {
        let got = readers.read(by, &cursor, expected.len()).await;
        assert_eq!(lines(&got), expected, "{by:?}");
        goes_on_from_each(&readers, by, &got, &expected).await;
    }
}

/// Behind each cursor that a transport gave comes exactly what follows, whatever transport is asked next.
async fn goes_on_from_each(readers: &Readers, by: Transport, got: &[Got], expected: &[String]) {
    for (index, got) in got.iter().enumerate() {
        let Some(cursor) = &got.cursor else { continue };
        let rest = &expected[index + 1..];
        let next = TRANSPORTS[index % TRANSPORTS.len()];
        let again = readers.read(next, cursor, rest.len().min(TURN)).await;
        assert_eq!(
            lines(&again),
            rest[..rest.len().min(TURN)],
            "{by:?} to {next:?} behind event {index}"
        );
        let (all, _) = read_all(&readers.http, cursor).await;
        assert_eq!(all, rest, "{by:?} behind event {index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_transport_in_mid_burst_loses_and_doubles_nothing() {
    let house = House::start().await;
    changes_in_mid_burst(&house, &house.endpoints.http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_it_behind_a_proxy_that_buffers_loses_and_doubles_nothing() {
    let house = House::start().await;
    let nginx = Nginx::before(&house.address()).await;
    changes_in_mid_burst(&house, &nginx.url()).await;
}

async fn changes_in_mid_burst(house: &House, url: &str) {
    house.room("lobby", &[("bob", "member"), ("carol", "member")]).await;
    let readers = readers(house, url, "bob").await;
    let mut cursor = cursor_now(&readers.http).await;
    let mut senders = JoinSet::new();
    for user in ["alice", "bob", "carol"] {
        let http = Http::new(url, Some(&house.token(user)));
        senders.spawn(async move {
            let mut last = 0;
            for number in 0..BURST / 3 {
                last = seq(&http.say("lobby", &format!("{user} {number}")).await);
            }
            last
        });
    }
    let mut got = Vec::new();
    for by in TRANSPORTS.iter().cycle() {
        let left = BURST - got.len();
        if left == 0 {
            break;
        }
        let some = readers.read(*by, &cursor, left.min(TURN)).await;
        cursor = some.last().unwrap().cursor.clone().unwrap();
        got.extend(lines(&some));
    }
    senders.join_all().await;
    assert_unbroken(&got);
    let begun = seq(&parse(&got[0]));
    assert_eq!(got, logged(house, &["lobby"], begun - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_held_back_by_a_proxy_that_speaks_http_1_0() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    // Without chunks it cannot see where one ends: only the answer's header tells it to pass on what there is.
    let nginx = Nginx::speaking("1.0", &house.address()).await;
    let bob = readers(&house, &nginx.url(), "bob").await;
    let mut cursor = cursor_now(&bob.http).await;
    for number in 0..3 {
        let said = house.http("alice").say("lobby", &format!("message {number}")).await;
        let got = bob.read(Transport::Sse, &cursor, 1).await;
        assert_eq!(seq(&parse(&got[0].line)), seq(&said));
        cursor = got[0].cursor.clone().unwrap();
    }
}

/// Messages between two kills of the proxy.
const BETWEEN_KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_killed_loses_and_doubles_nothing_for_anybody() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let mut nginx = Nginx::before(&house.address()).await;
    let bob = Http::new(&nginx.url(), Some(&house.token("bob")));
    let first = bob.get("/v1/events?rooms=lobby&wait=0").await;
    let cursor = first.ok()["cursor"].as_str().unwrap().to_owned();
    let scripts = [Script::events("bob").await, Script::events("bob").await];
    for (transport, script) in ["sse", "ws"].iter().zip(&scripts) {
        let ask = json!({
            "transport": transport, "address": bob.address(), "token": house.token("bob"), "cursor": cursor, "rooms": "lobby",
        });
        script.call("follow", ask).await;
    }
    let polled = tokio::spawn(alternate([bob.clone(), bob.clone()], cursor, BURST));
    let (alice, mut last) = (house.http("alice"), 0);
    for number in 0..BURST {
        last = seq(&alice.say("lobby", &format!("message {number}")).await);
        if number % BETWEEN_KILLS == BETWEEN_KILLS / 2 {
            nginx.kill().await;
        }
    }
    let messages = house.messages();
    assert_eq!(polled.await.unwrap(), messages, "long-poll");
    for (transport, script) in ["sse", "ws"].iter().zip(&scripts) {
        assert_eq!(all_of(script, last).await, messages, "{transport}");
        assert!(!script.happened.all().is_empty(), "{transport} was cut off by a kill");
    }
}

/// Two bridges, and readers who come back to theirs whenever it is gone.
struct Bridges {
    roles: Roles,
    ports: [u16; 2],
    pids: [u32; 2],
    alice: Nats,
}

impl Bridges {
    async fn start() -> Self {
        let (roles, ports, pids) = Roles::with_two_bridges().await;
        let alice = roles.nats("alice").await;
        roles.room(&alice, "lobby", &[("bob", "member")]).await;
        Self {
            roles,
            ports,
            pids,
            alice,
        }
    }

    /// `kill -9`, and a successor on the same port.
    fn kill(&mut self, which: usize) {
        self.roles.kill(self.pids[which]);
        self.pids[which] = self.roles.bridge(self.ports[which]);
    }

    /// Sends without a break until so many stand, killing now this bridge and now that.
    async fn burst_and_kills(&mut self) -> u64 {
        let mut last = 0;
        for number in 0..BURST {
            let text = json!({"text": format!("message {number}")});
            last = seq(&change(&self.alice, "lobby", "msg", text).await);
            if number % 20 == 10 {
                self.kill(number / 20 % 2);
            }
        }
        last
    }
}

/// Reads by long-poll, each time from the other bridge, so many events; a bridge that is gone is passed over.
async fn alternate(bridges: [Http; 2], mut cursor: String, count: usize) -> Vec<String> {
    let mut got = Vec::new();
    for http in bridges.iter().cycle() {
        let path = format!("/v1/events?cursor={cursor}&rooms=lobby&wait=1&limit=7");
        let Ok(answer) = http.try_call(Method::GET, &path, &[], Bytes::new()).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if answer.status == 503 {
            continue;
        }
        answer.ok()["cursor"].as_str().unwrap().clone_into(&mut cursor);
        got.extend(answer.lines("events"));
        if got.len() >= count {
            break;
        }
    }
    got
}

/// The lines that a reader has, once it has the last.
async fn all_of(script: &Script, last: u64) -> Vec<String> {
    let line = |got: &Delivery| String::from_utf8(got.payload.to_vec()).unwrap();
    script
        .mail
        .wait("the last event", |got| {
            let is_last = got.last().is_some_and(|got| seq(&parse(&line(got))) >= last);
            is_last.then(|| got.iter().map(line).collect())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_that_are_killed_lose_and_double_nothing_for_anybody() {
    let mut bridges = Bridges::start().await;
    let begun = seq(&change(&bridges.alice, "lobby", "msg", json!({"text": "begin"})).await);
    let token = bridges.roles.token("bob");
    let both = bridges.ports.map(|port| bridges.roles.http(port, "bob"));
    let first = both[0].get("/v1/events?cursor=earliest&rooms=lobby&limit=1000").await;
    let mut before = first.lines("events");
    let cursor = first.ok()["cursor"].as_str().unwrap().to_owned();
    let mut followers = Vec::new();
    for (transport, port) in [("sse", 0), ("ws", 0), ("sse", 1), ("ws", 1)] {
        let script = Script::events("bob").await;
        let ask: Value = json!({
            "transport": transport, "address": both[port].address(), "token": token, "cursor": cursor, "rooms": "lobby",
        });
        script.call("follow", ask).await;
        followers.push((transport, port, script));
    }
    let polled = tokio::spawn(alternate(both.clone(), cursor, BURST));
    let last = bridges.burst_and_kills().await;
    let polled = polled.await.unwrap();
    let log = bridges.roles.log("lobby").await;
    assert!(
        seq(&parse(&log[log.len() - BURST - 1])) == begun,
        "begins where it should"
    );
    for (transport, port, script) in &followers {
        let got = all_of(script, last).await;
        assert_eq!([before.clone(), got].concat(), log, "{transport} at bridge {port}");
        let ends = script.happened.all().len();
        assert!(ends > 0, "{transport} at bridge {port} was cut off by a kill");
    }
    before.extend(polled);
    assert_eq!(before, log, "long-poll at both in turns");
}
