use std::collections::VecDeque;
use std::time::Duration;

use natterjack_nats_config::contract::Seq;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long an answer is remembered: the server's auth timeout (5 s) and some more. After that its connection is either
/// listed under its own name or gone.
const REMEMBER: Duration = Duration::from_secs(10);

/// A connection, as its server names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Connection {
    pub(crate) server: String,
    pub(crate) cid: u64,
}

/// The callouts answered of late: whose connection may not be listed under its own name yet.
#[derive(Debug, Default)]
pub(crate) struct Issued {
    recent: Mutex<VecDeque<Issue>>,
}

#[derive(Debug)]
struct Issue {
    at: Instant,
    name: String,
    connection: Connection,
    compiled_at: Seq,
}

impl Issued {
    /// Notes an answer. Call it while the view that it was compiled from is still locked, so that no change can come
    /// between the two.
    pub(crate) fn note(&self, name: String, connection: Connection, compiled_at: Seq) {
        let mut recent = self.recent.lock();
        let now = Instant::now();
        while recent
            .front()
            .is_some_and(|issue| now.duration_since(issue.at) > REMEMBER)
        {
            recent.pop_front();
        }
        recent.push_back(Issue {
            at: now,
            name,
            connection,
            compiled_at,
        });
    }

    /// The connections of those who are meant whose rights were compiled before `seq`.
    pub(crate) fn before(&self, is_meant: impl Fn(&str) -> bool, seq: Seq) -> Vec<Connection> {
        self.select(|issue| is_meant(&issue.name) && issue.compiled_at < seq)
    }

    /// Whether a connection's rights are known to include `seq`.
    pub(crate) fn is_newer(&self, connection: &Connection, seq: Seq) -> bool {
        !self
            .select(|issue| issue.connection == *connection && issue.compiled_at >= seq)
            .is_empty()
    }

    fn select(&self, wanted: impl Fn(&Issue) -> bool) -> Vec<Connection> {
        let now = Instant::now();
        let wanted = |issue: &&Issue| now.duration_since(issue.at) <= REMEMBER && wanted(issue);
        self.recent
            .lock()
            .iter()
            .filter(wanted)
            .map(|issue| issue.connection.clone())
            .collect()
    }
}
