use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::{Client, jetstream};
use futures_util::StreamExt;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{AUDIT_VERB, AuditReport, FindingState, Subjects};
use natterjack_nats_config::copies::{self, Copies, wait_until_whole};
use natterjack_nats_config::lease::Leases;
use natterjack_nats_config::tail::Log;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::compare::{Copy, Faulty, Witness, faults, mendable};
use super::report::{Findings, empty};
use super::round::Round;
use super::{read, witness};
use crate::archive::{Database, keeper, sql};
use crate::erasure::Known;

/// How long the making anew of a copy may take: its server restarts and fetches the whole log.
const MENDED_WITHIN: Duration = Duration::from_mins(30);
/// How long a copy that was wrong has to show the same again: what was on its way is there then.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a copy that was made anew is looked at until it is well.
const LOOKS_AGAIN: usize = 120;
/// How long a lead may take to move.
const LEAD_WITHIN: Duration = Duration::from_secs(10);

/// What the auditor needs to know.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Which log.
    pub log: Log,
    /// Names this worker in the lease; unique.
    pub worker: String,
    /// How often the copies are compared.
    pub every: Duration,
    /// Who makes a copy anew; without one, a person does.
    pub mender: Option<Mender>,
}

/// Makes copies anew: whoever started the servers.
pub type Mender = mpsc::Sender<MendRequest>;

/// Asks for a server's copy of a stream to be made anew from the others.
#[derive(Debug)]
pub struct MendRequest {
    /// The server.
    pub server: String,
    /// The stream.
    pub stream: String,
    /// The Raft group that keeps its copies alike.
    pub group: String,
    /// Told once the server runs again without its old copy, or why not.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// The auditor cannot answer questions; somebody has to look.
#[derive(Debug, thiserror::Error)]
#[error("the audit's answers cannot be given: {0}")]
pub struct AuditError(#[from] async_nats::SubscribeError);

/// A look that did not come to its end; the next one may.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Interrupted(String);

struct Auditor {
    client: Client,
    database: Database,
    config: AuditConfig,
    round: Round,
    findings: Findings,
    /// The servers whose copies were made anew in vain.
    mended: HashSet<String>,
    told: watch::Sender<Option<AuditReport>>,
}

/// What one look compares with what.
struct Look<'a> {
    copies: &'a Copies,
    servers: Vec<String>,
    unread: Vec<String>,
    frames: u64,
}

/// Compares the copies of the log again and again, one worker at a time (lease `audit.{shard}`), and tells what it found, until
/// it is told to stop.
pub async fn run(
    client: Client,
    database: Database,
    config: AuditConfig,
    shutdown: CancellationToken,
) -> Result<(), AuditError> {
    let (told, report) = watch::channel(None);
    let subject = config.log.subjects.store_service(AUDIT_VERB);
    let questions = client.subscribe(subject).await?;
    let mut auditor = Auditor {
        client: client.clone(),
        database,
        config,
        round: Round::default(),
        findings: Findings::default(),
        mended: HashSet::new(),
        told,
    };
    tokio::select! {
        () = answer(client, questions, report) => {}
        () = auditor.audit() => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// Answers with the last report, as long as this worker is the one that audits.
async fn answer(client: Client, mut questions: async_nats::Subscriber, report: watch::Receiver<Option<AuditReport>>) {
    while let Some(question) = questions.next().await {
        let Some(reply) = question
            .reply
            .filter(|reply| reply.starts_with(&Subjects::worker_inbox("")))
        else {
            continue;
        };
        let Some(report) = report.borrow().clone() else {
            continue;
        };
        let answer = serde_json::to_vec(&report).unwrap_or_default();
        if let Err(error) = client.publish(reply, answer.into()).await {
            tracing::warn!(%error, "an audit's answer was not sent");
        }
    }
}

impl Auditor {
    async fn audit(&mut self) {
        let mut every = tokio::time::interval(self.config.every);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            match self.look_with_lease().await {
                Ok(report) => {
                    self.told.send_replace(report);
                }
                Err(error) => tracing::warn!(%error, "the log's copies were not compared"),
            }
        }
    }

    async fn look_with_lease(&mut self) -> Result<Option<AuditReport>, Interrupted> {
        let log = &self.config.log;
        let leases = Leases::join(&self.client, &log.subjects).await.map_err(interrupted)?;
        let key = format!("audit.{}", log.shard);
        let Some(lease) = leases.try_take(&key, &self.config.worker).await.map_err(interrupted)? else {
            // Another worker does it, and tells of it.
            return Ok(None);
        };
        let (lost, done) = (CancellationToken::new(), CancellationToken::new());
        let keeper = tokio::spawn(keeper::keep(lease, lost.clone(), done.clone()));
        let finish = done.drop_guard();
        let report = tokio::select! {
            report = self.look() => report.map(Some),
            () = lost.cancelled() => Err(Interrupted("the audit's lease is lost".to_owned())),
        };
        drop(finish);
        if let Err(error) = keeper.await {
            tracing::error!(%error, "the task of the audit's lease failed");
        }
        report
    }

    async fn look(&mut self) -> Result<AuditReport, Interrupted> {
        let log = self.config.log.clone();
        let copies = copies::look(&self.client, &log.stream()).await.map_err(interrupted)?;
        let archived = sql::archived(self.database.connection(), &log)
            .await
            .map_err(interrupted)?;
        let last = archived.frame().min(copies.last);
        let mut look = Look::at(&copies, self.servers().await?);
        for range in self.round.next(copies.first, last) {
            let compared = self.compare(&mut look, range.clone()).await?;
            self.round.upto = compared;
        }
        Ok(self.report(&look))
    }

    /// The servers that hold copies.
    async fn servers(&self) -> Result<Vec<String>, Interrupted> {
        let stream = jetstream::new(self.client.clone())
            .get_stream(self.config.log.stream())
            .await
            .map_err(interrupted)?;
        let Some(cluster) = stream.cached_info().cluster.clone() else {
            return Ok(vec![String::new()]);
        };
        let peers = cluster.replicas.into_iter().map(|peer| peer.name);
        Ok(cluster.leader.into_iter().chain(peers).collect())
    }

    /// Compares a range on all copies, and does what follows from it; up to which frame it came.
    async fn compare(&mut self, look: &mut Look<'_>, range: RangeInclusive<u64>) -> Result<u64, Interrupted> {
        let (range, copies) = self.read_all(look, range).await?;
        let witness = self.witness(&range).await?;
        look.frames += range.end() - range.start() + 1;
        let faulty = self.confirmed(&range, copies, &witness).await?;
        self.settle_known(look, &range, &faulty);
        for faulty in &faulty {
            tracing::error!(server = faulty.server, frame = faulty.frame, frames = faulty.frames, what = ?faulty.what,
                "a copy of the log is not what it must be");
            self.findings.note(faulty, FindingState::Open, clock::now_ms());
        }
        self.tell(look);
        if let Some(faulty) = mendable(&faulty, look.servers.len(), look.copies.wanted) {
            self.mend(look, faulty, &range, &witness).await?;
        }
        Ok(*range.end())
    }

    async fn read_all(
        &self,
        look: &mut Look<'_>,
        mut range: RangeInclusive<u64>,
    ) -> Result<(RangeInclusive<u64>, Vec<(String, Copy)>), Interrupted> {
        let erased = self.erased().await?;
        let mut copies = Vec::new();
        for server in look.servers.clone() {
            match read::copy(&self.client, &self.config.log, &server, (&range, &erased)).await {
                Ok((copy, upto)) => {
                    range = *range.start()..=upto;
                    copies.push((server, copy));
                }
                Err(error) => {
                    look.unread.push(format!("{server}: {error}"));
                    look.servers.retain(|known| *known != server);
                }
            }
        }
        if copies.is_empty() {
            return Err(Interrupted(format!("no copy can be read: {}", look.unread.join("; "))));
        }
        Ok((range, copies))
    }

    /// What is erased, in the archive or soon.
    async fn erased(&self) -> Result<Known, Interrupted> {
        let db = self.database.connection();
        Known::load(db, &self.config.log).await.map_err(interrupted)
    }

    async fn witness(&self, range: &RangeInclusive<u64>) -> Result<Witness, Interrupted> {
        witness::witness(self.database.connection(), &self.config.log, range)
            .await
            .map_err(interrupted)
    }

    /// The copies that are wrong, and are so when they are read again.
    async fn confirmed(
        &self,
        range: &RangeInclusive<u64>,
        mut copies: Vec<(String, Copy)>,
        witness: &Witness,
    ) -> Result<Vec<Faulty>, Interrupted> {
        let suspects = faults(range.clone(), &copies, witness);
        if suspects.is_empty() {
            return Ok(suspects);
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        let erased = self.erased().await?;
        for suspect in suspects {
            let (again, _) = read::copy(&self.client, &self.config.log, &suspect.server, (range, &erased))
                .await
                .map_err(interrupted)?;
            if let Some((_, copy)) = copies.iter_mut().find(|(server, _)| *server == suspect.server) {
                *copy = again;
            }
        }
        // Something may have been erased since.
        let now = self.witness(range).await?;
        let range = self.untrimmed(range).await?;
        let since = faults(range.clone(), &copies, &now);
        let faulty = faults(range, &copies, witness);
        Ok(faulty.into_iter().filter(|faulty| since.contains(faulty)).collect())
    }

    /// What is still in the log of a range that was read: the log may be trimmed while it is compared.
    async fn untrimmed(&self, range: &RangeInclusive<u64>) -> Result<RangeInclusive<u64>, Interrupted> {
        let copies = copies::look(&self.client, &self.config.log.stream())
            .await
            .map_err(interrupted)?;
        Ok(copies.first.max(*range.start())..=*range.end())
    }

    /// A copy that was wrong in this range and is not any more: somebody has mended it.
    fn settle_known(&mut self, look: &Look<'_>, range: &RangeInclusive<u64>, faulty: &[Faulty]) {
        for (server, frame) in self.findings.open() {
            let still = faulty.iter().any(|faulty| faulty.server == server);
            if range.contains(&frame) && look.servers.contains(&server) && !still {
                self.findings.is_well(&server);
            }
        }
    }

    /// Takes the lead from a wrong copy and lets it be made anew, then compares it again.
    async fn mend(
        &mut self,
        look: &Look<'_>,
        faulty: &Faulty,
        range: &RangeInclusive<u64>,
        witness: &Witness,
    ) -> Result<(), Interrupted> {
        let stream = look.copies.stream.clone();
        copies::lead_elsewhere(&self.client, &stream, &faulty.server, LEAD_WITHIN)
            .await
            .map_err(interrupted)?;
        let Some(mender) = self.config.mender.clone() else {
            return Ok(());
        };
        if self.mended.contains(&faulty.server) {
            return Ok(());
        }
        self.findings.becomes(&faulty.server, FindingState::Healing);
        self.tell(look);
        // Once: what does not help the first time needs a person.
        self.mended.insert(faulty.server.clone());
        let mended = match self.made_anew(&mender, faulty, look.copies).await {
            Ok(()) => self.is_well_again(faulty, range, witness).await,
            Err(error) => Err(error),
        };
        if matches!(mended, Ok(true)) {
            tracing::warn!(server = faulty.server, "the copy was made anew and is what it must be");
            self.findings.is_well(&faulty.server);
            self.mended.remove(&faulty.server);
        } else {
            tracing::error!(server = faulty.server, "making the copy anew did not help");
            self.findings.becomes(&faulty.server, FindingState::Open);
        }
        mended.map(|_| ())
    }

    /// Reads a copy that was made anew until it is what it must be: it says that it is up to date before it has everything.
    async fn is_well_again(
        &self,
        faulty: &Faulty,
        range: &RangeInclusive<u64>,
        witness: &Witness,
    ) -> Result<bool, Interrupted> {
        let erased = self.erased().await?;
        for _ in 0..LOOKS_AGAIN {
            let read = read::copy(&self.client, &self.config.log, &faulty.server, (range, &erased)).await;
            if let Ok((copy, upto)) = read
                && let Ok(there) = self.untrimmed(&(*range.start()..=upto)).await
                && faults(there, &[(faulty.server.clone(), copy)], witness).is_empty()
            {
                return Ok(true);
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
        Ok(false)
    }

    async fn made_anew(&self, mender: &Mender, faulty: &Faulty, copies: &Copies) -> Result<(), Interrupted> {
        let (done, is_done) = oneshot::channel();
        let request = MendRequest {
            server: faulty.server.clone(),
            stream: copies.stream.clone(),
            group: copies.group.clone(),
            done,
        };
        mender.send(request).await.map_err(interrupted)?;
        let made = timeout(MENDED_WITHIN, is_done).await.map_err(interrupted)?;
        made.map_err(interrupted)?.map_err(Interrupted)?;
        let streams = std::slice::from_ref(&copies.stream);
        wait_until_whole(&self.client, streams, Instant::now(), MENDED_WITHIN)
            .await
            .map_err(Interrupted)
    }

    fn tell(&mut self, look: &Look<'_>) {
        let report = self.report(look);
        self.told.send_replace(Some(report));
    }

    fn report(&mut self, look: &Look<'_>) -> AuditReport {
        let now_ms = clock::now_ms();
        AuditReport {
            at: clock::format_ms(now_ms),
            servers: look.servers.clone(),
            frames: look.frames,
            upto: self.round.upto,
            unread: look.unread.clone(),
            findings: self.findings.told(now_ms),
            ..empty(self.config.log.stream())
        }
    }
}

impl<'a> Look<'a> {
    /// Copies that are not up to date are not compared: they are being brought there.
    fn at(copies: &'a Copies, servers: Vec<String>) -> Self {
        let (behind, servers): (Vec<_>, Vec<_>) =
            servers.into_iter().partition(|server| copies.behind.contains(server));
        Self {
            copies,
            servers,
            unread: behind
                .into_iter()
                .map(|server| format!("{server}: it is not up to date"))
                .collect(),
            frames: 0,
        }
    }
}

fn interrupted(error: impl std::fmt::Display) -> Interrupted {
    Interrupted(error.to_string())
}
