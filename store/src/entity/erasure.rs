use sea_orm::entity::prelude::*;

/// An erasure, and how far it is done here.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "erasure")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    /// The event's place.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    pub tenant: String,
    pub room: String,
    /// Whose words; empty where it is about one message.
    pub from_user: String,
    /// That message's place; 0 where it is about a user.
    pub target: i64,
    /// Nothing behind this is erased, but for edits of the one message.
    pub upto: i64,
    /// Everything up to here was looked at.
    pub looked: i64,
    /// 1 once all of it is erased here.
    pub complete: i64,
    pub messages: i64,
    pub edits: i64,
    pub reactions: i64,
    pub words: i64,
    /// The last event that was erased by it; 0 for none.
    pub last: i64,
    /// 1 while the rooms' stream may have something of it.
    pub in_rooms: i64,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
