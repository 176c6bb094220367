use natterjack_authz::policy::{Permission, may, readable};
use natterjack_nats_config::contract::{
    Actor, DEFAULT_SEARCH_LIMIT, Id, Principal, Problem, SEARCH_VERB, SearchPage, SearchQuery, SearchRoom,
};

use super::Bridge;
use super::history::{ATTEMPTS, ask_store, catch_up, lagging};

/// What is searched for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SearchAsk {
    pub(crate) q: String,
    /// One room; all that the caller is in without.
    pub(crate) room: Option<Id>,
    pub(crate) from: Option<Id>,
    pub(crate) limit: Option<u64>,
}

/// Messages that have all the words, the best first, out of what the caller may read now.
///
/// As with history it is handed out only once this bridge has read the log as far as the archive had, and if the caller's
/// rights are still those that were asked with.
pub(crate) async fn search(bridge: &Bridge, who: &Actor, ask: SearchAsk) -> Result<SearchPage, Problem> {
    for _ in 0..ATTEMPTS {
        let rooms = rooms(bridge, who, ask.room.as_ref())?;
        let query = SearchQuery {
            tenant: who.tenant.clone(),
            q: ask.q.clone(),
            rooms,
            from: ask.from.clone(),
            limit: ask
                .limit
                .map_or(DEFAULT_SEARCH_LIMIT, |limit| u16::try_from(limit).unwrap_or(u16::MAX)),
        };
        query.check()?;
        let page: SearchPage = ask_store(bridge, SEARCH_VERB, &query).await?;
        catch_up(bridge, who, page.watermark).await?;
        if self::rooms(bridge, who, ask.room.as_ref())? == query.rooms {
            return Ok(page);
        }
    }
    Err(lagging("the rights in these rooms are changing; try again"))
}

fn rooms(bridge: &Bridge, who: &Principal, only: Option<&Id>) -> Result<Vec<SearchRoom>, Problem> {
    bridge.look(|view| {
        let readable = |room: &Id| {
            readable(view, who, room).map(|visible_from| SearchRoom {
                id: room.clone(),
                visible_from,
            })
        };
        match only {
            Some(room) => {
                may(view, who, room, Permission::RoomRead)?;
                Ok(vec![readable(room).ok_or_else(Problem::no_such_room)?])
            }
            None => Ok(view
                .rooms_of(&who.tenant, &who.user)
                .filter_map(|(room, _)| readable(room))
                .collect()),
        }
    })
}
