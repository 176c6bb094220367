//! The commands, as a person uses them.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::events::{assert_unbroken, parse, texts};
use crate::support::house::{Endpoints, House, natterjack};
use crate::support::http::Http;
use crate::support::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn token_prints_a_jwt_and_nothing_else() {
    let mut house = House::start().await;
    let output = house.command(&["token", "--user", "alice"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let token = text.strip_suffix('\n').unwrap();
    let is_base64 =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    assert!(
        token.split('.').count() == 3 && token.split('.').all(is_base64),
        "{text:?}"
    );
    let me = Http::new(&house.endpoints.http, Some(token)).get("/v1/me").await.ok();
    assert_eq!((&me["tenant"], &me["user"]), (&json!("main"), &json!("alice")), "{me}");
    assert!(
        (3500..=3600).contains(&me["expires_in"].as_u64().unwrap()),
        "an hour: {me}"
    );
    let short = house.run(&["token", "--user", "alice", "--ttl", "90s"]);
    let me = Http::new(&house.endpoints.http, Some(short.trim()))
        .get("/v1/me")
        .await
        .ok();
    assert!((1..=90).contains(&me["expires_in"].as_u64().unwrap()), "{me}");

    // It needs no running house, and no network.
    house.stop();
    let token = house.token("alice");
    house.restart().await;
    Http::new(&house.endpoints.http, Some(&token)).get("/v1/me").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_made_and_peopled_from_the_shell() {
    let house = House::start().await;
    let as_alice = |arguments: &[&str]| house.run(&[arguments, &["--user", "alice"]].concat());
    as_alice(&["room", "create", "lobby", "--title", "Die Lobby ✓"]);
    as_alice(&["room", "create", "attic"]);
    as_alice(&["room", "add", "lobby", "bob"]);
    as_alice(&["room", "add", "lobby", "dev1", "--role", "device"]);
    let list = as_alice(&["room", "list"]);
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows, [["attic", "owner", ""], ["lobby", "owner", "Die Lobby ✓"]]);
    assert_eq!(
        house.run(&["room", "list", "--user", "bob"]),
        "lobby\tmember\tDie Lobby ✓\n"
    );
    as_alice(&["room", "remove", "lobby", "bob"]);
    assert_eq!(house.run(&["room", "list", "--user", "bob"]), "");
    assert!(
        house
            .refused(&["send", "lobby", "hello", "--user", "bob"])
            .contains("not-found")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_sent_and_looked_up_from_the_shell() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let start = house.run(&["tail", "--no-follow", "--print-cursor", "--user", "bob"]);
    let cursor = start.trim().strip_prefix("cursor: ").unwrap();
    let send = |arguments: &[&str]| parse(&house.run(&[&["send", "lobby", "--user", "alice"], arguments].concat()));
    assert_eq!(send(&["hello"])["duplicate"], false);
    send(&["--json", r#"{"text":"as JSON","n":1}"#]);
    for duplicate in [false, true] {
        assert_eq!(send(&["with a key", "--key", "k1"])["duplicate"], duplicate);
    }
    pipe(&house, &["send", "lobby", "-", "--user", "alice"], "two\nlines\n");

    let json = |arguments: &[&str]| -> Vec<String> {
        house
            .run(&[arguments, &["--json", "--user", "bob"]].concat())
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let lines = json(&["tail", "--no-follow", "--cursor", cursor]);
    assert_unbroken(&lines);
    assert_eq!(texts(&lines), ["hello", "as JSON", "with a key", "two\nlines"]);
    house
        .history("bob", "lobby", parse(lines.last().unwrap())["seq"].as_u64().unwrap())
        .await;
    assert_eq!(json(&["history", "lobby", "--limit", "200"]), lines);
    let first = house.run(&["history", "lobby", "--limit", "1", "--after", "1", "--user", "bob"]);
    assert!(first.lines().next().unwrap().ends_with("alice: hello"), "{first}");
    assert!(first.lines().nth(1).unwrap().contains("more: --after"), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_followed_from_the_shell() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let mut follower = tokio::process::Command::from(natterjack());
    follower
        .args(["tail", "lobby", "--user", "bob", "--data"])
        .arg(house.data());
    let mut follower = follower.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut first = std::pin::pin!(lines.next_line());
    // It follows from the moment when its first request arrives, which nothing tells: so alice goes on talking.
    let line = loop {
        house.http("alice").say("lobby", "two\nlines").await;
        if let Ok(line) = tokio::time::timeout(Duration::from_millis(300), first.as_mut()).await {
            break line.unwrap().expect("tail goes on");
        }
    };
    assert!(
        line.contains(" lobby ") && line.ends_with(r" alice: two\nlines"),
        "{line}"
    );
    follower.kill().await.unwrap();
}

/// Runs a command with something on its standard input.
fn pipe(house: &House, arguments: &[&str], input: &str) {
    let mut command = natterjack();
    command
        .args(arguments)
        .arg("--data")
        .arg(house.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_can_be_looked_at() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    house.http("alice").say("lobby", "hello").await;
    let log = house.log();
    let kinds: Vec<(String, String)> = log
        .iter()
        .map(|line| parse(line))
        .map(|event| {
            (
                event["room"].as_str().unwrap().to_owned(),
                event["kind"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("_", "user"),
        ("lobby", "room"),
        ("lobby", "member"),
        ("lobby", "member"),
        ("lobby", "msg"),
    ];
    assert_eq!(kinds, expected.map(|(room, kind)| (room.to_owned(), kind.to_owned())));
    let last = parse(log.last().unwrap())["seq"].as_u64().unwrap();
    let from = house.run(&["log", "view", "--from", &(last >> 10).to_string(), "--frames"]);
    assert_eq!(from.lines().count(), 2, "{from}");
    assert!(
        from.starts_with("# frame ") && from.ends_with(&format!("{}\n", log.last().unwrap())),
        "{from}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_up_prints_can_be_copied_and_works() {
    let house = House::start().await;
    let printed = eventually("it says that it is ready", async || {
        Some(house.printed()).filter(|printed| printed.contains("Ctrl-C"))
    })
    .await;
    let Endpoints {
        http, nats, ws, mqtt, ..
    } = &house.endpoints;
    for address in [http, nats, ws, mqtt] {
        assert!(printed.contains(address), "{address} is not in: {printed}");
    }
    let lines = |start: &str| {
        printed
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with(start))
            .collect::<Vec<_>>()
    };
    let (token, curls) = (lines("TOKEN="), lines("curl "));
    assert_eq!((token.len(), curls.len()), (1, 3), "{printed}");
    let mut script = vec!["set -eu", token[0]];
    script.extend(&curls);
    let output = tokio::time::timeout(
        DEADLINE,
        tokio::process::Command::new("sh")
            .arg("-c")
            .arg(script.join("\n"))
            .output(),
    );
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "are sh and curl installed? {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answers: Vec<Value> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(answers.len(), 3, "{text}");
    assert_eq!(
        answers[2]["events"].as_array().unwrap().last().unwrap()["body"]["text"],
        "hello",
        "{text}"
    );
}

#[test]
fn settings_are_shown() {
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let default = run(natterjack().args(["config", "--default"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &default).unwrap();
    let shown = run(natterjack().arg("config").arg("--config").arg(file.path()));
    assert_eq!(
        run(natterjack().arg("config")),
        shown,
        "the default file says what is the default"
    );
    let changed = run(natterjack().arg("config").env("NATTERJACK_LISTEN__HTTP", "127.0.0.1:1"));
    assert!(changed.contains("http = \"127.0.0.1:1\""), "{changed}");
    run(natterjack().arg("--help"));
    run(natterjack().arg("--version"));
}
