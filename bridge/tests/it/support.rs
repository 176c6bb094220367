use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, jetstream};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use natterjack_authz::token::{Issuer, Verifier};
use natterjack_bridge::{BridgeConfig, BridgeError, Caps, Proxies};
use natterjack_nats_config::client::{Login, connect};
use natterjack_nats_config::contract::{Principal, Seq};
use natterjack_nats_config::lease::{Lease, Leases};
use natterjack_nats_config::local_server::{KeyName, Keys, ServerConfig, render};
use natterjack_nats_config::stream::{log_config, reconcile};
use natterjack_nats_config::tail::Log;
use natterjack_nats_config::{Subjects, clock};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes; only a failure waits that long.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// A nats-server with Natterjack's own accounts and permissions; but in `CLIENTS` there are static users `alice` and
/// `erin` instead of the callout.
pub(crate) struct Nats {
    _dir: TempDir,
    keys: Keys,
    url: String,
    _child: Child,
}

/// The log, written by hand as the writer writes it.
pub(crate) struct Book {
    pub(crate) client: Client,
    pub(crate) log: Log,
    frames: u64,
    _lease: JoinHandle<()>,
}

/// A running bridge.
pub(crate) struct Bridge {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) ready: watch::Receiver<bool>,
    running: JoinHandle<Result<(), BridgeError>>,
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    issuer: Issuer,
    _keys: TempDir,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

/// What to ask.
#[derive(Default)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Vec<u8>,
}

impl Nats {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(&dir.path().join("keys")).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig {
            server_name: "nj-test".parse().unwrap(),
            prefix: "chat".parse().unwrap(),
            nats: any,
            websocket: any,
            mqtt: any,
            dir: dir.path().join("nats"),
            max_store: 8 << 30,
            cluster: None,
            tls: None,
        };
        std::fs::create_dir_all(config.dir.join("ports")).unwrap();
        let file = dir.path().join("nats.conf");
        std::fs::write(&file, with_static_clients(&render(&config, &keys.public(), &[]))).unwrap();
        let child = Command::new(binary())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nats-server does not start");
        let ports = config.dir.join("ports");
        let url = until("nats-server listens", async || read_ports(&ports)).await;
        Self {
            _dir: dir,
            keys,
            url,
            _child: child,
        }
    }

    fn login(&self, name: KeyName, role: &'static str) -> Login {
        Login {
            url: self.url.clone(),
            role,
            seed: self.keys.seed(name).clone(),
        }
    }

    /// A client inside the workers' account, with the rights to publish anything.
    pub(crate) async fn core(&self) -> Client {
        ConnectOptions::with_user_and_password("core".to_owned(), "x".to_owned())
            .connect(&self.url)
            .await
            .unwrap()
    }

    /// A native client.
    pub(crate) async fn client(&self, user: &str) -> Client {
        ConnectOptions::with_user_and_password(user.to_owned(), "x".to_owned())
            .custom_inbox_prefix(format!("_INBOX.main.{user}"))
            .connect(&self.url)
            .await
            .unwrap()
    }
}

/// The real file, with the callout taken away and two users put in its place.
fn with_static_clients(config: &str) -> String {
    let (accounts, _callout) = config.split_once("\nauthorization {").unwrap();
    let user = |name: &str| {
        format!(
            "{{ user: {name}, password: x, permissions {{ publish: [ \"chat.in.main.{name}.>\", \
             \"chat.api.main.{name}.>\" ], subscribe: [ \"_INBOX.main.{name}.>\" ] }} }}"
        )
    };
    let users = format!("  CLIENTS {{\n    users: [ {}, {} ]\n", user("alice"), user("erin"));
    let (before, core) = accounts.split_once("  CORE {\n").unwrap();
    let core = core.replacen("    users: [\n", "    users: [\n      { user: core, password: x }\n", 1);
    let accounts = format!("{before}  CORE {{\n{core}");
    assert!(accounts.contains("  CLIENTS {\n"), "the file has changed");
    accounts
        .replace("  CLIENTS {\n", &users)
        .replace("127.0.0.1:0\"", "127.0.0.1:-1\"")
}

fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("NATS_SERVER_BIN") {
        return binary.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("nats-server"))
        .find(|file| file.is_file())
        .expect("these tests need a nats-server: set NATS_SERVER_BIN, or put one on PATH")
}

fn read_ports(dir: &std::path::Path) -> Option<String> {
    let file = std::fs::read_dir(dir).ok()?.next()?.ok()?.path();
    let ports: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(ports["nats"][0].as_str()?.to_owned())
}

/// Looks until there is something, for at most [`LIMIT`].
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, looking)
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"))
}

impl Book {
    /// Makes the log, and holds the writer's lease.
    pub(crate) async fn open(nats: &Nats) -> Self {
        let client = connect(&nats.login(KeyName::Store, "store")).await.unwrap();
        let log = Log::first(Subjects::default());
        reconcile(&client, log_config(&log, 1, 1 << 30), &[]).await.unwrap();
        let leases = Leases::open(&client, &log.subjects, 1).await.unwrap();
        let lease = leases.take("writer.0", "by-hand").await;
        Self {
            client,
            log,
            frames: 0,
            _lease: tokio::spawn(keep(lease)),
        }
    }

    /// A room `lobby` of alice and bob.
    pub(crate) async fn with_lobby(nats: &Nats) -> Self {
        let mut book = Self::open(nats).await;
        book.room("lobby", &["alice", "bob"]).await;
        book
    }

    pub(crate) async fn room(&mut self, room: &str, members: &[&str]) {
        let mut events = vec![json!({"room": room, "kind": "room", "body": {"kind": "group"}})];
        events.extend(members.iter().map(|user| member(room, user, Some("member"))));
        self.frame(&events).await;
    }

    pub(crate) async fn say(&mut self, room: &str, text: &str) -> Seq {
        self.frame(&[message(room, text)]).await
    }

    /// Appends a frame; gives its first event's place.
    pub(crate) async fn frame(&mut self, events: &[Value]) -> Seq {
        self.frames += 1;
        let mut lines = String::new();
        for (index, event) in events.iter().enumerate() {
            let mut line = json!({
                "v": 1, "seq": Seq::of(self.frames, index), "n": 1, "prev": 0, "id": format!("e{}-{index}", self.frames),
                "tenant": "main", "from": "alice", "at": "2026-11-23T06:00:00.123Z",
            });
            line.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", uuid::Uuid::now_v7().to_string().as_str());
        headers.insert("Nats-Expected-Last-Sequence", (self.frames - 1).to_string().as_str());
        let ack = jetstream::new(self.client.clone())
            .publish_with_headers(self.log.subject(), headers, lines.into())
            .await
            .unwrap();
        assert_eq!(ack.await.unwrap().sequence, self.frames);
        Seq::of(self.frames, 0)
    }
}

pub(crate) fn message(room: &str, text: &str) -> Value {
    json!({"room": room, "kind": "msg", "body": {"text": text}})
}

pub(crate) fn member(room: &str, user: &str, role: Option<&str>) -> Value {
    json!({"room": room, "kind": "member", "body": {"user": user, "role": role, "visible_from": 0}})
}

async fn keep(mut lease: Lease) {
    while lease.renew().await.unwrap_or(false) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

impl Bridge {
    /// Starts a bridge and waits until it is ready.
    pub(crate) async fn start(nats: &Nats, caps: Caps) -> Self {
        let bridge = Self::start_unready(nats, caps).await;
        bridge.ready.clone().wait_for(|ready| *ready).await.unwrap();
        bridge
    }

    pub(crate) async fn start_unready(nats: &Nats, caps: Caps) -> Self {
        Self::start_behind(nats, caps, Proxies::default()).await
    }

    /// The same behind proxies that it trusts.
    pub(crate) async fn start_behind(nats: &Nats, caps: Caps, proxies: Proxies) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::load_or_create(folder.path()).unwrap();
        let config = BridgeConfig {
            limits: std::sync::Arc::default(),
            tenant: "main".parse().unwrap(),
            worker: "bridge-test".parse().unwrap(),
            nats: nats.login(KeyName::Bridge, "bridge"),
            log: Log::first(Subjects::default()),
            verifier: Arc::new(Verifier::new(&issuer.public_pem()).unwrap()),
            cursor_key: [7; 32],
            replicas: 1,
            origins: Vec::new(),
            tls: None,
            proxies,
            log_requests: false,
            caps,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (told, ready) = watch::channel(false);
        let running = tokio::spawn(natterjack_bridge::run(config, listener, stop.clone(), told));
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        let bridge = Self {
            address,
            stop,
            ready,
            running,
            http,
            issuer,
            _keys: folder,
        };
        let live = async || bridge.get("/livez", "").await.status.is_success().then_some(());
        until("the bridge serves", live).await;
        bridge
    }

    pub(crate) fn token(&self, user: &str) -> String {
        self.token_for(user, Duration::from_mins(10))
    }

    pub(crate) fn token_for(&self, user: &str, ttl: Duration) -> String {
        let who = Principal {
            tenant: "main".parse().unwrap(),
            user: user.parse().unwrap(),
        };
        self.issuer.issue(&who, ttl, clock::now_ms()).unwrap()
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Reply {
        self.ask(Ask {
            path,
            token: Some(token),
            ..Ask::default()
        })
        .await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> Reply {
        let (token, body) = (Some(token), body.to_string().into_bytes());
        self.ask(Ask {
            method: Method::POST,
            path,
            token,
            body,
            ..Ask::default()
        })
        .await
    }

    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Reply {
        let mut request = http::Request::builder()
            .method(ask.method)
            .uri(format!("http://{}{}", self.address, ask.path));
        if let Some(token) = ask.token.filter(|token| !token.is_empty()) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in ask.headers {
            request = request.header(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let request = request.body(Full::new(Bytes::from(ask.body))).unwrap();
        let answer = tokio::time::timeout(LIMIT, self.http.request(request))
            .await
            .expect("no answer")
            .unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            bytes,
        }
    }

    /// Waits until so many polls are parked.
    pub(crate) async fn parked(&self, count: usize) {
        let line = format!("natterjack_used{{queue=\"parked_polls\"}} {count}\n");
        let is_said = async || {
            let metrics = self.get("/metrics", "").await.bytes;
            String::from_utf8_lossy(&metrics).contains(&line).then_some(())
        };
        until(&format!("{count} polls are parked"), is_said).await;
    }

    /// Stops it and waits until it has stopped.
    pub(crate) async fn shutdown(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.running)
            .await
            .expect("it does not stop")
            .unwrap()
            .unwrap();
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The code of what must be a well-formed problem.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16(), "{json}");
        assert_eq!(json["request_id"], self.header("x-request-id"), "{json}");
        assert!(!json["detail"].as_str().unwrap().is_empty(), "{json}");
        assert_eq!(self.header("cache-control"), "no-store");
        let waits = matches!(self.status.as_u16(), 429 | 503);
        assert_eq!(self.headers.contains_key("retry-after"), waits, "{self:?}");
        assert_eq!(
            self.headers.contains_key("www-authenticate"),
            self.status.as_u16() == 401,
            "{self:?}"
        );
        json["code"].as_str().unwrap().to_owned()
    }

    /// The places of the events in a poll's answer.
    pub(crate) fn seqs(&self) -> Vec<u64> {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.json()["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect()
    }

    pub(crate) fn cursor(&self) -> String {
        self.json()["cursor"].as_str().unwrap().to_owned()
    }
}
