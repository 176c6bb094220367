//! Everything is lost, and comes back from a backup; a lost log is made anew from the archive, an archive from the log.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::database::DatabaseServer;
use crate::support::events::{assert_unbroken, parse, texts};
use crate::support::eventually;
use crate::support::house::{House, seq, up};
use crate::support::http::Http;
use crate::support::poll::{cursor_now, read_all};

const MESSAGES: &str = "/v1/rooms/lobby/messages";

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_from_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let (mut house, before) = talked_and_backed_up(&backup).await;
    let cursor = before.cursor.clone();
    let log = house.log();
    house.lose_everything();
    restored(&house, &backup, &[]);
    house.restart().await;
    goes_on(&house, &before, &cursor).await;
    // No more than there was, and a second restore is refused.
    let now = house.run(&["archive", "export", "lobby"]);
    let was: Vec<&String> = log.iter().filter(|line| parse(line)["room"] == "lobby").collect();
    let mut lines = now.lines().skip(1);
    assert!(
        lines.by_ref().zip(&was).take(20).all(|(now, was)| now == *was),
        "byte for byte"
    );
    house.stop();
    let again = house.refused(&["restore", &backup.display().to_string()]);
    assert!(again.contains("is there already"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_onto_another_engine() {
    let server = DatabaseServer::start("postgres");
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let (mut house, before) = talked_and_backed_up(&backup).await;
    let cursor = before.cursor.clone();
    house.lose_everything();
    let damaged = folder.path().join("damaged");
    copy_folder(&backup, &damaged);
    let mut bytes = fs::read(damaged.join("archive.db")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(damaged.join("archive.db"), bytes).unwrap();
    let refused = house.refused(&["restore", &damaged.display().to_string(), "--database", &server.url]);
    assert!(refused.contains("is not the file that was written"), "{refused}");
    house.lose_everything_again();
    restored(&house, &backup, &["--database", &server.url]);
    house.database = Some(server.url.clone());
    house.restart().await;
    goes_on(&house, &before, &cursor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_is_made_anew_from_the_archive() {
    let mut house = House::start().await;
    let before = talk(&house).await;
    let cursor = before.cursor.clone();
    let running = house.refused(&["rebuild", "log"]);
    assert!(running.contains("another natterjack runs"), "{running}");
    house.stop();
    let agrees = house.refused(&["rebuild", "log"]);
    assert!(agrees.contains("nothing has to be made anew"), "{agrees}");
    fs::remove_dir_all(house.data().join("nats/jetstream")).unwrap();
    house.run(&["rebuild", "log"]);
    house.restart().await;
    goes_on(&house, &before, &cursor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_fork_both_sides_are_kept() {
    let mut house = House::start().await;
    let before = talk(&house).await;
    let cursor = before.cursor.clone();
    house.stop();
    // The log is lost, nobody notices, and people talk on a new one until it is as long as the archive.
    let data = house.data();
    fs::remove_dir_all(data.join("nats/jetstream")).unwrap();
    let aside = house.data().join("aside.db");
    fs::rename(data.join("archive.db"), &aside).unwrap();
    house.restart().await;
    house.room("lobby", &[("bob", "member")]).await;
    let alice = house.http("alice");
    while seq(&alice.say("lobby", "elsewhere").await) <= before.last {}
    house.stop();
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(data.join(format!("archive.db{end}")));
    }
    fs::rename(&aside, data.join("archive.db")).unwrap();
    let stopped = house.fails_to_run().await;
    assert!(stopped.contains("natterjack rebuild log"), "{stopped}");

    let told = house.run(&["rebuild", "log"]);
    assert!(told.contains("archive export ROOM --epoch=1"), "{told}");
    house.restart().await;
    goes_on(&house, &before, &cursor).await;
    let other = house.run(&["archive", "export", "lobby", "--epoch=1"]);
    assert!(other.contains("elsewhere"), "{other}");
    assert!(!house.run(&["archive", "export", "lobby"]).contains("elsewhere"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_not_the_logs_is_made_anew() {
    let mut house = House::start().await;
    let before = talk(&house).await;
    house.stop();
    fs::remove_file(house.data().join("archive.db")).unwrap();
    let told = house.run(&["rebuild", "archive"]);
    assert!(told.contains("begins anew"), "{told}");
    house.restart().await;
    let history = house.history("bob", "lobby", before.last).await;
    assert_eq!(history, before.history);
    let (lines, _) = read_all(&house.http("bob"), &before.cursor).await;
    assert!(lines.is_empty(), "the log is the same, and so are cursors");
    assert!(house.run(&["verify"]).contains(": 0 faults"));
}

/// What was there before it was lost.
struct Before {
    cursor: String,
    key: Value,
    receipt: Value,
    /// As bob reads it.
    history: Vec<String>,
    last: u64,
}

async fn talk(house: &House) -> Before {
    house.room("lobby", &[("bob", "member")]).await;
    house.room("attic", &[]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let key = json!({"key": "once", "body": {"text": "once"}});
    let receipt = alice.post(MESSAGES, &key).await.created();
    for number in 0..30 {
        alice.say("lobby", &format!("message {number}")).await;
    }
    let id = receipt["id"].as_str().unwrap();
    let edited = json!({"body": {"text": "edited"}}).to_string();
    let path = format!("{MESSAGES}/{id}");
    alice.call(Method::PATCH, &path, &[], edited.into()).await.ok();
    let last = seq(&alice.say("lobby", "the last").await);
    let history = house.history("bob", "lobby", last).await;
    Before {
        cursor: cursor_now(&bob).await,
        key,
        receipt,
        history,
        last,
    }
}

/// A house in which people talk while the backup is taken.
async fn talked_and_backed_up(backup: &Path) -> (House, Before) {
    let house = House::start().await;
    let before = talk(&house).await;
    let load = Load::start(&house);
    load.goes_on().await;
    let told = house.run(&["backup", &backup.display().to_string()]);
    assert!(told.contains("SECRET"), "{told}");
    load.goes_on().await;
    load.stop().await;
    let manifest: Value = serde_json::from_slice(&fs::read(backup.join("manifest.json")).unwrap()).unwrap();
    let files = manifest["files"].as_array().unwrap();
    let paths: Vec<&str> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    for path in ["archive.db", "keys/token.key", "keys/cursor.key", "keys/store.nk"] {
        assert!(paths.contains(&path), "{paths:?}");
        let mode = fs::metadata(backup.join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path} is secret");
    }
    let twice = house.refused(&["backup", &backup.display().to_string()]);
    assert!(twice.contains("is there already"), "{twice}");
    (house, before)
}

fn restored(house: &House, backup: &Path, more: &[&str]) {
    let folder = backup.display().to_string();
    let told = house.run(&[&["restore", &folder], more].concat());
    assert!(told.contains("epoch-changed"), "{told}");
}

/// Old tokens, rooms, members and messages are there; what is sent follows on; an old cursor is told so.
async fn goes_on(house: &House, before: &Before, cursor: &str) {
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    bob.get(&format!("/v1/events?cursor={cursor}&wait=0"))
        .await
        .is_problem(410, "epoch-changed");
    let again = alice.post(MESSAGES, &before.key).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(again.json()["seq"], before.receipt["seq"], "a key is known still");
    let now = cursor_now(&bob).await;
    let receipt = alice.say("lobby", "it goes on").await;
    assert!(seq(&receipt) > before.last, "sequences go on");
    let (heard, _) = read_all(&bob, &now).await;
    assert_eq!(texts(&heard), ["it goes on"]);
    let history = house.history("bob", "lobby", seq(&receipt)).await;
    assert_eq!(history[..before.history.len()], before.history, "byte for byte");
    assert_eq!(texts(&history).last().unwrap(), "it goes on");
    let begin = bob
        .get("/v1/events?cursor=earliest&rooms=lobby&limit=1000&wait=0")
        .await;
    assert_unbroken(&begin.lines("events"));
    house
        .http("erin")
        .get("/v1/events?cursor=earliest&rooms=lobby&wait=0")
        .await
        .is_problem(404, "not-found");
    eventually("words are found again", async || {
        let found = bob.get("/v1/search?q=edited").await;
        (found.status == 200 && found.lines("results").len() == 1).then_some(())
    })
    .await;
    let verified = match &house.database {
        Some(url) => house.run(&["verify", "--database", url]),
        None => house.run(&["verify"]),
    };
    assert!(verified.contains(": 0 faults"), "{verified}");
}

struct Load {
    said: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Load {
    fn start(house: &House) -> Self {
        let (said, stop) = (std::sync::Arc::default(), CancellationToken::new());
        let task = tokio::spawn(talk_on(house.http("alice"), std::sync::Arc::clone(&said), stop.clone()));
        Self { said, stop, task }
    }

    async fn goes_on(&self) {
        let count = || self.said.load(std::sync::atomic::Ordering::Relaxed);
        let before = count();
        eventually("messages flow", async || (count() >= before + 20).then_some(())).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn talk_on(http: Http, said: std::sync::Arc<std::sync::atomic::AtomicUsize>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let number = said.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        http.say("lobby", &format!("meanwhile {number}")).await;
    }
}

fn copy_folder(from: &Path, to: &PathBuf) {
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}

impl House {
    /// `kill -9` of all of it, and the disk is gone.
    fn lose_everything(&mut self) {
        self.kill_everything();
        fs::remove_dir_all(self.data()).unwrap();
    }

    /// What a failed attempt left.
    fn lose_everything_again(&self) {
        let _ = fs::remove_dir_all(self.data());
    }

    /// Starts it where it has to end by itself, and gives what it says.
    async fn fails_to_run(&self) -> String {
        let mut up = up(&self.data());
        let output: Output = tokio::task::spawn_blocking(move || up.output().unwrap()).await.unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}
