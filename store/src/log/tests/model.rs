//! The reference that the writer is compared with: the same rules in the plainest words, a list of facts that is searched
//! from its start for every question.

use natterjack_nats_config::contract::{Kind, ProblemCode};
use serde_json::{Value, json};

use super::super::recent::{IN_ALL, PER_ROOM};
use super::steps::{Ask, Body, Fate, IfLast, Said, Step, TakeOver};

/// The log time at which everything begins.
pub(super) const START_MS: i64 = 1_795_413_600_000;
/// How long a key counts.
const WINDOW_MS: i64 = 600_000;

/// An event of the log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    pub(super) seq: u64,
    pub(super) n: u64,
    pub(super) prev: u64,
    pub(super) at_ms: i64,
    /// How many writers there had been.
    term: u64,
    /// As it was asked for.
    pub(super) ask: Ask,
    /// The body that stands in the log.
    pub(super) body: Value,
}

/// What a request must come to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    /// A new event at this sequence and number.
    New {
        seq: u64,
        n: u64,
        at_ms: i64,
    },
    /// The receipt of the event at this sequence again.
    Again {
        seq: u64,
    },
    Refused(ProblemCode),
}

impl Fact {
    fn is_message(&self) -> bool {
        matches!(self.ask.kind, Kind::Msg | Kind::Command | Kind::Reply)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) facts: Vec<Fact>,
    /// Frames in the log.
    pub(super) end: u64,
    pub(super) clock_ms: i64,
    term: u64,
    log_full: bool,
    /// What was asked for, to be asked again.
    pub(super) asked: Vec<Ask>,
    /// What the last step's requests must come to, with the `if_last` that they carry.
    pub(super) expected: Vec<(Option<u64>, Expected)>,
}

impl Model {
    /// Two tenants, told apart by case only, each with its administrator.
    pub(super) fn founded() -> Self {
        let mut model = Self {
            facts: Vec::new(),
            end: 1,
            clock_ms: START_MS,
            term: 1,
            log_full: false,
            asked: Vec::new(),
            expected: Vec::new(),
        };
        for tenant in super::steps::TENANTS {
            let seq = model.next_seq(model.facts.len());
            model.keep(seq, founding(tenant), json!({"user": "admin", "role": "admin"}));
            model.end += 1;
        }
        model
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.expected.clear();
        match step {
            Step::Change(take_over) => self.take_over(take_over),
            Step::Frames {
                asks,
                fate,
                pass_ms,
                log_full,
            } => {
                self.clock_ms += pass_ms;
                self.log_full = *log_full;
                let places = [0, 1].map(|frame| self.frame(&asks[frame]));
                self.end_frames(places, fate);
            }
        }
    }

    /// One frame, as if it landed. Gives back where the log stood before it.
    fn frame(&mut self, asks: &[Ask]) -> (usize, u64) {
        let before = (self.facts.len(), self.end);
        for ask in asks {
            let expected = self.ask(ask, before.0);
            self.expected.push(expected);
            self.asked.push(ask.clone());
        }
        self.end += u64::from(self.facts.len() > before.0);
        before
    }

    fn end_frames(&mut self, [first, second]: [(usize, u64); 2], fate: &Fate) {
        let (kept, take_over) = match fate {
            Fate::Committed => return,
            Fate::LandedAndCrashed(take_over) => ((self.facts.len(), self.end), take_over),
            Fate::OnlyTheFirst(take_over) => (second, take_over),
            Fate::Dropped(take_over) => (first, take_over),
        };
        self.facts.truncate(kept.0);
        self.end = kept.1;
        self.take_over(take_over);
    }

    fn take_over(&mut self, take_over: &TakeOver) {
        self.end += 1;
        self.term += 1;
        self.clock_ms += take_over.gap_ms;
    }

    fn ask(&mut self, ask: &Ask, before: usize) -> (Option<u64>, Expected) {
        let last = self.last_of(ask.tenant, ask.room).map(|fact| (fact.seq, fact.prev));
        let if_last = match ask.if_last {
            IfLast::Unsaid => None,
            IfLast::Last => Some(last.map_or(0, |(seq, _)| seq)),
            IfLast::BeforeLast => Some(last.map_or(1, |(_, prev)| prev)),
        };
        let expected = self.decide(ask, if_last, before);
        (if_last, expected.unwrap_or_else(Expected::Refused))
    }

    fn decide(&mut self, ask: &Ask, if_last: Option<u64>, before: usize) -> Result<Expected, ProblemCode> {
        if ask.reply_to.is_some_and(|id| id != super::steps::REPLIES[0]) {
            return Err(ProblemCode::InvalidRequest);
        }
        if (ask.room == "_") != (ask.kind == Kind::User) || ask.body == Body::Wrong {
            return Err(ProblemCode::InvalidRequest);
        }
        let first = self.first_with_key(ask);
        if let Some(first) = first.filter(|first| first.ask.is_the_same_as(ask)) {
            return Ok(Expected::Again { seq: first.seq });
        }
        self.check_rights(ask)?;
        if first.is_some() {
            return Err(ProblemCode::IdempotencyMismatch);
        }
        if self.log_full && !ask.kind.is_policy() {
            return Err(ProblemCode::LogFull);
        }
        let last = self.last_of(ask.tenant, ask.room).map_or(0, |fact| fact.seq);
        if if_last.is_some_and(|expected| expected != last) {
            return Err(ProblemCode::SequenceConflict);
        }
        let body = self.body(ask)?;
        let makes_room = ask.kind == Kind::Room && !self.has_room(ask.tenant, ask.room);
        let seq = self.next_seq(before);
        let (n, at_ms) = self.keep(seq, ask.clone(), body);
        if makes_room {
            let owner = Ask {
                kind: Kind::Member,
                key: None,
                reply_to: None,
                target: None,
                vouched: None,
                body: Body::member(ask.user, Some("owner")),
                ..ask.clone()
            };
            let seq = self.next_seq(before);
            self.keep(seq, owner, json!({"user": ask.user, "role": "owner"}));
        }
        Ok(Expected::New { seq, n, at_ms })
    }

    fn check_rights(&self, ask: &Ask) -> Result<(), ProblemCode> {
        let is_admin = self.tenant_role(ask.tenant, ask.user) == "admin";
        match (&ask.kind, &ask.body) {
            (Kind::User, _) if !is_admin => Err(ProblemCode::Forbidden),
            (
                Kind::User,
                Body::User {
                    role: Some("emperor"), ..
                },
            ) => Err(ProblemCode::InvalidRequest),
            (Kind::Room, _) if self.has_room(ask.tenant, ask.room) => self.need(ask, "manage"),
            (Kind::Room, _) if !matches!(self.tenant_role(ask.tenant, ask.user), "admin" | "member") => {
                Err(ProblemCode::Forbidden)
            }
            (Kind::Member, Body::Member { user, role, .. }) => {
                let high = |role: Option<&str>| matches!(role, Some("owner" | "moderator"));
                let now = self.membership(ask.tenant, ask.room, user).map(|(role, _)| role);
                match role {
                    Some("emperor") => Err(ProblemCode::InvalidRequest),
                    None if *user == ask.user => Ok(()),
                    role if high(*role) || high(now) => self.need(ask, "manage"),
                    Some(_) => self.need(ask, "invite"),
                    None => self.need(ask, "remove"),
                }
            }
            (Kind::Room | Kind::Member | Kind::User, _) => Ok(()),
            (kind, _) if kind.has_target() => self.check_target(ask),
            (Kind::Read, Body::Read(seq)) => {
                self.need(ask, "read")?;
                let last = self.last_of(ask.tenant, ask.room).map_or(0, |fact| fact.seq);
                if *seq > last {
                    return Err(ProblemCode::InvalidRequest);
                }
                Ok(())
            }
            _ => self.need(ask, "send"),
        }
    }

    /// One's own messages may be edited and taken back, those of others deleted by whoever may do that; and only what is
    /// known to be a message of this room that was not deleted.
    fn check_target(&self, ask: &Ask) -> Result<(), ProblemCode> {
        let (own, any) = match ask.kind {
            Kind::Edit => ("edit", None),
            Kind::Delete => ("take back", Some("delete")),
            Kind::React | Kind::Unreact => ("react", Some("react")),
            _ => ("pin", Some("pin")),
        };
        let own = self.need(ask, own);
        let any = any.map_or(Err(ProblemCode::Forbidden), |any| self.need(ask, any));
        if any.is_err() {
            own?;
        }
        let target = self.facts.iter().find(|fact| Some(fact.seq) == ask.target);
        let target = target.filter(|fact| fact.is_message() && fact.ask.is_in(ask.tenant, ask.room));
        let is_remembered = target.is_some_and(|target| self.remembered().contains(&target.seq));
        let Some(target) = target.filter(|_| is_remembered || ask.vouched.is_some()) else {
            return Err(ProblemCode::TargetUnknown);
        };
        let from = self
            .membership(ask.tenant, ask.room, ask.user)
            .map_or(0, |(_, from)| from);
        if target.seq < from {
            return Err(ProblemCode::TargetUnknown);
        }
        let is_deletion = |fact: &&Fact| fact.ask.kind == Kind::Delete && fact.ask.target == Some(target.seq);
        if is_remembered && self.facts.iter().any(|fact| is_deletion(&fact)) {
            return Err(ProblemCode::NotFound);
        }
        if target.ask.user == ask.user && own.is_ok() {
            return Ok(());
        }
        any
    }

    /// The places of the messages that are not forgotten.
    fn remembered(&self) -> Vec<u64> {
        let mut kept: Vec<&Fact> = Vec::new();
        for fact in self.facts.iter().filter(|fact| fact.is_message()) {
            kept.push(fact);
            let of_room = |other: &Fact| other.ask.is_in(fact.ask.tenant, fact.ask.room);
            if kept.iter().filter(|other| of_room(other)).count() > PER_ROOM {
                let oldest = kept.iter().position(|other| of_room(other)).unwrap();
                kept.remove(oldest);
            }
            if kept.len() > IN_ALL {
                kept.remove(0);
            }
        }
        kept.into_iter().map(|fact| fact.seq).collect()
    }

    /// The latest events that stand in the log, and a place where nothing ever stands.
    pub(super) fn targets(&self) -> Vec<Said> {
        let latest = self
            .facts
            .iter()
            .rev()
            .filter(|fact| fact.ask.lands_in() != "_")
            .take(12);
        let said = latest.map(|fact| Said {
            seq: fact.seq,
            tenant: fact.ask.tenant,
            room: fact.ask.room,
            from: fact.ask.user,
            is_message: fact.is_message(),
        });
        let mut said: Vec<Said> = said.collect();
        if let Some(last) = said.last().copied() {
            said.push(Said {
                seq: 5,
                is_message: false,
                ..last
            });
        }
        said
    }

    /// Whether who asks may do something in the room, or what is said otherwise: strangers do not learn that it exists.
    fn need(&self, ask: &Ask, what: &str) -> Result<(), ProblemCode> {
        if !self.has_room(ask.tenant, ask.room) {
            return Err(ProblemCode::NotFound);
        }
        let role = self.membership(ask.tenant, ask.room, ask.user).map(|(role, _)| role);
        let by_role = match role {
            Some("owner") => true,
            Some("moderator") => what != "manage",
            Some("member") => matches!(what, "read" | "send" | "react" | "edit" | "take back"),
            Some("device") => matches!(what, "read" | "send"),
            Some("reader") => what == "read",
            _ => false,
        };
        let is_admin = self.tenant_role(ask.tenant, ask.user) == "admin";
        if by_role || (is_admin && !matches!(what, "read" | "send" | "react" | "pin" | "edit" | "take back")) {
            Ok(())
        } else if role.is_some() || is_admin {
            Err(ProblemCode::Forbidden)
        } else {
            Err(ProblemCode::NotFound)
        }
    }

    /// The body as it will stand in the log.
    fn body(&self, ask: &Ask) -> Result<Value, ProblemCode> {
        let Body::Member {
            user,
            role,
            visible_from,
        } = &ask.body
        else {
            return Ok(match ask.body {
                Body::Read(seq) => json!({"room": ask.room, "seq": seq}),
                _ => ask.body.written(),
            });
        };
        let now = self.membership(ask.tenant, ask.room, user);
        match (role, now) {
            (None, None) => Err(ProblemCode::NotFound),
            (None, Some(_)) => Ok(json!({"user": user, "role": null})),
            (Some(role), now) => {
                let from = visible_from.unwrap_or(0).max(now.map_or(0, |(_, from)| from));
                Ok(json!({"user": user, "role": role, "visible_from": from}))
            }
        }
    }

    fn tenant_role(&self, tenant: &str, user: &str) -> &'static str {
        let mut role = "member";
        for fact in self.facts.iter().filter(|fact| fact.ask.tenant == tenant) {
            match fact.ask.body {
                Body::User { user: of, role: given } if of == user => role = given.unwrap_or("member"),
                _ => {}
            }
        }
        role
    }

    fn has_room(&self, tenant: &str, room: &str) -> bool {
        self.facts
            .iter()
            .any(|fact| fact.ask.is_in(tenant, room) && fact.ask.kind == Kind::Room)
    }

    /// The role of a member and from where on it sees the room.
    fn membership(&self, tenant: &str, room: &str, user: &str) -> Option<(&'static str, u64)> {
        let mut membership = None;
        for fact in self.facts.iter().filter(|fact| fact.ask.is_in(tenant, room)) {
            match fact.ask.body {
                Body::Member { user: of, role, .. } if of == user => {
                    let from = fact.body["visible_from"].as_u64().unwrap_or(0);
                    membership = role.map(|role| (role, from));
                }
                _ => {}
            }
        }
        membership
    }

    fn last_of(&self, tenant: &str, room: &str) -> Option<&Fact> {
        self.facts.iter().rev().find(|fact| fact.ask.is_in(tenant, room))
    }

    /// The event that had this key of this user first, if it is no more than ten minutes of writing ago.
    fn first_with_key(&self, ask: &Ask) -> Option<&Fact> {
        ask.key?;
        let is_same = |fact: &&Fact| (fact.ask.tenant, fact.ask.user, fact.ask.key) == (ask.tenant, ask.user, ask.key);
        self.facts
            .iter()
            .rev()
            .find(is_same)
            .filter(|fact| self.age_ms(fact) <= WINDOW_MS)
    }

    /// How long there was writing since an event. What lies between two writers is not counted.
    fn age_ms(&self, fact: &Fact) -> i64 {
        let since: Vec<&Fact> = self.facts.iter().filter(|other| other.seq >= fact.seq).collect();
        since
            .windows(2)
            .filter(|pair| pair[0].term == pair[1].term)
            .map(|pair| pair[1].at_ms - pair[0].at_ms)
            .sum()
    }

    /// The next event's place in the frame whose first event has the place `before` among the facts.
    fn next_seq(&self, before: usize) -> u64 {
        ((self.end + 1) << 10) + (self.facts.len() - before) as u64
    }

    fn keep(&mut self, seq: u64, ask: Ask, body: Value) -> (u64, i64) {
        let n = self
            .facts
            .iter()
            .filter(|fact| fact.ask.is_in(ask.tenant, ask.lands_in()))
            .count() as u64
            + 1;
        let at_ms = self.facts.last().map_or(START_MS, |fact| fact.at_ms).max(self.clock_ms);
        let fact = Fact {
            seq,
            n,
            prev: self.last_of(ask.tenant, ask.lands_in()).map_or(0, |fact| fact.seq),
            at_ms,
            term: self.term,
            ask,
            body,
        };
        self.facts.push(fact);
        (n, at_ms)
    }
}

fn founding(tenant: &'static str) -> Ask {
    Ask {
        tenant,
        user: "admin",
        room: "_",
        kind: Kind::User,
        key: None,
        reply_to: None,
        target: None,
        vouched: None,
        if_last: IfLast::Unsaid,
        body: Body::User {
            user: "admin",
            role: Some("admin"),
        },
    }
}
