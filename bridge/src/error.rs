use natterjack_nats_config::checkpoint::BeginError;
use natterjack_nats_config::client::LoginError;
use natterjack_nats_config::tail::TailError;

/// Why a bridge stopped. Each of these needs somebody to look; what heals by itself is waited for.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// NATS did not let it in.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The log cannot be read any more.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// There is nothing to begin with.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// NATS refused a subscription.
    #[error("the bridge cannot offer its services on NATS: {0}")]
    Service(String),
    /// A task ended that never should.
    #[error("the bridge's {task} ended unexpectedly: {reason}")]
    Task {
        /// Which.
        task: &'static str,
        /// What is known.
        reason: String,
    },
}
