use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use natterjack_nats_config::limits::Limits;
use natterjack_nats_config::rate::{Rate, Rates};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Refusal;
use crate::revoke::Connections;

/// Addresses whose refused logins are remembered at a time; beyond that new ones wait.
const MOST: usize = 100_000;

/// How many refused logins of one address are in this worker's log, each with its reason.
const TOLD: Rate = Rate {
    per_second: 2,
    burst_secs: 10,
};

/// Bounds what logins cost: of one address, and of one user.
pub(crate) struct Gate {
    limits: Arc<Limits>,
    connections: Connections,
    begun: Instant,
    refused: Mutex<Rates<String>>,
    told: Mutex<Rates<String>>,
}

impl Gate {
    pub(crate) fn new(limits: Arc<Limits>, connections: Connections) -> Self {
        Self {
            limits,
            connections,
            begun: Instant::now(),
            refused: Mutex::new(Rates::new(MOST)),
            told: Mutex::new(Rates::new(MOST)),
        }
    }

    /// Whether a credential from an address may cost a signature: not where too many were refused of late.
    pub(crate) fn may_try(&self, host: &str) -> bool {
        let rate = self.limits.rate(self.limits.refused_logins);
        self.refused.lock().look(&source(host), rate, self.now_us()).is_ok()
    }

    /// Counts a refused login. `false`: there are too many of that address to tell them all.
    pub(crate) fn note_refused(&self, host: &str) -> bool {
        let (rate, now_us) = (self.limits.rate(self.limits.refused_logins), self.now_us());
        // One that is over it anyway costs nothing more.
        let _ = self.refused.lock().charge(source(host), rate, now_us);
        self.told.lock().charge(source(host), TOLD, now_us).is_ok()
    }

    /// Whether somebody with a role may have one connection more. Where the servers cannot say how many there are, they may.
    pub(crate) async fn has_room(&self, name: &str, role: &str) -> Result<(), Refusal> {
        let most = self.limits.of_role(role).connections as usize;
        if most == 0 {
            return Ok(());
        }
        match self.connections.list(Some(name)).await {
            Ok(open) if open.len() >= most => Err(Refusal::TooManyConnections(most)),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "how many connections there are is not known; one is let in");
                Ok(())
            }
        }
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

/// Whose address it is: of IPv6 the network of 64 bits, which one client has to itself.
fn source(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
        }
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_is_one_source() {
        assert_eq!(source("10.1.2.3"), "10.1.2.3");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source(""), "");
    }
}
