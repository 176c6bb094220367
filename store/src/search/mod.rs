//! Finding messages by their words.
//!
//! The index is a view of the archive, filled behind it by [`keep`]: it slows down no commit, it is filled again from the
//! archive if it is emptied, and an archive of an older program gets one without a further step. Its place is the row
//! `search_mark`, which moves in the same transaction as what was indexed, by compare-and-set, so that any number of stores
//! may do it.

mod index;
mod newest;
mod query;
mod text;
mod words;

pub use index::keep;
pub(crate) use query::search;

/// Takes some more of the archive into the index.
#[cfg(test)]
pub(crate) async fn index_some(
    database: &crate::archive::Database,
    log: &natterjack_nats_config::tail::Log,
) -> Result<(), sea_orm::DbErr> {
    index::round(database, log).await.map(drop)
}

#[cfg(test)]
mod tests;
