use sea_orm::entity::prelude::*;

/// What somebody made of a message.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reaction")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    /// The message's place.
    #[sea_orm(primary_key, auto_increment = false)]
    pub target: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub emoji: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub from_user: String,
    /// The place of the last event about it.
    pub seq: i64,
    /// 1, or 0 where it was taken back.
    pub present: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
