use std::borrow::Cow;

use hashbrown::HashMap;
use natterjack_authz::policy::{Fact, SNAPSHOT_VERSION, SetHash, View};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{EraseBody, Event, Id, Kind, MemberBody, Seq, StateStamp, TokenBody};

use super::keys::{Keys, Marked};
use super::recent::Recent;

/// The version of the state: of what it keeps, how that is spelt in a checkpoint and how it is hashed. The hundreds count
/// changes of the writer's part, the rest is the view's own version.
///
/// Raise it when anything of that changes; then teach `checkpoint::codec` to read the version before, because a trimmed
/// log is known from checkpoints only.
pub(crate) const STATE_VERSION: u16 = 200 + SNAPSHOT_VERSION;

/// Since this version the latest messages are remembered.
const REMEMBERS: u16 = 200;

/// The writer tells its state's hash in every so-many-eth frame (and in each `leader` frame): often enough that stand-bys
/// know within a second of work, rarely enough that it costs three bytes a frame.
pub(crate) const STAMP_EVERY: u64 = 16;

// The kinds of facts in the hash, beside those of the view (1 to 4, 8 to 10, 12 to 17, 20 to 26), of the keys (6) and of the latest messages (11).
const HEAD: u8 = 5;
const STATE: u8 = 7;

/// What the writer knows: a fold of the log. The same frames give the same state in every worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) view: View,
    pub(crate) keys: Keys,
    pub(crate) recent: Recent,
    heads: HashMap<Id, HashMap<Id, Head>>,
    heads_hash: SetHash,
    time: Time,
    end: u64,
    /// The hash of all of it when the last frame was closed: the events of one that is being built do not count yet.
    hash_at_close: u128,
}

/// How late it is in the log.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    /// The log time of the last event, in milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// What keys age by: log time without the time between one writer's last event and the next writer's first, so that
    /// neither an outage nor the difference of two clocks ages a key.
    pub(crate) written_ms: i64,
    /// Whether the writer of the last frame has written an event.
    pub(crate) in_term: bool,
}

/// A room's last event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: Seq,
    pub(crate) n: u64,
}

/// This worker's state is not the writer's: one of them folds wrongly, or the memory or disk of one is bad.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this worker's state differs from the writer's before frame {frame}: {ours} here, {theirs} there. This worker does not \
     write. Restart it, so that it begins again from a checkpoint; if that does not help, look at the other workers: are all \
     of the same version, is one alone with its hash?"
)]
pub struct Diverged {
    /// The frame whose header tells the writer's hash.
    pub frame: u64,
    /// The hash here.
    pub ours: String,
    /// The writer's hash.
    pub theirs: String,
}

impl State {
    /// A state that knows only who may do what; the rest is put in, then it is [`restored`](Self::restored).
    pub(crate) fn of(view: View) -> Self {
        Self {
            view,
            ..Self::default()
        }
    }

    /// Takes in an event of the log (or of the frame that is being built).
    pub(crate) fn apply(&mut self, event: &Event) {
        let key = event.key.is_some().then(|| requested_body(event));
        let key = key.and_then(|requested| Marked::of_event(event, &requested));
        self.apply_with_key(event, key.as_ref());
    }

    /// The same, for the writer, which has the event's key digested already.
    pub(crate) fn apply_with_key(&mut self, event: &Event, key: Option<&Marked>) {
        self.view.apply(event);
        let head = Head {
            seq: event.seq,
            n: event.n,
        };
        self.put_head(&event.tenant, &event.room, head);
        self.recent.take_in(event);
        let at_ms = clock::parse_ms(&event.at).unwrap_or_default().max(self.time.at_ms);
        if self.time.in_term {
            self.time.written_ms += at_ms - self.time.at_ms;
        }
        (self.time.at_ms, self.time.in_term) = (at_ms, true);
        if let Some(key) = key {
            self.keys.remember(key, event, at_ms, self.time.written_ms);
        }
        self.keys.expire(self.time.written_ms);
    }

    /// Notes that another writer has begun: its frame without events was taken in. It tells of which version its state is.
    ///
    /// Messages are remembered since the last writer whose version does not do so, and so all workers remember the same,
    /// whether they began with a checkpoint of that version or not.
    pub(crate) fn begin_term(&mut self, version: Option<u16>) {
        self.recent
            .begin_term(version.is_some_and(|version| version >= REMEMBERS));
        self.view.begin_term(version.map_or(0, |version| version % 100));
        self.time.in_term = false;
        self.close_frame();
    }

    /// Notes that a frame is wholly taken in.
    pub(crate) fn pass_frame(&mut self, stream_seq: u64) {
        self.close_frame();
        self.move_end(stream_seq);
    }

    /// Notes that the frame that is being built is complete: the next event is one of the next frame. The writer decides
    /// that one while this one is on its way into the log.
    pub(crate) fn close_frame(&mut self) {
        self.hash_at_close = self.hash();
    }

    /// Notes that a frame that was closed stands in the log.
    pub(crate) fn move_end(&mut self, stream_seq: u64) {
        self.end = stream_seq;
        self.view.pass(Seq::end_of_frame(stream_seq));
    }

    /// The stream sequence of the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The log time of the last event, in milliseconds since 1970.
    pub(crate) fn at_ms(&self) -> i64 {
        self.time.at_ms
    }

    /// How late it is in the log.
    pub(crate) fn time(&self) -> Time {
        self.time
    }

    /// A room's last event; 0 and 0 before the first.
    pub(crate) fn head(&self, tenant: &Id, room: &Id) -> Head {
        self.heads
            .get(tenant)
            .and_then(|rooms| rooms.get(room))
            .copied()
            .unwrap_or_default()
    }

    /// Every room's last event, in the order of the names.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&Id, Vec<(&Id, &Head)>)> {
        let mut tenants: Vec<_> = self.heads.iter().collect();
        tenants.sort_unstable_by_key(|(name, _)| *name);
        tenants.into_iter().map(|(tenant, rooms)| {
            let mut rooms: Vec<_> = rooms.iter().collect();
            rooms.sort_unstable_by_key(|(name, _)| *name);
            (tenant, rooms)
        })
    }

    /// Puts a room's last event in the place of the one before.
    pub(crate) fn put_head(&mut self, tenant: &Id, room: &Id, head: Head) {
        self.heads_hash.add(&head_fact(tenant, room, head));
        if let Some(found) = self.heads.get_mut(tenant).and_then(|rooms| rooms.get_mut(room)) {
            self.heads_hash.remove(&head_fact(tenant, room, *found));
            *found = head;
            return;
        }
        // Where the view knows the names, its memory is shared.
        let known = self.view.names(tenant.as_str(), room.as_str());
        let (tenant, room) = known.map_or_else(|| (tenant.clone(), room.clone()), |(t, r)| (t.clone(), r.clone()));
        // Each of the tenant's rooms has a head: a checkpoint's are put in one after the other.
        let heads = self.heads.entry(tenant);
        heads
            .or_insert_with_key(|tenant| HashMap::with_capacity(self.view.rooms(tenant)))
            .insert(room, head);
    }

    /// A state whose parts were put in one by one, at its place in the log.
    pub(crate) fn restored(mut self, end: u64, time: Time) -> Self {
        self.time = time;
        self.pass_frame(end);
        self
    }

    /// The hash of the state when the last frame was closed, as the writer tells it in the next one.
    pub(crate) fn stamp(&self) -> StateStamp {
        StateStamp {
            version: STATE_VERSION,
            hash: format!("{:032x}", self.hash_at_close),
        }
    }

    /// Compares with what the writer says of its state before frame `frame`, if it says something.
    pub(crate) fn compare(&self, frame: u64, theirs: Option<&StateStamp>) -> Result<(), Diverged> {
        let Some(theirs) = theirs.filter(|theirs| theirs.version == STATE_VERSION && self.end + 1 == frame) else {
            return Ok(());
        };
        let ours = self.stamp();
        if ours == *theirs {
            return Ok(());
        }
        Err(Diverged {
            frame,
            ours: ours.hash,
            theirs: theirs.hash.clone(),
        })
    }

    /// Every part of the state has a hash that is kept as it changes, so this costs the same for any number of rooms.
    fn hash(&self) -> u128 {
        let part = |hash: SetHash| hash.value().to_le_bytes();
        let fact = Fact::new(STATE)
            .bytes(&part(self.view.hash()))
            .bytes(&part(self.heads_hash))
            .bytes(&part(self.keys.hash()))
            .number(self.time.at_ms.cast_unsigned())
            .number(self.time.written_ms.cast_unsigned())
            .number(u64::from(self.time.in_term));
        // A state of the version before has the hash that it had then.
        match self.recent.hash() {
            Some(recent) => fact.bytes(&part(recent)).hash(),
            None => fact.hash(),
        }
    }
}

fn head_fact(tenant: &Id, room: &Id, head: Head) -> Fact {
    Fact::new(HEAD)
        .text(tenant.as_str())
        .text(room.as_str())
        .number(head.seq.0)
        .number(head.n)
}

/// The body a request must have had to become this event: the writer adds `visible_from` to memberships and its word
/// to revocations, so that is left out when a repeated request is compared with the first.
fn requested_body(event: &Event) -> Cow<'_, str> {
    let requested = match event.kind {
        Kind::Member => serde_json::from_str::<MemberBody>(event.body.get())
            .ok()
            .map(|body| membership_request(&body)),
        Kind::Token => serde_json::from_str::<TokenBody>(event.body.get())
            .ok()
            .and_then(|body| revocation_request(&body)),
        Kind::Erase => serde_json::from_str::<EraseBody>(event.body.get())
            .ok()
            .map(|body| body.requested()),
        _ => None,
    };
    requested.map_or_else(|| event.body.get().into(), Cow::from)
}

/// A revocation as it was asked for, in one spelling: without the writer's word on it.
fn revocation_request(body: &TokenBody) -> Option<String> {
    let requested = TokenBody {
        valid_after_ms: None,
        until_ms: None,
        covers_all: false,
        voids_nothing: false,
        revoked_ms: None,
        ..body.clone()
    };
    serde_json::to_string(&requested).ok()
}

/// A membership as it was asked for, in one spelling.
pub(crate) fn membership_request(body: &MemberBody) -> String {
    format!("{} {}", body.user, body.role.as_ref().map_or("", Id::as_str))
}
