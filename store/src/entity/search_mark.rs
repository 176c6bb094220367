use sea_orm::entity::prelude::*;

/// How far a shard's archive is in the index of words.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "search_mark")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    pub epoch: i64,
    /// The last event that was looked at.
    pub seq: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
