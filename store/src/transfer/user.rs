use std::collections::BTreeMap;
use std::io::Write;

use natterjack_nats_config::contract::{Event, Id, KeyBody, Kind, MemberBody, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::{ColumnTrait, Condition, Order, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;

use super::TransferError;
use crate::archive::{Database, sql};
use crate::entity::event;
use crate::erasure::Known;

/// Events that are read at a time.
const EVENTS: u64 = 1000;

/// A user, to be exported.
#[derive(Debug, Clone, Copy)]
pub struct ExportedUser<'a> {
    /// The log.
    pub log: &'a Log,
    /// The tenant.
    pub tenant: &'a Id,
    /// The user.
    pub user: &'a Id,
}

/// The first line.
#[derive(Serialize)]
struct Header<'a> {
    format: &'static str,
    version: u32,
    shard: u16,
    epoch: u32,
    tenant: &'a Id,
    user: &'a Id,
    upto: u64,
    events: u64,
    rooms: Vec<Membership>,
}

/// A room that the user is a member of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Membership {
    room: Id,
    role: Id,
    /// The event by which they came in.
    joined: Seq,
    joined_at: String,
}

/// What a user's events come to.
#[derive(Default)]
struct Seen {
    events: u64,
    rooms: BTreeMap<Id, Membership>,
}

/// Writes a header with the rooms that a user is in, and since when, and then all that they wrote and all that was said of their
/// memberships, roles and tokens, exactly as it stands in the log, one event a line, in log order. Gives how many.
pub async fn export_user(
    database: &Database,
    what: ExportedUser<'_>,
    out: &mut impl Write,
    progress: impl Fn(u64, u64),
) -> Result<u64, TransferError> {
    let upto = sql::archived(database.connection(), what.log).await?.frame();
    if upto == 0 {
        return Err(TransferError::Nothing);
    }
    // Twice the way, so that the header can say what follows.
    let mut seen = Seen::default();
    each(database, what, upto, |event, _| {
        seen.take(&event, what.user);
        Ok(())
    })
    .await?;
    let header = Header {
        format: "natterjack-user-export",
        version: 1,
        shard: what.log.shard,
        epoch: what.log.epoch,
        tenant: what.tenant,
        user: what.user,
        upto,
        events: seen.events,
        rooms: seen.rooms.into_values().collect(),
    };
    writeln!(out, "{}", serde_json::to_string(&header).map_err(std::io::Error::from)?)?;
    let mut done = 0;
    each(database, what, upto, |_, line| {
        done += 1;
        progress(done, header.events);
        out.write_all(line)?;
        out.write_all(b"\n")
    })
    .await?;
    out.flush()?;
    Ok(done)
}

/// Every event of a user or about them, in log order.
async fn each(
    database: &Database,
    what: ExportedUser<'_>,
    upto: u64,
    mut told: impl FnMut(Event, &[u8]) -> std::io::Result<()>,
) -> Result<(), TransferError> {
    let about = [Kind::Member, Kind::User, Kind::Token, Kind::Ban, Kind::Key].map(Kind::as_str);
    let end = sql::bound(Seq::end_of_frame(upto));
    let mut after = -1;
    loop {
        let unfinished = Known::unfinished(database.connection(), what.log).await?;
        let rows = sql::of_log(what.log)
            .filter(event::Column::Tenant.eq(what.tenant.as_str()))
            .filter(event::Column::Seq.gt(after))
            .filter(event::Column::Seq.lte(end))
            .filter(
                Condition::any()
                    .add(event::Column::FromUser.eq(what.user.as_str()))
                    .add(event::Column::Kind.is_in(about)),
            )
            .order_by(event::Column::Seq, Order::Asc)
            .limit(EVENTS)
            .all(database.connection())
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.seq;
        for row in rows {
            let Ok(event) = serde_json::from_slice::<Event>(&row.bytes) else {
                continue;
            };
            if &event.from == what.user || is_about(&event, what.user) {
                told(event, &unfinished.hide(row.bytes))?;
            }
        }
    }
}

/// A key of theirs is about them, though nobody is told of it.
fn is_about(event: &Event, user: &Id) -> bool {
    let key = || serde_json::from_str::<KeyBody>(event.body.get()).ok();
    let about = event
        .concerns()
        .or_else(|| (event.kind == Kind::Key).then(key).flatten().map(|body| body.user));
    about.as_ref() == Some(user)
}

impl Seen {
    fn take(&mut self, event: &Event, user: &Id) {
        self.events += 1;
        let body = (event.kind == Kind::Member).then(|| serde_json::from_str::<MemberBody>(event.body.get()));
        let Some(Ok(body)) = body else { return };
        if &body.user != user {
            return;
        }
        let Some(role) = body.role else {
            self.rooms.remove(&event.room);
            return;
        };
        let membership = self.rooms.entry(event.room.clone()).or_insert_with(|| Membership {
            room: event.room.clone(),
            role: role.clone(),
            joined: event.seq,
            joined_at: event.at.clone(),
        });
        membership.role = role;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_counts_from_when_its_user_came_in_for_the_last_time() {
        let user: Id = "bob".parse().unwrap();
        let mut seen = Seen::default();
        for (seq, who, role) in [
            (1, "bob", r#""member""#),
            (2, "bob", "null"),
            (3, "erin", r#""owner""#),
            (4, "bob", r#""reader""#),
            (5, "bob", r#""owner""#),
        ] {
            let event = format!(
                r#"{{"v":1,"seq":{seq},"n":1,"prev":0,"id":"x","tenant":"main","room":"lobby","from":"alice","kind":"member","at":"day {seq}","body":{{"user":"{who}","role":{role}}}}}"#
            );
            seen.take(&serde_json::from_str(&event).unwrap(), &user);
        }
        let rooms: Vec<Membership> = seen.rooms.into_values().collect();
        let expected = Membership {
            room: "lobby".parse().unwrap(),
            role: "owner".parse().unwrap(),
            joined: Seq(4),
            joined_at: "day 4".to_owned(),
        };
        assert_eq!((seen.events, rooms), (5, vec![expected]));
    }
}
