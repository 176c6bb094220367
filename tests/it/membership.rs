//! Taking a member out of a room and letting one in, with everybody connected over every transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::events::{assert_unbroken, lines_of, parse, texts};
use crate::support::house::{House, seq};
use crate::support::mailbox::{Delivery, Mailbox};
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::poll::{Poll, cursor_now, read_all};
use crate::support::script::Script;

const LOBBY: &str = "chat.room.main.lobby.log";
const SIDE: &str = "chat.room.main.side.log";

/// One user, connected in every way at once.
struct Everywhere {
    nats: Nats,
    ws: Script,
    mqtt: Mqtt,
    paho: Script,
    poll: Poll,
}

impl Everywhere {
    /// Connects a user and listens to both rooms. MQTT sessions are told apart by their client ids.
    async fn enter(house: &House, user: &str) -> Self {
        let (nats, ws) = (house.nats(user).await, house.websocket(user).await);
        let token = house.token(user);
        let id = format!("main:{user}:second");
        let mqtt = Mqtt::connect(&house.endpoints.mqtt, &id, user, &token).await.unwrap();
        let paho = house.paho(user).await;
        for subject in [LOBBY, SIDE] {
            nats.subscribe(subject).await;
            ws.subscribe(subject).await;
            mqtt.subscribe(&subject.replace('.', "/")).await;
            paho.subscribe(&subject.replace('.', "/")).await;
        }
        nats.settle().await;
        let poll = Poll::from_now(&house.http(user)).await;
        poll.is_parked().await;
        Self {
            nats,
            ws,
            mqtt,
            paho,
            poll,
        }
    }

    /// Waits until every native connection has been renewed and its subscriptions have been answered anew: `lobby` says
    /// whether the lobby is among what is granted.
    async fn are_renewed(&self, lobby: bool) {
        for (name, happened) in [("NATS", &self.nats.happened), ("WebSocket", &self.ws.happened)] {
            happened
                .wait(&format!("{name} is connected again"), |all| {
                    (count(all, "connected") >= 2).then_some(())
                })
                .await;
        }
        self.nats.settle().await;
        self.ws
            .request(&format!("chat.api.main.{}.rooms.list", self.nats.user), &json!({}))
            .await;
        let answer = if lobby { "granted" } else { "refused" };
        let renewed = |all: &[String]| {
            let since = all
                .iter()
                .rposition(|line| line == "connected")
                .filter(|_| count(all, "connected") >= 2)?;
            let all = &all[since..];
            let starting = |word: &str| all.iter().filter(|line| line.starts_with(word)).count();
            let (granted, refused) = (starting("granted"), starting("refused"));
            (granted + refused == 2).then(|| assert_eq!(refused > 0, answer == "refused", "{all:?}"))
        };
        self.mqtt.happened.wait("rumqttc has subscribed again", renewed).await;
        self.paho.happened.wait("paho has subscribed again", renewed).await;
    }

    fn native(&self) -> [(&'static str, &Mailbox<Delivery>); 4] {
        [
            ("NATS", &self.nats.mail),
            ("WebSocket", &self.ws.mail),
            ("MQTT (rumqttc)", &self.mqtt.mail),
            ("MQTT (paho)", &self.paho.mail),
        ]
    }
}

fn count(all: &[String], word: &str) -> usize {
    all.iter().filter(|line| *line == word).count()
}

/// Waits until a mailbox has the event of this sequence in a room; gives all that it has of the room.
async fn until_has(name: &str, mail: &Mailbox<Delivery>, room: &str, last: u64) -> Vec<String> {
    let what = format!("{name} has event {last} of {room}");
    mail.wait(&what, |got| {
        let lines = lines_of(room, got);
        lines.iter().any(|line| parse(line)["seq"] == last).then_some(lines)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_neither_hears_nor_is_heard() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("carol", "member")]).await;
    house.room("side", &[("bob", "member")]).await;
    let alice = house.http("alice");
    let bob = Everywhere::enter(&house, "bob").await;
    let carol = Poll::from_now(&house.http("carol")).await;
    let first = alice.say("lobby", "bob hears this").await;
    for (name, mail) in bob.native() {
        until_has(name, mail, "lobby", seq(&first)).await;
    }
    let talking = keep_talking(&house).await;

    let answer = alice.delete("/v1/rooms/lobby/members/bob").await.ok();
    let secret = alice.say("lobby", "bob is gone").await;
    assert_eq!(answer["state"], "done", "{answer}");
    // NATS, WebSocket, two over MQTT; and the connection that talks, unless it had ended itself.
    assert!(matches!(answer["connections_closed"].as_u64(), Some(4 | 5)), "{answer}");
    let removal = seq(&answer);

    talking.await.unwrap();
    bob.are_renewed(false).await;
    bob.nats.is_refused("subscription", LOBBY).await;
    let side = alice.say("side", "bob is still here").await;
    for (name, mail) in bob.native() {
        until_has(name, mail, "side", seq(&side)).await;
        let late = later_than(removal, &lines_of("lobby", &mail.all()));
        assert!(late.is_empty(), "{name}: {late:?}");
    }
    until_has("bob's poll", &bob.poll.mail, "side", seq(&side)).await;
    let polled = lines_of("lobby", &bob.poll.mail.all());
    let last = parse(polled.last().unwrap());
    assert_eq!(
        (&last["kind"], &last["seq"]),
        (&json!("member"), &json!(removal)),
        "the room ends with this"
    );
    assert_eq!(last["body"]["user"], "bob");
    // What stands before the removal and had not been polled yet is judged by the rights of now: it may be missing.
    assert_unbroken(&polled[..polled.len() - 1]);

    is_out(&house, &bob.nats).await;
    until_has("carol", &carol.mail, "lobby", seq(&secret)).await;
    let lobby: Vec<String> = house
        .log()
        .into_iter()
        .filter(|line| parse(line)["room"] == "lobby")
        .collect();
    assert_unbroken(&lobby);
    let bobs: Vec<String> = lobby.into_iter().filter(|line| parse(line)["from"] == "bob").collect();
    assert!(!bobs.is_empty(), "bob did talk before");
    let late = later_than(removal, &bobs);
    assert!(late.is_empty(), "bob stands in the log after his removal: {late:?}");
}

/// bob can neither say nor ask anything in the lobby any more.
async fn is_out(house: &House, bob: &Nats) {
    let problem = bob.say("lobby", "may I?").await;
    assert_eq!(problem["code"], "not-found", "{problem}");
    let (http, request) = (house.http("bob"), json!({"body": {"text": "may I?"}}));
    let path = "/v1/rooms/lobby/messages";
    http.post(path, &request).await.is_problem(404, "not-found");
    http.get(path).await.is_problem(404, "not-found");
    let earliest = http.get("/v1/events?cursor=earliest&rooms=lobby&wait=0").await;
    earliest.is_problem(404, "not-found");
}

fn later_than(place: u64, lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| at(line) > place).cloned().collect()
}

/// bob talks in the lobby over HTTP and NATS at once, until he is refused.
async fn keep_talking(house: &House) -> JoinHandle<()> {
    let (http, nats) = (house.http("bob"), house.nats("bob").await);
    let said = Mailbox::new();
    let tell = said.clone();
    let talking = tokio::spawn(async move {
        let over_http = async {
            let request = json!({"body": {"text": "I talk"}});
            loop {
                let answer = http.post("/v1/rooms/lobby/messages", &request).await;
                if answer.status != 201 {
                    return answer.is_problem(404, "not-found");
                }
                tell.put(());
            }
        };
        let over_nats = async {
            loop {
                // A request may be lost with the connection that is ended; who has no answer asks again.
                let subject = "chat.in.main.bob.lobby.msg";
                let asked = tokio::time::timeout(
                    std::time::Duration::from_secs(2),
                    nats.request(subject, "I talk", async_nats::HeaderMap::new()),
                );
                let Ok(Ok(answer)) = asked.await else { continue };
                let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
                if answer["id"].is_null() {
                    assert_eq!(answer["code"], "not-found", "{answer}");
                    return;
                }
                tell.put(());
            }
        };
        tokio::join!(over_http, over_nats);
    });
    said.wait("bob has talked", |all| (all.len() > 20).then_some(())).await;
    talking
}

fn at(line: &str) -> u64 {
    parse(line)["seq"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_receives_what_follows_over_every_transport() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    house.room("side", &[("frank", "member")]).await;
    let frank = Everywhere::enter(&house, "frank").await;
    let cursor = cursor_now(&house.http("frank")).await;
    let speaker = Speaker::start(&house);
    speaker.says_more(10).await;

    let alice = house.http("alice");
    let answer = alice
        .put("/v1/rooms/lobby/members/frank", &json!({"role": "member"}))
        .await
        .ok();
    assert_eq!(answer["state"], "done", "{answer}");
    let added = seq(&answer);
    frank.are_renewed(true).await;
    speaker.says_more(10).await;
    let last = speaker.stop().await;

    // By cursor nothing is lost: the poll that was parked all the time, and who asks again with an old cursor.
    let (behind, _) = read_all(&house.http("frank"), &cursor).await;
    for (room, last) in last {
        let complete = of_room(room, &behind);
        let polled = until_has("frank's poll", &frank.poll.mail, room, last).await;
        for lines in [&polled, &complete] {
            assert_unbroken(lines);
            assert_eq!(at(lines.last().unwrap()), last);
            assert!(
                room == "side" || lines.iter().any(|line| at(line) == added),
                "his own member event: {lines:?}"
            );
        }
        for (name, mail) in frank.native() {
            let live = until_has(name, mail, room, last).await;
            is_repaired(name, live, &complete);
        }
    }
    let ask = json!({"cursor": cursor, "wait": 0, "limit": 1000});
    let page = frank.nats.api("events.get", &ask).await;
    let page: Vec<u64> = page["events"].as_array().unwrap().iter().map(seq).collect();
    let polled: Vec<u64> = behind.iter().map(|line| at(line)).collect();
    assert_eq!(page, polled, "events.get gives a native client what it missed");
}

/// Live is at most once: what passed while a connection was renewed comes by `events.get`. Both together are whole.
fn is_repaired(name: &str, live: Vec<String>, complete: &[String]) {
    let strange = live.iter().find(|line| !complete.contains(line));
    assert!(strange.is_none(), "{name} got other bytes than by cursor: {strange:?}");
    let mut lines = [live, complete.to_vec()].concat();
    lines.sort_by_key(|line| at(line));
    lines.dedup();
    assert_eq!(lines.len(), complete.len(), "{name} got two versions of an event");
    assert_unbroken(&lines);
}

fn of_room(room: &str, lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| parse(line)["room"] == room)
        .cloned()
        .collect()
}

/// alice, who talks in both rooms without a pause.
struct Speaker {
    receipts: Mailbox<(u64, u64)>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Speaker {
    fn start(house: &House) -> Self {
        let (alice, receipts, stop) = (house.http("alice"), Mailbox::new(), Arc::new(AtomicBool::new(false)));
        let (tell, stopped) = (receipts.clone(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            for number in 0.. {
                let text = format!("number {number}");
                let (lobby, side) = tokio::join!(alice.say("lobby", &text), alice.say("side", &text));
                tell.put((seq(&lobby), seq(&side)));
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        Self { receipts, stop, task }
    }

    async fn says_more(&self, messages: usize) {
        let enough = self.receipts.all().len() + messages;
        self.receipts
            .wait("alice talks", |all| (all.len() >= enough).then_some(()))
            .await;
    }

    /// Ends the talk; the last sequence of each room that she has a receipt for.
    async fn stop(self) -> [(&'static str, u64); 2] {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        let (lobby, side) = *self.receipts.all().last().unwrap();
        [("lobby", lobby), ("side", side)]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_follow_roles() {
    let house = House::start().await;
    house
        .room("lobby", &[("mod", "moderator"), ("mem", "member"), ("red", "reader")])
        .await;
    let member = |name: &str| format!("/v1/rooms/lobby/members/{name}");
    let role = |name: &str| json!({"role": name});
    let (moderator, mem, red) = (house.http("mod"), house.http("mem"), house.http("red"));

    let request = json!({"body": {"text": "x"}});
    red.post("/v1/rooms/lobby/messages", &request)
        .await
        .is_problem(403, "forbidden");
    red.get("/v1/rooms/lobby/messages").await.ok();
    let over_nats = house.nats("red").await.say("lobby", "x").await;
    assert_eq!(over_nats["code"], "forbidden", "{over_nats}");
    mem.put(&member("new"), &role("member"))
        .await
        .is_problem(403, "forbidden");
    mem.put("/v1/rooms/lobby", &json!({"title": "mine"}))
        .await
        .is_problem(403, "forbidden");
    moderator.put(&member("new"), &role("member")).await.ok();
    moderator
        .put(&member("new"), &role("owner"))
        .await
        .is_problem(403, "forbidden");
    moderator.delete(&member("alice")).await.is_problem(403, "forbidden");
    moderator
        .put(&member("x"), &role("emperor"))
        .await
        .is_problem(400, "invalid-request");
    moderator.delete(&member("nobody")).await.is_problem(404, "not-found");
    mem.delete(&member("mem")).await.ok();
    mem.get("/v1/rooms/lobby").await.is_problem(404, "not-found");

    // The tenant's admin manages every room and reads none that he is not in.
    let admin = house.http("admin");
    admin.get("/v1/rooms/lobby/messages").await.is_problem(403, "forbidden");
    admin.put(&member("admin"), &role("reader")).await.ok();
    let lines = admin.get("/v1/rooms/lobby/members").await.ok();
    let names: Vec<&str> = lines["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["user"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admin", "alice", "mod", "new", "red"]);
    assert!(texts(&house.log()).is_empty(), "nothing was said");
}
