//! The steps from a frame that was fetched to its acknowledgement. In tests, and in builds with the feature `faults`, a process may
//! be told to die at one of them.

/// What has just been done. The order is that of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A batch is fetched; the database knows nothing of it.
    Fetched,
    /// The watermark is moved in the transaction.
    WatermarkMoved,
    /// The events are inserted in the transaction.
    Inserted,
    /// What they make of rooms, messages and the rest is too.
    Projected,
    /// The transaction is committed, nothing is acknowledged.
    Committed,
    /// The first half of the frames is acknowledged.
    HalfAcknowledged,
    /// All of them are.
    Acknowledged,
}

/// Dies at once, as by `kill -9`, if `NATTERJACK_DIE_AT` names this step and how many times it is to be passed (`Committed:2`).
#[cfg(any(test, feature = "faults"))]
pub(crate) fn passed(step: Step) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static DIE_AT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("NATTERJACK_DIE_AT").ok());
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Some((name, times)) = DIE_AT.as_deref().and_then(|text| text.split_once(':')) else {
        return;
    };
    if name == format!("{step:?}") && Ok(PASSED.fetch_add(1, Ordering::Relaxed) + 1) == times.parse() {
        std::process::abort();
    }
}

/// Nobody dies.
#[cfg(not(any(test, feature = "faults")))]
pub(crate) const fn passed(_: Step) {}

#[cfg(test)]
impl Step {
    pub(crate) const ALL: [Self; 7] = [
        Self::Fetched,
        Self::WatermarkMoved,
        Self::Inserted,
        Self::Projected,
        Self::Committed,
        Self::HalfAcknowledged,
        Self::Acknowledged,
    ];
}
