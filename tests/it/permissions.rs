//! What the callout compiles, tried against a real nats-server for a random tenant: what the decision function forbids can
//! be neither published nor heard, and what it allows can.
//!
//! The whole space is searched without a server in `authz/src/policy/permissions.rs`; this is a sample, bounded in size. Its
//! seed is printed; `LIVE_SEED=7 cargo nextest run -p natterjack -E 'test(/^permissions::/)'` tries one again.

use std::collections::BTreeSet;

use natterjack_authz::policy::{Permission, View, is_blocked, may};
use natterjack_nats_config::contract::{Event, Principal};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::support::house::House;
use crate::support::http::Http;
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;

/// Names that are the beginning of others, or differ in case only.
const USERS: [&str; 5] = ["u", "u1", "U", "in", "dev"];
const ROOMS: [&str; 5] = ["r", "r1", "R", "log", "now"];
const KINDS: [&str; 3] = ["group", "announcement", "device"];
const ROUNDS: usize = 3;
/// What is changed before each round.
const CHANGES: usize = 25;
/// Subjects of each kind that a user tries in a round.
const TRIED: usize = 24;
/// Tried at once.
const FEW: usize = 8;

/// A subject, and whether it may be used by what is decided.
type Judged = (String, bool);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_lets_through_what_is_decided_and_nothing_else() {
    let seed = std::env::var("LIVE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("LIVE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let house = House::start().await;
    let admin = house.http("admin");
    for room in ROOMS {
        admin.put(&format!("/v1/rooms/{room}"), &json!({})).await.created();
    }
    let mut tried = (0, 0);
    for round in 0..ROUNDS {
        for _ in 0..CHANGES {
            change(&admin, &mut random).await;
        }
        let view = view(&house);
        for user in USERS {
            eprintln!("round {round}, {user}");
            let (allowed, refused) = try_user(&house, &view, user, &mut random).await;
            tried = (tried.0 + allowed, tried.1 + refused);
        }
    }
    assert!(tried.0 > 50 && tried.1 > 200, "a sample that tries nothing: {tried:?}");
}

/// Changes something at random; what is refused changes nothing, and the log says what there is.
async fn change(admin: &Http, random: &mut StdRng) {
    let (user, room) = (USERS.choose(random).unwrap(), ROOMS.choose(random).unwrap());
    let member = format!("/v1/rooms/{room}/members/{user}");
    let answer = match random.random_range(0..10) {
        0..5 => {
            let role = ["owner", "moderator", "member", "reader", "device", "own"]
                .choose(random)
                .unwrap();
            admin.put(&member, &json!({"role": role})).await
        }
        5 => admin.delete(&member).await,
        6 => admin.put(&format!("/v1/rooms/{room}/bans/{user}"), &json!({})).await,
        7 => {
            let role = ["blocked", "guest", "auditor", "member"].choose(random).unwrap();
            admin.put(&format!("/v1/users/{user}"), &json!({"role": role})).await
        }
        8 => {
            let verbs = ["room.read", "room.send", "room.react", "member.invite"];
            let verbs: Vec<_> = verbs.into_iter().filter(|_| random.random()).collect();
            admin
                .put("/v1/roles/own", &json!({"scope": "room", "permissions": verbs}))
                .await
        }
        _ => {
            let kind = KINDS.choose(random).unwrap();
            admin.put(&format!("/v1/rooms/{room}"), &json!({"kind": kind})).await
        }
    };
    assert!(answer.status < 500, "{answer:?}");
}

/// What the log says, folded here.
fn view(house: &House) -> View {
    let mut view = View::default();
    for line in house.log() {
        view.apply(&serde_json::from_str::<Event>(&line).unwrap());
    }
    view
}

fn who(user: &str) -> Principal {
    Principal {
        tenant: "main".parse().unwrap(),
        user: user.parse().unwrap(),
    }
}

fn reads(view: &View, user: &str, room: &str) -> bool {
    may(view, &who(user), &room.parse().unwrap(), Permission::RoomRead).is_ok()
}

/// What may be heard, of everything that an attacker would name.
fn to_hear(view: &View, user: &str) -> Vec<Judged> {
    let mut all = Vec::new();
    for room in ROOMS {
        let reads = reads(view, user, room);
        // What is compiled ends with `*`, which the server lets `>` stand for. Nothing is deeper than that.
        all.extend(["log", "now", "*", ">"].map(|last| (format!("chat.room.main.{room}.{last}"), reads)));
        all.push((format!("chat.room.other.{room}.log"), false));
        all.push((format!("chat.fan.main.{room}"), false));
    }
    for other in USERS {
        all.push((format!("chat.user.main.{other}"), other == user));
        all.push((format!("_INBOX.main.{other}.x"), other == user));
        all.push((format!("chat.in.main.{other}.r.msg"), false));
    }
    let never = [
        ">",
        "chat.>",
        "chat.room.>",
        "chat.room.*.*.log",
        "chat.room.main.*.log",
        "chat.user.main.*",
        "_INBOX.>",
        "_INBOX.main.*.>",
        "$SYS.>",
        "$JS.>",
        "$MQTT.>",
        "chat.log.0.1",
        "chat.write.0",
    ];
    all.extend(never.map(|subject| (subject.to_owned(), false)));
    all
}

/// The same to publish to. Who may send where is the writer's to decide: a subject says only as whom. What rooms and users
/// hear is not here: the account maps it away before rights are looked at, and the server names what it became (`abuse.rs` tries it).
fn to_publish(user: &str) -> Vec<Judged> {
    let mut all = Vec::new();
    for other in USERS {
        let own = other == user;
        for room in ROOMS {
            all.push((format!("chat.in.main.{other}.{room}.msg"), own));
            all.push((format!("chat.in.other.{other}.{room}.msg"), false));
        }
        all.push((format!("chat.api.main.{other}.rooms.list"), own));
        all.push((format!("_INBOX.main.{other}.x"), false));
    }
    for room in ROOMS {
        all.push((format!("chat.fan.main.{room}"), false));
    }
    let never = [
        "chat.write.0",
        "chat.log.0.1",
        "$JS.API.INFO",
        "$SYS.REQ.USER.AUTH",
        "$MQTT.msgs.x",
        "chat.authz.a.settle",
    ];
    all.extend(never.map(|subject| (subject.to_owned(), false)));
    all
}

/// All that are allowed, and some of the others.
fn sample(mut all: Vec<Judged>, random: &mut StdRng) -> Vec<Judged> {
    all.shuffle(random);
    all.sort_by_key(|(_, allowed)| !*allowed);
    let allowed = all.iter().filter(|(_, allowed)| *allowed).count();
    all.truncate(allowed.max(TRIED / 2) + TRIED / 2);
    all
}

/// What one user tries over NATS and MQTT; how much of it was allowed, and refused.
async fn try_user(house: &House, view: &View, user: &str, random: &mut StdRng) -> (usize, usize) {
    let token = house.token(user);
    let nats = Nats::connect(&house.endpoints.nats, user, &token).await;
    if is_blocked(view, &who(user)) {
        assert!(nats.is_err(), "{user} is blocked and was let in");
        return (0, 1);
    }
    let nats = nats.unwrap();
    let (hear, publish) = (sample(to_hear(view, user), random), sample(to_publish(user), random));
    // A few at a time, and what the server says to each: a client holds only so much that nobody has read.
    for (number, some) in hear.chunks(FEW).enumerate() {
        for (subject, _) in some {
            nats.subscribe(subject).await;
        }
        fence(&nats, &format!("fence.hear.{number}")).await;
    }
    for (number, some) in publish.chunks(FEW).enumerate() {
        for (subject, _) in some {
            nats.client.publish(subject.clone(), "{}".into()).await.unwrap();
        }
        fence(&nats, &format!("fence.publish.{number}")).await;
    }
    let said = nats.happened.all();
    for (operation, judged) in [("subscription", &hear), ("publish", &publish)] {
        let refused = refused(&said, operation);
        for (subject, allowed) in judged {
            assert_eq!(
                !refused.contains(subject.as_str()),
                *allowed,
                "{user}: {operation} to {subject}"
            );
        }
    }
    try_mqtt(house, view, (user, &token)).await;
    let judged = hear.iter().chain(&publish);
    let allowed = judged.clone().filter(|(_, allowed)| *allowed).count();
    (allowed, judged.count() - allowed)
}

/// Waits for all that the server says of what was before: it says it in order.
async fn fence(nats: &Nats, subject: &str) {
    nats.client.publish(subject.to_owned(), "".into()).await.unwrap();
    nats.is_refused("publish", subject).await;
}

async fn try_mqtt(house: &House, view: &View, (user, token): (&str, &str)) {
    let mqtt = Mqtt::connect(&house.endpoints.mqtt, &format!("main:{user}"), user, token)
        .await
        .unwrap();
    for room in ROOMS {
        let granted = mqtt.subscribe(&format!("chat/room/main/{room}/log")).await;
        assert_eq!(granted, reads(view, user, room), "{user} hears {room} over MQTT");
    }
    for never in ["#", "chat/room/#", "chat/room/main/+/log", "$SYS/#"] {
        assert!(!mqtt.subscribe(never).await, "{user} hears {never}");
    }
}

/// The subjects that the server refused, as it named them.
fn refused<'a>(said: &'a [String], operation: &str) -> BTreeSet<&'a str> {
    let begins = format!("permissions violation for {operation} to \"");
    let refusals = said.iter().filter(|line| line.to_lowercase().contains(&begins));
    refusals.filter_map(|line| line.split('"').nth(1)).collect()
}
