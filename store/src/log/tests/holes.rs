//! ROOMS against the log, event by event, after servers and connections died under load.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures_util::StreamExt;
use natterjack_nats_config::contract::{Kind, Outcome, Receipt, Request, Subjects, Vouched};
use natterjack_nats_config::local_server::End;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::support::{Bus, LONG, Worker, admin, ask, eventually, log, make_lobby, request, send};

pub(super) const ROOMS: &str = "CHAT_ROOMS_0";
/// Senders at the same time, and messages in each of their bundles.
pub(super) const SENDERS: usize = 4;
pub(super) const BUNDLE: usize = 100;

/// People who send all the time.
pub(super) struct Load {
    stop: CancellationToken,
    sent: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

/// A line between store and nats-server that can be cut in the midst of a message.
struct Proxy {
    address: SocketAddr,
    /// Bytes that store may still send before the line is cut; negative: any number.
    allowed: Arc<AtomicI64>,
    lines: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Load {
    pub(super) async fn start(clients: Vec<Client>) -> Self {
        make_lobby(&clients[0]).await;
        let (stop, sent) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let tasks = clients.into_iter().enumerate().map(|(name, client)| {
            let (stop, sent) = (stop.clone(), sent.clone());
            tokio::spawn(async move {
                for round in 0.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let requests: Vec<_> = (0..BUNDLE)
                        .map(|i| {
                            request(
                                Kind::Msg,
                                &json!({"key": format!("{name}-{round}-{i}"), "body": {"text": "x".repeat(100)}}),
                            )
                        })
                        .collect();
                    // As a person does: again with the same keys until all have their receipts.
                    while !ask(&client, &requests)
                        .await
                        .iter()
                        .all(|outcome| matches!(outcome, Outcome::Receipt(_)))
                    {}
                    sent.fetch_add(BUNDLE, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, sent, tasks }
    }

    /// Waits until so many more messages have their receipts.
    pub(super) async fn sends(&self, more: usize) {
        let wanted = self.sent.load(Ordering::Relaxed) + more;
        let sent = async {
            while self.sent.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, sent).await.expect("nobody can send any more");
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            timeout(LONG, task).await.expect("a sender hangs").unwrap();
        }
    }
}

impl Proxy {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (allowed, lines) = (Arc::new(AtomicI64::new(-1)), Arc::new(AtomicUsize::new(0)));
        let (allow, count) = (allowed.clone(), lines.clone());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let allow = allow.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let unlimited = AtomicI64::new(-1);
                    // Whichever ends first closes both.
                    tokio::select! {
                        () = carry(from_client, to_server, &allow) => {}
                        () = carry(from_server, to_client, &unlimited) => {}
                    }
                });
            }
        });
        Self {
            address,
            allowed,
            lines,
            task,
        }
    }

    /// Cuts the line once so many more bytes have gone to the server, and waits for the next line.
    async fn cut_after(&self, bytes: i64) {
        let before = self.lines.load(Ordering::Relaxed);
        self.allowed.store(bytes, Ordering::Relaxed);
        let again = async {
            while self.lines.load(Ordering::Relaxed) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, again).await.expect("store did not come back");
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, allowed: &AtomicI64) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(mut count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let left = allowed.load(Ordering::Relaxed);
        let is_cut = left >= 0 && left < i64::try_from(count).unwrap();
        if is_cut {
            count = usize::try_from(left).unwrap();
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if is_cut {
            allowed.store(-1, Ordering::Relaxed);
            return;
        }
        if left >= 0 {
            allowed.fetch_sub(i64::try_from(count).unwrap(), Ordering::Relaxed);
        }
    }
}

async fn kill(pid: u32) {
    let killed = tokio::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .await;
    assert!(killed.unwrap().success());
}

/// Has ROOMS keep all events, so that all of them can be compared. Once it holds the beginning of the fan-out's batch, whose settings are
/// behind it: they are read and written, and would take this one back.
pub(super) async fn keep_all(store: &Client) {
    let jetstream = jetstream::new(store.clone());
    let made = async {
        loop {
            if let Ok(stream) = jetstream.get_stream(ROOMS).await
                && stream.cached_info().config.republish.is_some()
                && stream.cached_info().state.messages > 0
            {
                break stream.cached_info().config.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut config = timeout(LONG, made).await.expect("ROOMS was not made");
    config.max_messages_per_subject = -1;
    jetstream.update_stream(config).await.unwrap();
}

/// The places of all events of the log, in its order.
async fn log_seqs(client: &Client) -> Vec<u64> {
    let end = log().end(client).await.unwrap();
    let mut tail = log().tail(client, 0);
    let mut seqs = Vec::new();
    while tail.passed() < end {
        let frame = timeout(LONG, tail.next()).await.unwrap().unwrap();
        seqs.extend(frame.events.iter().map(|line| line.event.seq.0));
    }
    seqs
}

/// The places of the events that a stream holds below a subject, in its order, up to an event.
async fn held_seqs(client: &Client, stream: &str, subject: &str, last: u64) -> Vec<u64> {
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        filter_subject: subject.to_owned(),
        ..Default::default()
    };
    // In a cluster the stream, or what holds consumers, may be without a leader for a while.
    let mut messages = eventually("a consumer", async || {
        let stream = jetstream::new(client.clone()).get_stream(stream).await.ok()?;
        let consumer = stream.create_consumer(config.clone()).await.ok()?;
        consumer.messages().await.ok()
    })
    .await;
    let mut seqs = Vec::new();
    while seqs.last() != Some(&last) {
        let message = timeout(LONG, messages.next())
            .await
            .unwrap_or_else(|_| panic!("event {last} never came, the last one is {:?}", seqs.last()))
            .unwrap()
            .unwrap();
        let headers = message.headers.as_ref().unwrap();
        seqs.push(headers.get("Chat-Seq").unwrap().as_str().parse().unwrap());
    }
    seqs
}

/// What ROOMS holds is what the log holds: the same events, each once, in the same order.
pub(super) async fn assert_rooms_are_the_log(client: &Client) {
    let log = log_seqs(client).await;
    let rooms = held_seqs(client, ROOMS, "chat.fan.*.*", *log.last().unwrap()).await;
    if let Some(at) = log.iter().zip(&rooms).position(|(log, rooms)| log != rooms) {
        let near = |seqs: &[u64]| seqs[at.saturating_sub(2)..seqs.len().min(at + 3)].to_vec();
        panic!("event {at} differs: the log {:?}, ROOMS {:?}", near(&log), near(&rooms));
    }
    assert_eq!(log.len(), rooms.len());
}

const HEARD: &str = "HEARD";

/// Has a stream take in what ROOMS republishes: a listener that misses nothing, and writes each event to disk at once.
async fn listen(store: &Client) {
    let config = jetstream::stream::Config {
        name: HEARD.to_owned(),
        subjects: vec!["chat.room.*.*.log".to_owned()],
        ..Default::default()
    };
    jetstream::new(store.clone()).create_stream(config).await.unwrap();
}

async fn bridges(bus: &Bus) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..SENDERS {
        clients.push(bus.bridge().await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_the_log_after_the_server_died_under_load() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let store = bus.store().await;
    keep_all(&store).await;
    let load = Load::start(bridges(&bus).await).await;
    for _ in 0..6 {
        load.sends(10 * BUNDLE).await;
        kill(bus.server.pid().expect("the server runs")).await;
        load.sends(SENDERS * BUNDLE).await;
    }
    load.end().await;
    assert_rooms_are_the_log(&store).await;
    writer.stop().await;
    bus.server.shutdown().await;
}

/// A folder as it was, as after a loss of power what was not flushed is not there.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// ROOMS as it was some time ago, which a loss of power may make of it.
struct Flushed {
    rooms: PathBuf,
    before: PathBuf,
}

impl Flushed {
    /// A bus with a writer that leads, a listener, and a message that is on disk everywhere.
    async fn with_a_listener() -> (Bus, Worker, Self) {
        let bus = Bus::start().await;
        let mut writer = bus.writer("first").await;
        writer.is_leading().await;
        let (store, bridge) = (bus.store().await, bus.bridge().await);
        listen(&store).await;
        make_lobby(&bridge).await;
        heard(&store, &send(&bridge, "flushed").await).await;
        let flushed = Self::now(&bus).await;
        (bus, writer, flushed)
    }

    async fn now(bus: &Bus) -> Self {
        bus.server.take_down(End::Clean).await;
        let rooms = bus.server.dir().join("jetstream/CORE/streams").join(ROOMS);
        let before = bus.server.dir().join("before");
        copy(&rooms, &before);
        bus.server.bring_up().await;
        Self { rooms, before }
    }

    /// The power goes, and with it what ROOMS took in since.
    async fn is_all_there_is(&self, bus: &Bus) {
        bus.server.take_down(End::Kill).await;
        std::fs::remove_dir_all(&self.rooms).unwrap();
        copy(&self.before, &self.rooms);
        bus.server.bring_up().await;
    }
}

/// What the listener has heard up to an event.
async fn heard(store: &Client, last: &Receipt) -> Vec<u64> {
    held_seqs(store, HEARD, "chat.room.*.*.log", last.seq.0).await
}

async fn assert_each_was_heard_once(store: &Client, last: &Receipt) {
    let heard = heard(store, last).await;
    assert_eq!(
        heard,
        log_seqs(store).await.split_off(1),
        "each once, behind the tenant's first event"
    );
    assert_rooms_are_the_log(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rooms_lost_with_the_power_is_not_heard_again() {
    let (bus, writer, flushed) = Flushed::with_a_listener().await;
    let (store, bridge) = (bus.store().await, bus.bridge().await);
    let mut answers = store.subscribe("_INBOX_store.>").await.unwrap();
    for text in ["not flushed", "nor this"] {
        heard(&store, &send(&bridge, text).await).await;
    }
    // ROOMS says so when it is asked in a pause.
    let asked = async {
        while let Some(answer) = answers.next().await {
            if answer.subject.ends_with(".4.$FI") && answer.payload.starts_with(b"{\"type\":\"ack\"") {
                return;
            }
        }
    };
    timeout(LONG, asked).await.expect("ROOMS does not say what it stored");
    flushed.is_all_there_is(&bus).await;
    assert_each_was_heard_once(&store, &send(&bridge, "and it goes on").await).await;
    writer.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rooms_lost_of_an_earlier_leaders_is_not_heard_again() {
    let (bus, first, flushed) = Flushed::with_a_listener().await;
    let (store, bridge) = (bus.store().await, bus.bridge().await);
    for text in ["not flushed", "nor this"] {
        heard(&store, &send(&bridge, text).await).await;
    }
    let terms = terms(&store).await;
    first.stop().await;
    let mut second = bus.writer("second").await;
    second.is_leading().await;
    // The successor has taken the rooms over, and nothing was said since.
    eventually("a term of the successor's", async || {
        (self::terms(&store).await > terms).then_some(())
    })
    .await;
    flushed.is_all_there_is(&bus).await;
    assert_each_was_heard_once(&store, &send(&bridge, "and it goes on").await).await;
    second.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rooms_lost_with_the_power_and_the_leader_is_not_heard_again() {
    let (bus, first, flushed) = Flushed::with_a_listener().await;
    let (store, bridge) = (bus.store().await, bus.bridge().await);
    for text in ["not flushed", "nor this"] {
        heard(&store, &send(&bridge, text).await).await;
    }
    // Nobody is left who knows what was heard.
    first.stop().await;
    flushed.is_all_there_is(&bus).await;
    let mut second = bus.writer("second").await;
    second.is_leading().await;
    assert_each_was_heard_once(&store, &send(&bridge, "and it goes on").await).await;
    second.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rooms_had_not_even_acknowledged_is_not_heard_again() {
    let (bus, writer, flushed) = Flushed::with_a_listener().await;
    let (store, bridge) = (bus.store().await, bus.bridge().await);
    // Heard, and ROOMS is asked only in the next pause.
    heard(&store, &send(&bridge, "not flushed, and not acknowledged").await).await;
    flushed.is_all_there_is(&bus).await;
    assert_each_was_heard_once(&store, &send(&bridge, "and it goes on").await).await;
    writer.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_not_filled_in_again() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let (store, bridge) = (bus.store().await, bus.bridge().await);
    make_lobby(&bridge).await;
    let said = send(&bridge, "a secret").await;
    let erase = Request {
        vouched: Some(Vouched {
            seq: said.seq,
            from: admin().user,
        }),
        ..request(
            Kind::Erase,
            &json!({"key": "e", "target": said.id, "body": {"upto": said.seq}}),
        )
    };
    let answer = ask(&bridge, &[erase]).await;
    let [Outcome::Receipt(erased)] = &answer[..] else {
        panic!("{answer:?}");
    };
    jetstream::new(store.clone()).delete_stream(ROOMS).await.unwrap();
    let held = eventually("ROOMS is filled again", async || {
        let stream = jetstream::new(store.clone()).get_stream(ROOMS).await.ok()?;
        let mut held = Vec::new();
        for seq in 1..=stream.cached_info().state.last_sequence {
            held.push(stream.get_raw_message(seq).await.ok()?);
        }
        let last = held.last()?.headers.get("Chat-Seq")?.as_str() == erased.seq.to_string();
        last.then_some(held)
    })
    .await;
    let has = |text: &str| {
        held.iter()
            .filter(|message| String::from_utf8_lossy(&message.payload).contains(text))
            .count()
    };
    assert_eq!((has("a secret"), has("\"body\":null")), (0, 1));
    writer.stop().await;
    bus.server.shutdown().await;
}

/// ROOMS' last sequence if it is the beginning of a term.
async fn terms(store: &Client) -> Option<u64> {
    let stream = jetstream::new(store.clone()).get_stream(ROOMS).await.ok()?;
    let begin = stream
        .get_last_raw_message_by_subject(&Subjects::default().fan_begin())
        .await
        .ok()?;
    Some(begin.sequence)
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_the_log_after_stores_line_was_cut_under_load() {
    let bus = Bus::start().await;
    let proxy = Proxy::before(bus.server.endpoints().nats).await;
    let mut writer = bus.writer_via(&format!("nats://{}", proxy.address), "writer").await;
    writer.is_leading().await;
    let store = bus.store().await;
    keep_all(&store).await;
    let load = Load::start(bridges(&bus).await).await;
    for cut in 0..20 {
        load.sends(2 * BUNDLE).await;
        // An odd number of bytes: the cut falls into frames, headers and protocol lines.
        proxy.cut_after(20_011 + 7_919 * cut).await;
    }
    load.sends(2 * BUNDLE).await;
    load.end().await;
    assert_rooms_are_the_log(&store).await;
    writer.stop().await;
    proxy.task.abort();
    bus.server.shutdown().await;
}

/// CPU seconds that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: Vec<u64> = stat[stat.rfind(')').unwrap() + 2..]
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse().unwrap())
        .collect();
    f64::from(u32::try_from(ticks.iter().sum::<u64>()).unwrap()) / 100.0
}

/// Measures: a log of many events into rooms that republish.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run it alone, with --release and --no-capture"]
async fn how_fast_rooms_are_filled() {
    const EVENTS: usize = 100_000;
    let bus = Bus::start().await;
    let mut writer = bus.writer("first").await;
    writer.is_leading().await;
    let load = Load::start(bridges(&bus).await).await;
    while load.sent.load(Ordering::Relaxed) < EVENTS {
        load.sends(BUNDLE).await;
    }
    load.end().await;
    writer.stop().await;
    let store = bus.store().await;
    // A ROOMS that republishes, and says of itself that it stands at the beginning.
    let jetstream = jetstream::new(store.clone());
    jetstream.delete_stream(ROOMS).await.unwrap();
    let config = natterjack_nats_config::stream::rooms_config(&Subjects::default(), 0, 1, "bench");
    jetstream.create_stream(config).await.unwrap();
    let headers = async_nats::HeaderMap::from_iter([("Chat-Seq".parse().unwrap(), "0".parse().unwrap())]);
    let mark = jetstream.publish_with_headers("chat.fan.bench.main.mark", headers, "".into());
    mark.await.unwrap().await.unwrap();
    let count = log_seqs(&store).await.len();
    let (server, own) = (bus.server.pid().unwrap(), std::process::id());
    let (server_before, own_before, started) = (cpu(server), cpu(own), tokio::time::Instant::now());
    let writer = bus.writer("second").await;
    let last = loop {
        let info = jetstream.get_stream(ROOMS).await.unwrap().cached_info().state.clone();
        if info.last_sequence > u64::try_from(count).unwrap() {
            break started.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let per_event = |used: f64| used * 1e6 / f64::from(u32::try_from(count).unwrap());
    eprintln!(
        "{count} events in {last:?}; CPU per event: nats-server {:.1} us, this process {:.1} us",
        per_event(cpu(server) - server_before),
        per_event(cpu(own) - own_before),
    );
    writer.stop().await;
    bus.server.shutdown().await;
}
