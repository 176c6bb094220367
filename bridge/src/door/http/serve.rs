use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use natterjack_nats_config::contract::{Problem, ProblemCode};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use super::HttpDoor;
use super::connection::{Builders, Shared};
use super::places::{Full, Place};
use crate::metrics::UnderWay;

/// How long requests under way have when the bridge stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// When a client that was turned away may come back, and by how much that is spread.
const RETRY_AFTER_MS: u64 = 1000;
const SPREAD_MS: u64 = 3000;
/// Waiting when no connection can be accepted, for example because the process has no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a connection keeps that becomes a WebSocket: its place among the connections, and a mark by which a stop waits for
/// it. It is with every request.
#[derive(Clone)]
pub(super) struct Stay {
    held: Arc<Held>,
    /// That of the client behind a proxy.
    _behind: Option<Arc<Place>>,
}

struct Held {
    peer: IpAddr,
    _place: Place,
    _counted: UnderWay,
    _mark: TaskTrackerToken,
    kill: CancellationToken,
}

impl HttpDoor {
    /// Accepts connections until `stop`, then lets what is under way finish within ten seconds.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let shared = Arc::new(Shared {
            builders: Builders::new(&self.front.metrics),
            front: self.front,
            tls: self.tls,
            drain: stop.clone(),
            kill: CancellationToken::new(),
        });
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => shared.take_in(stream, peer.ip(), &connections),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(DRAIN_WITHIN, connections.wait()).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "closing connections that did not finish in time"
            );
        }
        shared.kill.cancel();
        connections.wait().await;
    }
}

impl Shared {
    /// Serves a client, or turns it away where there is no place.
    fn take_in(self: &Arc<Self>, stream: TcpStream, peer: IpAddr, connections: &TaskTracker) {
        let front = &self.front;
        // Behind a proxy the clients count, each with what it asks.
        let address = (!front.proxies.trusts(peer)).then_some(peer);
        match front.places.connect(address) {
            Ok(place) => {
                let held = Held {
                    peer,
                    _place: place,
                    _counted: front.metrics.connected(),
                    _mark: connections.token(),
                    kill: self.kill.clone(),
                };
                let stay = Stay {
                    held: Arc::new(held),
                    _behind: None,
                };
                connections.spawn(Arc::clone(self).connection(stream, stay));
            }
            Err(full) => {
                match full {
                    Full::All => front.metrics.turned_away.inc(),
                    Full::Address => front.metrics.address_turned_away.inc(),
                };
                // Who expects TLS could not read it.
                if self.tls.is_none() {
                    turn_away(&stream, full);
                }
            }
        }
    }
}

impl Stay {
    /// Who has connected: a client, or a proxy.
    pub(super) fn peer(&self) -> IpAddr {
        self.held.peer
    }

    /// With the place of the client for whom a proxy asks.
    pub(super) fn with(self, behind: Arc<Place>) -> Self {
        Self {
            _behind: Some(behind),
            ..self
        }
    }

    /// Does something for as long as there is time for it when the bridge stops.
    pub(super) async fn during(self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            () = self.held.kill.cancelled() => {}
        }
    }
}

/// Tells a client for which there is no place to come back later; as far as that goes without waiting for it.
fn turn_away(stream: &TcpStream, full: Full) {
    let detail = match full {
        Full::All => "too many connections; come back in a few seconds",
        Full::Address => "too many connections from your address; come back in a few seconds, or close some",
    };
    // Spread, so that those who were turned away together do not return together.
    let [.., random] = *Uuid::now_v7().as_bytes();
    let wait_ms = RETRY_AFTER_MS + u64::from(random) * SPREAD_MS / u64::from(u8::MAX);
    let mut problem = Problem::new(ProblemCode::Overloaded, detail);
    problem.retry_after_ms = Some(wait_ms);
    let problem = problem.to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: {}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        wait_ms.div_ceil(1000),
        problem.len()
    );
    let answer = [head.as_bytes(), problem.as_slice()].concat();
    if let Err(error) = stream.try_write(&answer) {
        tracing::debug!(%error, "a client was turned away without a word");
    }
}
