//! Who reacted to a message, and how.

use bytes::Bytes;
use natterjack_nats_config::contract::{Id, Problem, Reacted, ReactedBy, ReactionsPage, ReactionsQuery};
use natterjack_nats_config::tail::Log;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use crate::archive::{now, sql};
use crate::entity::reaction;
use crate::erasure::is_erased;
use crate::history::{no_answer, to_json};

/// Answers a query as it came.
pub(crate) async fn what_was_made_of_it(db: &DatabaseConnection, log: &Log, request: &[u8]) -> Result<Bytes, Problem> {
    let query: ReactionsQuery =
        serde_json::from_slice(request).map_err(|error| Problem::invalid(format!("no query of reactions: {error}")))?;
    query.check()?;
    to_json(&reactions(db, log, &query).await.map_err(|error| no_answer(&error))?)
}

/// Who reacted to a message that the archive has and the reader may see. To one that was deleted nobody did.
async fn reactions(db: &DatabaseConnection, log: &Log, query: &ReactionsQuery) -> Result<ReactionsPage, DbErr> {
    let room = sql::Room {
        log,
        tenant: &query.tenant,
        id: &query.room,
    };
    let mut page = ReactionsPage {
        watermark: sql::archived(db, log).await?,
        found: false,
        reactions: Vec::new(),
        next: None,
    };
    let found = sql::by_id(db, room, &query.id).await?;
    let Some((target, line)) = found.filter(|(seq, _)| *seq >= sql::bound(query.visible_from)) else {
        return Ok(page);
    };
    page.found = true;
    let mut rows = rows(db, log, target, query).await?;
    let counts = counts(db, log, target, &rows).await?;
    // Read last, so that nothing is told of what was deleted meanwhile.
    let place = (i64::from(log.epoch), i64::from(log.shard));
    let changes = now::at(db, place, &[target]).await?;
    page.watermark = sql::archived(db, log).await?;
    if is_erased(&line) || changes.get(&target).is_some_and(|change| change.deleted.is_some()) {
        return Ok(page);
    }
    if rows.len() > usize::from(query.limit) {
        rows.truncate(usize::from(query.limit));
        page.next = rows.last().cloned();
    }
    page.reactions = grouped(rows, &counts);
    Ok(page)
}

/// The first reactions behind the query's place, and one more than asked for.
async fn rows(db: &DatabaseConnection, log: &Log, target: i64, query: &ReactionsQuery) -> Result<Vec<Reacted>, DbErr> {
    let mut select = of_message(log, target);
    if let Some(emoji) = &query.emoji {
        select = select.filter(reaction::Column::Emoji.eq(emoji.as_str()));
    }
    if let Some(after) = &query.after {
        let later_user = Condition::all()
            .add(reaction::Column::Emoji.eq(after.emoji.as_str()))
            .add(reaction::Column::FromUser.gt(after.user.as_str()));
        let later = Condition::any()
            .add(reaction::Column::Emoji.gt(after.emoji.as_str()))
            .add(later_user);
        select = select.filter(later);
    }
    let rows: Vec<(String, String)> = select
        .select_only()
        .columns([reaction::Column::Emoji, reaction::Column::FromUser])
        .order_by_asc(reaction::Column::Emoji)
        .order_by_asc(reaction::Column::FromUser)
        .limit(u64::from(query.limit) + 1)
        .into_tuple()
        .all(db)
        .await?;
    let rows = rows.into_iter().map(|(emoji, user)| {
        let user: Id = user.parse().map_err(|error| DbErr::Custom(format!("{error}")))?;
        Ok(Reacted { emoji, user })
    });
    rows.collect()
}

/// How many users there are of each reaction on a page.
async fn counts(
    db: &DatabaseConnection,
    log: &Log,
    target: i64,
    rows: &[Reacted],
) -> Result<Vec<(String, i64)>, DbErr> {
    let mut emojis: Vec<&str> = rows.iter().map(|row| row.emoji.as_str()).collect();
    emojis.dedup();
    if emojis.is_empty() {
        return Ok(Vec::new());
    }
    of_message(log, target)
        .select_only()
        .column(reaction::Column::Emoji)
        .column_as(Expr::col(reaction::Column::FromUser).count(), "users")
        .filter(reaction::Column::Emoji.is_in(emojis))
        .group_by(reaction::Column::Emoji)
        .into_tuple()
        .all(db)
        .await
}

fn of_message(log: &Log, target: i64) -> Select<reaction::Entity> {
    reaction::Entity::find()
        .filter(reaction::Column::Epoch.eq(i64::from(log.epoch)))
        .filter(reaction::Column::Shard.eq(i64::from(log.shard)))
        .filter(reaction::Column::Target.eq(target))
        .filter(reaction::Column::Present.eq(1))
}

fn grouped(rows: Vec<Reacted>, counts: &[(String, i64)]) -> Vec<ReactedBy> {
    let mut groups: Vec<ReactedBy> = Vec::new();
    for Reacted { emoji, user } in rows {
        if let Some(group) = groups.last_mut().filter(|group| group.emoji == emoji) {
            group.users.push(user);
            continue;
        }
        let count = counts.iter().find(|(known, _)| *known == emoji);
        groups.push(ReactedBy {
            // Who reacted since the page was read is counted with it.
            count: count.map_or(1, |(_, count)| count.unsigned_abs()),
            users: vec![user],
            emoji,
        });
    }
    groups
}
