//! Bad input gives a clear error, and nothing is lost by it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use async_nats::HeaderMap;
use hyper::Method;
use serde_json::json;

use crate::support::events::{parse, texts};
use crate::support::house::{House, natterjack, refusal, up};

const PATH: &str = "/v1/rooms/lobby/messages";

/// `up` on a folder, with one flag set to another value.
fn up_with(data: &Path, flag: &str, value: &str) -> Command {
    let arguments: Vec<_> = up(data).get_args().map(ToOwned::to_owned).collect();
    let at = arguments.iter().position(|argument| argument == flag).unwrap();
    let mut command = natterjack();
    command.args(&arguments[..=at]).arg(value).args(&arguments[at + 2..]);
    command
}

/// Runs a command that must be refused, saying each of these words.
#[track_caller]
fn is_refused(command: &mut Command, words: &[&str]) {
    let error = refusal(&command.output().unwrap());
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

/// Requests over HTTP that are answered `400 invalid-request`.
const INVALID: &[(&str, &str)] = &[
    ("POST /v1/rooms/lobby/messages", r#"{"body":{"text":"lost"#),
    ("POST /v1/rooms/lobby/messages", ""),
    ("POST /v1/rooms/lobby/messages", "[]"),
    ("POST /v1/rooms/lobby/messages", r#"{"text":"x"}"#),
    ("POST /v1/rooms/lobby/messages", r#"{"key":"","body":1}"#),
    ("POST /v1/rooms/a.b/messages", r#"{"body":1}"#),
    ("POST /v1/rooms/%3E/messages", r#"{"body":1}"#),
    ("POST /v1/rooms/a%20b/messages", r#"{"body":1}"#),
    ("POST /v1/rooms/a%00/messages", r#"{"body":1}"#),
    ("PUT /v1/rooms/_", "{}"),
    ("PUT /v1/rooms/lobby", r#"{"titel":"x"}"#),
    ("PUT /v1/rooms/lobby/members/b.b", r#"{"role":"member"}"#),
    ("PUT /v1/rooms/lobby/members/bob", "{}"),
    ("GET /v1/events?wait=51", ""),
    ("GET /v1/events?wait=x", ""),
    ("GET /v1/events?curser=x", ""),
    ("GET /v1/events?cursor=earliest", ""),
    ("GET /v1/rooms/lobby/messages?limit=201", ""),
    ("GET /v1/rooms/lobby/messages?before=1&after=1", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_over_http_have_the_right_codes() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let alice = house.http("alice");
    alice.say("lobby", "before").await;
    for (request, body) in INVALID {
        eprintln!("{request} {body}");
        let (method, path) = request.split_once(' ').unwrap();
        let answer = alice.call(method.parse().unwrap(), path, &[], (*body).into()).await;
        answer.is_problem(400, "invalid-request");
    }
    let deep = format!("{{\"body\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let answer = alice.call(Method::POST, PATH, &[], deep.into()).await;
    answer.is_problem(400, "invalid-request");
    let message = json!({"body": {"text": "x"}});
    let long = format!("/v1/rooms/{}/messages", "x".repeat(65));
    alice.post(&long, &message).await.is_problem(400, "invalid-request");
    alice
        .post("/v1/rooms/nowhere/messages", &message)
        .await
        .is_problem(404, "not-found");
    alice.get("/v1/nothing").await.is_problem(404, "not-found");
    alice
        .get("/v1/events?cursor=AAAA&wait=0")
        .await
        .is_problem(400, "invalid-cursor");
    alice.delete(PATH).await.is_problem(405, "method-not-allowed");
    let image = [("content-type", "image/png")];
    let answer = alice.call(Method::POST, PATH, &image, message.to_string().into()).await;
    answer.is_problem(415, "unsupported-media-type");
    let megabyte = json!({"body": {"text": "x".repeat(1 << 20)}});
    alice.post(PATH, &megabyte).await.is_problem(413, "too-large");

    alice.say("lobby", "after").await;
    assert_eq!(texts(&house.messages()), ["before", "after"]);
}

/// Requests over NATS that are refused: the subject below `chat.`, the payload, the code.
const REFUSED: &[(&str, &str, &str)] = &[
    ("in.main.alice.lobby.msg", "", "invalid-request"),
    ("in.main.alice.lobby.msg", r#"{"body":1,"from":"x"}"#, "invalid-request"),
    ("in.main.alice.lo@by.msg", r#"{"body":1}"#, "invalid-request"),
    ("in.main.alice.lobby.shout", r#"{"body":1}"#, "invalid-request"),
    ("in.main.alice.lobby.msg.more", r#"{"body":1}"#, "invalid-request"),
    ("in.main.alice.nowhere.msg", r#"{"body":1}"#, "not-found"),
    ("api.main.alice.events.get", "{", "invalid-request"),
    ("api.main.alice.events.get", r#"{"wait":51}"#, "invalid-request"),
    ("api.main.alice.history.get", r#"{"room":"a.b"}"#, "invalid-request"),
    ("api.main.alice.history.get", r#"{"room":"nowhere"}"#, "not-found"),
];

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_over_nats_and_mqtt_have_the_same_codes() {
    let house = House::start().await;
    house.room("lobby", &[("dev1", "device")]).await;
    let alice = house.nats("alice").await;
    alice.say("lobby", "before").await;
    let big = json!({"body": {"text": "x".repeat(200 << 10)}}).to_string();
    let too_large = ("in.main.alice.lobby.msg", big.as_str(), "too-large");
    for (subject, payload, code) in REFUSED.iter().chain([&too_large]) {
        let subject = format!("chat.{subject}");
        let asked = alice.request(&subject, (*payload).to_owned(), HeaderMap::new());
        let answer = asked.await.unwrap();
        let problem = crate::support::nats::parse(&answer);
        assert_eq!(problem["code"], *code, "{subject}: {problem}");
        let headers = answer.headers.unwrap();
        let status = headers.get("Nats-Service-Error-Code").unwrap().as_str().to_owned();
        assert_eq!(status, problem["status"].to_string());
        assert!(headers.get("Nats-Service-Error").is_some());
    }
    let dev1 = house.mqtt("dev1").await;
    assert!(dev1.subscribe("chat/user/main/dev1").await);
    dev1.publish("chat/in/main/dev1/nowhere/msg", "x").await;
    let notice = dev1
        .mail
        .wait("a notice", |got| Some(got.first()?.payload.clone()))
        .await;
    assert_eq!(parse(std::str::from_utf8(&notice).unwrap())["code"], "not-found");

    alice.say("lobby", "after").await;
    assert_eq!(texts(&house.messages()), ["before", "after"]);
}

#[test]
fn an_unknown_setting_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("natterjack.toml");
    fs::write(&file, "[listen]\nhtpp = \"127.0.0.1:1\"\n").unwrap();
    is_refused(up(&data).arg("--config").arg(&file), &["htpp", "natterjack.toml"]);
    is_refused(up(&data).env("NATTERJACK_LISTEN__HTPP", "127.0.0.1:1"), &["htpp"]);
    is_refused(up(&data).arg("--htpp").arg("127.0.0.1:1"), &["--htpp"]);
    fs::write(&file, "tenant = \"a.b\"\n").unwrap();
    is_refused(up(&data).arg("--config").arg(&file), &["tenant"]);
    fs::write(&file, "tenant = \n").unwrap();
    is_refused(up(&data).arg("--config").arg(&file), &["natterjack.toml"]);
    is_refused(
        up(&data).arg("--config").arg(dir.path().join("absent.toml")),
        &["absent.toml"],
    );
    is_refused(&mut up_with(&data, "--http", "0.0.0.0:0"), &["--insecure", "0.0.0.0"]);
    is_refused(&mut up_with(&data, "--http", "somewhere"), &["somewhere"]);
    assert!(!data.exists(), "a configuration is judged before anything is made");
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for flag in ["--http", "--nats", "--ws", "--mqtt"] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        is_refused(&mut up_with(&dir.path().join("data"), flag, &address), &[&address]);
    }
    assert!(!dir.path().join("data/endpoints.json").exists());
}

#[test]
fn a_data_folder_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("occupied");
    fs::write(&file, "not a folder").unwrap();
    // The tests may run as root, whom no permission bits stop: a file in the way stops everybody.
    is_refused(&mut up(&file), &["occupied"]);
    is_refused(&mut up(&file.join("below")), &["occupied"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a folder");
    is_refused(
        natterjack()
            .args(["token", "--user", "alice", "--data"])
            .arg(dir.path()),
        &["natterjack up"],
    );
    is_refused(
        natterjack().args(["room", "list", "--data"]).arg(dir.path()),
        &["natterjack up"],
    );
}

#[test]
fn an_unusable_nats_server_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let fake = dir.path().join("nats-server");
    let script = |text: &str| {
        fs::write(&fake, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("echo 'nats-server: v2.10.0'");
    is_refused(up(&data).env("NATS_SERVER_BIN", &fake), &["2.10.0", "2.15.0"]);
    script("echo 'something else'; exit 3");
    is_refused(
        up(&data).env("NATS_SERVER_BIN", &fake),
        &["nats-server", "something else"],
    );
    is_refused(up(&data).env("NATS_SERVER_BIN", dir.path().join("absent")), &["absent"]);
    // Without one, and with --offline, it says how to get one.
    script("echo 'nats-server: v2.10.0'");
    let nowhere = up(&data)
        .env_remove("NATS_SERVER_BIN")
        .env("PATH", dir.path())
        .output()
        .unwrap();
    let error = refusal(&nowhere);
    for word in ["2.10.0", "NATS_SERVER_BIN", "PATH", "offline", "pip"] {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_up_on_the_same_folder_is_refused_and_disturbs_nothing() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let alice = house.http("alice");
    alice.say("lobby", "before").await;
    let endpoints = fs::read_to_string(house.endpoints_file()).unwrap();
    let server = house.server_pid();
    is_refused(&mut up(&house.data()), &["another natterjack", "--data"]);
    assert_eq!(fs::read_to_string(house.endpoints_file()).unwrap(), endpoints);
    assert_eq!(house.server_pid(), server);
    alice.say("lobby", "after").await;
    assert_eq!(texts(&house.log()), ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_commands_say_what_is_wrong() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    for (arguments, word) in [
        (&["send", "nowhere", "hello", "--user", "alice"][..], "not-found"),
        (&["send", "lobby", "hello", "--user", "erin"], "not-found"),
        (&["send", "lo.by", "hello"], "character"),
        (&["send", "lobby", "{", "--json", "--user", "alice"], "JSON"),
        (&["history", "nowhere"], "not-found"),
        (&["history", "lobby", "--user", "erin"], "not-found"),
        (&["history", "lobby", "--limit", "0"], "--limit"),
        (&["tail", "nowhere", "--no-follow"], "not-found"),
        (
            &["tail", "lobby", "--no-follow", "--cursor", "x", "--user", "alice"],
            "invalid-cursor",
        ),
        (&["room", "add", "nowhere", "bob"], "not-found"),
        (&["room", "add", "lobby", "bob", "--role", "emperor"], "emperor"),
        (&["room", "remove", "lobby", "nobody", "--user", "alice"], "nobody"),
        (&["room", "create", "a b"], "character"),
        (&["token", "--user", "a.b"], "character"),
        (&["token", "--user", "alice", "--ttl", "soon"], "1h"),
        (&["token"], "--user"),
        (&["history", "lobby", "--token", "nonsense"], "token-invalid"),
        (
            &["history", "lobby", "--url", "http://127.0.0.1:1", "--user", "alice"],
            "127.0.0.1:1",
        ),
        (&["nats", "tool", "a.b"], "character"),
        (&["nonsense"], "nonsense"),
    ] {
        let error = house.refused(arguments);
        assert!(error.contains(word), "{arguments:?}: {word:?} is not in: {error}");
        assert!(!error.contains("eyJ"), "a token is in: {error}");
    }
    assert!(texts(&house.log()).is_empty());
}
