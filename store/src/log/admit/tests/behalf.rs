//! Gateways, who send in the names of others.

use serde_json::{Value, json};

use super::*;

type Outcome = Result<Receipt, ProblemCode>;

const FORBIDDEN: Outcome = Err(ProblemCode::Forbidden);
const INVALID: Outcome = Err(ProblemCode::InvalidRequest);

/// A lobby with a gateway, a device and a reader.
fn book() -> Book {
    let mut book = Book::founded();
    let role = json!({"body": {"role": "gateway", "scope": "tenant", "permissions": ["send.as"]}});
    book.ask("admin", "_", Kind::Role, &role).unwrap();
    book.give("gw", Some("gateway"));
    for (user, role) in [("gw", "member"), ("dev1", "device"), ("rita", "reader")] {
        book.set_member("alice", user, Some(role)).unwrap();
    }
    book
}

impl Book {
    fn give(&mut self, user: &str, role: Option<&str>) {
        let body = json!({"body": {"user": user, "role": role}});
        self.ask("admin", "_", Kind::User, &body).unwrap();
    }

    fn send_as(&mut self, by: &str, kind: Kind, payload: &Value) -> Outcome {
        self.ask(by, "lobby", kind, payload).map_err(|problem| problem.code)
    }
}

fn of(user: &str) -> Value {
    json!({"as": user, "body": {"temp": 21}})
}

#[test]
fn a_gateways_message_is_from_whom_it_names_and_says_who_sent_it() {
    let mut book = book();
    let receipt = book.send_as("gw", Kind::Msg, &of("dev1")).unwrap();
    let event = book.events().pop().unwrap();
    assert_eq!(
        (event.id, event.from, event.via),
        (receipt.id, id("dev1"), Some(id("gw")))
    );
    book.send_as("gw", Kind::Msg, &json!({"body": 1})).unwrap();
    let own = book.events().pop().unwrap();
    assert_eq!((own.from, own.via), (id("gw"), None));
}

#[test]
fn it_takes_the_permission_and_the_rights_of_both() {
    let mut book = book();
    assert_eq!(book.send_as("alice", Kind::Msg, &of("dev1")), FORBIDDEN, "no gateway");
    assert_eq!(book.send_as("gw", Kind::Msg, &of("rita")), FORBIDDEN, "a reader");
    assert_eq!(book.send_as("gw", Kind::Msg, &of("stranger")), FORBIDDEN);
    assert_eq!(book.send_as("gw", Kind::Msg, &of("gw")), INVALID, "oneself");
    book.send_as("gw", Kind::Command, &of("dev1")).unwrap();
    book.give("dev1", Some("blocked"));
    assert_eq!(book.send_as("gw", Kind::Msg, &of("dev1")), FORBIDDEN, "blocked");
    book.give("dev1", None);
    book.send_as("gw", Kind::Reply, &of("dev1")).unwrap();
    let ban = json!({"body": {"user": "dev1", "banned": true}});
    book.ask("alice", "lobby", Kind::Ban, &ban).unwrap();
    assert_eq!(book.send_as("gw", Kind::Msg, &of("dev1")), FORBIDDEN, "banned");
    book.set_member("alice", "dev1", Some("device")).unwrap();
    book.set_member("alice", "gw", Some("reader")).unwrap();
    assert_eq!(
        book.send_as("gw", Kind::Msg, &of("dev1")),
        FORBIDDEN,
        "the gateway only reads"
    );
    book.set_member("alice", "gw", Some("member")).unwrap();
    book.give("gw", None);
    assert_eq!(
        book.send_as("gw", Kind::Msg, &of("dev1")),
        FORBIDDEN,
        "no gateway any more"
    );
}

#[test]
fn nothing_but_messages_is_sent_so() {
    let mut book = book();
    let target = book.send_as("gw", Kind::Msg, &of("dev1")).unwrap().id;
    for (kind, payload) in [
        (Kind::Edit, json!({"as": "dev1", "target": target, "body": {}})),
        (Kind::Delete, json!({"as": "dev1", "target": target, "body": {}})),
        (
            Kind::Member,
            json!({"as": "alice", "body": {"user": "eve", "role": "owner"}}),
        ),
        (Kind::Read, json!({"as": "dev1", "body": {"seq": 0}})),
    ] {
        assert_eq!(book.send_as("gw", kind, &payload), INVALID, "{kind:?}");
    }
    // Whose it is edits it, and the gateway does not.
    let edit = json!({"target": target, "body": {}});
    assert_eq!(book.send_as("gw", Kind::Edit, &edit), FORBIDDEN);
    book.set_member("alice", "dev1", Some("member")).unwrap();
    book.send_as("dev1", Kind::Edit, &edit).unwrap();
}

#[test]
fn keys_are_the_gateways_also_for_a_successor() {
    let mut book = book();
    let keyed = |user: &str| json!({"key": "k", "as": user, "body": 1});
    let first = book.send_as("gw", Kind::Msg, &keyed("dev1")).unwrap();
    let plain = json!({"key": "k", "body": 1});
    book.set_member("alice", "dev2", Some("device")).unwrap();
    for successor in [false, true] {
        if successor {
            let mut state = State::default();
            state.begin_term(Some(STATE_VERSION));
            for event in book.events() {
                state.apply(&event);
            }
            state.pass_frame(book.state.end());
            book.state = state;
        }
        let again = book.send_as("gw", Kind::Msg, &keyed("dev1")).unwrap();
        assert!(again.duplicate && again.id == first.id);
        for other in [&keyed("dev2"), &plain] {
            assert_eq!(
                book.send_as("gw", Kind::Msg, other),
                Err(ProblemCode::IdempotencyMismatch)
            );
        }
    }
    // The same key is the device's own to use.
    assert!(!book.send_as("dev1", Kind::Msg, &plain).unwrap().duplicate);
}
