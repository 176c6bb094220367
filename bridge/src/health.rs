//! Whether this bridge can do its work, told to `/readyz` and to whoever started it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{AUDIT_VERB, ArchiveWatermark, AuditReport, WATERMARK_VERB};
use natterjack_nats_config::copies::{Copies, NoLeader, look_for_a_while};
use natterjack_nats_config::lease::Leases;
use natterjack_nats_config::tail::Log;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::bundle::Sending;
use crate::feed::Feed;

/// How often it is looked at while something is missing.
const WHEN_UNWELL: Duration = Duration::from_millis(100);
/// How often it is looked at otherwise.
const WHEN_WELL: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// How long the store has to answer.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// The writer counts as there for this long after an answer.
const ANSWER_COUNTS_MS: i64 = 5000;
/// How far behind the log's end counts as caught up: some milliseconds at full speed.
const FRAMES_BEHIND: u64 = 64;
/// How far the archive may be behind before it is said: some seconds at full speed.
const ARCHIVE_BEHIND: u64 = 10_000;

/// What works and what does not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Health {
    /// Connected to NATS.
    pub(crate) nats: bool,
    /// The log has a leader and most of its copies, and has been read up to its end.
    pub(crate) log: bool,
    /// The writer answered lately, or somebody holds its lease.
    pub(crate) writer: bool,
    /// What is not as it should be, although requests are served: for people.
    pub(crate) degraded: Vec<String>,
    /// The streams that could be looked at.
    pub(crate) streams: Vec<StreamHealth>,
    /// How many authz workers are registered.
    pub(crate) authz: usize,
    /// How many frames the archive is behind the log; `None` if it does not say.
    pub(crate) archive_behind: Option<u64>,
}

/// The copies of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StreamHealth {
    name: String,
    /// The server that leads; empty where there is one server only.
    leader: String,
    copies: usize,
    current: usize,
}

/// What is looked at.
pub(crate) struct Watched {
    pub(crate) client: Client,
    pub(crate) log: Log,
    pub(crate) feed: Arc<Feed>,
    pub(crate) sending: Sending,
}

/// What was seen in one look.
struct Seen {
    log: Result<Copies, NoLeader>,
    rooms: Result<Copies, NoLeader>,
    leases: Result<Copies, NoLeader>,
    /// The end of the last frame that is archived.
    archived: Option<u64>,
    authz: Option<usize>,
    writer: bool,
    audit: Option<AuditReport>,
}

/// Looks at it for ever.
pub(crate) async fn watch_health(watched: Watched, told: watch::Sender<Health>, ready: watch::Sender<bool>) {
    let mut leases = None;
    loop {
        let health = timeout(LOOK_WITHIN, watched.look(&mut leases))
            .await
            .unwrap_or_default();
        let before = told.send_replace(health.clone());
        if (before.is_ready(), &before.degraded) != (health.is_ready(), &health.degraded) {
            let Health {
                nats,
                log,
                writer,
                degraded,
                ..
            } = &health;
            tracing::info!(nats, log, writer, ?degraded, "health");
        }
        ready.send_if_modified(|ready| std::mem::replace(ready, health.is_ready()) != health.is_ready());
        tokio::time::sleep(if health.is_ready() { WHEN_WELL } else { WHEN_UNWELL }).await;
    }
}

impl Health {
    /// Whether requests can be served.
    pub(crate) fn is_ready(&self) -> bool {
        self.nats && self.log && self.writer
    }

    /// What is missing for that.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let all = [(self.nats, "nats"), (self.log, "log"), (self.writer, "writer")];
        all.into_iter()
            .filter_map(|(is_well, name)| (!is_well).then_some(name))
            .collect()
    }
}

impl Watched {
    async fn look(&self, leases: &mut Option<Leases>) -> Health {
        if self.client.connection_state() != State::Connected {
            return Health::default();
        }
        let seen = self.see(leases).await;
        let caught_up = |end| self.feed.is_caught_up() && self.feed.passed().frame() + FRAMES_BEHIND >= end;
        judge(&seen, caught_up)
    }

    async fn see(&self, leases: &mut Option<Leases>) -> Seen {
        let (log, subjects) = (self.log.stream(), &self.log.subjects);
        let rooms = subjects.rooms_stream(self.log.shard);
        let lease = format!("KV_{}", subjects.lease_bucket());
        let (log, rooms, lease, registered, archived, audit) = tokio::join!(
            look_for_a_while(&self.client, &log),
            look_for_a_while(&self.client, &rooms),
            look_for_a_while(&self.client, &lease),
            self.registered(leases),
            self.ask_store::<ArchiveWatermark>(WATERMARK_VERB),
            self.ask_store(AUDIT_VERB),
        );
        let (writer, authz) = registered;
        Seen {
            log,
            rooms,
            leases: lease,
            archived: archived.map(|archived| archived.watermark.frame()),
            authz,
            writer: writer || clock::now_ms() - self.sending.answered_at_ms() < ANSWER_COUNTS_MS,
            audit,
        }
    }

    /// Whether somebody holds the writer's lease, and how many authz workers are registered.
    async fn registered(&self, leases: &mut Option<Leases>) -> (bool, Option<usize>) {
        if leases.is_none() {
            *leases = Leases::join(&self.client, &self.log.subjects).await.ok();
        }
        let Some(known) = leases else { return (false, None) };
        let (writers, authz) = tokio::join!(known.holders("writer."), known.holders("authz."));
        let shard = self.log.shard.to_string();
        match (writers, authz) {
            (Ok(writers), Ok(authz)) => (writers.contains(&shard), Some(authz.len())),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "the leases cannot be read");
                *leases = None;
                (false, None)
            }
        }
    }

    async fn ask_store<T: DeserializeOwned>(&self, verb: &str) -> Option<T> {
        let subject = self.log.subjects.store_service(verb);
        let asked = timeout(STORE_ANSWERS_WITHIN, self.client.request(subject, "".into()));
        serde_json::from_slice(&asked.await.ok()?.ok()?.payload).ok()
    }
}

/// What follows from a look.
fn judge(seen: &Seen, caught_up: impl Fn(u64) -> bool) -> Health {
    let streams = [&seen.log, &seen.rooms, &seen.leases];
    let end = seen.log.as_ref().map_or(0, |log| log.last);
    let archive_behind = seen.archived.map(|archived| end.saturating_sub(archived));
    let mut degraded: Vec<String> = [(&seen.log, "log"), (&seen.rooms, "rooms"), (&seen.leases, "leases")]
        .into_iter()
        .filter_map(|(copies, name)| fault_of(copies, name))
        .collect();
    degraded.extend(match seen.authz {
        Some(0) => {
            Some("authz: no worker is registered, so nobody new gets in over NATS, WebSocket or MQTT".to_owned())
        }
        _ => None,
    });
    degraded.extend(match archive_behind {
        None => Some("archive: it does not say how far it is; history may not be served".to_owned()),
        Some(frames) if frames > ARCHIVE_BEHIND => Some(format!("archive: {frames} frames behind the log")),
        Some(_) => None,
    });
    if let Some(report) = &seen.audit {
        degraded.extend(report.open().map(|finding| format!("audit: {finding}")));
    }
    Health {
        nats: true,
        log: seen
            .log
            .as_ref()
            .is_ok_and(|log| log.has_quorum() && caught_up(log.last)),
        writer: seen.writer,
        degraded,
        streams: streams.into_iter().flatten().map(StreamHealth::of).collect(),
        authz: seen.authz.unwrap_or_default(),
        archive_behind,
    }
}

fn fault_of(copies: &Result<Copies, NoLeader>, name: &str) -> Option<String> {
    match copies {
        Ok(copies) if copies.is_whole() => None,
        Ok(copies) => Some(format!(
            "{name}: {} of {} copies are up to date, not the one on {}",
            copies.current,
            copies.wanted,
            copies.behind.join(", ")
        )),
        Err(error) => Some(format!("{name}: {error}")),
    }
}

impl StreamHealth {
    fn of(copies: &Copies) -> Self {
        Self {
            name: copies.stream.clone(),
            leader: copies.leader.clone(),
            copies: copies.wanted,
            current: copies.current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(current: usize) -> Copies {
        Copies {
            stream: "L".to_owned(),
            leader: "n1".to_owned(),
            group: "S-R3F-x".to_owned(),
            wanted: 3,
            current,
            behind: ["n2", "n3"].iter().take(3 - current).map(ToString::to_string).collect(),
            silence: Duration::ZERO,
            first: 1,
            last: 100,
        }
    }

    fn seen() -> Seen {
        Seen {
            log: Ok(copies(3)),
            rooms: Ok(copies(3)),
            leases: Ok(copies(3)),
            archived: Some(100),
            authz: Some(1),
            writer: true,
            audit: None,
        }
    }

    /// All is well but for what is changed.
    fn but(change: fn(&mut Seen)) -> Seen {
        let mut seen = seen();
        change(&mut seen);
        seen
    }

    #[test]
    fn it_serves_with_two_copies_of_three_and_says_so_and_not_with_one() {
        let rows = [
            (seen(), true, 0),
            (but(|seen| seen.log = Ok(copies(2))), true, 1),
            (but(|seen| seen.rooms = Ok(copies(1))), true, 1),
            (but(|seen| seen.leases = Ok(copies(2))), true, 1),
            (but(|seen| seen.log = Ok(copies(1))), false, 1),
            (but(|seen| seen.writer = false), false, 0),
            (but(|seen| seen.authz = Some(0)), true, 1),
            (but(|seen| seen.archived = None), true, 1),
        ];
        for (seen, ready, degraded) in rows {
            let health = judge(&seen, |end| end <= 100);
            assert_eq!(
                (health.is_ready(), health.degraded.len()),
                (ready, degraded),
                "{health:?}"
            );
        }
        let behind = judge(&seen(), |_| false);
        assert_eq!((behind.is_ready(), behind.missing()), (false, vec!["log"]));
        assert!(!Health::default().is_ready());
    }

    #[test]
    fn what_the_audit_finds_is_said_until_it_is_healed() {
        use natterjack_nats_config::contract::{Fault, Finding, FindingState};
        for (state, degraded) in [
            (FindingState::Open, 1),
            (FindingState::Healing, 1),
            (FindingState::Healed, 0),
        ] {
            let finding = Finding {
                server: "n2".to_owned(),
                frame: 7,
                frames: 1,
                what: Fault::Missing,
                state,
                since: String::new(),
            };
            let report = AuditReport {
                at: String::new(),
                stream: "L".to_owned(),
                servers: Vec::new(),
                frames: 9,
                upto: 9,
                unread: Vec::new(),
                findings: vec![finding],
            };
            let health = judge(
                &Seen {
                    audit: Some(report),
                    ..seen()
                },
                |_| true,
            );
            assert_eq!(health.degraded.len(), degraded, "{health:?}");
            assert!(health.is_ready());
        }
    }
}
