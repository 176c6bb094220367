use std::time::Duration;

use async_nats::Client;
use natterjack_nats_config::contract::Principal;
use natterjack_nats_config::lease::Leases;
use natterjack_nats_config::stream::{StreamError, log_config, reconcile};
use natterjack_nats_config::tail::{Log, TailError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::leader;
use super::state::State;
use crate::devices::Wanted;

/// Waiting between attempts to make the streams.
const RETRY: Duration = Duration::from_secs(1);

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
    let key = format!("writer.{}", config.log.shard);
    let worker = Worker {
        client,
        config,
        leading,
    };
    let Worker {
        client,
        config,
        leading,
    } = &worker;
    while !shutdown.is_cancelled() {
        let mut state = State::default();
        let lease = tokio::select! {
            lease = leases.take(&key, &config.worker) => lease,
            error = stand_by(client, &config.log, &mut state) => return Err(error.into()),
            () = shutdown.cancelled() => return Ok(()),
        };
        tracing::info!(worker = config.worker, "holding the writer's lease");
        // On the heap: it is large, and whoever stands by has no use for it.
        let led = Box::pin(leader::lead(&worker, state, lease, &shutdown)).await;
        leading.send_replace(false);
        led?;
    }
    Ok(())
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
async fn stand_by(client: &Client, log: &Log, state: &mut State) -> TailError {
    let mut tail = log.tail(client, 0);
    loop {
        match tail.next().await {
            Ok(frame) => fold(state, &frame),
            Err(error) => return error,
        }
    }
}

/// Takes a frame of the log into the state.
pub(crate) fn fold(state: &mut State, frame: &natterjack_nats_config::tail::Frame) {
    for line in &frame.events {
        state.apply(&line.event);
    }
    if frame.events.is_empty() {
        state.begin_term();
    }
    state.pass_frame(frame.stream_seq);
}
