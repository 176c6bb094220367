use sea_orm::entity::prelude::*;

/// How far a shard's log is archived.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "watermark")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    pub epoch: i64,
    pub stream_seq: i64,
    /// Up to where its answers are in `reply`.
    pub replies: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
