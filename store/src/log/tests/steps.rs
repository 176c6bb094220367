//! What may happen to the writer: requests, frames that land or do not, crashes, changes of the writer, time.

use natterjack_nats_config::contract::Kind;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::model::Model;

/// Ids that differ in nothing but case are different ids.
pub(super) const TENANTS: [&str; 2] = ["main", "Main"];
const USERS: [&str; 4] = ["admin", "alice", "bob", "Bob"];
const ROOMS: [&str; 3] = ["lobby", "Lobby", "den"];
const KEYS: [&str; 3] = ["k", "K", "other"];
const ROLES: [Option<&str>; 6] = [
    None,
    Some("owner"),
    Some("moderator"),
    Some("member"),
    Some("reader"),
    Some("emperor"),
];
const TENANT_ROLES: [Option<&str>; 4] = [None, Some("admin"), Some("guest"), Some("emperor")];
/// Two of the middle ones are exactly a key's ten minutes.
const PASSING_MS: [i64; 8] = [0, 0, 1, 299_999, 300_000, 300_001, 600_000, 600_001];
/// What may lie between two writers, by clocks that may be wrong: nothing, a fail-over, an outage, a day in either direction.
const GAPS_MS: [i64; 5] = [0, 3_000, 700_000, 86_400_000, -86_400_000];
/// Of how many requests one is picked to be asked again.
const RECENT: usize = 12;

/// What a request may say that it answers: an id, and what is none.
pub(super) const REPLIES: [&str; 2] = ["0192aaaa-0000-7000-8000-000000000000", "x"];

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    pub(super) tenant: &'static str,
    pub(super) user: &'static str,
    pub(super) room: &'static str,
    pub(super) kind: Kind,
    pub(super) key: Option<&'static str>,
    pub(super) reply_to: Option<&'static str>,
    /// The place of the message that is to be changed.
    pub(super) target: Option<u64>,
    /// Its author, if a bridge says that it knows.
    pub(super) vouched: Option<&'static str>,
    pub(super) if_last: IfLast,
    pub(super) body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum IfLast {
    Unsaid,
    Last,
    BeforeLast,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    Text(&'static str),
    /// An empty object.
    Empty,
    Emoji(&'static str),
    /// Up to a place.
    Read(u64),
    Room {
        title: Option<&'static str>,
    },
    Member {
        user: &'static str,
        role: Option<&'static str>,
        visible_from: Option<u64>,
    },
    User {
        user: &'static str,
        role: Option<&'static str>,
    },
    /// What no policy event may carry.
    Wrong,
}

/// An event of the log that may be asked to be changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) seq: u64,
    pub(super) tenant: &'static str,
    pub(super) room: &'static str,
    pub(super) from: &'static str,
    pub(super) is_message: bool,
}

/// What becomes of the last frame.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// It landed, and its writer knows (also after a doubt).
    Committed,
    /// It landed, and its writer died before it knew.
    LandedAndCrashed(TakeOver),
    /// The one before it landed; it did not.
    OnlyTheFirst(TakeOver),
    /// It did not land, and nor did the one before it: a rival stood at its place, the log was full, its writer died or gave up.
    Dropped(TakeOver),
}

/// How the next writer begins.
#[derive(Debug, Clone)]
pub(super) struct TakeOver {
    /// From nothing, or from what it has folded standing by.
    pub(super) cold: bool,
    /// How far log time jumps.
    pub(super) gap_ms: i64,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// What is asked, and what is asked while that is on its way to the log.
    Frames {
        asks: [Vec<Ask>; 2],
        fate: Fate,
        /// Time before them.
        pass_ms: i64,
        /// Whether the log is above its soft limit.
        log_full: bool,
    },
    Change(TakeOver),
}

impl Ask {
    pub(super) fn is_in(&self, tenant: &str, room: &str) -> bool {
        self.tenant == tenant && self.lands_in() == room
    }

    /// The room that its event is one of.
    pub(super) fn lands_in(&self) -> &'static str {
        if self.kind == Kind::Read { "_" } else { self.room }
    }

    /// Whether this is the same request as another one with its key: what a member may see is not compared.
    pub(super) fn is_the_same_as(&self, other: &Self) -> bool {
        let comparable = |ask: &Self| match ask.body {
            Body::Member { user, role, .. } => Body::member(user, role),
            ref body => body.clone(),
        };
        (self.room, self.kind, self.reply_to, self.target) == (other.room, other.kind, other.reply_to, other.target)
            && comparable(self) == comparable(other)
    }
}

impl Body {
    pub(super) fn member(user: &'static str, role: Option<&'static str>) -> Self {
        Self::Member {
            user,
            role,
            visible_from: None,
        }
    }

    /// As it is sent.
    pub(super) fn asked(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "text": text }),
            Self::Empty | Self::Room { title: None } => json!({}),
            Self::Emoji(emoji) => json!({ "emoji": emoji }),
            Self::Read(seq) => json!({ "seq": seq }),
            Self::Room { title } => json!({ "title": title }),
            Self::Member {
                user,
                role,
                visible_from: Some(from),
            } => json!({"user": user, "role": role, "visible_from": from}),
            Self::Member { user, role, .. } | Self::User { user, role } => json!({"user": user, "role": role}),
            Self::Wrong => json!({"titel": 1}),
        }
    }

    /// As it stands in the log; memberships are not said here.
    pub(super) fn written(&self) -> Value {
        match self {
            Self::Room { title: None } => json!({"kind": "group"}),
            Self::Room { title } => json!({"kind": "group", "title": title}),
            other => other.asked(),
        }
    }
}

/// Any step that makes sense after what has happened.
pub(super) fn any_step(model: &Model) -> BoxedStrategy<Step> {
    let recent: Vec<Ask> = model.asked.iter().rev().take(RECENT).cloned().collect();
    let targets = model.targets();
    let asks = [
        prop::collection::vec(any_ask(recent.clone(), &targets), 1..5),
        prop::collection::vec(any_ask(recent, &targets), 0..3),
    ];
    let fate = prop_oneof![
        6 => Just(Fate::Committed),
        1 => any_take_over().prop_map(Fate::LandedAndCrashed),
        1 => any_take_over().prop_map(Fate::OnlyTheFirst),
        1 => any_take_over().prop_map(Fate::Dropped),
    ];
    let frames = (asks, fate, select(&PASSING_MS[..]), prop::bool::weighted(0.1));
    let frames = frames.prop_map(|(asks, fate, pass_ms, log_full)| Step::Frames {
        asks,
        fate,
        pass_ms,
        log_full,
    });
    prop_oneof![9 => frames, 1 => any_take_over().prop_map(Step::Change)].boxed()
}

fn any_take_over() -> impl Strategy<Value = TakeOver> {
    (any::<bool>(), select(&GAPS_MS[..])).prop_map(|(cold, gap_ms)| TakeOver { cold, gap_ms })
}

/// Something new, or a recent request again: as it was, or with another body.
fn any_ask(recent: Vec<Ask>, targets: &[Said]) -> BoxedStrategy<Ask> {
    let new = if targets.is_empty() {
        new_ask().boxed()
    } else {
        prop_oneof![2 => new_ask(), 1 => change(targets)].boxed()
    };
    if recent.is_empty() {
        return new;
    }
    let again = select(recent);
    let altered = (again.clone(), new.clone()).prop_map(|(ask, other)| Ask {
        body: if ask.kind == other.kind { other.body } else { ask.body },
        reply_to: other.reply_to,
        if_last: other.if_last,
        target: if ask.kind == other.kind {
            other.target
        } else {
            ask.target
        },
        // A bridge vouches for what is in the room that is asked for.
        vouched: match ask.kind == other.kind {
            true if (ask.tenant, ask.room) == (other.tenant, other.room) => other.vouched,
            true => None,
            false => ask.vouched,
        },
        ..ask
    });
    prop_oneof![5 => new, 2 => again, 1 => altered].boxed()
}

/// A change of a message, or of something that is none: where it stands mostly, by its author often.
fn change(targets: &[Said]) -> impl Strategy<Value = Ask> + use<> {
    let kind = prop_oneof![
        Just((Kind::Edit, Body::Text("a"))),
        Just((Kind::Edit, Body::Text("A"))),
        Just((Kind::Delete, Body::Empty)),
        Just((Kind::React, Body::Emoji("👍"))),
        Just((Kind::Unreact, Body::Emoji("👍"))),
        Just((Kind::React, Body::Wrong)),
        Just((Kind::Pin, Body::Empty)),
        Just((Kind::Unpin, Body::Empty)),
        // Up to the event that is picked here, wherever that stands.
        Just((Kind::Read, Body::Read(0))),
        Just((Kind::Read, Body::Read(1 << 40))),
    ];
    let chances = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (new_ask(), kind, select(targets.to_vec()), chances).prop_map(
        |(ask, (kind, body), said, (by_author, elsewhere, vouched))| Ask {
            kind,
            body: if body == Body::Read(0) {
                Body::Read(said.seq)
            } else {
                body
            },
            tenant: said.tenant,
            user: if by_author { said.from } else { ask.user },
            room: if elsewhere && ask.room != "_" {
                ask.room
            } else {
                said.room
            },
            target: (kind != Kind::Read).then_some(said.seq),
            // A bridge knows what is in the archive of that room: messages only.
            vouched: (said.is_message && !elsewhere && vouched).then_some(said.from),
            ..ask
        },
    )
}

fn new_ask() -> impl Strategy<Value = Ask> {
    let to = prop_oneof![
        6 => (message(), select(&ROOMS[..])),
        2 => (room(), select(&ROOMS[..])),
        4 => (member(), select(&ROOMS[..])),
        2 => (tenant_user(), Just("_")),
        // Where it must not go.
        1 => (prop_oneof![message(), member()], Just("_")),
    ];
    let if_last = prop_oneof![6 => Just(IfLast::Unsaid), 1 => Just(IfLast::Last), 1 => Just(IfLast::BeforeLast)];
    (
        prop::sample::select(vec!["main", "main", "main", "Main"]),
        select(&USERS[..]),
        to,
        prop::option::weighted(0.7, select(&KEYS[..])),
        prop::option::weighted(0.1, prop::sample::select(&REPLIES[..])),
        if_last,
    )
        .prop_map(|(tenant, user, ((kind, body), room), key, reply_to, if_last)| Ask {
            tenant,
            user,
            room,
            kind,
            key,
            reply_to,
            target: None,
            vouched: None,
            if_last,
            body,
        })
}

fn message() -> BoxedStrategy<(Kind, Body)> {
    let kind = select(&[Kind::Msg, Kind::Msg, Kind::Command, Kind::Reply][..]);
    let text = select(&["a", "A"][..]).prop_map(Body::Text);
    (kind, text).boxed()
}

fn room() -> BoxedStrategy<(Kind, Body)> {
    let body = prop_oneof![
        6 => select(&[None, Some("a"), Some("b")][..]).prop_map(|title| Body::Room { title }),
        1 => Just(Body::Wrong),
    ];
    body.prop_map(|body| (Kind::Room, body)).boxed()
}

fn member() -> BoxedStrategy<(Kind, Body)> {
    let given = (
        select(&USERS[..]),
        select(&ROLES[..]),
        prop::option::weighted(0.3, select(&[1u64, 4 << 10, 1 << 40][..])),
    );
    let given = given.prop_map(|(user, role, visible_from)| Body::Member {
        user,
        role,
        visible_from,
    });
    let body = prop_oneof![12 => given, 1 => Just(Body::Wrong)];
    body.prop_map(|body| (Kind::Member, body)).boxed()
}

fn tenant_user() -> BoxedStrategy<(Kind, Body)> {
    let given = (select(&USERS[1..]), select(&TENANT_ROLES[..])).prop_map(|(user, role)| Body::User { user, role });
    let body = prop_oneof![6 => given, 1 => Just(Body::Wrong)];
    body.prop_map(|body| (Kind::User, body)).boxed()
}
