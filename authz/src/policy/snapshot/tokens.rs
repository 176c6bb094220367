//! Records about tokens and API keys.

use natterjack_nats_config::contract::{Id, InvalidId, Seq};

use super::{Record, SnapshotError, Writer};
use crate::policy::keys::Key;
use crate::policy::tokens::Tokens;
use crate::policy::view::{Hashed, Tenant};

impl Writer {
    pub(super) fn put_tokens_of_users(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        let with_tokens = tenant
            .users
            .iter()
            .filter_map(|(name, user)| Some((name, user.tokens.as_ref()?)));
        let mut users: Vec<_> = with_tokens.collect();
        users.sort_unstable_by_key(|(name, _)| *name);
        for (name, tokens) in users {
            self.put_tokens(Some(name.as_str()), tokens)?;
        }
        Ok(())
    }

    pub(super) fn put_tokens(&mut self, user: Option<&str>, tokens: &Tokens) -> Result<(), SnapshotError> {
        let (valid_after_ms, changed_ms) = (tokens.valid_after_ms, tokens.changed_ms);
        if (valid_after_ms, changed_ms) != (0, 0) {
            self.put(&Record::ValidAfter {
                user,
                valid_after_ms,
                changed_ms,
            })?;
        }
        for (jti, until) in &tokens.revoked {
            self.put(&match *until {
                Some(until_ms) => Record::RevokedUntil { user, jti, until_ms },
                None => Record::Revoked { user, jti },
            })?;
        }
        for seq in &tokens.open {
            self.put(&Record::Open { user, seq: seq.0 })?;
        }
        for (id, key) in &tokens.keys {
            self.put(&Record::Key {
                user: user.unwrap_or_default(),
                id: id.as_str(),
                name: &key.name,
                sha256: key.sha256,
                created_ms: key.created_ms,
                expires_ms: key.expires_ms,
            })?;
        }
        Ok(())
    }
}

/// Of those about tokens.
pub(super) fn take_tokens(
    tenant: &mut Tenant,
    hashed: &mut Hashed<'_>,
    record: Record<'_>,
) -> Result<(), SnapshotError> {
    match record {
        Record::ValidAfter {
            user,
            valid_after_ms,
            changed_ms,
        } => tenant.change_tokens(hashed, id(user)?.as_ref(), |tokens| {
            (tokens.valid_after_ms, tokens.changed_ms) = (valid_after_ms, changed_ms);
        }),
        Record::Revoked { user, jti } => tenant.change_tokens(hashed, id(user)?.as_ref(), |tokens| {
            tokens.revoked.insert(jti.into(), None);
        }),
        Record::RevokedUntil { user, jti, until_ms } => tenant.change_tokens(hashed, id(user)?.as_ref(), |tokens| {
            tokens.revoked.insert(jti.into(), Some(until_ms));
        }),
        Record::Open { user, seq } => tenant.change_tokens(hashed, id(user)?.as_ref(), |tokens| {
            tokens.open.insert(Seq(seq));
        }),
        Record::Key {
            user,
            id,
            name,
            sha256,
            created_ms,
            expires_ms,
        } => {
            let (id, name) = (id.parse()?, name.to_owned());
            let key = Key {
                name,
                sha256,
                created_ms,
                expires_ms,
            };
            tenant.change_tokens(hashed, Some(&user.parse()?), |tokens| drop(tokens.keys.insert(id, key)));
        }
        _ => return Err(SnapshotError::Order("a record is not about tokens")),
    }
    Ok(())
}

fn id(name: Option<&str>) -> Result<Option<Id>, InvalidId> {
    name.map(str::parse).transpose()
}
