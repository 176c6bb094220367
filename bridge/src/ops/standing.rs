use std::collections::HashMap;

use natterjack_authz::policy::readable;
use natterjack_nats_config::contract::{
    Actor, Id, Principal, Problem, ROOMS_VERB, RoomStanding, RoomsPage, RoomsQuery, SearchRoom,
};

use super::history::{ATTEMPTS, ask_store, catch_up, lagging};
use super::rooms::RoomShown;
use super::{Bridge, Listing, rooms};

/// A page of rooms, and where the next one begins.
type Rooms = (Vec<RoomShown>, Option<Id>);

/// The rooms the caller is a member of, with where they stand by the archive.
pub(crate) async fn rooms_standing(bridge: &Bridge, who: &Actor, listing: &Listing) -> Result<Rooms, Problem> {
    with_standing(bridge, who, || rooms(bridge, who, listing)).await
}

/// Rooms with where they stand by the archive.
///
/// As with history it is handed out only once this bridge has read the log as far as the archive had, and if the caller's
/// rights are still those that were asked with.
pub(super) async fn with_standing(
    bridge: &Bridge,
    who: &Actor,
    list: impl Fn() -> Result<Rooms, Problem>,
) -> Result<Rooms, Problem> {
    for _ in 0..ATTEMPTS {
        let (mut page, next) = list()?;
        let asked = may_read(bridge, who, &page)?;
        let query = RoomsQuery {
            tenant: who.tenant.clone(),
            user: who.user.clone(),
            rooms: asked,
        };
        let found: RoomsPage = ask_store(bridge, ROOMS_VERB, &query).await?;
        catch_up(bridge, who, found.watermark).await?;
        if may_read(bridge, who, &page)? == query.rooms {
            let mut standings: HashMap<Id, RoomStanding> =
                found.rooms.into_iter().map(|room| (room.room.clone(), room)).collect();
            for room in &mut page {
                room.stands(standings.remove(room.id()));
            }
            return Ok((page, next));
        }
    }
    Err(lagging("the rights in these rooms are changing; try again"))
}

/// Those of the rooms that the caller may read now, and from where on.
fn may_read(bridge: &Bridge, who: &Principal, page: &[RoomShown]) -> Result<Vec<SearchRoom>, Problem> {
    bridge.look(|view| {
        let readable = page.iter().filter_map(|room| {
            Some(SearchRoom {
                id: room.id().clone(),
                visible_from: readable(view, who, room.id())?,
            })
        });
        Ok(readable.collect())
    })
}
