//! What is looked at when a connection is given back to the pool.
//!
//! A `begin` that is given up leaves its transaction open, of which sqlx 0.9 does not know then: whoever has the connection next
//! would read what was there at that time, and write what nobody sees.

use std::time::Duration;

use sea_orm::sqlx::{self, Executor as _, MySqlConnection, PgConnection, Row as _};

/// How long a connection may take to answer when it is given back. A request that was given up leaves it in the middle of
/// an answer, from which MySQL's may never come back; and a server that vanished never answers. Such a connection is
/// closed, so that the server gives up its locks and another one takes its place.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Ends what is open.
pub(super) async fn mysql(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    in_time(async { connection.execute("ROLLBACK").await.map(|_| true) }).await
}

/// Closes a connection within a transaction: PostgreSQL would write a warning into its log for each needless ROLLBACK. In simple
/// queries outside a transaction the two times are one.
pub(super) async fn postgres(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let asked = sqlx::raw_sql("SELECT transaction_timestamp() = statement_timestamp()");
    in_time(async { asked.fetch_one(connection).await?.try_get(0) }).await
}

/// A connection that does not answer is closed.
async fn in_time(asked: impl Future<Output = Result<bool, sqlx::Error>>) -> Result<bool, sqlx::Error> {
    let answered = tokio::time::timeout(RELEASE_TIMEOUT, asked).await;
    answered.unwrap_or_else(|_| {
        Err(sqlx::Error::Protocol(
            "the database does not answer: this connection is closed".to_owned(),
        ))
    })
}
