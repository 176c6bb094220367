use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Http;
use super::mqtt::Mqtt;
use super::nats::Nats;
use super::script::Script;
use super::{eventually, tools};

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(90);
/// How long a clean stop may take: every role's drain and the server's own stop.
const STOP: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running `natterjack up` in a folder of its own. Dropping it stops it and looks that nothing stays behind.
pub(crate) struct House {
    dir: TempDir,
    child: Option<Child>,
    /// How many nats-servers it has.
    servers: usize,
    /// Settings that are not the default's, as environment variables.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// The archive's database; without one it is a file in the data folder.
    pub(crate) database: Option<String>,
    pub(crate) endpoints: Endpoints,
}

/// Where a house listens.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Endpoints {
    pub(crate) http: String,
    pub(crate) nats: String,
    pub(crate) nats_urls: Vec<String>,
    pub(crate) ws: String,
    pub(crate) mqtt: String,
}

impl House {
    /// Starts a house on an empty folder and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::with(1, Vec::new(), None).await
    }

    /// The same with the archive in a database on a server.
    pub(crate) async fn start_on(database: &str) -> Self {
        Self::with(1, Vec::new(), Some(database.to_owned())).await
    }

    /// The same with settings, as environment variables.
    pub(crate) async fn start_with<V: Into<String>>(settings: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        let settings = settings.into_iter().map(|(name, value)| (name, value.into()));
        Self::with(1, settings.collect(), None).await
    }

    /// The same with a cluster of three nats-servers.
    pub(crate) async fn cluster() -> Self {
        Self::cluster_set(Vec::new()).await
    }

    /// That with settings, as environment variables.
    pub(crate) async fn cluster_set(settings: Vec<(&'static str, String)>) -> Self {
        Self::with(3, settings, None).await
    }

    async fn with(servers: usize, settings: Vec<(&'static str, String)>, database: Option<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("natterjack-it-").tempdir().unwrap();
        let mut house = Self {
            dir,
            child: None,
            servers,
            settings,
            database,
            endpoints: Endpoints::default(),
        };
        house.restart().await;
        house
    }

    /// Starts it again on the same folder; the ports may be others.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        let _ = fs::remove_file(self.endpoints_file());
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let out = fs::File::create(self.dir.path().join("up.out")).unwrap();
        let mut up = up(&self.data());
        up.envs(self.settings.iter().map(|(name, value)| (name, value)));
        if let Some(database) = &self.database {
            up.args(["--database", database]);
        }
        if self.servers > 1 {
            up.args([
                "--cluster",
                &self.servers.to_string(),
                "--cluster-listen",
                "127.0.0.1:0",
            ]);
        }
        let child = up.stdin(Stdio::null()).stdout(out).stderr(log).spawn().unwrap();
        let child = self.child.insert(child);
        let file = self.dir.path().join("data/endpoints.json");
        let until = Instant::now() + START;
        let text = loop {
            if let Ok(text) = fs::read_to_string(&file) {
                break text;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("`natterjack up` ended with {status}\n{}", self.logs());
            }
            assert!(Instant::now() < until, "not ready within {START:?}\n{}", self.logs());
            tokio::time::sleep(LOOK_EVERY).await;
        };
        self.endpoints = serde_json::from_str(&text).unwrap();
    }

    /// Asks it to stop, as Ctrl-C does, and waits for that.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), Signal::INT);
        ended(&mut child, STOP).unwrap_or_else(|| {
            let _ = child.kill();
            panic!("it did not stop within {STOP:?}\n{}", self.logs())
        })
    }

    /// `kill -9` of everything: the process itself, then its nats-servers.
    pub(crate) fn kill_everything(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let running: Vec<u32> = (0..self.servers)
            .map(|index| self.server_pid_of(index).expect("its nats-server runs"))
            .collect();
        child.kill().unwrap();
        for pid in running {
            signal(pid, Signal::KILL);
        }
        child.wait().unwrap();
        let until = Instant::now() + STOP;
        while self.running_server().is_some() {
            assert!(Instant::now() < until, "nats-server survived a kill");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Its own process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Where its HTTP door is: `host:port`.
    pub(crate) fn address(&self) -> String {
        self.endpoints.http.strip_prefix("http://").unwrap().to_owned()
    }

    /// The memory that its own process has, in bytes; `None` where there is no `/proc`.
    pub(crate) fn memory(&self) -> Option<usize> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<usize>().unwrap() * 1024)
    }

    /// The process id of its (first) nats-server, while that runs.
    pub(crate) fn server_pid(&self) -> Option<u32> {
        self.server_pid_of(0)
    }

    /// The process id of one of its nats-servers, counted from 0, while that runs.
    pub(crate) fn server_pid_of(&self, index: usize) -> Option<u32> {
        let dir = self.server_dir(index);
        let pid = fs::read_to_string(dir.join("nats-server.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let config = dir.join("nats-server.conf");
        command_line(pid).contains(&*config.to_string_lossy()).then_some(pid)
    }

    /// The folder of one of its nats-servers, counted from 0.
    pub(crate) fn server_dir(&self, index: usize) -> PathBuf {
        let nats = self.data().join("nats");
        if self.servers > 1 {
            nats.join(format!("n{}", index + 1))
        } else {
            nats
        }
    }

    fn running_server(&self) -> Option<u32> {
        (0..self.servers).find_map(|index| self.server_pid_of(index))
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn endpoints_file(&self) -> PathBuf {
        self.data().join("endpoints.json")
    }

    /// What it printed for people.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.dir.path().join("up.out")).unwrap()
    }

    /// Where it logs to.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.path().join("up.log")
    }

    fn logs(&self) -> String {
        let own = last_lines(&self.log_file());
        let mut all = format!("--- natterjack\n{own}");
        for index in 0..self.servers {
            let log = self.server_dir(index).join("nats-server.log");
            all.extend(["\n--- ", &*log.to_string_lossy(), "\n", &last_lines(&log)]);
        }
        all
    }

    /// Runs a command on this folder, as a person would in a shell.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        natterjack()
            .args(arguments)
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed and gives what it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "natterjack {arguments:?}: {}\n{text}{error}",
            output.status
        );
        text
    }

    /// A token for a user of tenant `main`.
    pub(crate) fn token(&self, user: &str) -> String {
        self.run(&["token", "--user", user]).trim().to_owned()
    }

    /// The whole log: every event's exact line.
    pub(crate) fn log(&self) -> Vec<String> {
        self.run(&["log", "view"]).lines().map(str::to_owned).collect()
    }

    /// The messages in the log: every exact line of kind `msg`.
    pub(crate) fn messages(&self) -> Vec<String> {
        let is_message = |line: &String| super::events::parse(line)["kind"] == "msg";
        self.log().into_iter().filter(is_message).collect()
    }

    /// A user over HTTP.
    pub(crate) fn http(&self, user: &str) -> Http {
        Http::new(&self.endpoints.http, Some(&self.token(user)))
    }

    /// A user over NATS.
    pub(crate) async fn nats(&self, user: &str) -> Nats {
        Nats::connect(&self.endpoints.nats, user, &self.token(user))
            .await
            .unwrap()
    }

    /// A user over WebSocket, by nats-py.
    pub(crate) async fn websocket(&self, user: &str) -> Script {
        Script::websocket(&self.endpoints.ws, user, &self.token(user))
            .await
            .unwrap()
    }

    /// A user over MQTT, by paho-mqtt.
    pub(crate) async fn paho(&self, user: &str) -> Script {
        Script::paho(&self.endpoints.mqtt, user, &self.token(user))
            .await
            .unwrap()
    }

    /// A user over MQTT, by rumqttc.
    pub(crate) async fn mqtt(&self, user: &str) -> Mqtt {
        Mqtt::connect(&self.endpoints.mqtt, &format!("main:{user}"), user, &self.token(user))
            .await
            .unwrap()
    }

    /// Makes a room that alice owns, with members, and waits until all of it is known.
    pub(crate) async fn room(&self, room: &str, members: &[(&str, &str)]) {
        let alice = self.http("alice");
        alice
            .put(&format!("/v1/rooms/{room}"), &json!({"title": room}))
            .await
            .created();
        for (user, role) in members {
            let answer = alice
                .put(&format!("/v1/rooms/{room}/members/{user}"), &json!({"role": role}))
                .await
                .ok();
            assert_eq!(answer["state"], "done", "{answer}");
        }
    }

    /// Waits until a room's history, as a member gets it, has a message of this sequence or a later one.
    pub(crate) async fn archived(&self, user: &str, room: &str, up_to: u64) {
        let http = self.http(user);
        let path = format!("/v1/rooms/{room}/messages?limit=1");
        eventually("the archive has the message", async || {
            let page = http.get(&path).await;
            // While its database is away, history says so.
            let page = (page.status != 503).then(|| page.ok())?;
            page["messages"][0]["seq"].as_u64().filter(|last| *last >= up_to)
        })
        .await;
    }

    /// A room's whole history as a member gets it, once the archive has a message of this sequence; exact lines.
    pub(crate) async fn history(&self, user: &str, room: &str, up_to: u64) -> Vec<String> {
        let http = self.http(user);
        let path = format!("/v1/rooms/{room}/messages");
        self.archived(user, room, up_to).await;
        let (mut lines, mut after) = (Vec::new(), 0);
        loop {
            let page = http.get(&format!("{path}?limit=100&after={after}")).await;
            lines.extend(page.lines("messages"));
            match page.ok()["next"].as_u64() {
                Some(next) => after = next,
                None => return lines,
            }
        }
    }

    /// The problem that a refused command prints: exit code not zero, nothing on standard output.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        refusal(&self.command(arguments))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let Some(mut child) = self.child.take() else { return };
        signal(child.id(), Signal::TERM);
        if ended(&mut child, STOP).is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(left) = self.running_server() {
            signal(left, Signal::KILL);
            assert!(std::thread::panicking(), "a nats-server was left behind");
        }
    }
}

/// The program under test, without the settings of whoever runs the tests.
pub(crate) fn natterjack() -> Command {
    // For figures: the tests as they are, the program optimized.
    let program = std::env::var_os("TEST_NATTERJACK").unwrap_or_else(|| env!("CARGO_BIN_EXE_natterjack").into());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NATTERJACK_")) {
        command.env_remove(name);
    }
    command.env("NATS_SERVER_BIN", tools::nats_server());
    command
}

/// `natterjack up` on a folder, with free ports.
pub(crate) fn up(data: &Path) -> Command {
    let mut command = natterjack();
    command.arg("up").arg("--offline").arg("--data").arg(data);
    for door in ["--http", "--nats", "--ws", "--mqtt"] {
        command.args([door, "127.0.0.1:0"]);
    }
    command
}

/// What a command that must fail says: something on standard error and nothing else.
pub(crate) fn refusal(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code().is_some_and(|code| code != 0),
        "it ended with {}: {error}",
        output.status
    );
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// Waits for a process to end; `None` if it does not in time.
pub(crate) fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a process of this number is alive (and no zombie).
pub(crate) fn is_alive(pid: u32) -> bool {
    id(pid).is_some_and(|pid| test_kill_process(pid).is_ok()) && !command_line(pid).is_empty()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = id(pid) {
        let _ = kill_process(pid, signal);
    }
}

fn id(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// A process's command line; empty if there is none.
fn command_line(pid: u32) -> String {
    if cfg!(target_os = "linux") {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        return String::from_utf8_lossy(&line).replace('\0', " ");
    }
    let ps = Command::new("ps")
        .args(["-ww", "-o", "args=", "-p", &pid.to_string()])
        .output();
    ps.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

fn last_lines(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A receipt's place in the log.
pub(crate) fn seq(receipt: &Value) -> u64 {
    receipt["seq"]
        .as_u64()
        .unwrap_or_else(|| panic!("no receipt: {receipt}"))
}
