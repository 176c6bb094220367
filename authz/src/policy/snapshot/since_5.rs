//! Records since version 5: under which prefixes a role lets others be spoken for.

use super::{Record, SnapshotError, Writer};
use crate::policy::view::{Hashed, Tenant};

impl Writer {
    pub(super) fn put_prefixes(&mut self, tenant: &Tenant) -> Result<(), SnapshotError> {
        for (name, role) in &tenant.roles {
            for prefix in role.send_as.texts() {
                let role = name.as_str();
                self.put(&Record::SendAs { role, prefix })?;
            }
        }
        Ok(())
    }
}

pub(super) fn take_prefix(
    tenant: &mut Tenant,
    hashed: &mut Hashed<'_>,
    (role, prefix): (&str, &str),
) -> Result<(), SnapshotError> {
    let put = tenant.put_prefix(hashed, &role.parse()?, prefix);
    put.ok_or(SnapshotError::Order("a prefix is of no role, or none"))
}
