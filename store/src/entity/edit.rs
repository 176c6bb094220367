use sea_orm::entity::prelude::*;

/// An event that edited a message.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "edit")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    /// The message's place.
    #[sea_orm(primary_key, auto_increment = false)]
    pub target: i64,
    /// The event's.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
