//! How much who may do. Off where a number is 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rate::Rate;

/// The limits of an installation, each for one writer, one bridge or one authz worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// What may be used at once after a pause, in seconds of each rate.
    pub burst_secs: u32,
    /// Events a second in one room, whoever sends them.
    pub room_sends: u32,
    /// Events a second in one tenant.
    pub tenant_sends: u32,
    /// Refused logins a second from one address over NATS; above that only credentials that are known already are looked at.
    pub refused_logins: u32,
    /// By role in the tenant; `others` for roles that are not listed.
    pub roles: BTreeMap<String, RoleLimits>,
}

/// The limits of a user with some role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleLimits {
    /// Events a second.
    #[serde(default)]
    pub sends: u32,
    /// Requests a second at one bridge, over HTTP and to its services on NATS.
    #[serde(default)]
    pub requests: u32,
    /// Connections over NATS, WebSocket and MQTT, all together.
    #[serde(default)]
    pub connections: u32,
}

/// The role that stands for those not listed.
const OTHERS: &str = "others";

impl Default for Limits {
    /// None.
    fn default() -> Self {
        Self {
            burst_secs: 10,
            room_sends: 0,
            tenant_sends: 0,
            refused_logins: 0,
            roles: BTreeMap::new(),
        }
    }
}

impl Limits {
    /// Those of a role in the tenant.
    #[must_use]
    pub fn of_role(&self, role: &str) -> RoleLimits {
        let found = self.roles.get(role).or_else(|| self.roles.get(OTHERS));
        found.copied().unwrap_or_default()
    }

    /// So many a second, with the burst that all have.
    #[must_use]
    pub fn rate(&self, per_second: u32) -> Rate {
        Rate {
            per_second,
            burst_secs: self.burst_secs,
        }
    }
}
