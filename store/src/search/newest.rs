//! Search on MySQL and MariaDB, within bounds. `InnoDB` has found, read and ranked everything that has the words before it gives the
//! first, which takes seconds for a word that each thirtieth of a million messages has. So the newest messages are looked
//! through first: what is frequent is found there. What is not, the index finds, and it is given a limit of time.

use natterjack_nats_config::contract::SearchQuery;
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Order, Query, SelectStatement, SimpleExpr};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, Statement, sqlx};

use super::query::{self, Found};
use super::words::Term;
use crate::archive::engine_error;

/// Messages that are looked through, whoever may see them: some 6 MB, a hundredth of a second in memory.
const LOOKED_THROUGH: u64 = if cfg!(test) { 30 } else { 20_000 };
/// Of more finds among them the newest are ranked.
const RANKED: u64 = 1000;
/// How long the index may take, in milliseconds; whoever asks waits ten seconds for all of it.
const INDEX_LIMIT_MS: u64 = 4000;

/// The best, one more than asked for.
pub(super) async fn find(
    db: &DatabaseConnection,
    log: &Log,
    query: &SearchQuery,
    terms: &[Term],
) -> Result<Found, DbErr> {
    let newest = newest(db, log, query, terms).await?;
    let most = usize::from(query.limit) + 1;
    if newest.len() >= most {
        return Ok(Found {
            seqs: newest,
            is_all: true,
        });
    }
    let select = query::select(db.get_database_backend(), log, query, terms);
    match query::found(db, limited(db, &select)).await {
        Err(error) if is_out_of_time(&error) => {
            tracing::info!(
                terms = terms.len(),
                "a search took too long, and was answered with what was said lately"
            );
            Ok(Found {
                seqs: newest,
                is_all: false,
            })
        }
        found => found,
    }
}

/// What is found among the newest messages, the best first.
async fn newest(db: &DatabaseConnection, log: &Log, query: &SearchQuery, terms: &[Term]) -> Result<Vec<i64>, DbErr> {
    let backend = db.get_database_backend();
    let first: i64 = match db.query_one_raw(backend.build(&first(log))).await? {
        Some(row) => row.try_get_by_index(0)?,
        None => 0,
    };
    let has_all = terms.iter().map(has).reduce(ExprTrait::and);
    let mut select = query::matching(has_all.unwrap_or_else(|| Expr::value(false)), log, query);
    select
        .columns(["seq", "tokens"].map(Alias::new))
        .and_where(Expr::col(Alias::new("seq")).gte(first))
        .order_by(Alias::new("seq"), Order::Desc)
        .limit(RANKED);
    let mut found = Vec::new();
    for row in db.query_all_raw(backend.build(&select)).await? {
        let (seq, tokens): (i64, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        found.push((score(&tokens, terms), seq));
    }
    found.sort_by(|one, other| other.0.total_cmp(&one.0).then(other.1.cmp(&one.1)));
    Ok(found.into_iter().map(|(_, seq)| seq).collect())
}

/// The first of the newest messages; none if there are no more.
fn first(log: &Log) -> SelectStatement {
    let mut select = Query::select();
    select
        .column(Alias::new("seq"))
        .from(Alias::new("search"))
        .and_where(Expr::col(Alias::new("epoch")).eq(i64::from(log.epoch)))
        .and_where(Expr::col(Alias::new("shard")).eq(i64::from(log.shard)))
        .order_by(Alias::new("seq"), Order::Desc)
        .limit(1)
        .offset(LOOKED_THROUGH - 1);
    select
}

/// Tokens are of ASCII letters and digits, with a space between.
fn has(Term { token, prefix }: &Term) -> SimpleExpr {
    let (sql, pattern) = if *prefix {
        ("CONCAT(' ', tokens) LIKE ?", format!("% {token}%"))
    } else {
        ("CONCAT(' ', tokens, ' ') LIKE ?", format!("% {token} %"))
    };
    Expr::cust_with_values(sql, [pattern])
}

/// As PostgreSQL ranks: how often the words are there, divided by one and the logarithm of the text's length.
fn score(tokens: &str, terms: &[Term]) -> f64 {
    let (mut found, mut length) = (0u32, 0u32);
    for token in tokens.split(' ') {
        length += 1;
        let is_found = |term: &&Term| token == term.token || term.prefix && token.starts_with(&term.token);
        found += u32::try_from(terms.iter().filter(is_found).count()).unwrap_or(u32::MAX);
    }
    f64::from(found) / (1.0 + f64::from(length).ln())
}

/// The statement with a limit of time, as each of the two engines takes it.
fn limited(db: &DatabaseConnection, select: &SelectStatement) -> Statement {
    let statement = db.get_database_backend().build(select);
    let seconds = INDEX_LIMIT_MS.div_ceil(1000);
    let hint = format!("SELECT /*+ MAX_EXECUTION_TIME({INDEX_LIMIT_MS}) */");
    let sql = statement.sql.replacen("SELECT", &hint, 1);
    Statement {
        sql: format!("/*M!100100 SET STATEMENT max_statement_time={seconds} FOR */ {sql}"),
        ..statement
    }
}

/// The engine ended a statement that took too long: MariaDB by 1969, MySQL by 3024; or `InnoDB` ended the search, by 188, because of
/// that or since it found more than it keeps (`innodb_ft_result_cache_limit`).
fn is_out_of_time(error: &DbErr) -> bool {
    let Some(sqlx::Error::Database(error)) = engine_error(error) else {
        return false;
    };
    error
        .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
        .is_some_and(|error| matches!(error.number(), 188 | 1969 | 3024))
}

#[cfg(test)]
mod tests {
    use super::super::words::{terms, tokens};
    use super::*;
    use crate::archive::testing::{Databases, Engine};

    #[test]
    fn what_has_the_words_more_often_in_fewer_words_is_better() {
        let score = |text: &str| score(&tokens(text), &terms("pump"));
        let long = format!("pump {}", "x ".repeat(50));
        for (better, worse) in [
            ("pump pump", "pump x"),
            ("pump", long.as_str()),
            ("pumps", long.as_str()),
            ("pump", "x"),
        ] {
            assert!(score(better) > score(worse), "{better} {worse}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_statement_that_takes_too_long_is_ended_and_known_by_its_error_mariadb() {
        let databases = Databases::new(Engine::MariaDb);
        let database = databases.open("archive").await;
        let db = database.connection();
        let mut select = Query::select();
        select.expr(Expr::cust("SLEEP(60)"));
        let limited = limited(db, &select);
        assert!(limited.sql.contains("max_statement_time=4 FOR"), "{}", limited.sql);
        let sql = limited.sql.replace("max_statement_time=4 ", "max_statement_time=0.01 ");
        let error = db.query_all_raw(Statement { sql, ..limited }).await.unwrap_err();
        assert!(is_out_of_time(&error), "{error}");
        let other = Statement::from_string(db.get_database_backend(), "SELECT nothing");
        let error = db.query_all_raw(other).await.unwrap_err();
        assert!(!is_out_of_time(&error), "{error}");
    }
}
