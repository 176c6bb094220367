//! What a house does about its own state: it says what is not well, restarts its servers without being missed, makes a damaged
//! copy anew, and refuses messages before the log is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{SERVERS, all_current, assert_not_missed, jetstream, keep_sending, more_receipts, two_alices};
use crate::support::eventually;
use crate::support::house::{House, seq, signal};
use crate::support::http::Http;
use crate::support::mailbox::Mailbox;
use crate::support::poll::{cursor_now, read_all};

const LOG: &str = "CHAT_LOG_0_1";

async fn readyz(house: &House) -> (u16, Value) {
    let answer = Http::new(&house.endpoints.http, None).get("/readyz").await;
    (answer.status, answer.json())
}

fn doctor(house: &House) -> (bool, String) {
    let output = house.command(&["doctor"]);
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_well_is_said_and_what_to_do() {
    let house = House::cluster().await;
    all_current(&house).await;
    let (status, ready) = readyz(&house).await;
    assert_eq!((status, &ready["ready"]), (200, &json!(true)), "{ready}");
    eventually("nothing is degraded", async || {
        (readyz(&house).await.1["degraded"] == json!([])).then_some(())
    })
    .await;
    let report = eventually("the doctor finds nothing", async || {
        let (well, report) = doctor(&house);
        well.then_some(report)
    })
    .await;
    for server in ["natterjack-n1 2.15", "natterjack-n2 2.15", "natterjack-n3 2.15"] {
        assert!(report.contains(server), "{report}");
    }
    let checks: Value = serde_json::from_str(&house.run(&["doctor", "--json"])).unwrap();
    assert!(
        checks.as_array().unwrap().iter().all(|check| check["ok"] == true),
        "{checks}"
    );

    // One server hangs: it is served on, and it is said which one is missing.
    let frozen = house.server_pid_of(2).unwrap();
    signal(frozen, Signal::STOP);
    let degraded = eventually("it serves, and says what is missing", async || {
        let (status, ready) = readyz(&house).await;
        (status == 200 && ready["degraded"].to_string().contains("natterjack-n3")).then_some(ready)
    })
    .await;
    assert_eq!(degraded["ready"], true, "{degraded}");
    let (well, report) = doctor(&house);
    assert!(!well && report.contains("BAD  servers   2 of 3"), "{report}");

    // Two hang: nothing can be written, and it does not say that it can.
    let another = house.server_pid_of(1).unwrap();
    signal(another, Signal::STOP);
    eventually("it says that it cannot serve", async || {
        (readyz(&house).await.0 == 503).then_some(())
    })
    .await;
    signal(another, Signal::CONT);
    signal(frozen, Signal::CONT);
    eventually("all is well again", async || {
        let (status, ready) = readyz(&house).await;
        (status == 200 && ready["degraded"] == json!([])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_restarted_in_turn_without_being_missed() {
    let house = House::cluster().await;
    house.room("lobby", &[]).await;
    all_current(&house).await;
    let cursor = cursor_now(&house.http("alice")).await;
    let receipts = Mailbox::new();
    let senders = keep_sending(two_alices(&house), &receipts);
    more_receipts(&receipts, 50).await;
    let pids: Vec<_> = (0..SERVERS).map(|server| house.server_pid_of(server)).collect();
    let since = Instant::now();
    signal(house.pid(), Signal::USR1);
    for (server, before) in pids.iter().enumerate() {
        eventually("the server is another process", async || {
            house.server_pid_of(server).filter(|pid| Some(*pid) != *before)
        })
        .await;
    }
    all_current(&house).await;
    assert_not_missed((&receipts, senders), since, (&house.http("alice"), &cursor)).await;
}

/// The block files of a server's copy of the log.
fn blocks(house: &House, server: usize) -> Vec<PathBuf> {
    let messages = house
        .server_dir(server)
        .join("jetstream/CORE/streams")
        .join(LOG)
        .join("msgs");
    let files = fs::read_dir(messages)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "blk"))
        .collect()
}

fn holds(file: &Path, text: &str) -> Option<usize> {
    let bytes = fs::read(file).ok()?;
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_one_copy_is_found_and_mended() {
    let mut house = House::cluster_set(vec![("NATTERJACK_STORE__AUDIT_EVERY", "3".to_owned())]).await;
    house.room("lobby", &[("bob", "member")]).await;
    let alice = house.http("alice");
    let cursor = cursor_now(&alice).await;
    let mut last = Value::Null;
    for number in 0..40 {
        last = alice.say("lobby", &format!("this is message number {number}.")).await;
    }
    let history = house.history("bob", "lobby", seq(&last)).await;
    all_current(&house).await;
    assert!(house.stop().success());
    let (victim, text) = (1, "this is message number 17.");
    let (file, at) = blocks(&house, victim)
        .into_iter()
        .find_map(|file| Some((file.clone(), holds(&file, text)?)))
        .expect("the copy holds the message");
    let mut bytes = fs::read(&file).unwrap();
    bytes[at + 3] ^= 1;
    fs::write(&file, bytes).unwrap();

    house.restart().await;
    let since = Instant::now();
    let lead = json!({"placement": {"preferred": "natterjack-n2"}});
    let stepped: Result<Value, _> = jetstream(&house)
        .await
        .request(format!("STREAM.LEADER.STEPDOWN.{LOG}"), &lead)
        .await;
    eprintln!("the damaged copy is to lead: {stepped:?}");
    let found = eventually("the damaged copy is named", async || {
        let (_, ready) = readyz(&house).await;
        let text = ready.to_string();
        (text.contains("audit") && text.contains("natterjack-n2")).then_some(text)
    })
    .await;
    eprintln!("found after {:?}: {found}", since.elapsed());
    eventually("the copy is whole again", async || {
        blocks(&house, victim).iter().find_map(|file| holds(file, text))
    })
    .await;
    eventually("the doctor finds nothing any more", async || {
        doctor(&house).0.then_some(())
    })
    .await;
    eprintln!("mended after {:?}", since.elapsed());
    let (lines, _) = read_all(&house.http("alice"), &cursor).await;
    assert_eq!(lines, history, "nobody misses anything");
    house.http("alice").say("lobby", "and it goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_copy_of_a_single_server_is_compared_too() {
    let house = House::start_with([("NATTERJACK_STORE__AUDIT_EVERY", "1")]).await;
    house.room("lobby", &[]).await;
    house.http("alice").say("lobby", "hello").await;
    eventually("the audit has looked at it", async || {
        let (well, report) = doctor(&house);
        (well && report.contains("ok   audit") && !report.contains("no report yet")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fills_up_refuses_messages_and_not_rights() {
    let limit = |bytes: u64| vec![("NATTERJACK_STORE__LOG_MAX_BYTES", bytes.to_string())];
    let mut house = House::start_with(limit(16 << 20)).await;
    house.room("lobby", &[("bob", "member")]).await;
    let alice = house.http("alice");
    let send = async |http: &Http, bytes: usize| {
        let body = json!({"body": {"text": "x".repeat(bytes)}});
        http.post("/v1/rooms/lobby/messages", &body).await
    };
    // Just below 90%, then slowly: the log's size is looked at each second.
    for _ in 0..248 {
        assert_eq!(send(&alice, 60_000).await.status, 201);
    }
    let refused = eventually("a message is refused", async || {
        Some(send(&alice, 10_000).await).filter(|answer| answer.status != 201)
    })
    .await;
    assert_eq!(refused.status, 503);
    let problem = refused.json();
    assert_eq!(problem["code"], "log-full", "{problem}");
    assert!(
        problem["detail"].to_string().contains("log_max_bytes"),
        "the way out: {problem}"
    );
    let answer = alice.delete("/v1/rooms/lobby/members/bob").await.ok();
    assert_eq!(answer["state"], "done", "rights are still written: {answer}");
    let (well, report) = doctor(&house);
    assert!(!well && report.contains("BAD  space"), "{report}");

    house.stop();
    house.settings = limit(64 << 20);
    house.restart().await;
    let answer = send(&house.http("alice"), 10).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}
