use std::borrow::Cow;
use std::collections::HashMap;

use natterjack_authz::policy::View;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Event, Id, Kind, MemberBody, Seq};

use super::keys::{Keys, Marked};

/// What the writer knows: a fold of the log. The same frames give the same state in every worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) view: View,
    pub(crate) keys: Keys,
    heads: HashMap<Id, HashMap<Id, Head>>,
    at_ms: i64,
    /// What keys age by: log time without the time between one writer's last event and the next writer's first, so that
    /// neither an outage nor the difference of two clocks ages a key.
    written_ms: i64,
    in_term: bool,
    end: u64,
}

/// A room's last event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: Seq,
    pub(crate) n: u64,
}

impl State {
    /// Takes in an event of the log (or of the frame that is being built).
    pub(crate) fn apply(&mut self, event: &Event) {
        let key = event.key.is_some().then(|| requested_body(event));
        let key = key.and_then(|requested| Marked::of_event(event, &requested));
        self.apply_with_key(event, key.as_ref());
    }

    /// The same, for the writer, which has the event's key digested already.
    pub(crate) fn apply_with_key(&mut self, event: &Event, key: Option<&Marked>) {
        self.move_head(event);
        let at_ms = clock::parse_ms(&event.at).unwrap_or_default().max(self.at_ms);
        if self.in_term {
            self.written_ms += at_ms - self.at_ms;
        }
        (self.at_ms, self.in_term) = (at_ms, true);
        if let Some(key) = key {
            self.keys.remember(key, event, at_ms, self.written_ms);
        }
        self.keys.expire(self.written_ms);
        self.view.apply(event);
    }

    /// Notes that another writer has begun: its frame without events was taken in.
    pub(crate) fn begin_term(&mut self) {
        self.in_term = false;
    }

    /// Notes that a frame is wholly taken in.
    pub(crate) fn pass_frame(&mut self, stream_seq: u64) {
        self.end = stream_seq;
        self.view.pass(Seq::end_of_frame(stream_seq));
    }

    /// The stream sequence of the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The log time of the last event, in milliseconds since 1970.
    pub(crate) fn at_ms(&self) -> i64 {
        self.at_ms
    }

    /// A room's last event; 0 and 0 before the first.
    pub(crate) fn head(&self, tenant: &Id, room: &Id) -> Head {
        self.heads
            .get(tenant)
            .and_then(|rooms| rooms.get(room))
            .copied()
            .unwrap_or_default()
    }

    fn move_head(&mut self, event: &Event) {
        let head = Head {
            seq: event.seq,
            n: event.n,
        };
        let known = self
            .heads
            .get_mut(&event.tenant)
            .and_then(|rooms| rooms.get_mut(&event.room));
        if let Some(known) = known {
            *known = head;
        } else {
            let rooms = self.heads.entry(event.tenant.clone()).or_default();
            rooms.insert(event.room.clone(), head);
        }
    }
}

/// The body a request must have had to become this event: the writer adds `visible_from` to memberships,
/// so that is left out when a repeated request is compared with the first.
fn requested_body(event: &Event) -> Cow<'_, str> {
    if event.kind != Kind::Member {
        return event.body.get().into();
    }
    match serde_json::from_str::<MemberBody>(event.body.get()) {
        Ok(body) => membership_request(&body).into(),
        Err(_) => event.body.get().into(),
    }
}

/// A membership as it was asked for, in one spelling.
pub(crate) fn membership_request(body: &MemberBody) -> String {
    format!("{} {}", body.user, body.role.as_ref().map_or("", Id::as_str))
}
