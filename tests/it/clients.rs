//! The clients of `clients/`, as they stand there: each sends, and reads a room without loss or repetition.

use std::fs::{File, read_to_string};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::events::parse;
use crate::support::eventually;
use crate::support::house::House;
use crate::support::tools::{node, python_with_packages, root};

/// A client under way; it is ended when this is dropped.
struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    fn start(mut command: Command, folder: &TempDir, name: &str, token: &str) -> Self {
        let output = folder.path().join(name);
        let child = command
            .env("TOKEN", token)
            .env("KEY", token)
            .env("CURSOR_FILE", folder.path().join("cursor"))
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// Waits until it has printed a line with this.
    async fn prints(&self, what: &str) -> Vec<String> {
        eventually(what, async || {
            let text = read_to_string(&self.output).unwrap();
            let is_there = text.ends_with('\n') && text.contains(what);
            is_there.then(|| text.lines().map(str::to_owned).collect())
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What a shell has started too.
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

fn client(name: &str, url: &str, text: &str) -> Command {
    let file = root().join("clients").join(name);
    let mut command = match name.rsplit('.').next().unwrap() {
        "py" => python_with_packages(),
        "mjs" => node(),
        _ => Command::new("sh"),
    };
    command.arg(file).args([url, "lobby", text]);
    command
}

async fn house() -> House {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    for number in 0..3 {
        house.http("alice").say("lobby", &format!("before {number}")).await;
    }
    house
}

/// The events of the lobby, as JSON.
fn events(house: &House) -> Vec<Value> {
    let events = house.log().into_iter().map(|line| parse(&line));
    events.filter(|event| event["room"] == "lobby").collect()
}

fn parsed(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| parse(line)).collect()
}

/// The messages of the lobby, as the client with curl prints them.
fn as_text(house: &House) -> Vec<String> {
    let messages = house.messages();
    let line = |line: &String| {
        let event = parse(line);
        let text = event["body"]["text"].as_str().unwrap();
        format!("{}\t{}\t{text}", event["seq"], event["from"].as_str().unwrap())
    };
    messages.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_keep_their_cursor_go_on_where_they_were() {
    for name in ["curl.sh", "python.py"] {
        let (house, folder) = (house().await, tempfile::tempdir().unwrap());
        let (alice, token) = (house.http("alice"), house.token("bob"));
        let first = client(name, &house.endpoints.http, "first run {\"'$x");
        let first = Running::start(first, &folder, "first", &token);
        first.prints("first run").await;
        alice.say("lobby", "live").await;
        let before = first.prints("live").await;
        let cursor = folder.path().join("cursor");
        let bob = house.http("bob");
        eventually("its cursor stands behind all of it", async || {
            let cursor = read_to_string(&cursor).ok()?;
            let page = bob.get(&format!("/v1/events?rooms=lobby&wait=0&cursor={cursor}")).await;
            page.lines("events").is_empty().then_some(())
        })
        .await;
        drop(first);
        alice.say("lobby", "meanwhile").await;
        let second = client(name, &house.endpoints.http, "second run");
        let second = Running::start(second, &folder, "second", &token);
        let after = second.prints("second run").await;
        let all = [before, after].concat();
        if name == "curl.sh" {
            assert_eq!(all, as_text(&house));
        } else {
            assert_eq!(parsed(&all), events(&house));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_in_javascript_reads_by_each_way() {
    let (house, folder) = (house().await, tempfile::tempdir().unwrap());
    for way in ["websocket", "sse", "poll"] {
        let mut command = client("javascript.mjs", &house.endpoints.http, way);
        command.arg(way);
        let running = Running::start(command, &folder, way, &house.token("bob"));
        running.prints(&format!("\"text\":\"{way}\"")).await;
        let last = format!("for {way}");
        house.http("alice").say("lobby", &last).await;
        assert_eq!(parsed(&running.prints(&last).await), events(&house), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_in_python_comes_by_a_key_until_that_is_revoked() {
    let (house, folder) = (House::start().await, tempfile::tempdir().unwrap());
    house.room("lobby", &[("dev1", "device")]).await;
    let key = house.run(&["key", "create", "--of", "dev1", "--name", "thermometer"]);
    let device = |name: &str| {
        let (host, port) = house
            .endpoints
            .mqtt
            .strip_prefix("mqtt://")
            .unwrap()
            .rsplit_once(':')
            .unwrap();
        let mut command = python_with_packages();
        command.arg(root().join("clients/device.py"));
        command.args([host, port, "main", "dev1", "lobby", "21.5"]);
        Running::start(command, &folder, name, key.trim())
    };
    let running = device("first");
    running.prints("\"21.5\"").await;
    house.http("alice").say("lobby", "a command").await;
    running.prints("a command").await;
    let id = key.split('_').nth(1).unwrap();
    house.run(&["key", "revoke", id]);
    house.http("alice").say("lobby", "behind its back").await;
    // paho goes on trying; the server lets it in no more.
    eventually("it is refused", async || {
        let log = read_to_string(house.log_file()).unwrap();
        log.contains("no such API key").then_some(())
    })
    .await;
    assert!(!read_to_string(&running.output).unwrap().contains("behind its back"));
}

/// A proxy that ends connections on which it sees one of these requests.
async fn proxy(to: &str, refused: &'static [&'static str]) -> String {
    let to = to.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, to.clone(), refused));
        }
    });
    format!("http://{address}")
}

async fn pass_on(client: TcpStream, to: String, refused: &[&str]) {
    let server = TcpStream::connect(to).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asked = async {
        let mut bytes = vec![0; 65536];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            let text = String::from_utf8_lossy(&bytes[..count]);
            if refused.iter().any(|request| text.starts_with(request))
                || to_server.write_all(&bytes[..count]).await.is_err()
            {
                return;
            }
        }
    };
    let answered = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        () = asked => {}
        _ = answered => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_in_javascript_goes_from_way_to_way() {
    let (house, folder) = (house().await, tempfile::tempdir().unwrap());
    for (name, refused) in [
        ("all pass", &[] as &[&str]),
        ("no sockets", &["GET /v1/ws"]),
        ("no streams", &["GET /v1/ws", "GET /v1/events/stream"]),
    ] {
        let url = proxy(&house.endpoints.http, refused).await;
        let command = client("javascript.mjs", &url, name);
        let running = Running::start(command, &folder, name, &house.token("bob"));
        running.prints(&format!("\"text\":\"{name}\"")).await;
        let last = format!("live, {name}");
        house.http("alice").say("lobby", &last).await;
        assert_eq!(parsed(&running.prints(&last).await), events(&house), "{name}");
    }
}
