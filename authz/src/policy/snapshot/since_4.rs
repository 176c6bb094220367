//! Records since version 4: what tokens claim, and what is erased.

use natterjack_nats_config::contract::{Id, Seq};

use super::{Record, SnapshotError, Writer};
use crate::policy::view::{Hashed, Tenant};

impl Writer {
    pub(super) fn put_claims(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        let claiming = tenant
            .users
            .iter()
            .filter_map(|(name, user)| Some((name, user.claims.as_ref()?)));
        let mut users: Vec<_> = claiming.collect();
        users.sort_unstable_by_key(|(name, _)| *name);
        for (name, claims) in users {
            for (issuer, claimed) in claims.iter() {
                self.put(&Record::Claimed {
                    user: name.as_str(),
                    issuer,
                    role: claimed.role.as_ref().map(Id::as_str),
                    issued_at_ms: claimed.issued_at_ms,
                    since: claimed.since.0,
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn put_erased(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        let (erased, hold) = (&tenant.erased, tenant.last_hold);
        if (erased.last, hold) != (Seq::ZERO, Seq::ZERO) {
            self.put(&Record::LastErased {
                seq: erased.last.0,
                hold: hold.0,
            })?;
        }
        for (user, erasures) in &erased.users {
            for (upto, by) in erasures {
                self.put(&Record::ErasedUser {
                    user: user.as_str(),
                    upto: upto.0,
                    by: by.0,
                })?;
            }
        }
        for (seq, by) in &erased.messages {
            self.put(&Record::ErasedMessage { seq: seq.0, by: by.0 })?;
        }
        Ok(())
    }
}

/// Of those about what is erased.
pub(super) fn take_erased(
    tenant: &mut Tenant,
    hashed: &mut Hashed<'_>,
    record: Record<'_>,
) -> Result<(), SnapshotError> {
    match record {
        Record::LastErased { seq, hold } => tenant.put_last(hashed, (Seq(seq), Seq(hold))),
        Record::ErasedUser { user, upto, by } => {
            tenant.put_erased_user(hashed, user.parse()?, (Seq(upto), Seq(by)));
        }
        Record::ErasedMessage { seq, by } => tenant.put_erased_message(hashed, Seq(seq), Seq(by)),
        _ => return Err(SnapshotError::Order("a record is not about what is erased")),
    }
    Ok(())
}
