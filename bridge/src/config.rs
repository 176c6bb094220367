use std::sync::Arc;

use natterjack_authz::token::Verifier;
use natterjack_nats_config::Id;
use natterjack_nats_config::client::Login;
use natterjack_nats_config::limits::Limits;
use natterjack_nats_config::tail::Log;

use crate::proxies::Proxies;
use crate::tls::Tls;

/// What a bridge needs to know.
#[derive(Clone)]
pub struct BridgeConfig {
    /// How it signs in to NATS; the role must be `bridge`.
    pub nats: Login,
    /// Which log it serves.
    pub log: Log,
    /// Checks the tokens of HTTP requests.
    pub verifier: Arc<Verifier>,
    /// Signs cursors. All bridges of an installation share it, so that any of them, and any restart, serves any cursor.
    pub cursor_key: [u8; 32],
    /// Copies of the stream that says which tickets were used: 1, or 3 on a cluster.
    pub replicas: usize,
    /// The web origins whose pages may use this bridge from a browser; `*` for all.
    pub origins: Vec<String>,
    /// The certificate that the HTTP door shows; without one it speaks in the clear.
    pub tls: Option<Arc<Tls>>,
    /// The proxies in front whose word on their clients' addresses counts.
    pub proxies: Proxies,
    /// Whether every request is logged at `info`; else at `debug`, and failures of ours at `info`.
    pub log_requests: bool,
    /// Whose audit trail tells of refused logins.
    pub tenant: Id,
    /// Names this worker; unique, one plain id.
    pub worker: Id,
    /// How much who may do.
    pub limits: Arc<Limits>,
    /// The limits of everybody together.
    pub caps: Caps,
}

/// The limits of one bridge, each with the reason for its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// Open HTTP connections, parked polls included; 0 is no limit. Default 10,000: some tens of KiB each.
    pub max_connections: usize,
    /// Those of one address (of IPv6: of one /64), 0 is no limit; of clients behind a trusted proxy their requests under way
    /// count. Default 2,500: a quarter of all, so that no address takes all places, and a company behind one address has
    /// enough.
    pub max_connections_per_address: usize,
    /// The largest request body, in bytes. Default 64 KiB: messages are short, large things go by reference. Never
    /// more than an event may have (128 KiB).
    pub max_body_bytes: usize,
    /// Memory for recent events, in bytes, their parsed form included. Default 64 MiB: minutes of a busy
    /// installation; older ones are read from the log.
    pub ring_bytes: usize,
    /// The most recent events kept. Default 200,000: what 64 MiB hold of small events, so that a flood of tiny ones
    /// does not cost more in bookkeeping than in bytes.
    pub ring_events: usize,
    /// Sends waiting for the writer. Default 4,096: a quarter of a second at full speed; more is refused with
    /// `503 overloaded` rather than kept waiting.
    pub send_queue: usize,
    /// Parked polls of one principal, over all doors. Default 16: a person's devices and tabs; beyond it the oldest
    /// is answered with `superseded:true`.
    pub polls_per_principal: usize,
    /// Requests of native clients being worked on at once, parked polls included. Default 8,192.
    pub native_requests: usize,
    /// Readers that are being served from the log at once because they are far behind. Default 4: each is a consumer
    /// of its own and may hold megabytes.
    pub readers_far_behind: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 2500,
            max_body_bytes: 64 * 1024,
            ring_bytes: 64 * 1024 * 1024,
            ring_events: 200_000,
            send_queue: 4096,
            polls_per_principal: 16,
            native_requests: 8192,
            readers_far_behind: 4,
        }
    }
}
