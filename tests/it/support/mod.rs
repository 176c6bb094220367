//! What the end-to-end tests share: a running house, and a client for each transport.

pub(crate) mod contract;
pub(crate) mod crowd;
pub(crate) mod database;
pub(crate) mod events;
pub(crate) mod everywhere;
pub(crate) mod hostile;
pub(crate) mod house;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod mailbox;
pub(crate) mod mqtt;
pub(crate) mod nats;
pub(crate) mod nginx;
pub(crate) mod poll;
pub(crate) mod provider;
pub(crate) mod roles;
pub(crate) mod script;
pub(crate) mod stream;
pub(crate) mod tools;

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Generous: the machine may be busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(100);
/// How often a condition is looked at that nothing announces.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until a look finds something; fails naming what was awaited.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
