//! Who writes: the lease, the barrier, stepping down, and what a successor knows and answers.

use natterjack_nats_config::contract::{Kind, ProblemCode, Receipt};
use serde_json::json;
use tokio::time::{Instant, timeout};

use async_nats::jetstream;
use futures_util::{FutureExt, StreamExt};

use super::proxy::{Proxy, Rule};
use super::support::{
    Bus, LONG, ask, ask_and_listen, bundle, by, eventually, log_numbers, make_lobby, membership, message, outcomes,
    problem, receipt, request, send,
};

/// Requests that the server has taken in when the writer is told to stop: more than it can have written by then.
const ON_THE_WAY: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_nothing_is_lost_or_doubled() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let mut second = bus.writer("second").await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let before = send(&bridge, "before").await;
    first.stop().await;
    second.is_leading().await;
    assert_eq!(
        send(&bridge, "before").await,
        Receipt {
            duplicate: true,
            ..before
        }
    );
    assert_eq!(send(&bridge, "after").await.n, 4);
    assert_eq!(log_numbers(&bus.store().await).await, [1, 2, 3, 4]);
    second.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rivals_frame_makes_the_writer_step_down_fold_it_and_go_on() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let store = bus.store().await;
    let rival = jetstream::new(store.clone());
    rival
        .publish("chat.log.0.1", bytes::Bytes::new())
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(send(&bridge, "after the rival").await.n, 3);
    assert_eq!(log_numbers(&store).await, [1, 2, 3]);
    writer.stop().await;
    bus.server.shutdown().await;
}

/// The predecessor's frame gives carol the room. It is held back on its way, and comes after the successor's barrier.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_barrier_no_frame_of_a_predecessor_lands() {
    let bus = Bus::start().await;
    let proxy = Proxy::to(&bus.url()).await;
    let mut first = bus.writer_via(&proxy.url, "first").await;
    first.is_leading().await;
    let mut second = bus.writer("second").await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    proxy.set(Rule::Hold);
    let mut answers = ask_and_listen(&bridge, &[membership("carol", Some("member"))]).await;
    proxy.has_met(1).await;
    second.is_leading().await;
    let end = bus.log_state().await.last_sequence;
    // The successor has written nothing but its barrier, and says what the log says.
    let stranger = by("carol", message("from carol"));
    assert_eq!(
        problem(ask(&bridge, std::slice::from_ref(&stranger)).await.remove(0)),
        ProblemCode::NotFound
    );
    proxy.set(Rule::Pass);
    // The first writer has noticed: it follows the log again, and leads when the second one is gone.
    second.stop().await;
    eventually("the first writer leads again", async || {
        (bus.log_state().await.last_sequence > end).then_some(())
    })
    .await;
    assert_eq!(
        problem(ask(&bridge, &[stranger]).await.remove(0)),
        ProblemCode::NotFound
    );
    assert!(
        answers.next().now_or_never().is_none(),
        "a frame that is not in the log was answered"
    );
    assert_eq!(log_numbers(&bus.store().await).await, [1, 2], "the frame landed");
    first.stop().await;
    bus.server.shutdown().await;
}

/// The predecessor's frame comes between the successor's look at the log's end and its barrier.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_waits_for_what_a_predecessor_has_on_its_way() {
    let bus = Bus::start().await;
    let (to_first, to_second) = (Proxy::to(&bus.url()).await, Proxy::to(&bus.url()).await);
    let mut first = bus.writer_via(&to_first.url, "first").await;
    first.is_leading().await;
    let second = bus.writer_via(&to_second.url, "second").await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let end = bus.log_state().await.last_sequence;
    to_first.set(Rule::Hold);
    to_second.set(Rule::Hold);
    let mut answers = ask_and_listen(&bridge, &[message("late")]).await;
    to_first.has_met(1).await;
    to_second.has_met(1).await;
    to_first.set(Rule::Pass);
    eventually("the predecessor's frame lands", async || {
        (bus.log_state().await.last_sequence == end + 1).then_some(())
    })
    .await;
    to_second.set(Rule::Pass);
    // It stands in the log, so its receipt is good, whoever leads by now.
    let answer = timeout(LONG, answers.next()).await.expect("no receipt").unwrap();
    let first_receipt = receipt(outcomes(&answer).remove(0));
    assert!(!first_receipt.duplicate && first_receipt.seq.frame() == end + 1);
    assert_eq!(
        send(&bridge, "late").await,
        Receipt {
            duplicate: true,
            ..first_receipt
        }
    );
    assert_eq!(send(&bridge, "next").await.n, 4);
    assert_eq!(log_numbers(&bus.store().await).await, [1, 2, 3, 4]);
    first.stop().await;
    second.stop().await;
    bus.server.shutdown().await;
}

/// A request without a key may have been written by the predecessor: the successor says so, and does not write it.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_key_is_not_written_when_it_came_before_the_barrier() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let proxy = Proxy::to(&bus.url()).await;
    proxy.set(Rule::Hold);
    let mut second = bus.writer_via(&proxy.url, "second").await;
    first.stop().await;
    // The second writer listens already, and its barrier is on its way.
    proxy.has_met(1).await;
    let keyless = request(Kind::Msg, &json!({"body": {"text": "without a key"}}));
    let mut without = ask_and_listen(&bridge, &[keyless]).await;
    let mut with = ask_and_listen(&bridge, &[message("with a key")]).await;
    proxy.set(Rule::Pass);
    second.is_leading().await;
    let answer = timeout(LONG, without.next()).await.expect("no answer").unwrap();
    assert_eq!(problem(outcomes(&answer).remove(0)), ProblemCode::OutcomeUnknown);
    let answer = timeout(LONG, with.next()).await.expect("no answer").unwrap();
    assert_eq!(receipt(outcomes(&answer).remove(0)).n, 3);
    second.stop().await;
    bus.server.shutdown().await;
}

/// The frames that the log has lost since show that the successor knew them before it led.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_starts_warm() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let before = send(&bridge, "before").await;
    let mut second = bus.writer("second").await;
    let store = bus.store().await;
    let log = jetstream::new(store.clone()).get_stream("CHAT_LOG_0_1").await.unwrap();
    // Two tails of workers: the fan-out's and the standby's.
    let end = bus.log_state().await.last_sequence;
    eventually("the standby has read the log", async || {
        let mut consumers = log.consumers();
        let mut at_the_end = 0;
        while let Some(consumer) = consumers.next().await {
            at_the_end += usize::from(consumer.ok()?.delivered.stream_sequence >= end);
        }
        (at_the_end >= 2).then_some(())
    })
    .await;
    log.purge().sequence(end + 1).await.unwrap();
    let asked = Instant::now();
    first.stop().await;
    second.is_leading().await;
    eprintln!(
        "from the first writer's stop to the second one's barrier: {:?}",
        asked.elapsed()
    );
    assert_eq!(
        send(&bridge, "before").await,
        Receipt {
            duplicate: true,
            ..before
        }
    );
    assert_eq!(send(&bridge, "after").await.n, 4);
    second.stop().await;
    bus.server.shutdown().await;
}

/// What the server has handed to a writer is answered, also when the writer is told to stop right then. Who asks later learns
/// at once that nobody is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_stops_answers_what_is_on_its_way_to_it() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let inbox = bridge.new_inbox();
    let mut answers = bridge.subscribe(format!("{inbox}.*")).await.unwrap();
    for number in 0..ON_THE_WAY {
        let (reply, bundle) = (format!("{inbox}.{number}"), bundle(&[message(&format!("m{number}"))]));
        bridge.publish_with_reply("chat.write.0", reply, bundle).await.unwrap();
    }
    bridge.flush().await.unwrap();
    first.stop.cancel();
    for number in 0..ON_THE_WAY {
        let answer = timeout(LONG, answers.next())
            .await
            .expect("not all were answered")
            .unwrap();
        assert_eq!(receipt(outcomes(&answer).remove(0)).n, 3 + number);
    }
    first.stop().await;
    let late = ask_and_listen(&bridge, &[message("late")]).await.next().await.unwrap();
    assert_eq!(late.status, Some(async_nats::StatusCode::NO_RESPONDERS));
    let numbers: Vec<u64> = (1..3 + ON_THE_WAY).collect();
    assert_eq!(log_numbers(&bus.store().await).await, numbers);
    bus.server.shutdown().await;
}
