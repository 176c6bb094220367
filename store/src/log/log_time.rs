use tokio::time::Instant;

/// Log time: goes on by this worker's monotonic clock from when its barrier was stored, by the server's clock. No worker's
/// wall clock is asked: a wrong one would date the events of all its successors too, for log time never goes back.
pub(crate) struct LogClock {
    base_ms: i64,
    base: Instant,
}

impl LogClock {
    /// A clock that stood at `base_ms` (milliseconds since 1970) at `base`.
    pub(crate) fn start(base: Instant, base_ms: i64) -> Self {
        Self { base_ms, base }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.base_ms + i64::try_from(self.base.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}
