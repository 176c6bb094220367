//! One function per operation, for every door. A door finds out who asks and reads the parameters; everything else
//! happens here.

mod archive;
mod bans;
mod direct;
mod erase;
mod events;
mod explain;
mod history;
mod holds;
mod joined;
mod keys;
mod me;
mod members;
mod message;
mod rates;
mod reactions;
mod reading;
mod revoke;
mod roles;
mod rooms;
mod search;
mod send;
mod settling;
mod standing;
mod sync;
mod thread;
mod trail;
mod users;

use async_nats::Client;
use natterjack_authz::policy::{Permission, View, is_blocked, is_revoking, may, token_is_good};
use natterjack_nats_config::contract::{Actor, By, Id, Principal, Problem, ProblemCode, TENANT_ROOM};
use natterjack_nats_config::tail::Log;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use archive::{Archive, follow_archive};
pub(crate) use bans::{bans, put_ban, show_ban};
pub(crate) use direct::put_direct;
pub(crate) use erase::{EraseAsk, erase, erasure, erasures};
pub(crate) use events::{EventsPage, EventsQuery, events};
pub(crate) use explain::{ExplainAsk, explain};
pub(crate) use history::{HistoryAsk, history};
pub(crate) use holds::{holds, put_hold};
pub(crate) use joined::members_joined;
pub(crate) use keys::{NewKey, keys, make_key, revoke_key};
pub(crate) use me::{Me, me};
pub(crate) use members::{check_manages, is_since, members, put_member, remove_member, show_member};
pub(crate) use message::message;
pub(crate) use rates::RequestRates;
pub(crate) use reactions::{ReactionsAsk, reactions};
pub(crate) use reading::{Reading, Session, Step};
pub(crate) use revoke::{Revocation, finish_revocations, revoke};
pub(crate) use roles::{delete_role, put_role, put_user, roles, show_role};
pub(crate) use rooms::{put_room, rooms, show_room};
pub(crate) use search::{SearchAsk, search};
pub(crate) use send::{Sent, begin_send, begin_tell, send};
pub(crate) use settling::Settling;
pub(crate) use standing::rooms_standing;
pub(crate) use sync::{SyncAsk, sync};
pub(crate) use thread::{ThreadAsk, thread};
pub(crate) use trail::{TrailAsk, trail};
pub(crate) use users::users;

use crate::bundle::Sending;
use crate::feed::{Cursors, Feed, Past};
use crate::health::Health;
use crate::metrics::{Level, Metrics};

/// What every operation may use.
pub(crate) struct Bridge {
    pub(crate) client: Client,
    pub(crate) log: Log,
    pub(crate) feed: std::sync::Arc<Feed>,
    pub(crate) past: Past,
    pub(crate) cursors: Cursors,
    pub(crate) sending: Sending,
    pub(crate) requests: RequestRates,
    pub(crate) settling: Settling,
    pub(crate) archive: std::sync::Arc<Archive>,
    pub(crate) metrics: std::sync::Arc<Metrics>,
    pub(crate) health: watch::Receiver<Health>,
    /// Parked polls end at once when this is cancelled.
    pub(crate) draining: CancellationToken,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The most entries, 1 to [`MAX_LISTED`].
    pub(crate) limit: usize,
    /// The entry after which the page begins.
    pub(crate) after: Option<Id>,
}

/// The most entries on a page of a list: 200 rooms or members are some tens of KiB.
const MAX_LISTED: usize = 200;
/// The entries on a page of a list, if the caller does not say.
const DEFAULT_LISTED: usize = 100;

impl Listing {
    /// A page with a limit as it came; `None` means the default.
    ///
    /// # Errors
    /// `invalid-request` if the limit is out of range.
    pub(crate) fn new(limit: Option<u64>, after: Option<Id>) -> Result<Self, Problem> {
        let limit = limit.map_or(Some(DEFAULT_LISTED), |limit| usize::try_from(limit).ok());
        match limit.filter(|limit| (1..=MAX_LISTED).contains(limit)) {
            Some(limit) => Ok(Self { limit, after }),
            None => Err(Problem::invalid(format!("`limit` must be 1 to {MAX_LISTED}"))),
        }
    }
}

impl Bridge {
    /// How full everything is that has a cap.
    pub(crate) fn levels(&self) -> [Level; 5] {
        let level = |queue, used| Level { queue, used };
        let (events, bytes) = self.feed.ring_size();
        [
            level("parked_polls", self.feed.parked()),
            level("sends", self.sending.waiting()),
            level("ring_events", events),
            level("ring_bytes", bytes),
            level("readers_far_behind", self.past.readers()),
        ]
    }

    /// Whether somebody who was authenticated may ask still: not blocked, by a token that was not revoked since, or by a connection
    /// while none of the user's is being revoked.
    pub(crate) fn admit(&self, who: &Actor) -> Result<(), Problem> {
        self.look(|view| match &who.by {
            By::Token(_) | By::Connection if is_blocked(view, who) => Err(Problem::blocked()),
            By::Token(token) if !token_is_good(view, who, token) => Err(Problem::token_revoked()),
            By::Connection | By::Kept { .. } if is_revoking(view, who) => Err(Problem::revocation_in_progress()),
            By::House | By::Token(_) | By::Connection | By::Kept { .. } => Ok(()),
        })
    }

    /// Whether somebody may ask something now: they are admitted, and do not ask too often.
    pub(crate) fn begin_request(&self, who: &Actor) -> Result<(), Problem> {
        self.admit(who)?;
        let role_of = |view: &View| self.requests.per_second(view.tenant_role(&who.tenant, &who.user));
        let charged = self.requests.charge(who, || self.feed.with_view(role_of));
        charged.inspect_err(|problem| self.metrics.limited(problem))
    }

    /// Looks at the policy as it is now; refused until this bridge has read the log once.
    fn look<T>(&self, look: impl FnOnce(&View) -> Result<T, Problem>) -> Result<T, Problem> {
        if !self.feed.is_caught_up() {
            let detail = "this bridge is still reading the log; try again, or ask another bridge";
            return Err(Problem::new(ProblemCode::Overloaded, detail));
        }
        self.feed.with_view(look)
    }
}

/// A list's page: at most `limit` entries that come after a name, and the name of the last one if there are more.
fn page_of<'a, T: 'a>(entries: impl Iterator<Item = (&'a Id, T)>, listing: &Listing) -> (Vec<(&'a Id, T)>, Option<Id>) {
    let mut page: Vec<_> = entries
        .filter(|(name, _)| listing.after.as_ref().is_none_or(|after| *name > after))
        .take(listing.limit + 1)
        .collect();
    if page.len() <= listing.limit {
        return (page, None);
    }
    page.truncate(listing.limit);
    let last = page.last().map(|(name, _)| (*name).clone());
    (page, last)
}

/// The room that stands for the whole tenant.
fn tenant_room() -> Result<Id, Problem> {
    TENANT_ROOM
        .parse()
        .map_err(|error| Problem::new(ProblemCode::Internal, format!("{error}")))
}

/// Whether a principal may look at a room and its members: its readers, and who manages it.
fn may_look(view: &View, who: &Principal, room: &Id) -> Result<(), Problem> {
    may(view, who, room, Permission::RoomRead)
        .or_else(|denied| may(view, who, room, Permission::RoomManage).map_err(|_| denied))
        .map_err(Problem::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_on_exactly_one_page() {
        let names: Vec<Id> = (0..10).map(|number| format!("r{number}").parse().unwrap()).collect();
        for limit in 1..=11 {
            let mut listing = Listing { limit, after: None };
            let mut seen = Vec::new();
            loop {
                let (page, next) = page_of(names.iter().map(|name| (name, ())), &listing);
                assert!(page.len() <= limit);
                seen.extend(page.into_iter().map(|(name, ())| name.clone()));
                match next {
                    Some(next) => listing.after = Some(next),
                    None => break,
                }
            }
            assert_eq!(seen, names, "limit {limit}");
        }
    }
}
