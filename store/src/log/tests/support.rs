use std::time::Duration;

use async_nats::jetstream::{self, stream::State};
use async_nats::{Client, Message, Subscriber};
use bytes::{Bytes, BytesMut};
use natterjack_nats_config::client::{Login, connect};
use natterjack_nats_config::contract::{
    Id, Kind, Outcome, Principal, ProblemCode, Receipt, Request, SendPayload, Subjects, read_outcomes,
    write_bundle_line,
};
use natterjack_nats_config::local_server::{KeyName, Keys, LocalServer, ServerBinary, ServerConfig};
use natterjack_nats_config::tail::Log;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::{Bootstrap, WriterConfig, WriterError, run};

/// How long a test waits for something that must happen. Generous: the machine may be busy with other tests.
pub(super) const LONG: Duration = Duration::from_secs(100);

/// A nats-server and the keys of its workers.
pub(super) struct Bus {
    pub(super) server: LocalServer,
    keys: Keys,
    _folder: tempfile::TempDir,
}

/// A writer in this process.
pub(super) struct Worker {
    pub(super) leading: watch::Receiver<bool>,
    pub(super) diverged: watch::Receiver<bool>,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<Result<(), WriterError>>,
}

pub(super) fn id(text: &str) -> Id {
    text.parse().unwrap()
}

pub(super) fn admin() -> Principal {
    Principal {
        tenant: id("main"),
        user: id("admin"),
    }
}

pub(super) fn log() -> Log {
    Log::first(Subjects::default())
}

impl Bus {
    pub(super) async fn start() -> Self {
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
            max_store: 8 << 30,
            cluster: None,
            tls: None,
        };
        let keys = Keys::load_or_create(&folder.path().join("keys")).unwrap();
        let server = LocalServer::start(&binary, config, &keys).await.unwrap();
        Self {
            server,
            keys,
            _folder: folder,
        }
    }

    pub(super) fn url(&self) -> String {
        self.server.endpoints().nats_url()
    }

    async fn connect(&self, url: String, role: &'static str, key: KeyName) -> Client {
        let seed = self.keys.seed(key).clone();
        connect(&Login { url, role, seed }).await.unwrap()
    }

    pub(super) async fn store(&self) -> Client {
        self.connect(self.url(), "store", KeyName::Store).await
    }

    pub(super) async fn bridge(&self) -> Client {
        self.connect(self.url(), "bridge", KeyName::Bridge).await
    }

    pub(super) async fn writer(&self, name: &str) -> Worker {
        self.start_writer(self.url(), config(name)).await
    }

    /// A writer that reaches the server by another address.
    pub(super) async fn writer_via(&self, url: &str, name: &str) -> Worker {
        self.start_writer(url.to_owned(), config(name)).await
    }

    pub(super) async fn start_writer(&self, url: String, config: WriterConfig) -> Worker {
        let (told, leading) = watch::channel(false);
        let diverged = config.diverged.subscribe();
        let stop = CancellationToken::new();
        let client = self.connect(url, "store", KeyName::Store).await;
        let task = tokio::spawn(run(client, config, told, stop.clone()));
        Worker {
            leading,
            diverged,
            stop,
            task,
        }
    }

    /// The log's stream, as its leader tells of it.
    pub(super) async fn log_state(&self) -> State {
        let stream = jetstream::new(self.store().await).get_stream("CHAT_LOG_0_1").await;
        stream.unwrap().cached_info().state.clone()
    }
}

impl Worker {
    pub(super) async fn is_leading(&mut self) {
        tokio::select! {
            led = timeout(LONG, self.leading.wait_for(|leading| *leading)) => {
                led.expect("it never led").unwrap();
            }
            ended = &mut self.task => panic!("the writer ended: {ended:?}"),
        }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        timeout(LONG, self.task)
            .await
            .expect("it never stopped")
            .unwrap()
            .unwrap();
    }
}

pub(super) fn request(kind: Kind, payload: &serde_json::Value) -> Request {
    let payload = SendPayload::from_json(payload.to_string().as_bytes()).unwrap();
    Request {
        principal: admin(),
        by: natterjack_nats_config::contract::By::default(),
        room: id("lobby"),
        kind,
        payload,
        vouched: None,
    }
}

pub(super) fn config(worker: &str) -> WriterConfig {
    WriterConfig {
        log: log(),
        worker: worker.to_owned(),
        replicas: 1,
        log_max_bytes: 256 << 20,
        devices: crate::devices::Wanted::default(),
        bootstrap: Some(Bootstrap { admin: admin() }),
        limits: std::sync::Arc::default(),
        diverged: watch::Sender::new(false),
    }
}

/// The same request by somebody else.
pub(super) fn by(user: &str, request: Request) -> Request {
    let tenant = id("main");
    let principal = Principal { tenant, user: id(user) };
    Request { principal, ..request }
}

/// A keyed message of the lobby's owner.
pub(super) fn message(key: &str) -> Request {
    request(Kind::Msg, &json!({"key": key, "body": {"text": key}}))
}

pub(super) fn membership(user: &str, role: Option<&str>) -> Request {
    let key = format!("{user} {role:?}");
    request(Kind::Member, &json!({"key": key, "body": {"user": user, "role": role}}))
}

pub(super) fn bundle(requests: &[Request]) -> Bytes {
    let mut bundle = BytesMut::new();
    for request in requests {
        write_bundle_line(&mut bundle, request).unwrap();
    }
    bundle.freeze()
}

pub(super) fn outcomes(answer: &Message) -> Vec<Outcome> {
    read_outcomes(&answer.payload).map(Result::unwrap).collect()
}

/// A bundle that is asked once, and waited for.
pub(super) async fn ask_once(client: &Client, requests: &[Request]) -> Vec<Outcome> {
    let request = async_nats::Request::new().payload(bundle(requests)).timeout(Some(LONG));
    outcomes(
        &client
            .send_request("chat.write.0", request)
            .await
            .expect("nobody answered"),
    )
}

/// A bundle that is asked once; whatever is answered, now or later, comes out of the subscriber.
pub(super) async fn ask_and_listen(client: &Client, requests: &[Request]) -> Subscriber {
    let inbox = client.new_inbox();
    let answers = client.subscribe(inbox.clone()).await.unwrap();
    let asked = client.publish_with_reply("chat.write.0", inbox, bundle(requests)).await;
    asked.unwrap();
    client.flush().await.unwrap();
    answers
}

/// Asks as a bridge does: the same bundle again until it is answered.
pub(super) async fn ask(client: &Client, requests: &[Request]) -> Vec<Outcome> {
    let bundle = bundle(requests);
    let answered = async {
        loop {
            match timeout(Duration::from_secs(2), client.request("chat.write.0", bundle.clone())).await {
                Ok(Ok(answer)) => break answer,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    outcomes(&timeout(LONG, answered).await.expect("nobody answered"))
}

pub(super) async fn send(client: &Client, text: &str) -> Receipt {
    receipt(ask(client, &[message(text)]).await.remove(0))
}

pub(super) fn receipt(outcome: Outcome) -> Receipt {
    match outcome {
        Outcome::Receipt(receipt) => receipt,
        Outcome::Problem(problem) => panic!("{problem}"),
    }
}

pub(super) fn problem(outcome: Outcome) -> ProblemCode {
    match outcome {
        Outcome::Receipt(receipt) => panic!("{receipt:?}"),
        Outcome::Problem(problem) => problem.code,
    }
}

/// Waits until a look finds something; fails naming what was awaited.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = timeout(LONG, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not within {LONG:?}: {what}"))
}

pub(super) async fn make_lobby(client: &Client) {
    let made = ask(client, &[request(Kind::Room, &json!({"key": "lobby", "body": {}}))])
        .await
        .remove(0);
    assert!(matches!(made, Outcome::Receipt(_)), "{made:?}");
}

/// Every event of the log, by its room's numbers.
pub(super) async fn log_numbers(client: &Client) -> Vec<u64> {
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
