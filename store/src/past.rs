//! What was trimmed from the log, for readers of old cursors: a tenant's events of every kind, as they stood there.

use natterjack_nats_config::contract::{PastPage, PastQuery, Seq};
use natterjack_nats_config::tail::Log;
use sea_orm::{DatabaseConnection, DbErr};

use crate::archive::sql::{self, Range};
use crate::erasure;
use crate::history::{Cut, cut};
use crate::retention;

/// The most events on a page, as in an answer of the bridge.
const MAX_EVENTS: usize = 1000;
/// Frames that are looked through for a page: in a busy installation a small tenant has events in few of them.
const MAX_FRAMES: u64 = 20_000;

/// What stands behind the query's place, and the events' lines. What is lost is asked for behind the reading: an archive that
/// reads on meanwhile, or removes, is not believed to have had nothing there.
pub(crate) async fn past(
    db: &DatabaseConnection,
    log: &Log,
    query: &PastQuery,
) -> Result<(PastPage, Vec<Vec<u8>>), DbErr> {
    let (page, lines) = kept(db, log, query).await?;
    match lost(db, log, query).await? {
        None => Ok((page, lines)),
        earliest => Ok((
            PastPage {
                earliest,
                ..nothing(query)
            },
            Vec::new(),
        )),
    }
}

fn nothing(query: &PastQuery) -> PastPage {
    PastPage {
        events: Vec::new(),
        passed: query.after,
        earliest: None,
    }
}

/// Everything after this place is there, and something before it is not.
async fn lost(db: &DatabaseConnection, log: &Log, query: &PastQuery) -> Result<Option<Seq>, DbErr> {
    let absence = sql::last_absence(db, log, query.up_to.frame()).await?;
    if let Some((_, last)) = absence.filter(|(_, last)| *last >= first_frame(query.after)) {
        return Ok(Some(Seq::end_of_frame(last)));
    }
    // What is missing there was removed because of its age. That may go further than is asked for, which ends where memory begins:
    // from there on the reader gets everything.
    let horizon = match &query.room {
        Some(room) => retention::of_room(db, log, (query.tenant.as_str(), room.as_str())).await?,
        None => retention::of_tenant(db, log, query.tenant.as_str()).await?,
    };
    let is_lost = horizon.0 > query.after.0 + 1 && query.up_to > query.after;
    Ok(is_lost.then(|| Seq(horizon.0 - 1).min(query.up_to)))
}

async fn kept(db: &DatabaseConnection, log: &Log, query: &PastQuery) -> Result<(PastPage, Vec<Vec<u8>>), DbErr> {
    let mut page = nothing(query);
    let watermark = sql::archived(db, log).await?;
    let scanned = Seq::end_of_frame(query.after.frame().saturating_add(MAX_FRAMES));
    let up_to = query.up_to.min(watermark).min(scanned);
    if up_to <= query.after {
        return Ok((page, Vec::new()));
    }
    let range = Range {
        first: Seq(query.after.0 + 1),
        last: up_to,
    };
    let told_to_all = match query.room {
        Some(_) => {
            erasure::of_users(
                db,
                log,
                query.tenant.as_str(),
                (sql::bound(range.first), sql::bound(range.last)),
            )
            .await?
        }
        None => Vec::new(),
    };
    let of = sql::Past {
        log,
        tenant: &query.tenant,
        room: query.room.as_ref(),
        told_to_all: &told_to_all,
    };
    let sizes = sql::past_sizes(db, of, range, MAX_EVENTS as u64 + 1).await?;
    let Cut { range, next, .. } = cut(&sizes, MAX_EVENTS);
    page.passed = next.unwrap_or(up_to);
    let lines = match range {
        Some(range) => sql::past_lines(db, of, range).await?,
        None => Vec::new(),
    };
    Ok((page, lines))
}

/// The first frame that has something behind a place.
fn first_frame(after: Seq) -> u64 {
    if after == Seq::end_of_frame(after.frame()) {
        after.frame() + 1
    } else {
        after.frame()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_inside_a_frame_needs_that_frame() {
        for (after, frame) in [
            (Seq::ZERO, 0),
            (Seq::of(7, 0), 7),
            (Seq::of(7, 1022), 7),
            (Seq::end_of_frame(7), 8),
        ] {
            assert_eq!(first_frame(after), frame, "{after}");
        }
    }
}
