//! The writer against a real nats-server.

use std::time::Duration;

use async_nats::{Client, jetstream};
use bytes::BytesMut;
use natterjack_nats_config::client::{Login, connect};
use natterjack_nats_config::contract::{
    Id, Kind, Outcome, Principal, Receipt, Request, SendPayload, Seq, Subjects, read_outcomes, write_bundle_line,
};
use natterjack_nats_config::lease::Leases;
use natterjack_nats_config::local_server::{KeyName, Keys, LocalServer, ServerBinary, ServerConfig};
use natterjack_nats_config::tail::Log;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Bootstrap, WriterConfig, WriterError, run};

const LONG: Duration = Duration::from_secs(30);

struct Bus {
    server: LocalServer,
    keys: Keys,
    _folder: tempfile::TempDir,
}

struct Worker {
    leading: watch::Receiver<bool>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), WriterError>>,
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn admin() -> Principal {
    Principal {
        tenant: id("main"),
        user: id("admin"),
    }
}

fn log() -> Log {
    Log::first(Subjects::default())
}

impl Bus {
    async fn start() -> Self {
        let named =
            std::env::var_os("NATS_SERVER_BIN").expect("NATS_SERVER_BIN must name a nats-server; see scripts/test");
        let binary = ServerBinary::check(named.as_ref()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig {
            server_name: id("test"),
            prefix: id("chat"),
            nats: any,
            websocket: any,
            mqtt: any,
            dir: folder.path().join("nats"),
            max_store: 1 << 30,
        };
        let keys = Keys::load_or_create(&folder.path().join("keys")).unwrap();
        let server = LocalServer::start(&binary, config, &keys).await.unwrap();
        Self {
            server,
            keys,
            _folder: folder,
        }
    }

    async fn connect(&self, role: &'static str, key: KeyName) -> Client {
        let login = Login {
            url: self.server.endpoints().nats_url(),
            role,
            seed: self.keys.seed(key).clone(),
        };
        connect(&login).await.unwrap()
    }

    async fn store(&self) -> Client {
        self.connect("store", KeyName::Store).await
    }

    async fn bridge(&self) -> Client {
        self.connect("bridge", KeyName::Bridge).await
    }

    async fn writer(&self, name: &str) -> Worker {
        let (told, leading) = watch::channel(false);
        let stop = CancellationToken::new();
        let config = WriterConfig {
            log: log(),
            worker: name.to_owned(),
            replicas: 1,
            log_max_bytes: 256 << 20,
            bootstrap: Some(Bootstrap { admin: admin() }),
        };
        let task = tokio::spawn(run(self.store().await, config, told, stop.clone()));
        Worker { leading, stop, task }
    }
}

impl Worker {
    async fn is_leading(&mut self) {
        tokio::select! {
            led = timeout(LONG, self.leading.wait_for(|leading| *leading)) => {
                led.expect("it never led").unwrap();
            }
            ended = &mut self.task => panic!("the writer ended: {ended:?}"),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(LONG, self.task)
            .await
            .expect("it never stopped")
            .unwrap()
            .unwrap();
    }
}

fn request(kind: Kind, payload: &serde_json::Value) -> Request {
    let payload = SendPayload::from_json(payload.to_string().as_bytes()).unwrap();
    Request {
        principal: admin(),
        room: id("lobby"),
        kind,
        payload,
    }
}

/// Asks as a bridge does: the same bundle again until it is answered.
async fn ask(client: &Client, requests: &[Request]) -> Vec<Outcome> {
    let mut bundle = BytesMut::new();
    for request in requests {
        write_bundle_line(&mut bundle, request).unwrap();
    }
    let bundle = bundle.freeze();
    let answered = async {
        loop {
            match timeout(Duration::from_secs(2), client.request("chat.write.0", bundle.clone())).await {
                Ok(Ok(answer)) => break answer,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let answer = timeout(LONG, answered).await.expect("nobody answered");
    read_outcomes(&answer.payload).map(Result::unwrap).collect()
}

async fn send(client: &Client, text: &str) -> Receipt {
    let outcome = ask(
        client,
        &[request(Kind::Msg, &json!({"key": text, "body": {"text": text}}))],
    )
    .await
    .remove(0);
    match outcome {
        Outcome::Receipt(receipt) => receipt,
        Outcome::Problem(problem) => panic!("{problem}"),
    }
}

async fn make_lobby(client: &Client) {
    let made = ask(client, &[request(Kind::Room, &json!({"key": "lobby", "body": {}}))])
        .await
        .remove(0);
    assert!(matches!(made, Outcome::Receipt(_)), "{made:?}");
}

/// Every event of the log, by its room's numbers.
async fn log_numbers(client: &Client) -> Vec<u64> {
    let end = log().end(client).await.unwrap();
    let mut tail = log().tail(client, 0);
    let mut numbers = Vec::new();
    while tail.passed() < end {
        let frame = timeout(LONG, tail.next()).await.unwrap().unwrap();
        numbers.extend(
            frame
                .events
                .iter()
                .filter(|line| line.event.room == id("lobby"))
                .map(|line| line.event.n),
        );
    }
    numbers
}

/// The numbers of all events that a listening stream has taken in, once it has the one that is given.
async fn heard_until(ears: &jetstream::stream::Stream, last: u64) -> Vec<u64> {
    loop {
        let mut heard = Vec::new();
        let end = ears.get_info().await.unwrap().state.last_sequence;
        for seq in 1..=end {
            let message = ears.get_raw_message(seq).await.unwrap();
            let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            heard.push(event["n"].as_u64().unwrap());
        }
        if heard.last() == Some(&last) {
            return heard;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until ROOMS has an event as the lobby's last one.
async fn rooms_hold(store: &Client, seq: Seq) {
    loop {
        if let Ok(stream) = jetstream::new(store.clone()).get_stream("CHAT_ROOMS_0").await {
            let held = stream.get_last_raw_message_by_subject("chat.fan.main.lobby").await;
            if held.is_ok_and(|held| held.headers.get("Chat-Seq").unwrap().as_str() == seq.to_string()) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_nothing_is_lost_or_doubled() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let mut second = bus.writer("second").await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let before = send(&bridge, "before").await;
    first.stop().await;
    second.is_leading().await;
    assert_eq!(
        send(&bridge, "before").await,
        Receipt {
            duplicate: true,
            ..before
        }
    );
    assert_eq!(send(&bridge, "after").await.n, 4);
    assert_eq!(log_numbers(&bus.store().await).await, [1, 2, 3, 4]);
    second.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rivals_frame_makes_the_writer_step_down_fold_it_and_go_on() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let store = bus.store().await;
    let rival = jetstream::new(store.clone());
    rival
        .publish("chat.log.0.1", bytes::Bytes::new())
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(send(&bridge, "after the rival").await.n, 3);
    assert_eq!(log_numbers(&store).await, [1, 2, 3]);
    writer.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_loses_nothing_that_was_acknowledged() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let mut receipts = Vec::new();
    for i in 0..60 {
        if i % 20 == 10 {
            let pid = bus.server.pid().expect("the server runs");
            let killed = tokio::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()
                .await;
            assert!(killed.unwrap().success());
        }
        receipts.push(send(&bridge, &format!("m{i}")).await.n);
    }
    let expected: Vec<u64> = (3..63).collect();
    assert_eq!(receipts, expected);
    assert_eq!(log_numbers(&bus.store().await).await, (1..63).collect::<Vec<_>>());
    writer.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_hear_every_event_once_and_in_order_across_writers_and_never_history_again() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let bridge = bus.bridge().await;
    let store = bus.store().await;
    // A stream that takes in what is republished is a subscriber that misses nothing.
    let ears = jetstream::new(store.clone())
        .create_stream(jetstream::stream::Config {
            name: "EARS".into(),
            subjects: vec!["chat.room.main.lobby.log".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    make_lobby(&bridge).await;
    send(&bridge, "one").await;
    let mut second = bus.writer("second").await;
    first.stop().await;
    second.is_leading().await;
    let last = send(&bridge, "two").await;
    assert_eq!(
        timeout(LONG, heard_until(&ears, last.n)).await.expect("not heard"),
        [1, 2, 3, 4]
    );
    // ROOMS is lost: it is filled again from the log, and nobody hears that.
    second.stop().await;
    jetstream::new(store.clone())
        .delete_stream("CHAT_ROOMS_0")
        .await
        .unwrap();
    let mut third = bus.writer("third").await;
    third.is_leading().await;
    let after = send(&bridge, "three").await;
    timeout(LONG, rooms_hold(&store, after.seq))
        .await
        .expect("ROOMS was not filled again");
    let heard = ears.get_info().await.unwrap().state.last_sequence;
    assert!(heard <= last.n + 1, "history was heard again: {heard} events");
    third.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_reply_a_client_could_steer_is_dropped() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    // In CORE nobody may publish here but the service import; were a worker able to, it would not be answered.
    let mut bundle = BytesMut::new();
    write_bundle_line(&mut bundle, &request(Kind::Msg, &json!({"body": 1}))).unwrap();
    bridge
        .publish_with_reply("chat.write.0", "chat.log.0.1", bundle.freeze())
        .await
        .unwrap();
    bridge.flush().await.unwrap();
    assert_eq!(
        send(&bridge, "next").await.n,
        3,
        "the request with the steered reply was taken"
    );
    writer.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_lease_is_listed_also_while_it_is_renewed() {
    let bus = Bus::start().await;
    let leases = Leases::open(&bus.store().await, &Subjects::default(), 1).await.unwrap();
    let mut held = vec![
        leases.try_take("authz.one", "one").await.unwrap().unwrap(),
        leases.try_take("authz.two", "two").await.unwrap().unwrap(),
    ];
    let other = leases.try_take("writer.0", "three").await.unwrap();
    assert!(other.is_some() && leases.try_take("authz.one", "four").await.unwrap().is_none());
    let renewing = tokio::spawn(async move {
        loop {
            for lease in &mut held {
                assert!(lease.renew().await.unwrap());
            }
        }
    });
    let reader = Leases::join(&bus.bridge().await, &Subjects::default()).await.unwrap();
    for _ in 0..500 {
        let mut holders = reader.holders("authz.").await.unwrap();
        holders.sort();
        assert_eq!(holders, ["one", "two"]);
    }
    renewing.abort();
    bus.server.shutdown().await;
}
