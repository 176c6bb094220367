use sea_orm::entity::prelude::*;

/// An event of the audit trail: who did what of interest, and a hash over it and all before it.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    pub tenant: String,
    /// Who did it; of a refused login who it was said to be.
    pub actor: String,
    pub kind: String,
    /// SHA-256 of the hash before it (zeros for the first) and of the event's own hash.
    pub hash: Vec<u8>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
