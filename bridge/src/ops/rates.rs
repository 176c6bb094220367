use std::sync::Arc;

use natterjack_nats_config::contract::{Principal, Problem};
use natterjack_nats_config::limits::Limits;
use natterjack_nats_config::rate::Rates;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Users whose rate is remembered at a time.
const MOST: usize = 200_000;

/// How often each user asks something of this bridge.
pub(crate) struct RequestRates {
    limits: Arc<Limits>,
    begun: Instant,
    used: Mutex<Rates<Principal>>,
}

impl RequestRates {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            limits,
            begun: Instant::now(),
            used: Mutex::new(Rates::new(MOST)),
        }
    }

    /// How many requests a second somebody with this role may make; 0: any number.
    pub(super) fn per_second(&self, role: &str) -> u32 {
        self.limits.of_role(role).requests
    }

    /// Counts a request. `per_second` is asked only where there are limits.
    pub(super) fn charge(&self, who: &Principal, per_second: impl FnOnce() -> u32) -> Result<(), Problem> {
        if self.limits.roles.values().all(|role| role.requests == 0) {
            return Ok(());
        }
        let rate = self.limits.rate(per_second());
        if rate.per_second == 0 {
            return Ok(());
        }
        let now_us = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        let charged = self.used.lock().charge(who.clone(), rate, now_us);
        charged.map_err(|over| {
            let what = "too many requests of this user; ask more slowly";
            Problem::rate_limited("requests per principal", what, over.retry_after_ms)
        })
    }
}
