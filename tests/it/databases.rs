//! The archive on a database server, which is killed, frozen and stopped under load: sends go on, and history is whole afterwards.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::database::DatabaseServer;
use crate::support::events::{assert_receipt, assert_unbroken, parse, texts};
use crate::support::eventually;
use crate::support::house::{House, natterjack, seq};
use crate::support::http::Http;
use crate::support::roles::{Roles, change};

const MESSAGES: &str = "/v1/rooms/lobby/messages";
const SENDERS: usize = 3;
/// Receipts that must come while the database is away.
const MEANWHILE: usize = 150;
/// The pause between a sender's messages: so that these are seconds, and not thousands of messages.
const PACE: Duration = Duration::from_millis(20);
/// The longest that a sender may wait, on a machine that is busy with other tests; what was measured is printed.
const LONGEST: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn the_journey_over_postgres() {
    journey("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journey_over_mariadb() {
    journey("mariadb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_stores_on_one_database_either_may_be_killed() {
    let server = DatabaseServer::start("postgres");
    let mut roles = Roles::start().await.on_database(&server.url);
    let mut stores = [roles.store(), roles.store()];
    let alice = roles.nats("alice").await;
    roles.room(&alice, "lobby", &[]).await;
    for (turn, place) in [(1, 0), (2, 1), (3, 0)] {
        for number in 0..10 {
            change(&alice, "lobby", "msg", json!({"text": format!("{turn} {number}")})).await;
        }
        roles.kill(stores[place]);
        stores[place] = roles.store();
    }
    change(&alice, "lobby", "msg", json!({"text": "the end"})).await;
    let said = roles.log("lobby").await;
    assert_eq!(said.len(), 33);
    eventually("everything is archived, once and in order", async || {
        let exported = roles.run(&["archive", "export", "lobby"])?;
        let archived: Vec<String> = exported.lines().skip(1).map(str::to_owned).collect();
        assert!(archived.len() <= said.len(), "{archived:?}");
        (archived == said).then_some(())
    })
    .await;
    let verified = roles.run(&["verify"]).expect("the archive is the log");
    assert!(verified.contains(": 0 faults"), "{verified}");
}

async fn journey(engine: &'static str) {
    let server = DatabaseServer::start(engine);
    let house = House::start_on(&server.url).await;
    house.room("lobby", &[("bob", "member"), ("carol", "member")]).await;
    history_is_what_was_said(&house).await;
    commands_name_the_database_and_no_password(&server);

    let load = Load::start(&house);
    load.goes_on().await;
    for (away, back) in [("kill", "start"), ("freeze", "thaw"), ("stop", "start")] {
        server.act(away);
        let worst = load.goes_on().await;
        assert!(worst < LONGEST, "{away}: a receipt took {worst:?}");
        if away == "kill" {
            let page = house.http("bob").get(MESSAGES).await;
            page.is_problem(503, "store-lagging");
        }
        let behind = load.count();
        server.act(back);
        let begun = Instant::now();
        load.goes_on().await;
        let last = load.last();
        house.archived("bob", "lobby", last).await;
        let took = begun.elapsed();
        eprintln!(
            "{engine} {away}: the longest receipt {worst:?}, level again {took:?} after `{back}` ({behind} sent by then)"
        );
    }
    let said = load.stop().await;
    let last = said.iter().map(|(_, receipt)| *receipt).max().unwrap();
    let lines = house.history("bob", "lobby", last).await;
    // All of it, each once, in the log's order; and exactly what the log has.
    let told: Vec<(String, u64)> = lines
        .iter()
        .map(|line| parse_text_and_seq(line))
        .filter(|(text, _)| text.starts_with("load "))
        .collect();
    let mut expected = said;
    expected.sort_by_key(|(_, seq)| *seq);
    assert_eq!(told, expected);
    assert_eq!(lines, house.messages());
    the_archive_is_verified_and_moved(&house, &server);
}

/// `verify` finds nothing wrong; a copy on another engine exports the same bytes; a copy that lacks an event is found and repaired.
fn the_archive_is_verified_and_moved(house: &House, server: &DatabaseServer) {
    let verified = house.run(&["verify", "--database", &server.url]);
    assert!(verified.contains(": 0 faults"), "{verified}");
    let file = house.data().join("copy.db").display().to_string();
    let copied = house.run(&["archive", "copy", "--database", &server.url, "--to", &file]);
    assert!(copied.contains(&file), "{copied}");
    let of_server = house.run(&["archive", "export", "lobby", "--database", &server.url]);
    assert_eq!(
        house.run(&["archive", "export", "lobby", "--database", &file]),
        of_server
    );

    let exported = house.data().join("lobby.jsonl");
    std::fs::write(&exported, &of_server).unwrap();
    let other = house.data().join("import.db").display().to_string();
    house.run(&[
        "archive",
        "import",
        &exported.display().to_string(),
        "--database",
        &other,
    ]);
    assert_eq!(
        house.run(&["archive", "export", "lobby", "--database", &other]),
        of_server
    );

    // It has that one room only: the others are missing.
    let verify = ["verify", "--database", &other];
    let output = house.command(&verify);
    assert!(!output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("lacks this event"),
        "{output:?}"
    );
    house.run(&["verify", "--repair", "--database", &other]);
    house.run(&verify);
}

async fn history_is_what_was_said(house: &House) {
    let alice = house.http("alice");
    let texts_said = ["hello", "Grüße, 🐸", "你好", " spaces  "];
    let mut receipts = Vec::new();
    for text in texts_said {
        receipts.push(alice.say("lobby", text).await);
    }
    let long = alice.say("lobby", &"x".repeat(65_000)).await;
    let lines = house.history("bob", "lobby", seq(&long)).await;
    assert_unbroken(&lines);
    assert_eq!(texts(&lines)[..4], texts_said);
    for (line, receipt) in lines.iter().zip(&receipts) {
        assert_receipt(receipt, line);
    }
    assert_eq!(lines, house.messages());
}

fn commands_name_the_database_and_no_password(server: &DatabaseServer) {
    let run = |arguments: &[&str]| {
        let output = natterjack()
            .args(arguments)
            .args(["--database", &server.url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (arguments, says) in [
        (&["migrate", "status"][..], "applied  m0001_archive"),
        (&["migrate", "up"], "nothing was done"),
        (&["config"], "natterjack@127.0.0.1"),
    ] {
        let printed = run(arguments);
        assert!(printed.contains(says), "{arguments:?}: {printed}");
        assert!(
            !printed.contains("natterjack-test"),
            "{arguments:?} shows the password: {printed}"
        );
    }
}

fn parse_text_and_seq(line: &str) -> (String, u64) {
    let event = parse(line);
    let text = event["body"]["text"].as_str().unwrap().to_owned();
    (text, event["seq"].as_u64().unwrap())
}

/// People who talk on and on; what has a receipt, with its sequence.
struct Load {
    said: Said,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(house: &House) -> Self {
        let (said, stop) = (std::sync::Arc::default(), CancellationToken::new());
        let tasks = (0..SENDERS).map(|sender| {
            let http = house.http(["alice", "bob", "carol"][sender]);
            tokio::spawn(talk(http, sender, std::sync::Arc::clone(&said), stop.clone()))
        });
        Self {
            tasks: tasks.collect(),
            said,
            stop,
        }
    }

    fn count(&self) -> usize {
        self.said.lock().unwrap().len()
    }

    /// The sequence of the newest receipt.
    fn last(&self) -> u64 {
        self.said.lock().unwrap().iter().map(|(_, seq, _)| *seq).max().unwrap()
    }

    /// Waits for [`MEANWHILE`] more receipts, and gives the longest time that one of them took.
    async fn goes_on(&self) -> Duration {
        let before = self.count();
        eventually("senders get receipts", async || {
            let said = self.said.lock().unwrap();
            let new = said.get(before..).filter(|new| new.len() >= MEANWHILE)?;
            new.iter().map(|(_, _, took)| *took).max()
        })
        .await
    }

    async fn stop(self) -> Vec<(String, u64)> {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        let said = self.said.lock().unwrap();
        said.iter().map(|(text, seq, _)| (text.clone(), *seq)).collect()
    }
}

type Said = std::sync::Arc<std::sync::Mutex<Vec<(String, u64, Duration)>>>;

async fn talk(http: Http, sender: usize, said: Said, stop: CancellationToken) {
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let text = format!("load {sender} {number}");
        let begun = Instant::now();
        let body = json!({"key": text, "body": {"text": text}});
        let receipt = http.post(MESSAGES, &body).await.created();
        said.lock().unwrap().push((text, seq(&receipt), begun.elapsed()));
        tokio::time::sleep(PACE).await;
    }
}
