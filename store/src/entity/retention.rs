use sea_orm::entity::prelude::*;

/// How long a room is kept, and up to where it was removed.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "retention")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub room: String,
    /// What the room's own settings say; none leaves it to the configuration.
    pub days: Option<i64>,
    /// The place of the event with those settings.
    pub ruled: i64,
    /// Everything before this place was looked at.
    pub looked: i64,
    /// What is missing before this place was removed because of its age.
    pub horizon: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
