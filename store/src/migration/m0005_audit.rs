use sea_orm_migration::prelude::*;

use super::columns::{add_index, number, plain_text, primary_key, sha256, table};

/// `audit`: what is policy, and refused logins, with a hash over each and all before it. What is in the archive already is
/// taken in when a store begins: hashes are not SQL's to make.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0005_audit"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait's own signature, as async_trait expands it"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let audit = table(backend, "audit")
            .col(number("epoch"))
            .col(number("shard"))
            .col(number("seq"))
            .col(plain_text(backend, "tenant", 64).not_null())
            .col(plain_text(backend, "actor", 64).not_null())
            .col(plain_text(backend, "kind", 16).not_null())
            .col(sha256("hash"))
            .primary_key(&mut primary_key("audit", &["epoch", "shard", "seq"]))
            .take();
        manager.create_table(audit).await?;
        add_index(manager, "audit", "ix_audit_tenant", &["tenant", "seq"]).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
