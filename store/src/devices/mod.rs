//! MQTT devices: what they publish goes to the writer, and rooms' events are kept for their sessions.
//!
//! They are in an account of their own, out of which nothing leads by itself ([ADR 8](../../../docs/adr/0008-mqtt-qos-1.md)).
//! Store signs in there: `inbound` fetches requests, `outbound` keeps events and ends what a session may not read any more,
//! `watch` knows the sessions. `request` and `sessions` are pure.

mod duty;
mod inbound;
mod outbound;
mod place;
mod request;
mod sessions;
mod streams;
mod wanted;
mod watch;

use std::sync::Arc;

use async_nats::Client;
use natterjack_nats_config::checkpoint::BeginError;
use natterjack_nats_config::lease::Leases;
use natterjack_nats_config::tail::{Log, TailError};
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use duty::Duty;
use inbound::Inbound;
use outbound::Outbound;
pub use wanted::Wanted;
use watch::Watched;

/// The header by which nats-server knows what is kept for sessions of `QoS` 1, and does not hand it to them twice.
pub(crate) const KEPT: &str = "Nmqtt-Pub";

/// Waiting before what failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// What the work for devices needs to know.
#[derive(Debug, Clone)]
pub struct DevicesConfig {
    /// Which log.
    pub log: Log,
    /// Names this worker in the lease; unique.
    pub worker: String,
    /// Copies of each stream: 1 or 3.
    pub replicas: usize,
}

/// Why the work for devices stopped: somebody has to look.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The log cannot be read.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// The log cannot be begun with.
    #[error(transparent)]
    Begin(#[from] BeginError),
}

/// The two accounts in which store works.
#[derive(Clone)]
pub struct Accounts {
    /// Where the log is.
    pub core: Client,
    /// Where the devices are.
    pub devices: Client,
}

/// Serves devices while this worker holds the lease `devices.{shard}`, and stands by otherwise, until it is told to stop.
///
/// `wanted` is kept up in every worker, whoever holds the lease: the fan-out asks it. `ready` tells that what devices publish
/// with `QoS` 1 is kept from now on.
///
/// # Errors
/// The log cannot be read: somebody has to look. Lost connections are waited for.
pub async fn run(
    accounts: Accounts,
    config: DevicesConfig,
    wanted: Wanted,
    ready: tokio::sync::watch::Sender<bool>,
    shutdown: CancellationToken,
) -> Result<(), DevicesError> {
    tokio::select! {
        () = streams::prepare(&accounts.devices, &config) => ready.send_replace(true),
        () = shutdown.cancelled() => return Ok(()),
    };
    let watched = Arc::new(Watched::new(config.log.subjects.clone(), wanted));
    tokio::select! {
        () = watch::watch(&accounts.devices, &watched) => Ok(()),
        ended = serve(&accounts, &config, &watched, &shutdown) => ended,
    }
}

async fn serve(
    accounts: &Accounts,
    config: &DevicesConfig,
    watched: &Arc<Watched>,
    shutdown: &CancellationToken,
) -> Result<(), DevicesError> {
    while !shutdown.is_cancelled() {
        let lease = tokio::select! {
            lease = take(accounts, config) => lease,
            () = shutdown.cancelled() => break,
        };
        tracing::info!(worker = config.worker, "holding the lease of the devices");
        let duty = Duty::begin(lease, shutdown);
        let inbound = Inbound::new(accounts.clone(), config.clone(), duty.clone());
        let outbound = Outbound::new(accounts.clone(), config.clone(), Arc::clone(watched), duty.clone());
        // Whichever ends first ends both: what was at work is handed out again.
        let kept = tokio::select! {
            () = inbound.run() => Ok(()),
            kept = outbound.run() => kept,
        };
        duty.end().await;
        kept?;
    }
    Ok(())
}

async fn take(accounts: &Accounts, config: &DevicesConfig) -> natterjack_nats_config::lease::Lease {
    let key = format!("devices.{}", config.log.shard);
    loop {
        match Leases::open(&accounts.core, &config.log.subjects, config.replicas).await {
            Ok(leases) => return leases.take(&key, &config.worker).await,
            Err(error) => tracing::debug!(%error, "waiting for the lease bucket"),
        }
        sleep(RETRY).await;
    }
}
