use std::collections::BTreeMap;

use async_nats::Client;
use natterjack_nats_config::tail::Log;

use super::RebuildError;
use crate::archive::Database;
use crate::entity::event;
use crate::erasure::as_erased;
use crate::retention::forgive;
use crate::verify::read;

/// Frames that are compared at a time.
const FRAMES: usize = 64;

/// The first frame up to `upto` in which a log has other events than an archive, which may name the log by another epoch; none
/// if they agree as far as both reach.
pub(super) async fn first_difference(
    client: &Client,
    log: &Log,
    (database, archived_as): (&Database, &Log),
    upto: u64,
) -> Result<Option<u64>, RebuildError> {
    let bounds = log.bounds(client).await?;
    let upto = upto.min(bounds.last);
    if upto < bounds.first {
        return Ok(None);
    }
    let mut frames = read::frames(client, log, bounds.first, upto).await?;
    while let Some(mut part) = frames.next(FRAMES).await? {
        let (archived, _) = read::archived(database, archived_as, &part).await?;
        forgive(database.connection(), archived_as, (&mut part.rows.events, &archived)).await?;
        as_erased(&mut part.rows.events, &archived);
        if let Some(frame) = differing(&part.rows.events, &archived) {
            return Ok(Some(frame));
        }
    }
    Ok(None)
}

/// The first frame with an event that only one side has, or that both have otherwise.
fn differing(ours: &[event::Model], theirs: &[event::Model]) -> Option<u64> {
    let by_place = |rows: &[event::Model]| -> BTreeMap<i64, Vec<u8>> {
        rows.iter().map(|row| (row.seq, row.hash.clone())).collect()
    };
    let (ours, theirs) = (by_place(ours), by_place(theirs));
    let places = ours.keys().chain(theirs.keys());
    let first = places.filter(|seq| ours.get(*seq) != theirs.get(*seq)).min()?;
    Some(first.unsigned_abs() >> 10)
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::{Kind, Seq, Subjects};

    use super::*;
    use crate::archive::project;
    use crate::archive::testing::line;

    #[test]
    fn the_first_frame_that_differs_is_found() {
        let log = Log::first(Subjects::default());
        let row = |frame: u64, room: &str| {
            let text = line(Seq::of(frame, 0), (1, Seq::ZERO), room, Kind::Msg);
            project::frame(&log, frame, &text.into()).events.remove(0)
        };
        let ours = [row(1, "a"), row(2, "a"), row(3, "a")];
        for (theirs, first) in [
            (vec![row(1, "a"), row(2, "a"), row(3, "a")], None),
            (vec![row(1, "a"), row(2, "b"), row(3, "b")], Some(2)),
            (vec![row(1, "a"), row(3, "a")], Some(2)),
            (vec![row(1, "a"), row(2, "a"), row(3, "a"), row(4, "a")], Some(4)),
            (vec![], Some(1)),
        ] {
            assert_eq!(differing(&ours, &theirs), first);
        }
    }
}
