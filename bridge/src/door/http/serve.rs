use std::sync::Arc;
use std::time::Duration;

use natterjack_nats_config::contract::{Problem, ProblemCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::HttpDoor;
use super::connection::{Builders, Shared};
use crate::metrics::UnderWay;

/// How long requests under way have when the bridge stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Waiting when no connection can be accepted, for example because the process has no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a connection keeps that becomes a WebSocket: its place among the connections, and a mark by which a stop waits for
/// it. It is with every request.
#[derive(Clone)]
pub(super) struct Stay(Arc<Held>);

struct Held {
    _place: OwnedSemaphorePermit,
    _counted: UnderWay,
    _mark: TaskTrackerToken,
    kill: CancellationToken,
}

impl HttpDoor {
    /// Accepts connections until `stop`, then lets what is under way finish within ten seconds.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.max_connections));
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
                Ok((stream, _)) => {
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let stay = Stay(Arc::new(Held {
                            _place: place,
                            _counted: shared.front.metrics.connected(),
                            _mark: connections.token(),
                            kill: shared.kill.clone(),
                        }));
                        connections.spawn(Arc::clone(&shared).connection(stream, stay));
                    } else {
                        shared.front.metrics.turned_away.inc();
                        // Who expects TLS could not read it.
                        if shared.tls.is_none() {
                            turn_away(&stream);
                        }
                    }
                }
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

impl Stay {
    /// Does something for as long as there is time for it when the bridge stops.
    pub(super) async fn during(self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            () = self.0.kill.cancelled() => {}
        }
    }
}

/// Tells a client for which there is no place to come back later; as far as that goes without waiting for it.
fn turn_away(stream: &TcpStream) {
    let problem = Problem::new(
        ProblemCode::Overloaded,
        "too many connections; come back in a few seconds",
    )
    .to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 3\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        problem.len()
    );
    let answer = [head.as_bytes(), problem.as_slice()].concat();
    if let Err(error) = stream.try_write(&answer) {
        tracing::debug!(%error, "a client was turned away without a word");
    }
}
