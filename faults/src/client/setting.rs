use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::history::{Ms, Name};
use crate::house::House;

/// What all clients and faults of a run share.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) house: Arc<House>,
    pub(crate) clock: Clock,
    pub(crate) tally: Arc<Tally>,
    /// The rooms of the run.
    pub(crate) rooms: Arc<[Name]>,
    /// Held shared for each message; who holds it alone has the house for itself.
    pub(crate) quiet: Arc<RwLock<()>>,
    /// No new messages.
    pub(crate) stop_sending: CancellationToken,
    /// Nothing works any more: nobody waits for anything.
    pub(crate) abandoned: CancellationToken,
    /// Readers end.
    pub(crate) stop_reading: CancellationToken,
}

/// The run's own time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

/// What is counted as it happens, for the progress that is shown and for the gaps.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    acks: Mutex<Vec<Ms>>,
    /// Messages refused for good.
    pub(crate) refused: AtomicU64,
    /// Messages whose sender gave up.
    pub(crate) unknown: AtomicU64,
    /// Attempts that had to be repeated.
    pub(crate) retries: AtomicU64,
    /// Events that were handed to readers.
    pub(crate) heard: AtomicU64,
    /// Errors that readers were told, by text.
    told: Mutex<std::collections::BTreeMap<String, u64>>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn ms(self) -> Ms {
        Ms::try_from(self.0.elapsed().as_millis()).unwrap_or(Ms::MAX)
    }
}

impl Tally {
    pub(crate) fn ack(&self, at: Ms) {
        self.acks.lock().push(at);
    }

    pub(crate) fn acks(&self) -> usize {
        self.acks.lock().len()
    }

    /// When an acknowledgement came, in order.
    pub(crate) fn take_acks(&self) -> Vec<Ms> {
        let mut acks = std::mem::take(&mut *self.acks.lock());
        acks.sort_unstable();
        acks
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes an error that a reader was told by name.
    pub(crate) fn told(&self, error: String) {
        *self.told.lock().entry(error).or_default() += 1;
    }

    pub(crate) fn errors(&self) -> std::collections::BTreeMap<String, u64> {
        self.told.lock().clone()
    }
}
