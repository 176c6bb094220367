//! Leases, under many hands.

use natterjack_nats_config::contract::Subjects;
use natterjack_nats_config::lease::{Leases, READING, STANDBY};
use tokio::time::{Instant, timeout};

use super::support::{Bus, LONG, eventually, make_lobby, send};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_lease_is_listed_also_while_it_is_renewed() {
    let bus = Bus::start().await;
    let leases = Leases::open(&bus.store().await, &Subjects::default(), 1).await.unwrap();
    let mut held = vec![
        leases.try_take("authz.one", "one").await.unwrap().unwrap(),
        leases.try_take("authz.two", "two").await.unwrap().unwrap(),
    ];
    let other = leases.try_take("writer.0", "three").await.unwrap();
    assert!(other.is_some() && leases.try_take("authz.one", "four").await.unwrap().is_none());
    let renewing = tokio::spawn(async move {
        loop {
            for lease in &mut held {
                assert!(lease.renew().await.unwrap());
            }
        }
    });
    let reader = Leases::join(&bus.bridge().await, &Subjects::default()).await.unwrap();
    for _ in 0..500 {
        let mut holders = reader.holders("authz.").await.unwrap();
        holders.sort();
        assert_eq!(holders, ["one", "two"]);
    }
    renewing.abort();
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_free_at_once_when_it_is_released_and_later_when_it_is_not() {
    let bus = Bus::start().await;
    let leases = Leases::open(&bus.store().await, &Subjects::default(), 1).await.unwrap();
    let first = leases.try_take("writer.0", "one").await.unwrap().unwrap();
    assert!(leases.try_take("writer.0", "two").await.unwrap().is_none());
    first.release().await;
    let second = leases
        .try_take("writer.0", "two")
        .await
        .unwrap()
        .expect("it was released");
    let valid_until = second.valid_until();
    let third = timeout(LONG, leases.take("writer.0", "three"))
        .await
        .expect("it never ran out");
    assert!(
        Instant::now() > valid_until,
        "taken while the second holder could trust it"
    );
    assert!(third.is_valid() && !second.is_valid());
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_a_lease_learns_it_and_takes_it_from_nobody() {
    let bus = Bus::start().await;
    let leases = Leases::open(&bus.store().await, &Subjects::default(), 1).await.unwrap();
    let mut first = leases.try_take("writer.0", "one").await.unwrap().unwrap();
    let mut second = timeout(LONG, leases.take("writer.0", "two"))
        .await
        .expect("it never ran out");
    assert!(!first.renew().await.unwrap());
    assert!(second.renew().await.unwrap());
    first.release().await;
    assert!(second.renew().await.unwrap(), "the lease of somebody else was released");
    bus.server.shutdown().await;
}

/// Somebody deletes the bucket: the writer gives up what it cannot renew, and makes another.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_gone_is_made_again() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let store = async_nats::jetstream::new(bus.store().await);
    store.delete_key_value("CHAT_LEASE").await.unwrap();
    first.stop().await;
    let mut second = bus.writer("second").await;
    second.is_leading().await;
    assert_eq!(send(&bridge, "after").await.n, 3);
    second.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_take_over_is_listed() {
    let bus = Bus::start().await;
    let leases = Leases::open(&bus.store().await, &Subjects::default(), 1).await.unwrap();
    let standing = async || leases.holders(&format!("{STANDBY}0.")).await.unwrap();
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    eventually("who writes does not stand by", async || {
        standing().await.is_empty().then_some(())
    })
    .await;
    let mut second = bus.writer("second").await;
    eventually("the second stands by", async || {
        (standing().await == ["second"]).then_some(())
    })
    .await;
    let third = bus.writer("third").await;
    eventually("so does the third", async || {
        (standing().await.len() == 2).then_some(())
    })
    .await;
    third.stop().await;
    assert_eq!(standing().await, ["second"]);
    first.stop().await;
    second.is_leading().await;
    eventually("nobody stands by", async || standing().await.is_empty().then_some(())).await;
    assert!(leases.holders(READING).await.unwrap().is_empty());
    second.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_told_to_stop_goes_on_while_another_store_reads_the_log() {
    let bus = Bus::start().await;
    let leases = Leases::open(&bus.store().await, &Subjects::default(), 1).await.unwrap();
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let bridge = bus.bridge().await;
    make_lobby(&bridge).await;
    let reading = leases
        .try_take(&format!("{READING}0.second"), "second")
        .await
        .unwrap()
        .unwrap();
    first.stop.cancel();
    for number in 0..20 {
        send(&bridge, &format!("while it reads {number}")).await;
        assert!(*first.leading.borrow(), "it has stopped");
    }
    reading.release().await;
    first.stop().await;
    bus.server.shutdown().await;
}
