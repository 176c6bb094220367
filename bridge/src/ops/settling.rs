use async_nats::Client;
use natterjack_authz::revoke::{Settled, SettledState, settle};
use natterjack_nats_config::Subjects;
use natterjack_nats_config::contract::{Id, Seq};
use natterjack_nats_config::lease::Leases;
use tokio::sync::OnceCell;

/// Has the live connections of somebody whose rights changed renewed, before the change is answered.
pub(crate) struct Settling {
    client: Client,
    subjects: Subjects,
    leases: OnceCell<Leases>,
}

impl Settling {
    pub(crate) fn new(client: Client, subjects: Subjects) -> Self {
        Self {
            client,
            subjects,
            leases: OnceCell::new(),
        }
    }

    /// Waits until the connections of a user (or of everybody in the tenant) have the rights that the event `seq` gave, or says who has not
    /// confirmed.
    pub(crate) async fn settle(&self, whose: (&Id, Option<&Id>), seq: Seq) -> Settled {
        let leases = self
            .leases
            .get_or_try_init(|| Leases::join(&self.client, &self.subjects));
        match leases.await {
            Ok(leases) => settle(&self.client, leases, &self.subjects, whose, seq).await,
            Err(error) => {
                tracing::warn!(%error, "the register of authz workers cannot be read, a change of rights is pending");
                Settled {
                    connections_closed: 0,
                    state: SettledState::Pending,
                    waiting_for: vec!["the register of authz workers".to_owned()],
                }
            }
        }
    }
}
