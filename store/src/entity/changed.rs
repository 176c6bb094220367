use sea_orm::entity::prelude::*;

/// How a message stands that is not as it was said any more.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "changed")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    /// The message's own place.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    pub tenant: String,
    pub room: String,
    /// The place of its last edit.
    pub edited: Option<i64>,
    /// How long that event is, in bytes.
    pub edit_bytes: Option<i64>,
    pub edited_at: Option<String>,
    /// The place of its first deletion.
    pub deleted: Option<i64>,
    pub deleted_at: Option<String>,
    pub deleted_by: Option<String>,
    /// The place of its last pinning.
    pub pinned: Option<i64>,
    pub pinned_at: Option<String>,
    pub pinned_by: Option<String>,
    /// The place of the last event that unpinned it.
    pub unpinned: Option<i64>,
    /// The place of the last event about reactions to it.
    pub reacted: Option<i64>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
