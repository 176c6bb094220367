use sea_orm::entity::prelude::*;

/// Up to where a user has read a room.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "read_mark")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub from_user: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub room: String,
    /// The last event that is read, as the user said.
    pub seq: i64,
    /// The number of the room's last event up to there.
    pub n: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
