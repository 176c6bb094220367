//! The keys of an identity provider that publishes them: fetched by one task, used by everybody.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::fetch::Fetcher;
use super::key::Key;
use super::key_set::{KeySet, Lifetimes};

/// How long somebody waits for a fetch: one of two requests is done by then, and a callout is still answered in time (5 s).
const WAIT: Duration = Duration::from_secs(4);
/// The most who wait: names of keys are made up at will, and a callout that waits takes a place of others.
const WAITERS: usize = 128;
/// Names of keys that are remembered as unknown, 32 bytes each.
const MAX_ABSENT: usize = 1024;
/// How soon a fetch that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Keys that are fetched.
pub(super) struct Remote {
    issuer: String,
    fetcher: Fetcher,
    pub(super) lifetimes: Lifetimes,
    pub(super) times: Times,
    keys: RwLock<KeySet>,
    /// When unknown keys last made us fetch.
    asked: Mutex<Option<Instant>>,
    /// Names that were asked for in vain: until they may be asked for again, the answer stands.
    absent: Mutex<HashSet<[u8; 32]>>,
    wanted: Notify,
    waiters: Semaphore,
    /// The start of the last fetch that ended, however it ended.
    fetched: watch::Sender<Option<Instant>>,
}

/// How often keys are fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// In any case.
    pub(super) refresh: Duration,
    /// At most, for keys that are not known: they are made up at will.
    pub(super) unknown: Duration,
}

/// What is known of a key after asking for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The keys were fetched since: what is not among them is no key.
    Fetched,
    /// They could not be fetched, or not again so soon.
    Undecided,
}

impl Remote {
    pub(super) fn new(issuer: String, fetcher: Fetcher, lifetimes: Lifetimes, times: Times) -> Self {
        Self {
            issuer,
            fetcher,
            lifetimes,
            times,
            keys: RwLock::default(),
            asked: Mutex::default(),
            absent: Mutex::default(),
            wanted: Notify::new(),
            waiters: Semaphore::new(WAITERS),
            fetched: watch::Sender::new(None),
        }
    }

    /// The keys that are good now and fit.
    pub(super) fn keys(&self, fits: impl Fn(&Key) -> bool) -> Vec<Key> {
        let keys = self.keys.read();
        keys.good(Instant::now(), self.lifetimes)
            .filter(|key| fits(key))
            .cloned()
            .collect()
    }

    /// Whether anything can be said about keys now.
    pub(super) fn is_known(&self) -> bool {
        self.keys.read().is_known(Instant::now(), self.lifetimes)
    }

    /// Has the keys fetched because one is not known, if that was not done just before, and waits for it. However many ask,
    /// one fetch is under way. It never holds up who needs a key that is known.
    pub(super) async fn ask(&self, name: Option<&str>) -> Asked {
        let now = Instant::now();
        let mut fetched = self.fetched.subscribe();
        let name: [u8; 32] = Sha256::digest(name.unwrap_or_default()).into();
        let (Ok(_waiting), Some(since)) = (self.waiters.try_acquire(), self.fetch_to_wait_for(now)) else {
            let absent = self.absent.lock().contains(&name);
            return if absent { Asked::Fetched } else { Asked::Undecided };
        };
        let wait = fetched.wait_for(|start| start.is_some_and(|start| start >= since));
        let in_time = timeout(WAIT, wait).await.is_ok();
        if in_time && self.keys.read().is_confirmed_since(now) {
            self.note_absent(name);
            Asked::Fetched
        } else {
            Asked::Undecided
        }
    }

    fn note_absent(&self, name: [u8; 32]) {
        let mut absent = self.absent.lock();
        if absent.len() >= MAX_ABSENT {
            absent.clear();
        }
        absent.insert(name);
    }

    /// Who asks while a fetch is due or under way waits for that; for others there is one in a while.
    fn fetch_to_wait_for(&self, now: Instant) -> Option<Instant> {
        let mut asked = self.asked.lock();
        let fetched = *self.fetched.borrow();
        match *asked {
            Some(before) if fetched.is_none_or(|fetched| fetched < before) => Some(before),

            Some(before) if now.duration_since(before) < self.times.unknown => None,
            _ => {
                *asked = Some(now);
                self.wanted.notify_one();
                Some(now)
            }
        }
    }

    /// Fetches the keys at once, then from time to time and when they are asked for, until it is told to stop.
    pub(super) async fn keep_fresh(&self, shutdown: &CancellationToken) {
        let mut worked = true;
        loop {
            let done = tokio::select! {
                done = self.fetch_once() => done,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = &done {
                tracing::warn!(issuer = self.issuer, %error, "the keys of an issuer cannot be fetched; those known stay good for now");
            } else if !worked {
                tracing::info!(issuer = self.issuer, "the keys of an issuer are fetched again");
            }
            worked = done.is_ok();
            let pause = if worked {
                self.times.refresh
            } else {
                RETRY.min(self.times.refresh)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn fetch_once(&self) -> Result<(), String> {
        let start = Instant::now();
        let fetcher = self.fetcher.clone();
        let fetched = tokio::task::spawn_blocking(move || fetcher.fetch()).await;
        let keys = match fetched {
            Ok(fetched) => fetched.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.ended(start, keys)
    }

    /// A fetch has ended that began then: with keys, or not.
    pub(super) fn ended(&self, start: Instant, keys: Result<Vec<Key>, String>) -> Result<(), String> {
        let replaced = keys.map(|keys| self.keys.write().replace(keys, start, self.lifetimes));
        self.fetched.send_replace(Some(start));
        replaced
    }
}
