use natterjack_authz::policy::{Permission, View, may, may_in_tenant, room_role, tenant_role};
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{
    Durability, Event, Id, Kind, MAX_EVENT_BYTES, MAX_FRAME_BYTES, MAX_FRAME_EVENTS, MemberBody, Principal, Problem,
    ProblemCode, Receipt, Request, RoomBody, Seq, TENANT_ROOM, UserBody,
};
use serde_json::value::{RawValue, to_raw_value};

use super::keys::{Content, Known};
use super::state::{State, membership_request};

/// The longest title, in bytes.
const MAX_TITLE_BYTES: usize = 256;
/// Room that one request may need beyond its body: the envelope, and the events that come with it.
const ENVELOPE_BYTES: usize = 2048;

/// What does not come from the log: the time and the ids.
pub(crate) struct Now {
    /// Log time in milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Gives a fresh UUIDv7.
    pub(crate) new_id: fn() -> String,
    /// Above the log's soft limit only policy is written.
    pub(crate) log_full: bool,
}

/// A frame that is being built for the place after the state's end.
pub(crate) struct Draft {
    stream_seq: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) events: usize,
}

/// An event as it was asked for, after the decision.
struct Wanted {
    room: Id,
    kind: Kind,
    body: Box<RawValue>,
    requested: String,
}

impl Draft {
    /// An empty frame behind `end`.
    pub(crate) fn after(end: u64) -> Self {
        Self {
            stream_seq: end + 1,
            bytes: Vec::new(),
            events: 0,
        }
    }

    /// Whether another request surely fits.
    pub(crate) fn fits(&self, request: &Request) -> bool {
        let bytes = self.bytes.len() + request.payload.body.get().len() + ENVELOPE_BYTES;
        self.events == 0 || (self.events + 2 <= MAX_FRAME_EVENTS && bytes <= MAX_FRAME_BYTES)
    }
}

/// Decides a request against the exact state at its place in the log. What is admitted is added to the draft and to the
/// state; the receipt is good only once the draft stands in the log.
pub(crate) fn admit(state: &mut State, draft: &mut Draft, request: &Request, now: &Now) -> Result<Receipt, Problem> {
    let mut wanted = decide(&state.view, request)?;
    if let Some(receipt) = known_key(state, request, &wanted)? {
        return Ok(receipt);
    }
    if now.log_full && !request.kind.is_policy() {
        return Err(log_full());
    }
    let head = state.head(&request.principal.tenant, &request.room);
    if request.payload.if_last.is_some_and(|expected| expected != head.seq) {
        let detail = format!("`if_last` is not the room's last event, which is {}", head.seq);
        return Err(Problem::new(ProblemCode::SequenceConflict, detail));
    }
    let makes_room = request.kind == Kind::Room && state.view.room(&request.principal.tenant, &request.room).is_none();
    stamp_visible_from(&state.view, request, &mut wanted)?;
    let receipt = write(state, draft, request, &wanted, now)?;
    if makes_room {
        let owner = MemberBody {
            user: request.principal.user.clone(),
            role: "owner".parse().ok(),
            visible_from: None,
        };
        let keyless = Request {
            payload: without_key(request),
            ..request.clone()
        };
        let wanted = Wanted {
            room: request.room.clone(),
            kind: Kind::Member,
            requested: membership_request(&owner),
            body: raw(&owner)?,
        };
        write(state, draft, &keyless, &wanted, now)?;
    }
    Ok(receipt)
}

/// The first event of a tenant: who administers it. Asked for by the configuration, not by a principal.
pub(crate) fn found_tenant(state: &mut State, draft: &mut Draft, admin: &Principal, now: &Now) -> Result<(), Problem> {
    let body = UserBody {
        user: admin.user.clone(),
        role: "admin".parse().ok(),
    };
    let room: Id = TENANT_ROOM
        .parse()
        .map_err(|error| Problem::invalid(format!("{error}")))?;
    let body = raw(&body)?;
    let request = Request {
        principal: admin.clone(),
        room: room.clone(),
        kind: Kind::User,
        payload: natterjack_nats_config::SendPayload::of_body(body.clone()),
    };
    let wanted = Wanted {
        room,
        kind: Kind::User,
        requested: body.get().to_owned(),
        body,
    };
    write(state, draft, &request, &wanted, now).map(|_| ())
}

fn decide(view: &View, request: &Request) -> Result<Wanted, Problem> {
    let about_tenant = request.room.as_str() == TENANT_ROOM;
    if about_tenant != (request.kind == Kind::User) {
        return Err(Problem::invalid(format!(
            "the room `{TENANT_ROOM}` stands for the whole tenant: only `user` events go there, and nowhere else"
        )));
    }
    let (body, requested) = match request.kind {
        Kind::Room => decide_room(view, request)?,
        Kind::Member => decide_member(view, request)?,
        Kind::User => decide_user(view, request)?,
        _ => {
            may(view, &request.principal, &request.room, Permission::RoomSend)?;
            let body = request.payload.body.clone();
            (body.clone(), body.get().to_owned())
        }
    };
    Ok(Wanted {
        room: request.room.clone(),
        kind: request.kind,
        body,
        requested,
    })
}

fn decide_room(view: &View, request: &Request) -> Result<(Box<RawValue>, String), Problem> {
    if view.room(&request.principal.tenant, &request.room).is_some() {
        may(view, &request.principal, &request.room, Permission::RoomManage)?;
    } else {
        may_in_tenant(view, &request.principal, Permission::RoomCreate)?;
    }
    let body: RoomBody = parse(&request.payload.body)?;
    if body.title.as_ref().is_some_and(|title| title.len() > MAX_TITLE_BYTES) {
        return Err(Problem::invalid(format!(
            "`title` is longer than {MAX_TITLE_BYTES} bytes"
        )));
    }
    let body = raw(&body)?;
    Ok((body.clone(), body.get().to_owned()))
}

fn decide_member(view: &View, request: &Request) -> Result<(Box<RawValue>, String), Problem> {
    let who = &request.principal;
    let change: MemberBody = parse(&request.payload.body)?;
    let now = view
        .membership(&who.tenant, &request.room, &change.user)
        .map(|member| member.role.clone());
    let needed = match (&change.role, &now) {
        (Some(role), _) if room_role(role.as_str()).is_none() => return Err(no_such_role(role)),
        (None, _) if change.user == who.user => None,
        (after, before) if is_high(after.as_ref()) || is_high(before.as_ref()) => Some(Permission::RoomManage),
        (Some(_), _) => Some(Permission::MemberInvite),
        (None, _) => Some(Permission::MemberRemove),
    };
    if let Some(permission) = needed {
        may(view, who, &request.room, permission)?;
    }
    Ok((request.payload.body.clone(), membership_request(&change)))
}

fn decide_user(view: &View, request: &Request) -> Result<(Box<RawValue>, String), Problem> {
    may_in_tenant(view, &request.principal, Permission::TenantAdmin)?;
    let body: UserBody = parse(&request.payload.body)?;
    if let Some(role) = body.role.as_ref().filter(|role| tenant_role(role.as_str()).is_none()) {
        return Err(no_such_role(role));
    }
    let body = raw(&body)?;
    Ok((body.clone(), body.get().to_owned()))
}

/// Someone who is in the room keeps what he could see; a newcomer sees what the request says, by default everything.
/// Judged after the key, so that a repeated removal gets its first receipt again.
fn stamp_visible_from(view: &View, request: &Request, wanted: &mut Wanted) -> Result<(), Problem> {
    if wanted.kind != Kind::Member {
        return Ok(());
    }
    let mut body: MemberBody = parse(&wanted.body)?;
    let now = view.membership(&request.principal.tenant, &request.room, &body.user);
    body.visible_from = match (&body.role, now) {
        (None, None) => {
            return Err(Problem::new(
                ProblemCode::NotFound,
                format!("{} is no member of this room", body.user),
            ));
        }
        (None, Some(_)) => None,
        (Some(_), Some(member)) => Some(body.visible_from.unwrap_or_default().max(member.visible_from)),
        (Some(_), None) => Some(body.visible_from.unwrap_or_default()),
    };
    wanted.body = raw(&body)?;
    Ok(())
}

fn known_key(state: &State, request: &Request, wanted: &Wanted) -> Result<Option<Receipt>, Problem> {
    let Some(key) = &request.payload.key else {
        return Ok(None);
    };
    let content = Content {
        tenant: &request.principal.tenant,
        user: &request.principal.user,
        room: &wanted.room,
        kind: wanted.kind,
        reply_to: request.payload.reply_to.as_deref(),
        body: &wanted.requested,
    };
    match state.keys.look_up(key, &content) {
        Known::New => Ok(None),
        Known::Same(receipt) => Ok(Some(receipt)),
        Known::Different => Err(Problem::new(
            ProblemCode::IdempotencyMismatch,
            "this key was used within the last ten minutes for another request; take a new key",
        )),
        Known::Full => Err(Problem::new(
            ProblemCode::RateLimited,
            "too many keys of this user within ten minutes (limiter: keys per principal); send more slowly",
        )),
    }
}

fn write(
    state: &mut State,
    draft: &mut Draft,
    request: &Request,
    wanted: &Wanted,
    now: &Now,
) -> Result<Receipt, Problem> {
    let tenant = &request.principal.tenant;
    let head = state.head(tenant, &wanted.room);
    let event = Event {
        v: 1,
        seq: Seq::of(draft.stream_seq, draft.events),
        n: head.n + 1,
        prev: head.seq,
        id: (now.new_id)(),
        tenant: tenant.clone(),
        room: wanted.room.clone(),
        from: request.principal.user.clone(),
        kind: wanted.kind,
        at: clock::format_ms(now.at_ms.max(state.at_ms())),
        key: request.payload.key.clone(),
        reply_to: request.payload.reply_to.clone(),
        body: wanted.body.clone(),
    };
    let start = draft.bytes.len();
    serde_json::to_writer(&mut draft.bytes, &event).map_err(|error| internal(&error))?;
    if draft.bytes.len() - start > MAX_EVENT_BYTES {
        draft.bytes.truncate(start);
        let detail = format!("the event would be larger than {MAX_EVENT_BYTES} bytes; send a reference instead");
        return Err(Problem::new(ProblemCode::TooLarge, detail));
    }
    draft.bytes.push(b'\n');
    draft.events += 1;
    state.apply_as_requested(&event, &wanted.requested);
    Ok(Receipt {
        id: event.id,
        seq: event.seq,
        n: event.n,
        at: event.at,
        durability: Durability::Log,
        duplicate: false,
    })
}

pub(crate) fn log_full() -> Problem {
    Problem::new(
        ProblemCode::LogFull,
        "the log is nearly full, messages are refused until there is room; raise `store.log_max_bytes` and restart store",
    )
}

fn is_high(role: Option<&Id>) -> bool {
    role.is_some_and(|role| matches!(role.as_str(), "owner" | "moderator"))
}

fn without_key(request: &Request) -> natterjack_nats_config::SendPayload {
    natterjack_nats_config::SendPayload::of_body(request.payload.body.clone())
}

fn no_such_role(role: &Id) -> Problem {
    Problem::invalid(format!("there is no role `{role}`"))
}

fn parse<T: serde::de::DeserializeOwned>(body: &RawValue) -> Result<T, Problem> {
    serde_json::from_str(body.get()).map_err(|error| Problem::invalid(format!("`body`: {error}")))
}

fn raw<T: serde::Serialize>(value: &T) -> Result<Box<RawValue>, Problem> {
    to_raw_value(value).map_err(|error| internal(&error))
}

fn internal(error: &serde_json::Error) -> Problem {
    Problem::new(ProblemCode::Internal, format!("the event cannot be encoded: {error}"))
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::SendPayload;
    use natterjack_nats_config::contract::events_of;
    use serde_json::json;

    use super::*;

    const START_MS: i64 = 1_795_413_600_000;

    /// A log of one-request frames, and the state that grows with it.
    struct Book {
        state: State,
        frames: Vec<bytes::Bytes>,
        at_ms: i64,
        log_full: bool,
    }

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn new_id() -> String {
        uuid::Uuid::now_v7().to_string()
    }

    fn request(user: &str, room: &str, kind: Kind, payload: &serde_json::Value) -> Request {
        Request {
            principal: Principal {
                tenant: id("main"),
                user: id(user),
            },
            room: id(room),
            kind,
            payload: SendPayload::from_json(payload.to_string().as_bytes()).unwrap(),
        }
    }

    impl Book {
        fn founded() -> Self {
            let mut book = Self {
                state: State::default(),
                frames: Vec::new(),
                at_ms: START_MS,
                log_full: false,
            };
            let mut draft = Draft::after(0);
            let now = Now {
                at_ms: START_MS,
                new_id,
                log_full: false,
            };
            let admin = Principal {
                tenant: id("main"),
                user: id("admin"),
            };
            found_tenant(&mut book.state, &mut draft, &admin, &now).unwrap();
            book.keep(draft);
            book.ask("alice", "lobby", Kind::Room, &json!({"body": {"title": "Lobby"}}))
                .unwrap();
            book
        }

        fn keep(&mut self, draft: Draft) {
            self.frames.push(draft.bytes.into());
            self.state.pass_frame(self.frames.len() as u64);
        }

        fn ask(&mut self, user: &str, room: &str, kind: Kind, payload: &serde_json::Value) -> Result<Receipt, Problem> {
            let mut draft = Draft::after(self.state.end());
            let now = Now {
                at_ms: self.at_ms,
                new_id,
                log_full: self.log_full,
            };
            let outcome = admit(&mut self.state, &mut draft, &request(user, room, kind, payload), &now);
            if draft.events > 0 {
                self.keep(draft);
            }
            outcome
        }

        fn say(&mut self, user: &str, payload: &serde_json::Value) -> Result<Receipt, ProblemCode> {
            self.ask(user, "lobby", Kind::Msg, payload)
                .map_err(|problem| problem.code)
        }

        fn set_member(&mut self, by: &str, user: &str, role: Option<&str>) -> Result<Receipt, ProblemCode> {
            let body = json!({"body": {"user": user, "role": role}});
            self.ask(by, "lobby", Kind::Member, &body)
                .map_err(|problem| problem.code)
        }

        fn events(&self) -> Vec<Event> {
            let frames = self.frames.iter().enumerate();
            frames
                .flat_map(|(i, frame)| events_of(i as u64 + 1, frame).unwrap())
                .map(|line| line.event)
                .collect()
        }
    }

    #[test]
    fn a_new_room_and_its_owner_stand_in_one_frame() {
        let book = Book::founded();
        let events = book.events();
        let kinds: Vec<_> = events
            .iter()
            .map(|event| (event.seq.frame(), event.kind, event.n))
            .collect();
        assert_eq!(kinds, [(1, Kind::User, 1), (2, Kind::Room, 1), (2, Kind::Member, 2)]);
        assert_eq!(events[2].prev, events[1].seq);
    }

    #[test]
    fn numbers_and_links_have_no_gaps() {
        let mut book = Book::founded();
        for i in 0..5 {
            book.say("alice", &json!({"body": {"i": i}})).unwrap();
            book.say("erin", &json!({"body": {"i": i}})).unwrap_err();
        }
        let lobby: Vec<_> = book
            .events()
            .into_iter()
            .filter(|event| event.room.as_str() == "lobby")
            .collect();
        for pair in lobby.windows(2) {
            assert_eq!((pair[1].n, pair[1].prev), (pair[0].n + 1, pair[0].seq));
        }
    }

    #[test]
    fn the_same_key_gives_the_first_receipt_again_and_another_body_is_refused() {
        let mut book = Book::founded();
        let first = book.say("alice", &json!({"key": "k", "body": {"a": 1}})).unwrap();
        let again = book.say("alice", &json!({"key": "k", "body": {"a": 1}})).unwrap();
        assert_eq!(
            again,
            Receipt {
                duplicate: true,
                ..first.clone()
            }
        );
        let other = book.say("alice", &json!({"key": "k", "body": {"a": 2}}));
        assert_eq!(other, Err(ProblemCode::IdempotencyMismatch));
        book.set_member("alice", "bob", Some("member")).unwrap();
        let bobs = book.say("bob", &json!({"key": "k", "body": {"a": 1}})).unwrap();
        assert!(
            !bobs.duplicate && bobs.seq > first.seq,
            "another user's key is another key"
        );
        assert!(
            !book
                .say("alice", &json!({"key": "K", "body": {"a": 1}}))
                .unwrap()
                .duplicate,
            "case tells keys apart"
        );
    }

    #[test]
    fn a_key_is_forgotten_after_the_window_and_not_before() {
        let mut book = Book::founded();
        book.say("alice", &json!({"key": "k", "body": 1})).unwrap();
        book.at_ms += crate::log::keys::WINDOW_MS;
        book.say("alice", &json!({"body": 2})).unwrap();
        assert!(book.say("alice", &json!({"key": "k", "body": 1})).unwrap().duplicate);
        book.at_ms += 1;
        book.say("alice", &json!({"body": 3})).unwrap();
        assert!(!book.say("alice", &json!({"key": "k", "body": 1})).unwrap().duplicate);
    }

    #[test]
    fn a_successor_that_folds_the_log_decides_as_its_predecessor() {
        let mut book = Book::founded();
        let first = book.say("alice", &json!({"key": "k", "body": {"a": 1}})).unwrap();
        let body = json!({"key": "m", "body": {"user": "bob", "role": "member"}});
        let added = book.ask("alice", "lobby", Kind::Member, &body).unwrap();
        let mut state = State::default();
        for event in book.events() {
            state.apply(&event);
        }
        state.pass_frame(book.state.end());
        book.state = state;
        assert_eq!(
            book.say("alice", &json!({"key": "k", "body": {"a": 1}})).unwrap().seq,
            first.seq
        );
        let again = book.ask("alice", "lobby", Kind::Member, &body).unwrap();
        assert_eq!((again.seq, again.duplicate), (added.seq, true));
        assert_eq!(book.say("bob", &json!({"body": 1})).unwrap().n, added.n + 1);
    }

    #[test]
    fn the_key_is_judged_before_if_last() {
        let mut book = Book::founded();
        let first = book.say("alice", &json!({"body": 1})).unwrap();
        let only = json!({"key": "k", "body": 2, "if_last": first.seq});
        assert!(!book.say("alice", &only).unwrap().duplicate);
        assert!(book.say("alice", &only).unwrap().duplicate);
        let late = json!({"body": 3, "if_last": first.seq});
        assert_eq!(book.say("alice", &late), Err(ProblemCode::SequenceConflict));
    }

    #[test]
    fn who_may_do_what_to_members() {
        let mut book = Book::founded();
        book.set_member("alice", "mod", Some("moderator")).unwrap();
        book.set_member("mod", "bob", Some("member")).unwrap();
        let table = [
            ("erin", "erin", Some("member"), Err(ProblemCode::NotFound)),
            ("bob", "erin", Some("member"), Err(ProblemCode::Forbidden)),
            ("mod", "erin", Some("owner"), Err(ProblemCode::Forbidden)),
            ("mod", "alice", None, Err(ProblemCode::Forbidden)),
            ("mod", "bob", Some("emperor"), Err(ProblemCode::InvalidRequest)),
            ("alice", "nobody", None, Err(ProblemCode::NotFound)),
            ("erin", "nobody", None, Err(ProblemCode::NotFound)),
            ("admin", "alice", Some("member"), Ok(())),
            ("admin", "alice", Some("owner"), Ok(())),
            ("bob", "bob", None, Ok(())),
        ];
        for (by, user, role, expected) in table {
            assert_eq!(
                book.set_member(by, user, role).map(|_| ()),
                expected,
                "{by} sets {user} to {role:?}"
            );
        }
        assert_eq!(book.say("bob", &json!({"body": 1})), Err(ProblemCode::NotFound));
    }

    #[test]
    fn what_is_refused_leaves_nothing_behind() {
        let mut book = Book::founded();
        let frames = book.frames.len();
        let long = "x".repeat(MAX_EVENT_BYTES);
        assert_eq!(book.say("alice", &json!({"body": long})), Err(ProblemCode::TooLarge));
        let wrong = [
            ("lobby", Kind::User, json!({"body": {"user": "bob", "role": "admin"}})),
            ("_", Kind::Msg, json!({"body": 1})),
            ("_", Kind::User, json!({"body": {"user": "bob", "role": "admin"}})),
            ("lobby", Kind::Room, json!({"body": {"titel": "x"}})),
            ("lobby", Kind::Room, json!({"body": {"title": "x".repeat(257)}})),
        ];
        for (room, kind, payload) in wrong {
            book.ask("alice", room, kind, &payload).unwrap_err();
        }
        assert_eq!(book.frames.len(), frames);
        assert_eq!(book.say("alice", &json!({"body": 1})).unwrap().n, 3);
    }

    #[test]
    fn a_nearly_full_log_takes_policy_only() {
        let mut book = Book::founded();
        book.log_full = true;
        assert_eq!(book.say("alice", &json!({"body": 1})), Err(ProblemCode::LogFull));
        book.set_member("alice", "bob", Some("member")).unwrap();
        book.set_member("alice", "bob", None).unwrap();
    }

    #[test]
    fn a_draft_takes_no_more_than_a_frame_holds() {
        let mut book = Book::founded();
        let mut draft = Draft::after(book.state.end());
        let now = Now {
            at_ms: START_MS,
            new_id,
            log_full: false,
        };
        let big = request("alice", "lobby", Kind::Msg, &json!({"body": "x".repeat(60_000)}));
        while draft.fits(&big) {
            admit(&mut book.state, &mut draft, &big, &now).unwrap();
        }
        assert!(
            draft.bytes.len() <= MAX_FRAME_BYTES && draft.events == 8,
            "{} {}",
            draft.bytes.len(),
            draft.events
        );
        let small = request("alice", "lobby", Kind::Msg, &json!({"body": 1}));
        let mut draft = Draft::after(book.state.end());
        while draft.fits(&small) {
            admit(&mut book.state, &mut draft, &small, &now).unwrap();
        }
        assert_eq!(draft.events, MAX_FRAME_EVENTS - 1);
    }
}
