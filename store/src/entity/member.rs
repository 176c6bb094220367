use sea_orm::entity::prelude::*;

/// Somebody's membership of a room: the present one, or the last.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "member")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub room: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    /// The role; of who has left, the one that they had. None where it is not known, as the next two.
    pub role: Option<String>,
    /// The first place that they may see.
    pub visible_from: i64,
    /// The last event about this membership.
    pub seq: i64,
    /// The event by which they came in, for the last time.
    pub joined_seq: Option<i64>,
    /// When that was: RFC 3339, UTC, milliseconds.
    pub joined_at: Option<String>,
    /// The event by which they went, if they are gone.
    pub left_seq: Option<i64>,
    pub left_at: Option<String>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
