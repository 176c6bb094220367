use std::fs::File;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::child::Launch;

/// The pause before a dead server is started again; it doubles with each failure up to the greatest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const GREATEST_PAUSE: Duration = Duration::from_secs(5);
/// A server that lived this long has no failures behind it.
const STABLE: Duration = Duration::from_secs(30);

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is asked to (TERM), and killed if it does not within ten seconds.
    Clean,
    /// At once (KILL), as a crash would.
    Kill,
}

/// What its owner wants of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Up,
    Down(End),
}

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It serves; its process id.
    Up(Option<u32>),
    /// It has died, or is not ready yet.
    Starting,
    /// It was taken down, or is given up.
    Down,
}

/// Looks after one server: it runs as long as it is wanted.
pub(crate) struct Watcher {
    pub(crate) launch: Launch,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) stop: CancellationToken,
    /// The folder's, kept for as long as a child may live.
    pub(crate) lock: File,
}

impl Watcher {
    /// Restarts the server whenever it dies, takes it down and brings it up as it is asked to, until told to stop it.
    pub(crate) async fn run(mut self, mut child: Child) {
        let mut pause = FIRST_PAUSE;
        loop {
            let since = Instant::now();
            tokio::select! {
                status = child.wait() => match status {
                    Ok(status) => tracing::error!(%status, "nats-server died, starting it again"),
                    Err(error) => tracing::error!(%error, "nats-server is lost, starting it again"),
                },
                end = unwanted(&mut self.wanted) => self.launch.end(&mut child, end).await,
                () = self.stop.cancelled() => {
                    self.launch.end(&mut child, End::Clean).await;
                    break;
                }
            }
            self.state.send_replace(State::Starting);
            if since.elapsed() >= STABLE {
                pause = FIRST_PAUSE;
            }
            let Some(started) = self.another(&mut pause).await else {
                break;
            };
            child = started;
            tracing::info!(pid = child.id(), "nats-server is ready again");
            self.state.send_replace(State::Up(child.id()));
        }
        self.state.send_replace(State::Down);
        drop(self.lock);
    }

    /// The next child, once it is wanted; none when told to stop.
    async fn another(&mut self, pause: &mut Duration) -> Option<Child> {
        loop {
            if *self.wanted.borrow_and_update() != Wanted::Up {
                self.state.send_replace(State::Down);
                tokio::select! {
                    () = wanted_up(&mut self.wanted) => *pause = FIRST_PAUSE,
                    () = self.stop.cancelled() => return None,
                }
                self.state.send_replace(State::Starting);
            }
            // A server that is half started when it is not wanted any more is killed as its future is dropped.
            tokio::select! {
                child = start_again(&self.launch, pause) => return Some(child),
                _ = unwanted(&mut self.wanted) => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

async fn start_again(launch: &Launch, pause: &mut Duration) -> Child {
    loop {
        sleep(*pause).await;
        *pause = (*pause * 2).min(GREATEST_PAUSE);
        match launch.spawn().await {
            Ok(child) => return child,
            Err(error) => tracing::error!(%error, next_try = ?*pause, "nats-server did not start again"),
        }
    }
}

/// Waits until the server is to be down. (When nobody can want anything any more, it is told to stop.)
async fn unwanted(wanted: &mut watch::Receiver<Wanted>) -> End {
    let end = match wanted.wait_for(|wanted| *wanted != Wanted::Up).await {
        Ok(wanted) => match *wanted {
            Wanted::Down(end) => Some(end),
            Wanted::Up => None,
        },
        Err(_) => None,
    };
    match end {
        Some(end) => end,
        None => std::future::pending().await,
    }
}

async fn wanted_up(wanted: &mut watch::Receiver<Wanted>) {
    if wanted.wait_for(|wanted| *wanted == Wanted::Up).await.is_err() {
        std::future::pending::<()>().await;
    }
}
