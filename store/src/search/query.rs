use natterjack_nats_config::contract::{Problem, SearchPage, SearchQuery, SearchResult, SearchRoom, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Alias, Cond, Expr, ExprTrait, Order, Query, SelectStatement, SimpleExpr};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter, Statement,
};

use super::words::{self, MAX_TERMS, Term};
use super::{index, newest, text};
use crate::archive::{now, sql};
use crate::entity::event;
use crate::erasure::{Known, is_erased};
use crate::history::{cut, raw};

/// Conditions that stand side by side in one `OR`: SQLite nests them, and goes no deeper than a thousand.
const SIDE_BY_SIDE: usize = 400;
/// Of more messages than these that have the words, the newest are ranked: to rank a million takes seconds.
const RANKED: u64 = 10_000;

/// Messages that are found, by their places.
pub(super) struct Found {
    /// The best first; some more than asked for, where there are.
    pub(super) seqs: Vec<i64>,
    /// Whether everything was looked at.
    pub(super) is_all: bool,
}

/// What a search comes to, or what is wrong with it.
pub(crate) async fn search(
    db: &DatabaseConnection,
    log: &Log,
    query: &SearchQuery,
) -> Result<Result<SearchPage, Problem>, DbErr> {
    let terms = words::terms(&query.q);
    if terms.is_empty() || terms.len() > MAX_TERMS {
        let detail = format!("`q` must have a word, and no more than {MAX_TERMS} (a pair of characters counts as one)");
        return Ok(Err(Problem::invalid(detail)));
    }
    let watermark = sql::archived(db, log).await?;
    let mut page = SearchPage {
        watermark,
        indexed: index::mark(db, log)
            .await?
            .filter(|mark| mark.epoch == i64::from(log.epoch))
            .map_or(Seq::ZERO, |mark| Seq(mark.seq.unsigned_abs())),
        results: Vec::new(),
        more: false,
    };
    if query.rooms.is_empty() {
        return Ok(Ok(page));
    }
    let limit = usize::from(query.limit);
    let Found { seqs: found, is_all } = find(db, log, query, &terms).await?;
    let mut lines = lines(db, log, found.iter().copied().take(limit)).await?;
    let sizes: Vec<(Seq, usize)> = found
        .iter()
        .filter_map(|seq| Some((Seq(seq.unsigned_abs()), lines.get(seq).map(Vec::len)?)))
        .collect();
    let fitting = cut(&sizes, limit).count;
    page.more = fitting < found.len() || !is_all;
    for seq in found.iter().take(fitting) {
        let Some(line) = lines.remove(seq) else { continue };
        let snippet = words::snippet(&text::text_of(&line), &query.q);
        match raw(line) {
            Ok(message) => page.results.push(SearchResult { snippet, message }),
            Err(problem) => return Ok(Err(problem)),
        }
    }
    Ok(Ok(page))
}

async fn find(db: &DatabaseConnection, log: &Log, query: &SearchQuery, terms: &[Term]) -> Result<Found, DbErr> {
    let backend = db.get_database_backend();
    if backend == DbBackend::MySql {
        return newest::find(db, log, query, terms).await;
    }
    found(db, backend.build(&select(backend, log, query, terms))).await
}

/// What a statement finds that looks at everything.
pub(super) async fn found(db: &DatabaseConnection, select: Statement) -> Result<Found, DbErr> {
    let rows = db.query_all_raw(select).await?;
    let seqs = rows.iter().map(|row| row.try_get_by_index(0));
    Ok(Found {
        seqs: seqs.collect::<Result<_, _>>()?,
        is_all: true,
    })
}

/// The places of the best, one more than asked for.
pub(super) fn select(backend: DbBackend, log: &Log, query: &SearchQuery, terms: &[Term]) -> SelectStatement {
    let terms = text_of(backend, terms);
    let most = u64::from(query.limit) + 1;
    let (score, mut found) = match backend {
        // InnoDB finds and ranks everything before it gives the first: see `newest`.
        DbBackend::MySql => {
            let score = "MATCH (tokens) AGAINST (? IN BOOLEAN MODE)";
            let mut found = matching(Expr::cust_with_values(score, [terms.clone()]), log, query);
            found.column(Alias::new("seq"));
            (Expr::cust_with_values(score, [terms]), found)
        }
        DbBackend::Postgres => {
            let matches = Expr::cust_with_values("tokens @@ to_tsquery('simple', $1)", [terms.clone()]);
            let mut newest = matching(matches, log, query);
            newest.columns(["seq", "tokens"].map(Alias::new));
            // 1: divided by one and the logarithm of the text's length.
            let score = Expr::cust_with_values("ts_rank(tokens, to_tsquery('simple', $1), 1)", [terms]);
            (score, among(newest, "seq"))
        }
        _ => {
            let mut newest = matching(Expr::cust_with_values("search MATCH ?", [terms]), log, query);
            // bm25 counts downwards.
            newest.column(Alias::new("seq")).expr_as(Expr::cust("-rank"), "score");
            (Expr::cust("score"), among(newest, "rowid"))
        }
    };
    found
        .order_by_expr(score, Order::Desc)
        .order_by(Alias::new("seq"), Order::Desc)
        .limit(most);
    found
}

/// The newest [`RANKED`] of what is found: a word that most messages have is ranked no longer than others.
fn among(mut newest: SelectStatement, by: &'static str) -> SelectStatement {
    newest.order_by(Alias::new(by), Order::Desc).limit(RANKED);
    let mut found = Query::select();
    found
        .column(Alias::new("seq"))
        .from_subquery(newest, Alias::new("newest"));
    found
}

/// What is found where the reader looks.
pub(super) fn matching(matches: SimpleExpr, log: &Log, query: &SearchQuery) -> SelectStatement {
    let column = |name: &'static str| Expr::col(Alias::new(name));
    let mut select = Query::select();
    select
        .from(Alias::new("search"))
        .and_where(matches)
        .and_where(column("epoch").eq(i64::from(log.epoch)))
        .and_where(column("shard").eq(i64::from(log.shard)))
        .and_where(column("tenant").eq(query.tenant.as_str()))
        .cond_where(in_rooms(&query.rooms));
    if let Some(from) = &query.from {
        select.and_where(column("from_user").eq(from.as_str()));
    }
    select
}

/// All of the words, as the engine takes them.
fn text_of(backend: DbBackend, terms: &[Term]) -> String {
    let (between, before, behind) = match backend {
        DbBackend::Postgres => (" & ", "", ":*"),
        DbBackend::MySql => (" ", "+", "*"),
        _ => (" AND ", "", "*"),
    };
    let one = |Term { token, prefix }: &Term| format!("{before}{token}{}", if *prefix { behind } else { "" });
    terms.iter().map(one).collect::<Vec<_>>().join(between)
}

fn in_rooms(rooms: &[SearchRoom]) -> Cond {
    let column = |name: &'static str| Expr::col(Alias::new(name));
    let (whole, partly): (Vec<_>, Vec<_>) = rooms.iter().partition(|room| room.visible_from == Seq::ZERO);
    let mut any = Cond::any();
    if !whole.is_empty() {
        any = any.add(column("room").is_in(whole.iter().map(|room| room.id.as_str())));
    }
    for some in partly.chunks(SIDE_BY_SIDE) {
        any = some
            .iter()
            .fold(Cond::any(), |any, room| {
                let from = i64::try_from(room.visible_from.0).unwrap_or(i64::MAX);
                any.add(
                    Cond::all()
                        .add(column("room").eq(room.id.as_str()))
                        .add(column("seq").gte(from)),
                )
            })
            .add(any);
    }
    any
}

/// The messages at these places as they now stand, but for those that were deleted.
async fn lines(
    db: &DatabaseConnection,
    log: &Log,
    seqs: impl Iterator<Item = i64>,
) -> Result<std::collections::HashMap<i64, Vec<u8>>, DbErr> {
    let unfinished = Known::unfinished(db, log).await?;
    let rows = event::Entity::find()
        .filter(event::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(event::Column::Shard.eq(i64::from(log.shard)))
        .filter(event::Column::Seq.is_in(seqs))
        .all(db)
        .await?;
    let rows: Vec<(i64, Vec<u8>)> = rows.into_iter().map(|row| (row.seq, row.bytes)).collect();
    let seqs: Vec<i64> = rows.iter().map(|(seq, _)| *seq).collect();
    let changes = now::at(db, (i64::from(log.epoch), i64::from(log.shard)), &seqs).await?;
    // What was deleted a moment ago may still be in the index.
    let there = rows
        .into_iter()
        .filter(|(seq, _)| changes.get(seq).is_none_or(|change| change.deleted.is_none()));
    let there = now::show(db, log, (there.collect(), &unfinished), &changes).await?;
    // And what is erased, while that is not done.
    let there = there.into_iter().filter(|(_, line)| !is_erased(line));
    Ok(there.collect())
}
