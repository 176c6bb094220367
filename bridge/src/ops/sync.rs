use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use natterjack_nats_config::contract::{Actor, ArchiveWatermark, Id, Problem, ProblemCode, Seq, WATERMARK_VERB};
use serde::Serialize;
use tokio::time::Instant;

use super::history::{CATCH_UP_WITHIN, ask_store};
use super::reading::cursor_problem;
use super::rooms::{RoomShown, readable_rooms};
use super::standing::with_standing;
use super::{Bridge, Listing};
use crate::feed::{Filter, Reader};

/// Which page of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SyncAsk {
    pub(crate) limit: Option<u64>,
    /// From the page before; none for the first.
    pub(crate) next: Option<String>,
}

/// One page of a snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot {
    rooms: Vec<RoomShown>,
    /// Everything that is on none of the pages is behind it. The same on every page.
    cursor: String,
    next: Option<String>,
}

/// What a client that starts needs: the rooms that the caller may read and where they stand, and the cursor to go on from.
///
/// The cursor is taken before anything is read, and stands no further than the archive had got by then. So what happens
/// meanwhile is behind it at least, whether a page shows it already or not, and every later page is read by a bridge that
/// has passed it.
pub(crate) async fn sync(bridge: &Bridge, who: &Actor, ask: SyncAsk) -> Result<Snapshot, Problem> {
    let reader = Reader {
        who: who.principal.clone(),
        filter: Filter::default(),
    };
    let (cursor, after) = match ask.next.filter(|next| !next.is_empty()) {
        None => (first_cursor(bridge, &reader).await?, None),
        Some(next) => {
            let (cursor, after) = read_next(&next)?;
            (cursor, Some(after))
        }
    };
    let (seq, _) = bridge.cursors.parse(&cursor, &reader).map_err(cursor_problem)?;
    let listing = Listing::new(ask.limit, after)?;
    // Another bridge may have given the page before, and be further.
    if !bridge.feed.wait_passed(seq, Instant::now() + CATCH_UP_WITHIN).await {
        let detail = "this bridge is behind the log; try again, or ask another bridge";
        return Err(Problem::new(ProblemCode::Overloaded, detail));
    }
    let (rooms, next) = with_standing(bridge, who, || readable_rooms(bridge, who, &listing)).await?;
    Ok(Snapshot {
        rooms,
        next: next.map(|last| next_of(&cursor, &last)),
        cursor,
    })
}

async fn first_cursor(bridge: &Bridge, reader: &Reader) -> Result<String, Problem> {
    // Before the log was read once there is no place to begin at.
    bridge.look(|_| Ok(()))?;
    let (passed, heard) = (bridge.feed.passed(), bridge.feed.heard());
    let archived: ArchiveWatermark = ask_store(bridge, WATERMARK_VERB, &()).await?;
    let seq: Seq = passed.min(archived.watermark);
    Ok(bridge.cursors.make(reader, seq, heard))
}

/// Where a snapshot goes on. Opaque to clients; the cursor in it is signed, and names no room.
fn next_of(cursor: &str, last: &Id) -> String {
    URL_SAFE_NO_PAD.encode(format!("{cursor}.{last}"))
}

fn read_next(next: &str) -> Result<(String, Id), Problem> {
    let text = URL_SAFE_NO_PAD
        .decode(next)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = text
        .as_deref()
        .and_then(|text| text.split_once('.'))
        .and_then(|(cursor, last)| Some((cursor.to_owned(), last.parse().ok()?)));
    parts.ok_or_else(|| Problem::invalid("`next` is not from the page before; leave it out to start again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_snapshot_goes_on_is_read_as_it_was_made() {
        let last: Id = "lobby".parse().unwrap();
        let made = next_of("AbC-_9", &last);
        assert_eq!(read_next(&made).unwrap(), ("AbC-_9".to_owned(), last));
        let bad = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for next in ["", "!", "bG9iYnk", &bad("AbC."), &bad("AbC.a b"), &bad("AbC.a.b")] {
            assert!(read_next(next).is_err(), "{next}");
        }
    }
}
