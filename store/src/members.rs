//! Since when members are in a room.

use natterjack_nats_config::contract::{Id, Joined, MembersPage, MembersQuery, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::{DatabaseConnection, DbErr};

use crate::archive::{members as archived, sql};

/// Those of a query that are in the room, as far as the archive has read the log.
pub(crate) async fn members(db: &DatabaseConnection, log: &Log, query: &MembersQuery) -> Result<MembersPage, DbErr> {
    let users: Vec<&str> = query.users.iter().map(Id::as_str).collect();
    let room = sql::Room {
        log,
        tenant: &query.tenant,
        id: &query.room,
    };
    let rows = archived::of_room(db, room, &users).await?;
    // Nothing above is later.
    let watermark = sql::archived(db, log).await?;
    let members = rows.into_iter().filter_map(|row| {
        Some(Joined {
            user: row.user_id.parse().ok()?,
            seq: Seq(row.joined_seq?.unsigned_abs()),
            at: row.joined_at?,
        })
    });
    Ok(MembersPage {
        watermark,
        members: members.collect(),
    })
}
