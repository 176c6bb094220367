mod policy;

use natterjack_nats_config::SendPayload;
use natterjack_nats_config::contract::{TokenRef, events_of};
use serde_json::json;

use super::*;
use crate::log::state::STATE_VERSION;

mod behalf;
mod claims;
mod credentials;

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
        by: natterjack_nats_config::contract::By::default(),
        principal: Principal {
            tenant: id("main"),
            user: id(user),
        },
        room: id(room),
        kind,
        payload: SendPayload::from_json(payload.to_string().as_bytes()).unwrap(),
        vouched: None,
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
            wall_ms: START_MS,
            new_id,
            log_full: false,
        };
        let admin = Principal {
            tenant: id("main"),
            user: id("admin"),
        };
        book.state.begin_term(Some(STATE_VERSION));
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
        self.ask_by(By::Connection, &request(user, room, kind, payload))
    }

    fn ask_by(&mut self, by: By, request: &Request) -> Result<Receipt, Problem> {
        let mut draft = Draft::after(self.state.end());
        let now = Now {
            at_ms: self.at_ms,
            wall_ms: self.at_ms,
            new_id,
            log_full: self.log_full,
        };
        let request = Request { by, ..request.clone() };
        let outcome = admit(&mut self.state, &mut draft, &request, &now);
        if draft.events > 0 {
            self.keep(draft);
        }
        outcome
    }

    fn say(&mut self, user: &str, payload: &serde_json::Value) -> Result<Receipt, ProblemCode> {
        self.ask(user, "lobby", Kind::Msg, payload)
            .map_err(|problem| problem.code)
    }

    fn say_by(&mut self, jti: &str, issued_at_ms: i64) -> Result<Receipt, ProblemCode> {
        let by = By::Token(TokenRef {
            jti: Some(jti.to_owned()),
            issued_at_ms,
        });
        let request = request("alice", "lobby", Kind::Msg, &json!({"body": {"text": "x"}}));
        self.ask_by(by, &request).map_err(|problem| problem.code)
    }

    fn revoke(&mut self, by: By, user: &str, body: &serde_json::Value) -> Result<Receipt, ProblemCode> {
        let request = request(user, "_", Kind::Token, body);
        self.ask_by(by, &request).map_err(|problem| problem.code)
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
    state.begin_term(Some(STATE_VERSION));
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
fn who_repeats_what_stands_is_told_so_even_when_he_may_no_longer_send() {
    let mut book = Book::founded();
    book.set_member("alice", "bob", Some("member")).unwrap();
    let hi = json!({"key": "k", "body": {"text": "hi"}});
    let first = book.say("bob", &hi).unwrap();
    book.set_member("alice", "bob", None).unwrap();
    let again = book.say("bob", &hi).unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    let other = json!({"key": "k", "body": {"text": "ho"}});
    assert_eq!(book.say("bob", &other), Err(ProblemCode::NotFound));
    assert_eq!(
        book.say("bob", &json!({"body": {"text": "hi"}})),
        Err(ProblemCode::NotFound)
    );
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
        wall_ms: START_MS,
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
    assert_eq!(draft.events, MAX_FRAME_EVENTS - MAX_EVENTS + 1);
}

impl Book {
    fn change(&mut self, user: &str, kind: Kind, target: &str) -> Result<Receipt, ProblemCode> {
        let payload = json!({"target": target, "body": {"text": "new"}});
        self.ask(user, "lobby", kind, &payload).map_err(|problem| problem.code)
    }
}

#[test]
fn who_may_change_which_message() {
    let mut book = Book::founded();
    book.set_member("alice", "bob", Some("member")).unwrap();
    book.set_member("alice", "mod", Some("moderator")).unwrap();
    book.set_member("alice", "reader", Some("reader")).unwrap();
    let bobs = book.say("bob", &json!({"body": 1})).unwrap();
    let alices = book.say("alice", &json!({"body": 1})).unwrap();
    let (edit, delete) = (Kind::Edit, Kind::Delete);
    let table = [
        ("bob", edit, &bobs, Ok(())),
        ("bob", edit, &alices, Err(ProblemCode::Forbidden)),
        ("alice", edit, &bobs, Err(ProblemCode::Forbidden)),
        ("admin", edit, &bobs, Err(ProblemCode::Forbidden)),
        ("reader", edit, &bobs, Err(ProblemCode::Forbidden)),
        ("erin", edit, &bobs, Err(ProblemCode::NotFound)),
        ("erin", delete, &bobs, Err(ProblemCode::NotFound)),
        ("bob", delete, &alices, Err(ProblemCode::Forbidden)),
        ("mod", delete, &alices, Ok(())),
        ("alice", delete, &alices, Err(ProblemCode::NotFound)),
        ("alice", edit, &alices, Err(ProblemCode::NotFound)),
        ("bob", delete, &bobs, Ok(())),
    ];
    for (user, kind, target, expected) in table {
        let outcome = book.change(user, kind, &target.id).map(drop);
        assert_eq!(outcome, expected, "{user} {kind:?} {}", target.seq);
    }
    let last = book.events().pop().unwrap();
    let target = last.target.unwrap();
    assert_eq!((last.kind, target.id, target.seq), (delete, bobs.id, bobs.seq));
}

#[test]
fn a_message_that_is_not_known_is_changed_only_if_a_bridge_knows_it() {
    use natterjack_nats_config::contract::Vouched;
    let mut book = Book::founded();
    book.set_member("alice", "bob", Some("member")).unwrap();
    let old = book.say("bob", &json!({"body": 1})).unwrap();
    for _ in 0..crate::log::recent::PER_ROOM {
        book.say("alice", &json!({"body": 2})).unwrap();
    }
    assert_eq!(book.change("bob", Kind::Edit, &old.id), Err(ProblemCode::TargetUnknown));
    assert_eq!(
        book.change("bob", Kind::Edit, "no such id"),
        Err(ProblemCode::TargetUnknown)
    );
    let vouched = |by: &str, seq| Request {
        vouched: Some(Vouched { seq, from: id("bob") }),
        ..request(by, "lobby", Kind::Edit, &json!({"target": old.id, "body": 3}))
    };
    let mut ask = |request: &Request| {
        let mut draft = Draft::after(book.state.end());
        let now = Now {
            at_ms: START_MS,
            wall_ms: START_MS,
            new_id,
            log_full: false,
        };
        admit(&mut book.state, &mut draft, request, &now)
            .map(|_| draft.events)
            .map_err(|problem| problem.code)
    };
    assert_eq!(ask(&vouched("bob", old.seq)), Ok(1));
    assert_eq!(ask(&vouched("alice", old.seq)), Err(ProblemCode::Forbidden));
}

#[test]
fn a_member_changes_nothing_that_it_may_not_see() {
    let mut book = Book::founded();
    let before = book.say("alice", &json!({"body": 1})).unwrap();
    let body = json!({"body": {"user": "mod", "role": "moderator", "visible_from": before.seq.0 + 1}});
    book.ask("alice", "lobby", Kind::Member, &body).unwrap();
    assert_eq!(
        book.change("mod", Kind::Delete, &before.id),
        Err(ProblemCode::TargetUnknown)
    );
    let after = book.say("alice", &json!({"body": 1})).unwrap();
    assert!(book.change("mod", Kind::Delete, &after.id).is_ok());
}

#[test]
fn a_target_goes_with_a_change_and_with_nothing_else() {
    let mut book = Book::founded();
    let said = book.say("alice", &json!({"body": 1})).unwrap();
    let with = json!({"target": said.id, "body": {}});
    for (kind, payload) in [
        (Kind::Msg, &with),
        (Kind::Room, &with),
        (Kind::Edit, &json!({"body": {}})),
    ] {
        let refused = book.ask("alice", "lobby", kind, payload).unwrap_err();
        assert_eq!(refused.code, ProblemCode::InvalidRequest, "{kind:?}");
    }
}
