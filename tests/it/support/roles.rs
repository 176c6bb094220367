use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use async_nats::Client;
use natterjack_nats_config::client::{Login, connect};
use natterjack_nats_config::contract::Subjects;
use natterjack_nats_config::local_server::{KeyName, Keys, LocalServer, ServerBinary, ServerConfig, Tool, add_tool};
use natterjack_nats_config::tail::Log;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::house::{ended, natterjack, signal};
use super::http::Http;
use super::nats::Nats;
use super::script::Script;
use super::{DEADLINE, eventually, tools};

/// A nats-server with the roles authz and store as processes of their own, so that a store can be killed alone.
pub(crate) struct Roles {
    dir: TempDir,
    keys: Keys,
    server: LocalServer,
    /// The archive of the stores; without one, a file in the data folder.
    database: Option<String>,
    children: Vec<Child>,
}

impl Roles {
    /// Starts the server and authz; stores are started one by one.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with accounts for tools.
    pub(crate) async fn start_with(tools_let_in: &[Tool]) -> Self {
        let dir = tempfile::Builder::new().prefix("natterjack-it-").tempdir().unwrap();
        let data = dir.path().join("data");
        // Makes all keys.
        let printed = natterjack()
            .args(["nats", "config", "--data"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        for tool in tools_let_in {
            add_tool(&data.join("nats"), tool).unwrap();
        }
        let keys = Keys::load_or_create(&data.join("keys")).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig {
            server_name: "roles".parse().unwrap(),
            prefix: "chat".parse().unwrap(),
            nats: any,
            websocket: any,
            mqtt: any,
            dir: data.join("nats"),
            max_store: 16 << 30,
            cluster: None,
            tls: None,
        };
        let binary = ServerBinary::check(tools::nats_server().as_ref()).await.unwrap();
        let server = LocalServer::start(&binary, config, &keys).await.unwrap();
        let mut roles = Self {
            dir,
            keys,
            server,
            database: None,
            children: Vec::new(),
        };
        roles.role("authz");
        roles
    }

    /// The same, with a database that the stores share.
    pub(crate) fn on_database(mut self, url: &str) -> Self {
        self.database = Some(url.to_owned());
        self
    }

    /// Runs a command beside the roles and gives what it prints; `None` if it fails.
    pub(crate) fn run(&self, arguments: &[&str]) -> Option<String> {
        let mut command = natterjack();
        command.args(arguments).arg("--data").arg(self.data());
        command.args(["--nats-url", &self.nats_url()]);
        command.args(self.database.iter().flat_map(|url| ["--database", url]));
        let output = command.output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(printed)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn mqtt_url(&self) -> String {
        self.server.endpoints().mqtt_url()
    }

    pub(crate) fn websocket_url(&self) -> String {
        self.server.endpoints().websocket_url()
    }

    pub(crate) fn nats_url(&self) -> String {
        self.server.endpoints().nats_url()
    }

    /// Starts another authz worker.
    pub(crate) fn authz_more(&mut self) -> u32 {
        self.role("authz")
    }

    /// Starts a store; its number kills it.
    pub(crate) fn store(&mut self) -> u32 {
        self.role("store")
    }

    /// That with settings, as environment variables.
    pub(crate) fn store_set(&mut self, settings: &[(&str, &str)]) -> u32 {
        self.role_with("store", settings)
    }

    /// Starts a bridge that listens on a port; its number kills it.
    pub(crate) fn bridge(&mut self, port: u16) -> u32 {
        self.role_with("bridge", &[("NATTERJACK_LISTEN__HTTP", &format!("127.0.0.1:{port}"))])
    }

    /// With a store, and two bridges that are ready: their ports, and their numbers.
    pub(crate) async fn with_two_bridges() -> (Self, [u16; 2], [u32; 2]) {
        let mut roles = Self::start().await;
        roles.store();
        let ports = [free_port(), free_port()];
        let pids = ports.map(|port| roles.bridge(port));
        for port in ports {
            is_ready(&roles.http(port, "alice")).await;
        }
        (roles, ports, pids)
    }

    /// A user over HTTP, at the bridge on this port.
    pub(crate) fn http(&self, port: u16, user: &str) -> Http {
        Http::new(&format!("http://127.0.0.1:{port}"), Some(&self.token(user)))
    }

    fn role(&mut self, role: &str) -> u32 {
        self.role_with(role, &[])
    }

    fn role_with(&mut self, role: &str, settings: &[(&str, &str)]) -> u32 {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("roles.log"))
            .unwrap();
        let database = self.database.iter().filter(|_| role == "store");
        let child = natterjack()
            .arg(role)
            .args(database.flat_map(|url| ["--database", url]))
            .arg("--data")
            .arg(self.data())
            .arg("--nats-url")
            .arg(self.nats_url())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// The process id of the first authz worker.
    pub(crate) fn authz(&self) -> u32 {
        self.children.first().expect("authz was started first").id()
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill(&mut self, pid: u32) {
        let mut child = self.take(pid);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn stop(&mut self, pid: u32) {
        let mut child = self.take(pid);
        signal(pid, Signal::TERM);
        let status = tokio::task::block_in_place(|| ended(&mut child, DEADLINE));
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }

    /// A process that its caller ends.
    fn take(&mut self, pid: u32) -> Child {
        let place = self.children.iter().position(|child| child.id() == pid).unwrap();
        self.children.remove(place)
    }

    pub(crate) fn token(&self, user: &str) -> String {
        let made = natterjack()
            .args(["token", "--user", user, "--data"])
            .arg(self.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    /// A user over NATS. (Until authz answers, connections are refused.)
    pub(crate) async fn nats(&self, user: &str) -> Nats {
        let token = self.token(user);
        let nats = eventually("authz lets users in", async || {
            Nats::connect(&self.nats_url(), user, &token).await.ok()
        })
        .await;
        nats.happened
            .wait("signed in", |all| {
                all.iter().any(|line| line == "connected").then_some(())
            })
            .await;
        nats
    }

    /// A device over MQTT, by paho-mqtt.
    pub(crate) async fn paho(&self, user: &str, clean: bool) -> Script {
        Script::paho_session(&self.mqtt_url(), user, &self.token(user), clean)
            .await
            .unwrap()
    }

    /// The worker `store`, to look into streams.
    pub(crate) async fn core(&self) -> Client {
        let login = Login {
            url: self.nats_url(),
            role: "store",
            seed: self.keys.seed(KeyName::Store).clone(),
        };
        connect(&login).await.unwrap()
    }

    /// Every event's line of a room, as the log has it.
    pub(crate) async fn log(&self, room: &str) -> Vec<String> {
        let client = self.core().await;
        let log = Log::first(Subjects::default());
        let end = log.end(&client).await.unwrap();
        let mut tail = log.tail(&client, 0);
        let mut lines = Vec::new();
        while tail.passed() < end {
            let frame = tokio::time::timeout(DEADLINE, tail.next()).await.unwrap().unwrap();
            let of_room = frame.events.iter().filter(|line| line.event.room.as_str() == room);
            lines.extend(of_room.map(|line| String::from_utf8(line.bytes.to_vec()).unwrap()));
        }
        lines
    }

    /// Makes a room that a user owns, with members.
    pub(crate) async fn room(&self, owner: &Nats, room: &str, members: &[(&str, &str)]) {
        change(owner, room, "room", json!({"title": room})).await;
        for (user, role) in members {
            change(owner, room, "member", json!({"user": user, "role": role})).await;
        }
    }

    fn logs(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("roles.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }
}

/// Asks for a change until there is a receipt: the asker's own connection may be renewed meanwhile.
pub(crate) async fn change(who: &Nats, room: &str, kind: &str, body: Value) -> Value {
    let key = uuid();
    let payload = json!({"body": body, "key": key});
    eventually("a receipt", async || {
        let answer = who.ask(room, kind, &payload).await?;
        let is_final = answer["seq"].is_u64() || answer["retryable"] == false;
        is_final.then_some(answer)
    })
    .await
}

/// Waits until a bridge can do its work.
pub(crate) async fn is_ready(bridge: &Http) {
    eventually("a bridge is ready", async || {
        let answer = bridge
            .try_call(hyper::Method::GET, "/readyz", &[], bytes::Bytes::new())
            .await
            .ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// A port on which nothing listens; whoever takes it may be asked to leave it and take it again.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A key that nobody else uses.
pub(crate) fn uuid() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Drop for Roles {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for child in &mut self.children {
            signal(child.id(), Signal::TERM);
            if ended(child, DEADLINE).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
