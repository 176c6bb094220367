//! The statement that is run for every event of the log. Building it takes longer than running it, so it is built once for
//! each size, and the databases keep it prepared.

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, EntityTrait, IntoActiveModel, QueryTrait, Statement, Value,
    Values,
};

use crate::entity::event;

/// The largest statement has `2^LARGEST` rows of 14 columns: SQLite takes 32,766 bind variables, PostgreSQL and MySQL
/// 65,535. Larger ones bring nothing.
const LARGEST: u32 = 8;

/// `INSERT INTO event` for 1, 2, 4 … rows.
#[derive(Debug)]
pub(crate) struct Insert {
    backend: DbBackend,
    by_power: Vec<String>,
}

impl Insert {
    pub(crate) fn new(backend: DbBackend) -> Self {
        Self::into(backend, "event")
    }

    /// The same for another table with the columns of `event`.
    pub(crate) fn into(backend: DbBackend, table: &'static str) -> Self {
        let by_power = (0..=LARGEST)
            .map(|power| {
                let rows = std::iter::repeat_with(|| empty().into_active_model()).take(1 << power);
                let sql = event::Entity::insert_many(rows).build(backend).sql;
                sql.replacen("event", table, 1)
            })
            .collect();
        Self { backend, by_power }
    }

    /// Stores the rows, by few statements: a number of rows is a sum of powers of two.
    pub(crate) async fn run(&self, db: &DatabaseTransaction, rows: Vec<event::Model>) -> Result<(), DbErr> {
        let mut rows = rows.into_iter();
        while let Some(power) = rows.len().checked_ilog2() {
            let power = power.min(LARGEST);
            let Some(sql) = self.by_power.get(power as usize) else {
                return Err(DbErr::Custom(format!("there is no statement for 2^{power} rows")));
            };
            let values = rows.by_ref().take(1 << power).flat_map(values).collect();
            db.execute_raw(Statement {
                sql: sql.clone(),
                values: Some(Values(values)),
                db_backend: self.backend,
            })
            .await?;
        }
        Ok(())
    }
}

/// A row's values, in the order of the table's columns.
fn values(row: event::Model) -> [Value; 14] {
    [
        row.epoch.into(),
        row.shard.into(),
        row.seq.into(),
        row.tenant.into(),
        row.room.into(),
        row.n.into(),
        row.prev.into(),
        row.id.into(),
        row.from_user.into(),
        row.kind.into(),
        row.at.into(),
        row.key.into(),
        row.bytes.into(),
        row.hash.into(),
    ]
}

fn empty() -> event::Model {
    event::Model {
        epoch: 0,
        shard: 0,
        seq: 0,
        tenant: String::new(),
        room: String::new(),
        n: 0,
        prev: 0,
        id: String::new(),
        from_user: String::new(),
        kind: String::new(),
        at: String::new(),
        key: None,
        bytes: Vec::new(),
        hash: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{QueryOrder, TransactionTrait};

    use super::*;
    use crate::archive::testing::{Databases, Engine, on_each_engine};

    on_each_engine!(any_number_of_rows_is_stored_as_it_is);

    fn row(seq: i64) -> event::Model {
        event::Model {
            epoch: 1,
            shard: 2,
            seq,
            tenant: "t".to_owned(),
            room: "r".to_owned(),
            n: 3,
            prev: 4,
            id: "i".to_owned(),
            from_user: "f".to_owned(),
            kind: "msg".to_owned(),
            at: "a".to_owned(),
            key: (seq % 2 == 0).then(|| "Kü🐸 ".to_owned()),
            bytes: vec![0, 255],
            hash: vec![7; 32],
        }
    }

    async fn any_number_of_rows_is_stored_as_it_is(engine: Engine) {
        let databases = Databases::new(engine);
        let database = databases.open("archive").await;
        let connection = database.connection();
        let insert = Insert::new(connection.get_database_backend());
        let mut stored = 0;
        for count in [0, 1, 2, 3, 255, 256, 257, 5000] {
            let rows: Vec<_> = (stored..stored + count).map(row).collect();
            let transaction = connection.begin().await.unwrap();
            insert.run(&transaction, rows).await.unwrap();
            transaction.commit().await.unwrap();
            stored += count;
        }
        let found = event::Entity::find()
            .order_by_asc(event::Column::Seq)
            .all(connection)
            .await
            .unwrap();
        assert_eq!(found, (0..stored).map(row).collect::<Vec<_>>());
    }

    /// SQLite takes 32,766 parameters in a statement, PostgreSQL and MySQL 65,535.
    #[test]
    fn the_largest_statement_has_no_more_parameters_than_any_engine_takes() {
        let row = values(empty()).len();
        for backend in [DbBackend::Sqlite, DbBackend::Postgres, DbBackend::MySql] {
            let insert = Insert::new(backend);
            let sql = insert.by_power.last().unwrap();
            let parameters = sql
                .matches(if backend == DbBackend::Postgres { '$' } else { '?' })
                .count();
            assert_eq!(parameters, row << LARGEST, "{backend:?}");
            assert!(parameters <= 32_766, "{backend:?}");
        }
    }

    #[test]
    fn placeholders_are_those_of_the_engine() {
        let sql = |backend| Insert::new(backend).by_power.swap_remove(0);
        assert!(sql(DbBackend::Postgres).contains("$14"));
        assert_eq!(sql(DbBackend::MySql).matches('?').count(), 14);
    }
}
