use std::convert::Infallible;
use std::time::Duration;

use async_nats::jetstream::{self, stream::Stream};
use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::lease::{Lease, Leases};
use natterjack_nats_config::tail::Log;
use sea_orm::DbErr;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::catch_up::CatchUp;
use super::consume::{self, ReadError, Reader};
use super::database::Database;
use super::sql::{self, Commit};
use super::step::{Step, passed};
use super::{keeper, project};
use crate::erasure;
use crate::log::broken;

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The least time between the beginnings of two commits that are not full. A commit flushes the disk, which the log's
/// own flushes wait for: fewer and larger ones leave it to the senders.
const BETWEEN_COMMITS: Duration = Duration::from_millis(100);
/// How often a worker that stands by looks how far the other one is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the archive needs to know.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// Which log.
    pub log: Log,
    /// Names this worker in the lease; unique.
    pub worker: String,
    /// Copies of the lease bucket, should this worker be the one who makes it: 1 or 3.
    pub replicas: usize,
}

/// How the archive fares, as this worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The end of the last frame that is archived.
    pub watermark: Seq,
    /// Whether the database answers and this worker archives, or stands by for another one.
    pub ready: bool,
}

/// Why the archive stopped: going on would mix two logs, a person has to look. Everything else is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive holds something else than the log at the same place.
    #[error(
        "the archive and the log of shard {shard}, epoch {epoch} are not the same: they differ at {seq}. One of them \
         was replaced or restored from elsewhere: give the archive of this log, or stop all stores and say which of the two \
         is right. `natterjack rebuild log` takes the archive and begins a new epoch of the log, `natterjack rebuild archive` \
         takes the log; either keeps the other side too"
    )]
    Fork {
        /// The shard.
        shard: u16,
        /// The epoch.
        epoch: u32,
        /// The event that differs.
        seq: Seq,
    },
    /// The archive follows a later epoch of the log.
    #[error(
        "the archive of shard {shard} is in epoch {found}, the newest log in {epoch}: the log of that epoch is lost, or this \
         is another NATS. `natterjack rebuild log` makes a log of a new epoch from the archive"
    )]
    LaterEpoch {
        /// The shard.
        shard: u16,
        /// This worker's epoch.
        epoch: u32,
        /// The archive's epoch.
        found: i64,
    },
}

/// What now, after a failure.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// Pause and begin again at the watermark; nothing was acknowledged.
    #[error("{0}")]
    Retry(String),
    /// Stop.
    #[error(transparent)]
    Die(#[from] ArchiveError),
}

struct Worker {
    client: async_nats::Client,
    database: Database,
    config: ArchiveConfig,
    progress: watch::Sender<Progress>,
}

/// Archives the log while this worker holds the lease `archive.{shard}`, and stands by otherwise, until it is told to
/// stop. A batch in work is finished first.
///
/// A database or a NATS that fails is waited for; `progress` says how far it got.
pub async fn run(
    client: async_nats::Client,
    database: Database,
    config: ArchiveConfig,
    progress: watch::Sender<Progress>,
    shutdown: CancellationToken,
) -> Result<(), ArchiveError> {
    let worker = Worker {
        client,
        database,
        config,
        progress,
    };
    let mut ended = Ok(());
    while ended.is_ok() && !shutdown.is_cancelled() {
        tokio::select! {
            lease = worker.stand_by() => ended = worker.hold(lease, &shutdown).await,
            () = shutdown.cancelled() => {}
        }
    }
    worker.progress.send_modify(|progress| progress.ready = false);
    ended
}

impl Worker {
    /// Waits for the lease, looking meanwhile how far its holder gets.
    async fn stand_by(&self) -> Lease {
        let key = format!("archive.{}", self.config.log.shard);
        tokio::select! {
            lease = self.take(&key) => lease,
            never = self.look() => match never {},
        }
    }

    async fn take(&self, key: &str) -> Lease {
        let ArchiveConfig { log, worker, replicas } = &self.config;
        loop {
            match Leases::open(&self.client, &log.subjects, *replicas).await {
                Ok(leases) => return leases.take(key, worker).await,
                Err(error) => tracing::debug!(%error, "waiting for the lease bucket"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Infallible {
        loop {
            match sql::archived(self.database.connection(), &self.config.log).await {
                Ok(watermark) => self.tell(watermark, true),
                Err(error) => {
                    tracing::warn!(%error, "the archive's database does not answer");
                    self.not_ready();
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Archives until the lease is lost or `shutdown`.
    async fn hold(&self, lease: Lease, shutdown: &CancellationToken) -> Result<(), ArchiveError> {
        tracing::info!(worker = self.config.worker, "holding the archive's lease");
        let (stop, done) = (shutdown.child_token(), CancellationToken::new());
        let keeper = tokio::spawn(keeper::keep(lease, stop.clone(), done.clone()));
        // A guard: when this future is dropped, nobody works any more and nobody must hold the lease.
        let working = done.drop_guard();
        let ended = self.archive(&stop).await;
        drop(working);
        if let Err(error) = keeper.await {
            tracing::error!(%error, "the task of the archive's lease failed");
        }
        ended
    }

    async fn archive(&self, stop: &CancellationToken) -> Result<(), ArchiveError> {
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let error = match self.session(stop, &mut pause).await {
                Ok(()) => continue,
                Err(Trouble::Die(error)) => return Err(error),
                Err(Trouble::Retry(error)) => error,
            };
            self.not_ready();
            // The first failure is mostly the log's stream, which the writer is just making.
            if pause > FIRST_PAUSE {
                tracing::warn!(error, retry_in = ?pause, "the archive does not get on");
            } else {
                tracing::debug!(error, retry_in = ?pause, "the archive does not get on");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// From the watermark on, batch by batch, until something fails, another worker was faster, or `stop`.
    async fn session(&self, stop: &CancellationToken, pause: &mut Duration) -> Result<(), Trouble> {
        let log = &self.config.log;
        let mut watermark = self.begin().await?;
        sql::catch_up(&self.database, log).await?;
        // What is archived is known now, whether or not the log can be read.
        let ready = self.progress.borrow().ready;
        self.tell_frame(watermark, ready);
        let stream = jetstream::new(self.client.clone())
            .get_stream(log.stream())
            .await
            .map_err(|error| Trouble::Retry(format!("stream {}: {error}", log.stream())))?;
        self.compare(&stream, watermark).await?;
        let mut reader = Reader::open(log, &stream, watermark).await?;
        self.tell_frame(watermark, true);
        let mut not_before = Instant::now();
        let mut catch_up = CatchUp::begin(watermark, stream.cached_info().state.last_sequence, Instant::now());
        loop {
            let mut batch = Batch::after(watermark);
            let fill = async {
                sleep_until(not_before).await;
                reader.fill(&mut batch).await
            };
            tokio::select! {
                filled = fill => filled?,
                () = stop.cancelled() => return Ok(()),
            }
            if !batch.is_full() && !reader.is_behind() {
                not_before = Instant::now() + BETWEEN_COMMITS;
            }
            let (upto, events) = (batch.new_watermark(), batch.events());
            if broken("archive-commit-before-ack") {
                reader.ack().await;
            }
            match sql::commit(&self.database, log, batch).await? {
                Commit::Done => {}
                Commit::Overtaken => {
                    tracing::warn!(
                        watermark,
                        "another worker moved the archive's watermark, reading it again"
                    );
                    return Ok(());
                }
            }
            passed(Step::Committed);
            reader.ack().await;
            watermark = upto;
            *pause = FIRST_PAUSE;
            catch_up.tell(watermark, events);
            self.tell_frame(watermark, true);
        }
    }

    /// The last frame that is archived, 0 for none: by the database's word, never by the consumer's.
    async fn begin(&self) -> Result<u64, Trouble> {
        let (log, database) = (&self.config.log, self.database.connection());
        let epoch = i64::from(log.epoch);
        match sql::watermark(database, log).await? {
            None => {
                sql::begin_watermark(database, log).await?;
                Ok(0)
            }
            Some(row) if row.epoch == epoch => Ok(row.stream_seq.unsigned_abs()),
            Some(row) if row.epoch > epoch => Err(ArchiveError::LaterEpoch {
                shard: log.shard,
                epoch: log.epoch,
                found: row.epoch,
            }
            .into()),
            Some(row) => {
                tracing::warn!(
                    from = row.epoch,
                    to = epoch,
                    "the archive begins a new epoch of the log"
                );
                if !sql::begin_epoch(database, log, &row).await? {
                    return Err(Trouble::Retry("another worker moved the watermark".to_owned()));
                }
                Ok(0)
            }
        }
    }

    /// Makes sure that the archive belongs to this log: the last event that it has must stand there too.
    async fn compare(&self, stream: &Stream, watermark: u64) -> Result<(), Trouble> {
        let log = &self.config.log;
        let end = stream.cached_info().state.last_sequence;
        if end < watermark {
            // A leader without quorum may answer with an old end, so this alone is no proof.
            return Err(Trouble::Retry(format!(
                "the log ends at frame {end}, the archive has {watermark}: the log was replaced or lost its end. If it stays so: \
                 `natterjack rebuild log` makes a log of a new epoch from the archive"
            )));
        }
        let Some(last) = sql::last_event(self.database.connection(), log).await? else {
            return Ok(());
        };
        let seq = Seq(last.seq.unsigned_abs());
        let Some(frame) = consume::frame(stream, seq.frame()).await? else {
            return Ok(());
        };
        let there = project::frame(log, seq.frame(), &frame).events;
        if there
            .iter()
            .any(|event| event.seq == last.seq && erasure::is_same(event, &last))
        {
            return Ok(());
        }
        Err(ArchiveError::Fork {
            shard: log.shard,
            epoch: log.epoch,
            seq,
        }
        .into())
    }

    fn tell_frame(&self, watermark: u64, ready: bool) {
        let end = if watermark == 0 {
            Seq::ZERO
        } else {
            Seq::end_of_frame(watermark)
        };
        self.tell(end, ready);
    }

    fn tell(&self, watermark: Seq, ready: bool) {
        let now = Progress { watermark, ready };
        self.progress
            .send_if_modified(|progress| std::mem::replace(progress, now) != now);
    }

    fn not_ready(&self) {
        self.progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.ready, false));
    }
}

impl From<DbErr> for Trouble {
    /// A database error never says anything about the events: whatever it is, the batch is tried again.
    fn from(error: DbErr) -> Self {
        Self::Retry(error.to_string())
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        Self::Retry(error.to_string())
    }
}

#[cfg(test)]
mod rate;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;
