use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::{self, Login, Seed};
use crate::contract::Subjects;
use crate::local_server::{Find, KeyName, Keys, LocalServer, LocalServerError, ServerBinary, ServerConfig, find};

/// Far more than anything here takes; only a failure waits that long.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

pub(crate) struct Home {
    pub(crate) dir: TempDir,
    pub(crate) binary: ServerBinary,
    pub(crate) keys: Keys,
}

impl Home {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let binary = find(&Find {
            server_bin: std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from),
            path: std::env::var_os("PATH"),
            data: dir.path(),
            offline: true,
            say: &|_| {},
        })
        .await
        .unwrap();
        let keys = Keys::load_or_create(&dir.path().join("keys")).unwrap();
        Self { dir, binary, keys }
    }

    pub(crate) fn server_dir(&self) -> PathBuf {
        self.dir.path().join("nats")
    }

    pub(crate) fn config(&self) -> ServerConfig {
        let any = "127.0.0.1:0".parse().unwrap();
        ServerConfig {
            server_name: "nj-test".parse().unwrap(),
            prefix: "chat".parse().unwrap(),
            nats: any,
            websocket: any,
            mqtt: any,
            dir: self.server_dir(),
            max_store: 8 << 30,
            cluster: None,
            tls: None,
        }
    }

    pub(crate) async fn start(&self) -> LocalServer {
        self.try_start(self.config()).await.unwrap()
    }

    pub(crate) async fn try_start(&self, config: ServerConfig) -> Result<LocalServer, LocalServerError> {
        LocalServer::start(&self.binary, config, &self.keys).await
    }

    /// A worker, as the workers themselves connect.
    pub(crate) async fn worker(&self, server: &LocalServer, role: &'static str, key: KeyName) -> Client {
        let seed = self.keys.seed(key).clone();
        let url = server.endpoints().nats_url();
        client::connect(&Login { url, role, seed }).await.unwrap()
    }

    pub(crate) async fn store(&self, server: &LocalServer) -> Client {
        self.worker(server, "store", KeyName::Store).await
    }
}

/// A worker whose refusals can be counted.
pub(crate) async fn watched(
    home: &Home,
    server: &LocalServer,
    role: &'static str,
    key: KeyName,
) -> (Client, mpsc::Receiver<String>) {
    let (refusals, heard) = mpsc::channel(64);
    let client = ConnectOptions::with_nkey(home.keys.seed(key).expose().to_owned())
        .custom_inbox_prefix(format!("_INBOX_{role}"))
        .event_callback(move |event| {
            let refusals = refusals.clone();
            async move {
                if let Event::ServerError(error) = event {
                    let _ = refusals.try_send(error.to_string());
                }
            }
        })
        .connect(server.endpoints().nats_url())
        .await
        .unwrap();
    (client, heard)
}

/// All refusals so far: the server judges in order, so they come before the refusal of something that nobody may do.
pub(crate) async fn refusals(client: &Client, heard: &mut mpsc::Receiver<String>) -> Vec<String> {
    client.publish("last.question", "".into()).await.unwrap();
    let mut all = Vec::new();
    loop {
        let one = timeout(LIMIT, heard.recv()).await.unwrap().unwrap();
        if one.contains("last.question") {
            return all;
        }
        all.push(one);
    }
}

/// Denies everybody whom the callout is asked about. (Without any answer, the server takes 5 seconds to refuse.)
pub(crate) async fn deny_everybody(home: &Home, server: &LocalServer) -> Client {
    let (auth, mut heard) = watched(home, server, "auth", KeyName::Auth).await;
    let mut requests = auth.subscribe("$SYS.REQ.USER.AUTH").await.unwrap();
    let answering = auth.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            answering.publish(request.reply.unwrap(), "".into()).await.unwrap();
        }
    });
    assert_eq!(refusals(&auth, &mut heard).await, Vec::<String>::new());
    auth
}

/// Connects with any seed, once.
pub(crate) async fn connect(server: &LocalServer, seed: &str, inbox: &str) -> Result<Client, async_nats::ConnectError> {
    let seed = Seed::parse(seed, "test").unwrap();
    ConnectOptions::with_nkey(seed.expose().to_owned())
        .custom_inbox_prefix(inbox)
        .connect(server.endpoints().nats_url())
        .await
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !so().await {
        assert!(tokio::time::Instant::now() < end, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn kill(pid: u32) {
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

pub(crate) fn alive(pid: u32) -> bool {
    std::process::Command::new("kill")
        .args(["-0", &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
        .success()
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

pub(crate) fn subjects() -> Subjects {
    Subjects::default()
}
