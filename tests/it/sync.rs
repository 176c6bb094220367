//! What a client that starts gets: where its rooms stand, and a cursor behind which everything else is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::events::parse;
use crate::support::eventually;
use crate::support::house::{House, seq};
use crate::support::http::Http;
use crate::support::poll::read_all;
use crate::support::roles::Roles;

const ROOMS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The rooms of all pages, and the cursor that each of them gave.
async fn snapshot(http: &Http, limit: usize) -> (Vec<Value>, String) {
    snapshot_in_turns(std::slice::from_ref(http), limit).await
}

/// The same, each page from the next bridge.
async fn snapshot_in_turns(bridges: &[Http], limit: usize) -> (Vec<Value>, String) {
    let mut turns = bridges.iter().cycle();
    let path = format!("/v1/sync?limit={limit}");
    let first = turns.next().unwrap().get(&path).await.ok();
    rest(turns, first, limit).await
}

/// The pages behind a first one, and itself.
async fn rest(mut turns: impl Iterator<Item = &Http>, mut page: Value, limit: usize) -> (Vec<Value>, String) {
    let cursor = page["cursor"].as_str().unwrap().to_owned();
    let mut rooms = Vec::new();
    loop {
        let got = page["rooms"].as_array().unwrap().clone();
        assert!(got.len() <= limit, "{page}");
        assert_eq!(page["cursor"], json!(cursor), "{page}");
        rooms.extend(got);
        let Some(next) = page["next"].as_str() else { break };
        let path = format!("/v1/sync?limit={limit}&next={next}");
        page = turns.next().unwrap().get(&path).await.ok();
    }
    (rooms, cursor)
}

fn names(rooms: &[Value]) -> Vec<&str> {
    rooms.iter().map(|room| room["id"].as_str().unwrap()).collect()
}

/// Says things in a room until it is told to stop; gives the number of the last one in the room.
fn talking(http: Http, room: &'static str, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        loop {
            let said = http.say(room, "on and on").await;
            if stop.load(Ordering::SeqCst) {
                return said["n"].as_u64().unwrap();
            }
        }
    })
}

/// Takes snapshots while all rooms talk, and misses nothing of what is said between them and the cursor.
async fn assert_nothing_is_missed(alice: &Http, bobs: &[Http]) {
    let stop = Arc::new(AtomicBool::new(false));
    let talking: Vec<_> = ROOMS.map(|room| (room, talking(alice.clone(), room, &stop))).into();
    let mut snapshots = Vec::new();
    for _ in 0..8 {
        snapshots.push(snapshot_in_turns(bobs, 2).await);
    }
    stop.store(true, Ordering::SeqCst);
    let mut last = HashMap::new();
    for (room, task) in talking {
        last.insert(room, task.await.unwrap());
    }
    for bob in bobs {
        eventually("the bridge has read all", async || {
            let (rooms, _) = snapshot(bob, 100).await;
            let is_there = |room: &Value| room["last"]["n"].as_u64() == Some(last[room["id"].as_str().unwrap()]);
            rooms.iter().all(is_there).then_some(())
        })
        .await;
    }
    for ((rooms, cursor), bob) in snapshots.iter().zip(bobs.iter().cycle()) {
        assert_eq!(names(rooms), ROOMS);
        let (lines, _) = read_all(bob, cursor).await;
        let behind: Vec<Value> = lines.iter().map(|line| parse(line)).collect();
        assert!(!behind.is_empty());
        let behind: HashSet<(&str, u64)> = behind
            .iter()
            .map(|event| (event["room"].as_str().unwrap(), event["n"].as_u64().unwrap()))
            .collect();
        for room in rooms {
            let name = room["id"].as_str().unwrap();
            let shown = room["last"]["n"].as_u64().unwrap_or_default();
            let missed: Vec<u64> = (shown + 1..=last[name])
                .filter(|n| !behind.contains(&(name, *n)))
                .collect();
            assert_eq!(missed, [] as [u64; 0], "{name} was shown up to {shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_while_the_pages_are_read_is_on_one_of_them_or_behind_the_cursor() {
    let house = House::start().await;
    for room in ROOMS {
        house.room(room, &[("bob", "member")]).await;
    }
    assert_nothing_is_missed(&house.http("alice"), &[house.http("bob")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_may_come_from_two_bridges_in_turns() {
    let (roles, ports, _) = Roles::with_two_bridges().await;
    let alice = roles.nats("alice").await;
    for room in ROOMS {
        roles.room(&alice, room, &[("bob", "member")]).await;
    }
    let bobs = ports.map(|port| roles.http(port, "bob"));
    for bob in &bobs {
        eventually(
            "the bridge has read of the last room, and so has the archive",
            async || {
                let answer = bob.get("/v1/sync?limit=100").await;
                let rooms = (answer.status == 200).then(|| answer.json()["rooms"].as_array().unwrap().len());
                (rooms == Some(ROOMS.len())).then_some(())
            },
        )
        .await;
    }
    assert_nothing_is_missed(&roles.http(ports[1], "alice"), &bobs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_tells_where_the_rooms_stand_and_what_the_reader_may_do() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("red", "reader")]).await;
    house.room("other", &[]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let first = alice.say("lobby", "first").await;
    let last = alice.say("lobby", "last").await;
    bob.put("/v1/rooms/lobby/read", &json!({"seq": first["seq"]}))
        .await
        .ok();
    let room = eventually("it stands there", async || {
        let (rooms, _) = snapshot(&bob, 100).await;
        assert_eq!(names(&rooms), ["lobby"]);
        (rooms[0]["unread"] == 1 && rooms[0]["last"]["seq"] == last["seq"]).then(|| rooms[0].clone())
    })
    .await;
    assert_eq!(
        (&room["title"], &room["kind"], &room["role"], &room["members"]),
        (&json!("lobby"), &json!("group"), &json!("member"), &json!(3)),
    );
    assert_eq!(room["last_message"], parse(&house.messages()[1]));
    assert_eq!(room["read"], json!({"seq": first["seq"], "n": first["n"]}));
    let own = [
        "room.read",
        "room.send",
        "command.send",
        "room.react",
        "message.edit.own",
        "message.delete.own",
    ];
    assert_eq!(room["permissions"], json!(own));
    let nats = house.nats("bob").await;
    let native = nats.api("sync.get", &json!({})).await;
    assert_eq!(native["rooms"], json!([room]));
    // The cursor is good on either side.
    let (lines, _) = read_all(&bob, native["cursor"].as_str().unwrap()).await;
    assert_eq!(lines, [] as [&str; 0]);

    let of_red = snapshot(&house.http("red"), 1).await.0;
    assert_eq!(of_red[0]["permissions"], json!(["room.read"]));
    assert_eq!(snapshot(&house.http("eve"), 1).await.0, Vec::<Value>::new());
    let one = alice.get("/v1/rooms/lobby").await.ok();
    assert!(
        one["permissions"].as_array().unwrap().contains(&json!("room.manage")),
        "{one}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_from_the_first_ones_cursor_and_for_their_reader_only() {
    let house = House::start().await;
    for room in ROOMS {
        house.room(room, &[("bob", "member")]).await;
    }
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    // Behind the archive's end is what it has not got yet: all of the rooms, if it is slow.
    let last = json!({"body": {"text": "archived"}});
    alice.post("/v1/rooms/e/messages?ack=db", &last).await.created();
    let first = bob.get("/v1/sync?limit=2").await.ok();
    // In a room that would have been on the page before, and out of one that is on the next.
    house.room("0", &[("bob", "member")]).await;
    alice.delete("/v1/rooms/d/members/bob").await.ok();
    let (rooms, cursor) = rest(std::iter::repeat(&bob), first.clone(), 2).await;
    assert_eq!(names(&rooms), ["a", "b", "c", "e"]);
    let (lines, _) = read_all(&bob, &cursor).await;
    let behind: Vec<Value> = lines.iter().map(|line| parse(line)).collect();
    let member = |room: &str| {
        let mut of = behind
            .iter()
            .filter(|event| event["room"] == room && event["kind"] == "member");
        of.find(|event| event["body"]["user"] == "bob")
            .unwrap_or_else(|| panic!("{room}: {behind:?}"))
    };
    assert_eq!(member("0")["body"]["role"], "member");
    assert_eq!(member("d")["body"]["role"], Value::Null);
    assert!(seq(member("0")) < seq(member("d")));

    let next = first["next"].as_str().unwrap();
    for (path, code) in [
        (format!("/v1/sync?next={next}x"), "invalid-request"),
        ("/v1/sync?next=!".to_owned(), "invalid-request"),
        ("/v1/sync?limit=0".to_owned(), "invalid-request"),
        ("/v1/sync?limit=201".to_owned(), "invalid-request"),
        ("/v1/sync?cursor=x".to_owned(), "invalid-request"),
    ] {
        bob.get(&path).await.is_problem(400, code);
    }
    // Another's page: the cursor in it names its reader.
    alice
        .get(&format!("/v1/sync?next={next}"))
        .await
        .is_problem(400, "invalid-cursor");
    let native = house.nats("bob").await;
    let refused = native.api("sync.get", &json!({"next": "!"})).await;
    assert_eq!(refused["code"], "invalid-request", "{refused}");
}
