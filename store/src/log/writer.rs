use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::checkpoint::BeginError;
use natterjack_nats_config::contract::Principal;
use natterjack_nats_config::lease::{Leases, READING, STANDBY};
use natterjack_nats_config::limits::Limits;
use natterjack_nats_config::stream::{StreamError, log_config, reconcile};
use natterjack_nats_config::tail::{Frame, Log, TailError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::standing::Standing;
use super::state::{Diverged, State};
use super::{checkpoint, leader};
use crate::devices::Wanted;

/// Waiting between attempts to make the streams.
const RETRY: Duration = Duration::from_secs(1);
/// How often a worker that differs from the writer says so.
const ALARM_EVERY: Duration = Duration::from_mins(1);

/// What the writer needs to know.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Which log.
    pub log: Log,
    /// Names this worker in the lease; unique.
    pub worker: String,
    /// Copies of each stream: 1 or 3.
    pub replicas: usize,
    /// The log's `max_bytes` when it is made. Keep it well below the disk.
    pub log_max_bytes: i64,
    /// The rooms whose events are kept for MQTT sessions.
    pub devices: Wanted,
    /// The tenant to found when the log does not have it, and who administers it.
    pub bootstrap: Option<Bootstrap>,
    /// How fast events may come.
    pub limits: Arc<Limits>,
    /// Becomes true when this worker's state differs from the writer's: it never leads then, and somebody has to look.
    pub diverged: watch::Sender<bool>,
}

/// A tenant's first event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// The tenant and the user who gets its role `admin`.
    pub admin: Principal,
}

/// This process as a writer, leading or not.
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) config: WriterConfig,
    /// Whether it writes now.
    pub(crate) leading: watch::Sender<bool>,
}

/// Why the writer stopped.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// A stream is not as it must be.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The log cannot be read: somebody has to look.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// There is nothing to begin with: somebody has to look.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// This worker's state is not the writer's.
    #[error(transparent)]
    Diverged(#[from] Diverged),
    /// NATS refused a subscription.
    #[error("the writer cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// Stands by, and writes while this worker holds the lease, until it is told to stop.
///
/// `leading` says whether this worker is the writer now and its barrier has landed.
pub async fn run(
    client: Client,
    config: WriterConfig,
    leading: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> Result<(), WriterError> {
    let leases = tokio::select! {
        prepared = prepare(&client, &config) => prepared?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let worker = Worker {
        client,
        config,
        leading,
    };
    while !shutdown.is_cancelled() {
        let ended = Box::pin(take_a_turn(&worker, &leases, &shutdown)).await;
        worker.leading.send_replace(false);
        match ended {
            Ok(()) => {}
            Err(WriterError::Tail(TailError::Trimmed { wanted, first })) if worker.is_trimmed(wanted).await => {
                tracing::warn!(
                    wanted,
                    first,
                    "the log was trimmed past this worker, it begins again from a checkpoint"
                );
            }
            Err(WriterError::Diverged(diverged)) => {
                stay_out(&worker.config, &diverged, &shutdown).await;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Begins, stands by, and leads once, until something ends that.
async fn take_a_turn(worker: &Worker, leases: &Leases, shutdown: &CancellationToken) -> Result<(), WriterError> {
    let Worker { client, config, .. } = worker;
    // Read up to the log's end before it asks for the lease: whoever is warm leads.
    let reading = Standing::begin(leases, READING, config);
    let begun = tokio::select! {
        begun = catch_up(client, &config.log) => Some(begun),
        () = shutdown.cancelled() => None,
    };
    reading.end().await;
    let Some(begun) = begun else { return Ok(()) };
    let mut state = begun?;
    let key = format!("writer.{}", config.log.shard);
    let standing = Standing::begin(leases, STANDBY, config);
    let lease = tokio::select! {
        lease = leases.take(&key, &config.worker) => lease,
        error = stand_by(client, &config.log, &mut state) => return Err(error),
        () = shutdown.cancelled() => {
            standing.end().await;
            return Ok(());
        }
    };
    // What it was is told while it takes over, which must not wait for that.
    drop(standing);
    tracing::info!(worker = config.worker, "holding the writer's lease");
    // On the heap: it is large, and whoever stands by has no use for it.
    Box::pin(leader::lead(worker, state, (lease, leases), shutdown)).await
}

/// The state at the log's end: from the newest checkpoint and what follows it.
async fn catch_up(client: &Client, log: &Log) -> Result<State, WriterError> {
    let mut state = checkpoint::begin(client, log).await?;
    let (checkpoint, end) = (state.end(), log.end(client).await.unwrap_or_default());
    let mut tail = log.tail(client, checkpoint);
    while state.end() < end {
        fold(&mut state, &tail.next().await?)?;
    }
    tracing::info!(checkpoint, end = state.end(), "the log is read");
    Ok(state)
}

/// What a worker does whose state cannot be trusted: it says so, and keeps away from the lease.
async fn stay_out(config: &WriterConfig, diverged: &Diverged, shutdown: &CancellationToken) {
    config.diverged.send_replace(true);
    loop {
        tracing::error!(worker = config.worker, %diverged, "ALARM: this worker does not write");
        tokio::select! {
            () = tokio::time::sleep(ALARM_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

impl Worker {
    /// Whether a frame is missing because the log begins behind it; a gap anywhere else is damage.
    async fn is_trimmed(&self, frame: u64) -> bool {
        let bounds = self.config.log.bounds(&self.client).await;
        bounds.is_ok_and(|bounds| frame < bounds.first)
    }
}

/// Makes what is missing, for as long as NATS needs to answer; ends early only where a person has to look.
async fn prepare(client: &Client, config: &WriterConfig) -> Result<Leases, WriterError> {
    let wanted = log_config(&config.log, config.replicas, config.log_max_bytes);
    loop {
        let reason = match reconcile(client, wanted.clone(), &[]).await {
            Ok(()) => match Leases::open(client, &config.log.subjects, config.replicas).await {
                Ok(leases) => return Ok(leases),
                Err(error) => error.to_string(),
            },
            Err(StreamError::Unavailable { reason, .. }) => reason,
            Err(error @ StreamError::Unsafe { .. }) => return Err(error.into()),
        };
        tracing::warn!(reason, "the streams cannot be made yet, trying again");
        tokio::time::sleep(RETRY).await;
    }
}

/// Folds the log as it grows, so that a take-over starts warm. Ends only by an error.
async fn stand_by(client: &Client, log: &Log, state: &mut State) -> WriterError {
    let mut tail = log.tail(client, state.end());
    loop {
        match tail.next().await {
            Ok(frame) => {
                if let Err(diverged) = fold(state, &frame) {
                    return diverged.into();
                }
            }
            Err(error) => return error.into(),
        }
    }
}

/// Takes a frame of the log into the state, if that is what the writer says it was before this frame.
pub(crate) fn fold(state: &mut State, frame: &Frame) -> Result<(), Diverged> {
    state.compare(frame.stream_seq, frame.stamp.as_ref())?;
    for line in &frame.events {
        state.apply(&line.event);
    }
    if frame.events.is_empty() {
        state.begin_term(frame.stamp.as_ref().map(|stamp| stamp.version));
    }
    state.pass_frame(frame.stream_seq);
    Ok(())
}
