//! Three nats-servers that keep three copies: the journey, the loss of any one of them, and removals that reach all.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::events::{assert_receipt, assert_unbroken, lines_of, parse, texts};
use crate::support::eventually;
use crate::support::house::{House, natterjack, seq, signal};
use crate::support::http::Http;
use crate::support::mailbox::Mailbox;
use crate::support::nats::Nats;
use crate::support::poll::{Poll, cursor_now, read_all};
use crate::support::tools::nats_server;

pub(crate) const SERVERS: usize = 3;
/// After this long without receipts senders are taken to be stuck. JetStream's election takes 4 to 8 seconds; the rest is
/// for a machine that is busy with other tests. What was measured is printed.
pub(crate) const SENDS_GO_ON_WITHIN: Duration = Duration::from_secs(30);
const LOBBY: &str = "/v1/rooms/lobby/messages";

/// A user of tenant `main` at one server of the house.
async fn at(house: &House, server: usize, user: &str) -> Nats {
    let url = &house.endpoints.nats_urls[server];
    Nats::connect(url, user, &house.token(user)).await.unwrap()
}

/// JetStream as the store uses it.
pub(crate) async fn jetstream(house: &House) -> async_nats::jetstream::Context {
    let seed = std::fs::read_to_string(house.data().join("keys/store.nk")).unwrap();
    let client = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
        .custom_inbox_prefix("_INBOX_store")
        .connect(house.endpoints.nats_urls.clone())
        .await
        .unwrap();
    async_nats::jetstream::new(client)
}

/// The copies of a stream, as its leader sees them: how many are current, its own included.
async fn current_copies(house: &House, stream: &str) -> usize {
    let Ok(info) = jetstream(house).await.get_stream(stream).await else {
        return 0;
    };
    let Some(cluster) = &info.cached_info().cluster else {
        return 0;
    };
    let others = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline);
    others.count() + usize::from(cluster.leader.is_some())
}

pub(crate) async fn all_current(house: &House) {
    for stream in ["CHAT_LOG_0_1", "CHAT_ROOMS_0", "KV_CHAT_LEASE"] {
        eventually(&format!("three current copies of {stream}"), async || {
            (current_copies(house, stream).await == SERVERS).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_readers_at_every_server() {
    let mut house = House::cluster().await;
    assert_eq!(house.endpoints.nats_urls.len(), SERVERS);
    assert!(house.printed().contains("a cluster of 3"), "{}", house.printed());
    house.room("lobby", &[("bob", "member")]).await;
    all_current(&house).await;
    let alice = house.http("alice");
    let cursor = cursor_now(&alice).await;
    let mut readers = Vec::new();
    for server in 0..SERVERS {
        let bob = at(&house, server, "bob").await;
        bob.listen(&["lobby"]).await;
        readers.push(bob);
    }
    let (ws, mqtt) = (house.websocket("bob").await, house.mqtt("bob").await);
    ws.subscribe("chat.room.main.lobby.log").await;
    mqtt.subscribe("chat/room/main/lobby/log").await;
    ws.request("chat.api.main.bob.rooms.list", &json!({})).await;
    mqtt.happened
        .wait("MQTT has subscribed", |all| {
            all.iter().any(|line| line.starts_with("granted")).then_some(())
        })
        .await;

    let receipt = alice.say("lobby", "over HTTP").await;
    for (server, reader) in readers.iter().enumerate() {
        let receipt = reader.say("lobby", &format!("at server {server}")).await;
        assert!(receipt["id"].is_string(), "{receipt}");
    }
    let (lines, _) = read_all(&alice, &cursor).await;
    assert_unbroken(&lines);
    assert_receipt(&receipt, &lines[0]);
    let expected = ["over HTTP", "at server 0", "at server 1", "at server 2"];
    assert_eq!(texts(&lines), expected);
    let mails = readers.iter().map(|reader| &reader.mail);
    for mail in mails.chain([&ws.mail, &mqtt.mail]) {
        let got = mail
            .wait("all four", |got| {
                let lines = lines_of("lobby", got);
                (lines.len() >= expected.len()).then_some(lines)
            })
            .await;
        assert_eq!(got, lines, "the same bytes at every server and on every transport");
    }
    let last = parse(lines.last().unwrap());
    assert_eq!(house.history("bob", "lobby", seq(&last)).await, lines);

    // And it is all there after a stop of everything.
    assert!(house.stop().success());
    house.restart().await;
    let (again, _) = read_all(&house.http("alice"), &cursor).await;
    assert_eq!(again, lines);
    house.http("alice").say("lobby", "after the stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_cluster_is_no_single_servers() {
    let mut house = House::cluster().await;
    house.stop();
    let error = house.refused(&["up", "--offline", "--http", "127.0.0.1:0"]);
    assert!(error.contains("--cluster 3"), "{error}");
}

/// What senders did: every receipt with its key, and when it came.
pub(crate) type Receipts = Mailbox<(String, Value, Instant)>;

/// Senders that try each message until it is acknowledged.
pub(crate) fn keep_sending(alices: Vec<Http>, receipts: &Receipts) -> JoinSet<()> {
    let mut senders = JoinSet::new();
    for (sender, alice) in alices.into_iter().enumerate() {
        let receipts = receipts.clone();
        senders.spawn(async move {
            for number in 0.. {
                let key = format!("{sender}-{number}");
                let body = json!({"key": key, "body": {"text": key}}).to_string();
                let receipt = loop {
                    let sent = alice
                        .try_call(hyper::Method::POST, LOBBY, &[], body.clone().into())
                        .await;
                    match sent {
                        Ok(answer) if matches!(answer.status, 200 | 201) => break answer.json(),
                        Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                };
                receipts.put((key, receipt, Instant::now()));
            }
        });
    }
    senders
}

pub(crate) fn two_alices(house: &House) -> Vec<Http> {
    vec![house.http("alice"), house.http("alice")]
}

/// The longest time without a receipt, from `since` on.
pub(crate) fn longest_gap(receipts: &Receipts, since: Instant) -> Duration {
    let mut last = since;
    let mut longest = Duration::ZERO;
    for (_, _, at) in receipts.all() {
        longest = longest.max(at.saturating_duration_since(last));
        last = last.max(at);
    }
    longest.max(last.elapsed())
}

/// What was restarted in turn since a cursor was given was not missed: senders go on, and what they were told is there.
pub(crate) async fn assert_not_missed(
    (receipts, senders): (&Receipts, JoinSet<()>),
    since: Instant,
    (reader, cursor): (&Http, &str),
) {
    more_receipts(receipts, 50).await;
    let gap = longest_gap(receipts, since);
    eprintln!(
        "restarted in turn within {:?}: at most {gap:?} without receipts",
        since.elapsed()
    );
    drop(senders);
    let (lines, _) = read_all(reader, cursor).await;
    assert_unbroken(&lines);
    assert!(gap < SENDS_GO_ON_WITHIN, "{gap:?} without receipts");
}

pub(crate) async fn more_receipts(receipts: &Receipts, more: usize) {
    let wanted = receipts.all().len() + more;
    receipts
        .wait("more receipts", |got| (got.len() >= wanted).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_server_may_die_while_messages_are_sent() {
    let house = House::cluster().await;
    house.room("lobby", &[("bob", "member")]).await;
    all_current(&house).await;
    let cursor = cursor_now(&house.http("alice")).await;
    let receipts = Mailbox::new();
    let mut senders = keep_sending(two_alices(&house), &receipts);
    for server in 0..SERVERS {
        more_receipts(&receipts, 50).await;
        let before = house.server_pid_of(server).unwrap();
        let killed = Instant::now();
        signal(before, Signal::KILL);
        more_receipts(&receipts, 50).await;
        let gap = longest_gap(&receipts, killed);
        eprintln!("server {server} killed: {gap:?} without receipts");
        assert!(gap < SENDS_GO_ON_WITHIN, "{gap:?} without receipts");
        eventually("it is started again", async || {
            house.server_pid_of(server).filter(|pid| *pid != before)
        })
        .await;
        all_current(&house).await;
    }
    senders.shutdown().await;
    let last = receipts.all().iter().map(|(_, receipt, _)| seq(receipt)).max().unwrap();
    // The bridge reads on a moment after the writer does.
    let lines = eventually("the last receipt's event is read", async || {
        let (lines, _) = read_all(&house.http("alice"), &cursor).await;
        let end = lines.last().map_or(0, |line| seq(&parse(line)));
        (end >= last).then_some(lines)
    })
    .await;
    assert_unbroken(&lines);
    let events: Vec<Value> = lines.iter().map(|line| parse(line)).collect();
    let keys: HashSet<&str> = events.iter().map(|event| event["key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), events.len(), "one event for each key");
    let by_seq: HashMap<u64, &Value> = events.iter().map(|event| (seq(event), event)).collect();
    for (key, receipt, _) in receipts.all() {
        let event = by_seq.get(&seq(&receipt));
        let event = event.unwrap_or_else(|| panic!("what was acknowledged is lost: {key} {receipt}"));
        assert_eq!(event["key"], json!(key), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_is_done_only_when_every_server_has_closed_the_members_connections() {
    let house = House::cluster().await;
    house.room("lobby", &[("bob", "member")]).await;
    let alice = house.http("alice");
    let mut bobs = Vec::new();
    for server in 0..SERVERS {
        let bob = at(&house, server, "bob").await;
        bob.listen(&["lobby"]).await;
        bobs.push(bob);
    }
    let answer = alice.delete("/v1/rooms/lobby/members/bob").await.ok();
    let after = alice.say("lobby", "bob is gone").await;
    assert_eq!(
        (&answer["state"], &answer["connections_closed"]),
        (&json!("done"), &json!(SERVERS)),
        "{answer}"
    );
    for bob in bobs {
        bob.is_refused("subscription", "chat.room.main.lobby.log").await;
        assert!(bob.connections() >= 2);
        let heard = lines_of("lobby", &bob.mail.all());
        assert!(heard.iter().all(|line| seq(&parse(line)) < seq(&after)), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_is_pending_while_a_server_hangs_and_done_afterwards() {
    let house = House::cluster().await;
    house.room("lobby", &[("bob", "member")]).await;
    all_current(&house).await;
    let alice = house.http("alice");
    let bob = at(&house, 1, "bob").await;
    bob.listen(&["lobby"]).await;
    let frozen = house.server_pid_of(1).unwrap();
    signal(frozen, Signal::STOP);
    let remove = async || {
        let headers = [("idempotency-key", "remove-bob")];
        let path = "/v1/rooms/lobby/members/bob";
        alice
            .try_call(hyper::Method::DELETE, path, &headers, "".into())
            .await
            .ok()
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.json())
    };
    // The log may need a new leader first, and the workers another server.
    let named = eventually("the server that does not answer is named", async || {
        let answer = remove().await?;
        assert_eq!(answer["state"], "pending", "{answer}");
        answer["waiting_for"].to_string().contains("-n2").then_some(answer)
    })
    .await;
    signal(frozen, Signal::CONT);
    eprintln!("while the server hangs: {named}");
    let poll = Poll::from_now(&alice).await;
    eventually("it is done once the server answers", async || {
        remove().await.filter(|answer| answer["state"] == "done")
    })
    .await;
    let after = alice.say("lobby", "bob is gone").await;
    poll.mail
        .wait("alice has it", |got| {
            lines_of("lobby", got)
                .iter()
                .any(|line| parse(line)["seq"] == after["seq"])
                .then_some(())
        })
        .await;
    bob.is_refused("subscription", "chat.room.main.lobby.log").await;
    let heard = lines_of("lobby", &bob.mail.all());
    assert!(heard.iter().all(|line| seq(&parse(line)) < seq(&after)), "{heard:?}");
}

#[test]
fn the_files_of_three_machines_are_what_nats_server_accepts_and_nobody_else_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("conf"));
    let config = |more: &[&str]| {
        let mut command = natterjack();
        command
            .args(["nats", "config", "--cluster", "--data"])
            .arg(&data)
            .args(more);
        command.output().unwrap()
    };
    let printed = config(&[]);
    assert!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).unwrap();
    for host in ["nats-1.example.org", "nats-2.example.org", "nats-3.example.org"] {
        assert!(
            text.contains(&format!("client_advertise: \"{host}:4222\"")),
            "{host}: {text}"
        );
    }
    let secret = std::fs::read_to_string(data.join("keys/routes.key")).unwrap();
    assert!(!text.contains(secret.trim()), "what is printed is no secret");

    let hosts = "127.0.0.1=a,127.0.0.2=b,127.0.0.3=c";
    let written = config(&["--host", hosts, "--out", out.to_str().unwrap()]);
    assert!(written.status.success(), "{written:?}");
    for file in ["n1.conf", "n2.conf", "n3.conf", "routes.conf"] {
        let mode = std::fs::metadata(out.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    for file in ["n1.conf", "n2.conf", "n3.conf"] {
        let checked = std::process::Command::new(nats_server())
            .arg("-t")
            .arg("-c")
            .arg(out.join(file))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{file}: {checked:?}");
    }
}
