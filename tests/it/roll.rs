//! Workers that are restarted one after the other, as `docs/cluster.md` says, while people talk.

use std::time::Instant;

use serde_json::Value;

use crate::cluster::{assert_not_missed, keep_sending, more_receipts};
use crate::support::eventually;
use crate::support::mailbox::Mailbox;
use crate::support::poll::cursor_now;
use crate::support::roles::{Roles, free_port, is_ready};

/// Waits until the doctor finds nothing, and says that so many stores could take over.
async fn stand_by(roles: &Roles, stores: &str) {
    eventually("the doctor finds nothing", async || {
        let report: Value = serde_json::from_str(&roles.run(&["doctor", "--json"])?).unwrap();
        let checks = report.as_array().unwrap();
        let standby = checks.iter().find(|check| check["what"] == "standby").unwrap();
        (standby["found"] == stores).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_restarted_in_turn_without_being_missed() {
    let mut roles = Roles::start().await;
    let (authz, writer) = (roles.authz(), roles.store());
    let ports = [free_port(), free_port()];
    let bridges = ports.map(|port| roles.bridge(port));
    for port in ports {
        is_ready(&roles.http(port, "alice")).await;
    }
    roles.room(&roles.nats("alice").await, "lobby", &[]).await;
    stand_by(&roles, "none: while the writer is away, nobody writes").await;
    let standby = roles.store();
    stand_by(&roles, "1 could take over").await;
    let alice = roles.http(ports[0], "alice");
    let cursor = cursor_now(&alice).await;
    let receipts = Mailbox::new();
    let senders = keep_sending(ports.map(|port| roles.http(port, "alice")).into(), &receipts);
    more_receipts(&receipts, 50).await;
    let since = Instant::now();
    for store in [writer, standby] {
        roles.stop(store);
        roles.store();
        stand_by(&roles, "1 could take over").await;
    }
    for (bridge, port) in bridges.into_iter().zip(ports) {
        roles.stop(bridge);
        roles.bridge(port);
        is_ready(&roles.http(port, "alice")).await;
    }
    roles.authz_more();
    roles.stop(authz);
    assert_not_missed((&receipts, senders), since, (&alice, &cursor)).await;
}
