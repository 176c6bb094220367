use sea_orm::entity::prelude::*;

/// A legal hold.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "hold")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    /// `room` or `user`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub what: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The place of the last event about it.
    pub seq: i64,
    /// 1, or 0 where it was given free.
    pub held: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
