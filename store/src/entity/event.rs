use sea_orm::entity::prelude::*;

/// One event of the log. Rows are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    pub tenant: String,
    pub room: String,
    pub n: i64,
    pub prev: i64,
    pub id: String,
    pub from_user: String,
    pub kind: String,
    pub at: String,
    pub key: Option<String>,
    pub bytes: Vec<u8>,
    pub hash: Vec<u8>,
}

#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
