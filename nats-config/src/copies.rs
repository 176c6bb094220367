//! How the copies of a stream fare, and which server leads them.
//!
//! `healthz` of nats-server may say ok while a stream is gone; what counts is what the stream's leader says of it.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, stream::Info};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// A copy that its leader has not heard of for this long does not count, whatever the leader says: one that is cut off goes on
/// saying what it knew.
const SILENT: Duration = Duration::from_secs(10);
/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long a lead that was handed over may take to be taken before it is handed over again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long a copy has to be up to date once: whatever a message is on its way to this very moment counts as behind.
const UP_TO_DATE_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked at while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The copies of a stream, as its leader sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// The stream.
    pub stream: String,
    /// The name of the server that leads; empty where there is one server only.
    pub leader: String,
    /// The name of the Raft group that keeps the copies alike; empty where there is one server only.
    pub group: String,
    /// How many there must be.
    pub wanted: usize,
    /// How many are there and up to date, the leader's included.
    pub current: usize,
    /// The servers whose copies are not.
    pub behind: Vec<String>,
    /// How long ago the leader last heard of the copy that it has not heard of for longest.
    pub silence: Duration,
    /// The first message that the leader holds.
    pub first: u64,
    /// The last message that the leader knows of.
    pub last: u64,
}

/// The stream cannot be asked: it has no leader, is not there, or NATS does not answer. Try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stream {stream}: {reason}")]
pub struct NoLeader {
    stream: String,
    reason: String,
}

impl Copies {
    /// Reads what a leader says.
    #[must_use]
    pub fn of(info: &Info) -> Self {
        let cluster = info.cluster.as_ref();
        let peers = cluster.map(|cluster| cluster.replicas.as_slice()).unwrap_or_default();
        let is_well =
            |peer: &&async_nats::jetstream::stream::PeerInfo| peer.current && !peer.offline && peer.active < SILENT;
        Self {
            stream: info.config.name.clone(),
            leader: cluster.and_then(|cluster| cluster.leader.clone()).unwrap_or_default(),
            group: cluster
                .and_then(|cluster| cluster.raft_group.clone())
                .unwrap_or_default(),
            wanted: info.config.num_replicas.max(1),
            current: 1 + peers.iter().filter(is_well).count(),
            behind: peers
                .iter()
                .filter(|peer| !is_well(peer))
                .map(|peer| peer.name.clone())
                .collect(),
            silence: peers.iter().map(|peer| peer.active).max().unwrap_or_default(),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
        }
    }

    /// Whether enough copies are there for something to be written.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        self.current * 2 > self.wanted
    }

    /// Whether every copy is there and up to date.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.current >= self.wanted
    }

    /// What a later look found, but that only those copies are behind that were so before.
    fn still(&self, later: Self) -> Self {
        let behind: Vec<String> = later
            .behind
            .iter()
            .filter(|server| self.behind.contains(server))
            .cloned()
            .collect();
        Self {
            current: later.current + later.behind.len() - behind.len(),
            behind,
            ..later
        }
    }

    /// Whether every copy is there, up to date, and was heard of after `since`, by an answer to a question of `asked`.
    ///
    /// For seconds after a server was restarted a leader goes on counting its copy as it was before. A lead that is handed
    /// to such a copy is taken by nobody, and an election takes 4 to 9 s.
    #[must_use]
    pub fn is_whole_since(&self, since: Instant, asked: Instant) -> bool {
        self.is_whole() && since + self.silence < asked
    }
}

/// Asks a stream's leader how its copies fare. At most two seconds.
pub async fn look(client: &Client, stream: &str) -> Result<Copies, NoLeader> {
    let fail = |reason: String| NoLeader {
        stream: stream.to_owned(),
        reason,
    };
    let jetstream = jetstream::new(client.clone());
    match timeout(ANSWER_WITHIN, jetstream.get_stream(stream)).await {
        Ok(Ok(stream)) => Ok(Copies::of(stream.cached_info())),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Err(_) => Err(fail("no answer, it has no leader".to_owned())),
    }
}

/// Asks again for half a second while a copy is behind. Only one that was not up to date at any time in it is said to be: under
/// load a message is always on its way to some copy.
pub async fn look_for_a_while(client: &Client, stream: &str) -> Result<Copies, NoLeader> {
    let until = Instant::now() + UP_TO_DATE_WITHIN;
    let mut copies = look(client, stream).await?;
    while !copies.is_whole() && Instant::now() < until {
        sleep(LOOK_EVERY).await;
        copies = copies.still(look(client, stream).await?);
    }
    Ok(copies)
}

/// Waits until every copy of each stream is there, up to date, and has been heard of after `since`; what is still missing when
/// the time is over.
pub async fn wait_until_whole(
    client: &Client,
    streams: &[String],
    since: Instant,
    limit: Duration,
) -> Result<(), String> {
    let until = Instant::now() + limit;
    for stream in streams {
        loop {
            let asked = Instant::now();
            let missing = match look(client, stream).await {
                Ok(copies) if copies.is_whole_since(since, asked) => break,
                Ok(copies) if copies.is_whole() => format!("a copy of {stream} has not been heard of since"),
                Ok(copies) => format!("{stream} has no up-to-date copy on {}", copies.behind.join(", ")),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(missing);
            }
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Moves the lead of a stream away from a server, to another one whose copy is up to date, and waits until that leads.
/// Does nothing where the server does not lead. A lead that is handed over is taken within milliseconds; one that is lost
/// takes an election of seconds.
pub async fn lead_elsewhere(client: &Client, stream: &str, away_from: &str, limit: Duration) -> Result<(), NoLeader> {
    let until = Instant::now() + limit;
    let mut ask_at = Instant::now();
    loop {
        let copies = look(client, stream).await;
        match &copies {
            Ok(copies) if copies.leader != away_from => return Ok(()),
            // Whom it was handed to may not have taken it.
            Ok(_) if Instant::now() >= ask_at => {
                step_down(client, stream).await?;
                ask_at = Instant::now() + ASK_AGAIN;
            }
            _ => {}
        }
        if Instant::now() >= until {
            return Err(copies.err().unwrap_or_else(|| NoLeader {
                stream: stream.to_owned(),
                reason: format!("{away_from} does not give up its lead"),
            }));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn step_down(client: &Client, stream: &str) -> Result<(), NoLeader> {
    let fail = |reason: String| NoLeader {
        stream: stream.to_owned(),
        reason,
    };
    let answer: Value = jetstream::new(client.clone())
        .request(format!("STREAM.LEADER.STEPDOWN.{stream}"), &json!({}))
        .await
        .map_err(|error| fail(error.to_string()))?;
    match answer.get("error") {
        None => Ok(()),
        Some(error) => Err(fail(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, current, offline, seconds of silence.
    type Peer = (&'static str, bool, bool, u64);
    /// What two looks find, and how many copies are current then and which are not.
    type TwoLooks<'a> = (&'a [Peer], &'a [Peer], usize, &'a [&'static str]);

    fn info(wanted: usize, peers: &[Peer]) -> Info {
        let peers: Vec<Value> = peers
            .iter()
            .map(|(name, current, offline, silent)| {
                json!({"name": name, "current": current, "offline": offline, "active": silent * 1_000_000_000})
            })
            .collect();
        serde_json::from_value(json!({
            "config": {"name": "L", "subjects": ["l"], "retention": "limits", "max_consumers": -1, "max_msgs": -1,
                "max_bytes": -1, "max_age": 0, "storage": "file", "num_replicas": wanted, "discard": "new"},
            "created": "2026-11-25T00:00:00Z",
            "state": {"messages": 1, "bytes": 1, "first_seq": 1, "first_ts": "2026-11-25T00:00:00Z", "last_seq": 7,
                "last_ts": "2026-11-25T00:00:00Z", "consumer_count": 0},
            "cluster": {"name": "c", "leader": "n1", "replicas": peers},
        }))
        .unwrap()
    }

    #[test]
    fn a_copy_counts_when_it_is_current_online_and_heard_of() {
        let rows: &[(&[Peer], bool, bool, &[&str])] = &[
            (&[("n2", true, false, 0), ("n3", true, false, 1)], true, true, &[]),
            (&[("n2", false, false, 0), ("n3", true, false, 0)], true, false, &["n2"]),
            (&[("n2", true, true, 0), ("n3", true, false, 0)], true, false, &["n2"]),
            // Cut off: it still says what it knew.
            (
                &[("n2", true, false, 30), ("n3", true, false, 30)],
                false,
                false,
                &["n2", "n3"],
            ),
            (
                &[("n2", false, true, 0), ("n3", false, true, 0)],
                false,
                false,
                &["n2", "n3"],
            ),
        ];
        for (peers, quorum, whole, behind) in rows {
            let copies = Copies::of(&info(3, peers));
            assert_eq!((copies.has_quorum(), copies.is_whole()), (*quorum, *whole), "{peers:?}");
            assert_eq!(copies.behind, *behind);
            assert_eq!((copies.leader.as_str(), copies.last), ("n1", 7));
        }
        let alone = Copies::of(&info(1, &[]));
        assert!(alone.has_quorum() && alone.is_whole());
    }

    #[test]
    fn a_copy_counts_after_a_restart_once_it_is_heard_of_again() {
        let copies = Copies::of(&info(3, &[("n2", true, false, 3), ("n3", true, false, 0)]));
        let restarted = Instant::now();
        let asked = |after| restarted + Duration::from_secs(after);
        assert!(!copies.is_whole_since(restarted, asked(1)), "it was heard of before");
        assert!(copies.is_whole_since(restarted, asked(4)));
        let behind = Copies::of(&info(3, &[("n2", false, false, 0), ("n3", true, false, 0)]));
        assert!(!behind.is_whole_since(restarted, asked(4)));
    }

    #[test]
    fn a_copy_is_behind_that_was_so_at_each_look() {
        let looks: &[TwoLooks<'_>] = &[
            (
                &[("n2", false, false, 0), ("n3", true, false, 0)],
                &[("n2", true, false, 0), ("n3", false, false, 0)],
                3,
                &[],
            ),
            (
                &[("n2", false, false, 0), ("n3", false, false, 0)],
                &[("n2", true, false, 0), ("n3", false, true, 0)],
                2,
                &["n3"],
            ),
            (&[("n2", false, false, 0)], &[("n2", true, false, 0)], 2, &[]),
        ];
        for (before, later, current, behind) in looks {
            let copies = Copies::of(&info(3, before)).still(Copies::of(&info(3, later)));
            assert_eq!(copies.current, *current, "{before:?}, {later:?}");
            assert_eq!(copies.behind, *behind);
        }
    }
}
