use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use natterjack_authz::refused::RefusedLogins;
use natterjack_nats_config::client::connect;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::bundle::{self, Bundler};
use crate::config::{BridgeConfig, Caps};
use crate::door::{Auth, Hooks, HttpDoor, NativeDoor, Origins, Tickets};
use crate::error::BridgeError;
use crate::feed::{Cursors, Feed, Past, follow, listen};
use crate::health::{Health, Watched, watch_health};
use crate::metrics::{Cap, Metrics};
use crate::ops::{Archive, Bridge, RequestRates, Settling, finish_revocations, follow_archive};

/// How long what was published last may take to leave.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// The tasks behind the doors; they end when this is dropped.
struct Tasks {
    follow: AbortOnDropHandle<BridgeError>,
    listen: AbortOnDropHandle<()>,
    bundler: AbortOnDropHandle<Result<(), async_nats::SubscribeError>>,
    health: AbortOnDropHandle<()>,
    archive: AbortOnDropHandle<()>,
    /// Begun when the rest is there.
    revocations: Option<AbortOnDropHandle<()>>,
}

/// Serves HTTP on `listener` and native clients on NATS until `shutdown`, then drains: parked polls are answered at
/// once, requests under way get ten seconds.
///
/// `ready` follows what `/readyz` says.
///
/// # Errors
/// What needs somebody to look; lost connections are waited for.
pub async fn run(
    config: BridgeConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: watch::Sender<bool>,
) -> Result<(), BridgeError> {
    let (verifier, until) = (Arc::clone(&config.verifier), shutdown.clone());
    let _keys = AbortOnDropHandle::new(tokio::spawn(async move { verifier.keep_fresh(&until).await }));
    let client = connect(&config.nats).await?;
    let draining = CancellationToken::new();
    let (bridge, mut tasks) = start(&config, &client, draining.clone(), ready);
    let subjects = &config.log.subjects;
    let tickets = Tickets::new(&config.cursor_key, client.clone(), subjects, config.replicas);
    let refused = Arc::new(RefusedLogins::new(config.tenant.clone(), config.worker.clone()));
    let auth = Arc::new(Auth::new(config.verifier, &bridge, Arc::clone(&refused)));
    let doors = (Arc::clone(&bridge), Arc::clone(&auth));
    let native = NativeDoor::open(doors, config.caps.native_requests).await?;
    let (to, log, until) = (client.clone(), config.log.clone(), shutdown.clone());
    let _telling = AbortOnDropHandle::new(tokio::spawn(
        async move { refused.keep_telling(&to, &log, &until).await },
    ));
    let http = HttpDoor::new(
        bridge,
        auth,
        (tickets, Hooks::new(&config.cursor_key), Origins::new(config.origins)),
        (&config.caps, config.log_requests),
    )
    .with_tls(config.tls)
    .with_proxies(config.proxies);
    let stop = CancellationToken::new();
    let mut http = AbortOnDropHandle::new(tokio::spawn(http.serve(listener, stop.clone())));
    let mut native = AbortOnDropHandle::new(tokio::spawn(native.serve(stop.clone())));
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = tasks.first_to_fail() => Err(error),
        ended = &mut http => Err(ended_unexpectedly("HTTP door", ended)),
        ended = &mut native => Err(ended_unexpectedly("native door", ended)),
    };
    draining.cancel();
    stop.cancel();
    for door in [http, native] {
        if !door.is_finished()
            && let Err(error) = door.await
        {
            tracing::error!(%error, "a door did not close");
        }
    }
    if tokio::time::timeout(FLUSH_WITHIN, client.flush()).await.is_err() {
        tracing::warn!("the last answers may not have left");
    }
    outcome
}

fn start(
    config: &BridgeConfig,
    client: &Client,
    draining: CancellationToken,
    ready: watch::Sender<bool>,
) -> (Arc<Bridge>, Tasks) {
    let log = &config.log;
    let metrics = Arc::new(Metrics::new(&caps(&config.caps)));
    let feed = Arc::new(Feed::new(&config.caps, Arc::clone(&metrics)));
    let (sending, bundler) = bundle::channel(
        client.clone(),
        log.subjects.write(log.shard),
        config.caps.send_queue,
        Arc::clone(&metrics),
    );
    let (told, health) = watch::channel(Health::default());
    let watched = Watched {
        client: client.clone(),
        log: log.clone(),
        feed: Arc::clone(&feed),
        sending: sending.clone(),
    };
    let archive = Arc::new(Archive::new());
    let mut tasks = Tasks {
        follow: spawn(follow(Arc::clone(&feed), client.clone(), log.clone())),
        listen: spawn(listen(Arc::clone(&feed), client.clone(), log.subjects.clone())),
        bundler: spawn(Bundler::run(bundler)),
        health: spawn(watch_health(watched, told, ready)),
        archive: spawn(follow_archive(Arc::clone(&archive), client.clone(), log.clone())),
        revocations: None,
    };
    let bridge = Bridge {
        client: client.clone(),
        log: log.clone(),
        feed,
        past: Past::new(client.clone(), log.clone(), config.caps.readers_far_behind),
        cursors: Cursors::new(&config.cursor_key, log.epoch),
        sending,
        requests: RequestRates::new(Arc::clone(&config.limits)),
        settling: Settling::new(client.clone(), log.subjects.clone()),
        archive,
        metrics,
        health,
        draining,
    };
    let bridge = Arc::new(bridge);
    tasks.revocations = Some(spawn(finish_revocations(Arc::clone(&bridge))));
    (bridge, tasks)
}

/// What `/metrics` shows as the most of each.
fn caps(caps: &Caps) -> [Cap; 7] {
    let cap = |queue, most| Cap { queue, most };
    [
        cap("http_connections", caps.max_connections),
        cap("http_connections_per_address", caps.max_connections_per_address),
        cap("sends", caps.send_queue),
        cap("ring_events", caps.ring_events),
        cap("ring_bytes", caps.ring_bytes),
        cap("readers_far_behind", caps.readers_far_behind),
        cap("native_requests", caps.native_requests),
    ]
}

impl Tasks {
    async fn first_to_fail(&mut self) -> BridgeError {
        tokio::select! {
            ended = &mut self.follow => match ended {
                Ok(error) => error,
                ended => ended_unexpectedly("tail", ended),
            },
            ended = &mut self.bundler => match ended {
                Ok(Err(error)) => BridgeError::Service(error.to_string()),
                ended => ended_unexpectedly("queue of sends", ended),
            },
            ended = &mut self.listen => ended_unexpectedly("ear for what is not kept", ended),
            ended = &mut self.archive => ended_unexpectedly("questions to the archive", ended),
            ended = &mut self.health => ended_unexpectedly("look at its health", ended),
            ended = of_some(self.revocations.as_mut()) => ended_unexpectedly("end of open revocations", ended),
        }
    }
}

fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    let handle: JoinHandle<T> = tokio::spawn(task);
    AbortOnDropHandle::new(handle)
}

/// Ends with the task, if it was begun.
async fn of_some(task: Option<&mut AbortOnDropHandle<()>>) -> Result<(), tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn ended_unexpectedly<T>(task: &'static str, ended: Result<T, tokio::task::JoinError>) -> BridgeError {
    let reason = match ended {
        Ok(_) => "it returned".to_owned(),
        Err(error) => error.to_string(),
    };
    BridgeError::Task { task, reason }
}
