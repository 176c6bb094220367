//! Safeguards that the fault harness breaks, to show that it finds that. Only in builds with the feature `faults`.

/// Whether a safeguard is broken in this process: `NATTERJACK_FAULT` names one.
#[cfg(feature = "faults")]
pub(crate) fn broken(safeguard: &str) -> bool {
    use std::sync::LazyLock;
    static BROKEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("NATTERJACK_FAULT").ok());
    BROKEN.as_deref() == Some(safeguard)
}

/// None is, ever.
#[cfg(not(feature = "faults"))]
pub(crate) const fn broken(_: &str) -> bool {
    false
}
