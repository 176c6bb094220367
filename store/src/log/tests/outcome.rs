//! What becomes of a frame whose ack is lost, that has no room, or that meets a dead server.

use std::time::Duration;

use futures_util::StreamExt;
use natterjack_nats_config::contract::{Kind, Outcome, ProblemCode, Receipt};
use serde_json::json;
use tokio::time::timeout;

use super::super::WriterConfig;
use super::proxy::{Proxy, Rule};
use super::support::{
    Bus, LONG, ask, ask_and_listen, ask_once, by, config, eventually, log_numbers, make_lobby, membership, message,
    outcomes, problem, receipt, request, send,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_loses_nothing_that_was_acknowledged() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let mut receipts = Vec::new();
    for i in 0..60 {
        if i % 20 == 10 {
            let pid = bus.server.pid().expect("the server runs");
            let killed = tokio::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()
                .await;
            assert!(killed.unwrap().success());
        }
        receipts.push(send(&bridge, &format!("m{i}")).await.n);
    }
    let expected: Vec<u64> = (3..63).collect();
    assert_eq!(receipts, expected);
    assert_eq!(log_numbers(&bus.store().await).await, (1..63).collect::<Vec<_>>());
    writer.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ack_is_one_event_and_its_receipt() {
    let bus = Bus::start().await;
    let proxy = Proxy::to(&bus.url()).await;
    let mut writer = bus.writer_via(&proxy.url, "writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let end = bus.log_state().await.last_sequence;
    proxy.set(Rule::Deafen);
    let mut answers = ask_and_listen(&bridge, &[message("once")]).await;
    proxy.has_met(1).await;
    eventually("the frame lands", async || {
        (bus.log_state().await.last_sequence == end + 1).then_some(())
    })
    .await;
    proxy.set(Rule::Pass);
    proxy.cut();
    let answer = timeout(LONG, answers.next()).await.expect("no answer").unwrap();
    let first = receipt(outcomes(&answer).remove(0));
    assert!(!first.duplicate, "it is this request's own event");
    assert_eq!(
        send(&bridge, "once").await,
        Receipt {
            duplicate: true,
            ..first
        }
    );
    assert_eq!(log_numbers(&bus.store().await).await, [1, 2, 3]);
    writer.stop().await;
    bus.server.shutdown().await;
}

/// The frame is lost on its way for longer than senders wait. Nothing that depends on it is said to be so.
#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_a_frame_in_doubt_is_not_answered_as_if_it_stood() {
    let bus = Bus::start().await;
    let proxy = Proxy::to(&bus.url()).await;
    let mut writer = bus.writer_via(&proxy.url, "writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    send(&bridge, "before").await;
    let bob = membership("bob", Some("member"));
    ask(&bridge, std::slice::from_ref(&bob)).await;
    proxy.set(Rule::Lose);
    let in_doubt = [
        // Decided before the frame has an event: true whatever becomes of it.
        by("stranger", message("x")),
        message("before"),
        membership("bob", None),
        by("bob", message("bob is not there any more")),
        bob,
    ];
    let answers = ask_once(&bridge, &in_doubt).await;
    assert_eq!(problem(answers[0].clone()), ProblemCode::NotFound);
    assert!(receipt(answers[1].clone()).duplicate);
    assert_eq!(problem(answers[2].clone()), ProblemCode::OutcomeUnknown);
    assert_eq!(problem(answers[3].clone()), ProblemCode::BrokerUnavailable);
    assert_eq!(problem(answers[4].clone()), ProblemCode::OutcomeUnknown);
    // The same bytes again reach the server. Whoever asks again learns what became of it.
    proxy.set(Rule::Pass);
    let answers = ask(&bridge, &in_doubt[2..4]).await;
    assert!(receipt(answers[0].clone()).duplicate);
    assert_eq!(problem(answers[1].clone()), ProblemCode::NotFound);
    writer.stop().await;
    bus.server.shutdown().await;
}

/// Messages are refused in time, policy is still written, and at the very end nothing is until there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_says_so_and_goes_on_when_there_is_room() {
    let bus = Bus::start().await;
    let small = WriterConfig {
        log_max_bytes: 1 << 20,
        ..config("small")
    };
    let mut writer = bus.start_writer(bus.url(), small.clone()).await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    // Faster than the size is looked at: so the log is full before messages are refused.
    let big = "x".repeat(100_000);
    let refused = eventually("a message is refused", async || {
        let big = request(Kind::Msg, &json!({"body": {"text": big}}));
        match ask_once(&bridge, &[big]).await.remove(0) {
            Outcome::Receipt(_) => None,
            Outcome::Problem(problem) => Some(problem.code),
        }
    })
    .await;
    assert_eq!(refused, ProblemCode::LogFull);
    let before = bus.log_state().await.messages;
    // More room, as a restart with a higher limit gives it.
    writer.stop.cancel();
    let larger = WriterConfig {
        log_max_bytes: 8 << 20,
        ..small
    };
    let mut next = bus.start_writer(bus.url(), larger).await;
    next.is_leading().await;
    let receipt = send(&bridge, "there is room").await;
    let numbers = log_numbers(&bus.store().await).await;
    assert_eq!(numbers, (1..=receipt.n).collect::<Vec<_>>());
    assert!(bus.log_state().await.messages > before);
    timeout(LONG, writer.task)
        .await
        .expect("it never stopped")
        .unwrap()
        .unwrap();
    next.stop().await;
    bus.server.shutdown().await;
}

/// The whole server starts again, with its leases: refusals are answered afterwards too.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_server_died_still_refuses_and_repeats() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let before = send(&bridge, "before").await;
    let pid = bus.server.pid().expect("the server runs").to_string();
    let kill = tokio::process::Command::new("kill").args(["-9", &pid]).status().await;
    assert!(kill.unwrap().success());
    assert_eq!(send(&bridge, "after").await.n, before.n + 1);
    // Longer than a lease lives without being renewed.
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < until {
        let stranger = by("stranger", message("x"));
        assert_eq!(
            problem(ask(&bridge, &[stranger]).await.remove(0)),
            ProblemCode::NotFound
        );
        assert!(send(&bridge, "before").await.duplicate);
    }
    writer.stop().await;
    bus.server.shutdown().await;
}
