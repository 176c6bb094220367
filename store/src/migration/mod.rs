//! The archive's tables, step by step. A migration never changes once it has been released, and never imports an
//! entity: entities say what the tables are now, a migration says what they were then.

mod columns;
mod m0001_archive;
mod m0002_search;
mod m0003_changes;
mod m0004_rooms;
mod m0005_audit;
mod m0006_retention;
mod m0007_replies;
mod m0008_erasure;
mod m0009_members;

use sea_orm_migration::{MigrationTrait, MigratorTrait};

/// All migrations, oldest first.
pub(crate) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_archive::Migration),
            Box::new(m0002_search::Migration),
            Box::new(m0003_changes::Migration),
            Box::new(m0004_rooms::Migration),
            Box::new(m0005_audit::Migration),
            Box::new(m0006_retention::Migration),
            Box::new(m0007_replies::Migration),
            Box::new(m0008_erasure::Migration),
            Box::new(m0009_members::Migration),
        ]
    }
}
