//! Tokens and API keys at the writer: what their revocation makes void.

use natterjack_authz::policy::revoked_one_by_one;

use super::*;

#[test]
fn behind_its_revocation_a_token_writes_nothing_and_a_connection_waits() {
    let mut book = Book::founded();
    book.say_by("lost", START_MS).unwrap();
    let body = json!({"body": {"user": "alice", "jti": "lost"}});
    let seq = book.revoke(By::Connection, "admin", &body).unwrap().seq;
    assert_eq!(book.say_by("lost", START_MS), Err(ProblemCode::TokenRevoked));
    book.say_by("kept", START_MS).unwrap();
    let wait = Err(ProblemCode::RevocationInProgress);
    assert_eq!(book.say("alice", &json!({"body": 1})), wait);
    assert_eq!(book.set_member("alice", "bob", Some("member")), wait);
    // That it has settled nobody says but a worker, and only of one that is open.
    let settled = |seq: u64| json!({"body": {"user": "alice", "settled": seq}});
    let token = By::Token(TokenRef {
        jti: None,
        issued_at_ms: i64::MAX,
    });
    for by in [By::Connection, token] {
        let refused = book.revoke(by, "admin", &settled(seq.0));
        assert_eq!(refused, Err(ProblemCode::InvalidRequest));
    }
    assert_eq!(
        book.revoke(By::House, "_", &settled(seq.0 + 1)),
        Err(ProblemCode::Conflict)
    );
    book.revoke(By::House, "_", &settled(seq.0)).unwrap();
    assert_eq!(book.revoke(By::House, "_", &settled(seq.0)), Err(ProblemCode::Conflict));
    book.say("alice", &json!({"body": 1})).unwrap();
    assert_eq!(
        book.say_by("lost", START_MS),
        Err(ProblemCode::TokenRevoked),
        "for good"
    );
}

#[test]
fn all_so_far_is_by_log_time_and_a_clock_that_runs_ahead_saves_no_token() {
    let mut book = Book::founded();
    book.at_ms = START_MS + 60_000;
    let body = json!({"body": {"user": "alice"}, "key": "k"});
    let first = book.revoke(By::Connection, "admin", &body).unwrap();
    for (issued_at_ms, good) in [
        (book.at_ms, false),
        (book.at_ms + 4999, false),
        (book.at_ms + 5000, true),
    ] {
        assert_eq!(book.say_by("x", issued_at_ms).is_ok(), good, "{issued_at_ms}");
    }
    // Asked again with its key it is the same revocation, here and for a successor who folds the log.
    book.at_ms += 60_000;
    let again = book.revoke(By::Connection, "admin", &body).unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    let mut folded = State::default();
    for event in book.events() {
        folded.apply(&event);
    }
    book.state = folded.restored(book.state.end(), book.state.time());
    assert_eq!(book.revoke(By::Connection, "admin", &body).unwrap().seq, first.seq);
    let other = json!({"body": {"user": "bob"}, "key": "k"});
    assert_eq!(
        book.revoke(By::Connection, "admin", &other),
        Err(ProblemCode::IdempotencyMismatch)
    );
}

#[test]
fn ones_own_tokens_are_ones_own_to_revoke_and_there_is_a_bound() {
    let mut book = Book::founded();
    let one = |user: &str, jti: String| json!({"body": {"user": user, "jti": jti}});
    assert_eq!(
        book.revoke(By::Connection, "bob", &one("alice", "x".to_owned())),
        Err(ProblemCode::Forbidden)
    );
    assert_eq!(
        book.revoke(
            By::Connection,
            "bob",
            &json!({"body": {"before": "2020-01-01T00:00:00Z"}})
        ),
        Err(ProblemCode::Forbidden)
    );
    let token = By::Token(TokenRef {
        jti: None,
        issued_at_ms: START_MS,
    });
    for number in 0..natterjack_authz::policy::MAX_REVOKED_TOKENS {
        book.revoke(token.clone(), "bob", &one("bob", format!("t{number}")))
            .unwrap();
    }
    assert_eq!(
        book.revoke(token, "bob", &one("bob", "more".to_owned())),
        Err(ProblemCode::RateLimited)
    );
    book.revoke(By::Connection, "admin", &one("alice", "x".to_owned()))
        .unwrap();
}

fn key(user: &str, id: &str) -> serde_json::Value {
    json!({"body": {"user": user, "id": format!("{id:0>24}"), "name": "n", "sha256": "ab".repeat(32)}})
}

fn by_token(jti: &str) -> By {
    By::Token(TokenRef {
        jti: Some(jti.to_owned()),
        issued_at_ms: i64::MAX,
    })
}

impl Book {
    fn make_key(&mut self, by: By, user: &str, payload: &serde_json::Value) -> Result<Receipt, ProblemCode> {
        let request = request(user, "_", Kind::Key, payload);
        self.ask_by(by, &request).map_err(|problem| problem.code)
    }
}

#[test]
fn keys_are_made_by_a_token_for_oneself_or_by_an_administrator() {
    let mut book = Book::founded();
    book.make_key(by_token("t"), "bob", &key("bob", "1")).unwrap();
    book.make_key(by_token("t"), "admin", &key("dev1", "2")).unwrap();
    for (by, user, payload, code) in [
        (by_token("t"), "bob", key("dev1", "3"), ProblemCode::Forbidden),
        (By::Connection, "admin", key("dev1", "3"), ProblemCode::Forbidden),
        (by_token("t"), "bob", key("bob", "2"), ProblemCode::Conflict),
        (by_token("t"), "bob", key("bob", "x"), ProblemCode::InvalidRequest),
    ] {
        assert_eq!(book.make_key(by, user, &payload), Err(code), "{user} {payload}");
    }
    // Who has got hold of a key cannot make another one to outlive it.
    let by_key = by_token(&format!("nj_{:0>24}", "1"));
    assert_eq!(
        book.make_key(by_key, "bob", &key("bob", "3")),
        Err(ProblemCode::Forbidden)
    );
    let mut late = key("bob", "3");
    late["body"]["expires_ms"] = json!(START_MS);
    assert_eq!(
        book.make_key(by_token("t"), "bob", &late),
        Err(ProblemCode::InvalidRequest)
    );
}

#[test]
fn with_a_key_of_somebody_else_nobody_gets_more_than_they_have() {
    let mut book = Book::founded();
    for (role, permissions) in [
        ("clerk", json!(["tenant.admin"])),
        (
            "manager",
            json!(["tenant.admin", "room.manage", "room.create", "room.direct"]),
        ),
    ] {
        let body = json!({"role": role, "scope": "tenant", "permissions": permissions});
        book.ask("admin", "_", Kind::Role, &json!({"body": body})).unwrap();
        let body = json!({"user": format!("a-{role}"), "role": role});
        book.ask("admin", "_", Kind::User, &json!({"body": body})).unwrap();
    }
    for (by, owner, number, outcome) in [
        ("a-clerk", "bob", "1", Err(ProblemCode::Forbidden)),
        ("a-manager", "admin", "2", Err(ProblemCode::Forbidden)),
        ("a-manager", "bob", "3", Ok(())),
        ("a-clerk", "a-clerk", "4", Ok(())),
    ] {
        let made = book.make_key(by_token("t"), by, &key(owner, number));
        assert_eq!(made.map(drop), outcome, "{by} {owner}");
    }
}

#[test]
fn a_user_has_at_most_so_many_keys_and_those_that_have_expired_make_room() {
    let mut book = Book::founded();
    let most = natterjack_authz::policy::MAX_KEYS;
    for number in 0..most {
        let mut payload = key("bob", &number.to_string());
        payload["body"]["expires_ms"] = json!(START_MS + 1000);
        book.make_key(by_token("t"), "bob", &payload).unwrap();
    }
    let more = key("bob", &most.to_string());
    assert_eq!(
        book.make_key(by_token("t"), "bob", &more),
        Err(ProblemCode::RateLimited)
    );
    book.make_key(by_token("t"), "alice", &key("alice", "ffffff")).unwrap();
    book.at_ms = START_MS + 1000;
    book.make_key(by_token("t"), "bob", &more).unwrap();
}

#[test]
fn behind_its_revocation_a_key_writes_nothing() {
    let mut book = Book::founded();
    book.make_key(by_token("t"), "alice", &key("alice", "1")).unwrap();
    let jti = format!("nj_{:0>24}", "1");
    book.say_by(&jti, 0).unwrap();
    let body = json!({"body": {"user": "alice", "jti": jti}});
    assert_eq!(
        book.revoke(by_token("t"), "bob", &json!({"body": {"user": "bob", "jti": jti}})),
        Err(ProblemCode::NotFound),
        "it is another's"
    );
    book.revoke(by_token("t"), "alice", &body).unwrap();
    assert_eq!(book.say_by(&jti, i64::MAX), Err(ProblemCode::TokenRevoked));
    assert_eq!(book.revoke(by_token("t"), "alice", &body), Err(ProblemCode::NotFound));
    assert_eq!(
        book.say("alice", &json!({"body": 1})),
        Err(ProblemCode::RevocationInProgress),
        "its connections may be there still"
    );
}

#[test]
fn what_is_void_anyway_makes_room_for_other_revocations() {
    let mut book = Book::founded();
    let one = |jti: String, expires: Option<i64>| {
        let expires = expires.map(clock::format_ms);
        json!({"body": {"user": "bob", "jti": jti, "expires": expires}})
    };
    let most = natterjack_authz::policy::MAX_REVOKED_TOKENS;
    for number in 0..most {
        let expires = (number % 2 > 0).then_some(START_MS + 1000);
        book.revoke(by_token("t"), "bob", &one(format!("a{number}"), expires))
            .unwrap();
    }
    let remembered = |book: &Book| revoked_one_by_one(&book.state.view, &id("main"), &id("bob"), book.at_ms);
    assert_eq!(remembered(&book), most);
    let full = book.revoke(by_token("t"), "bob", &one("b".to_owned(), None));
    assert_eq!(full, Err(ProblemCode::RateLimited));
    // Those that told when they expire have done so.
    book.at_ms = START_MS + 1001;
    book.revoke(by_token("t"), "bob", &one("b".to_owned(), None)).unwrap();
    assert_eq!(remembered(&book), most / 2 + 1);
    // All issued so far are void, so they need not be told one by one; they are void all the same.
    book.revoke(By::Connection, "admin", &json!({"body": {"user": "bob"}}))
        .unwrap();
    assert_eq!(remembered(&book), 0);
    let old = request("bob", "lobby", Kind::Msg, &json!({"body": 1}));
    for jti in ["a0", "b"] {
        let by = By::Token(TokenRef {
            jti: Some(jti.to_owned()),
            issued_at_ms: book.at_ms,
        });
        let refused = book.ask_by(by, &old).map_err(|problem| problem.code);
        assert_eq!(refused, Err(ProblemCode::TokenRevoked), "{jti}");
    }
    // Without a word on it a token is remembered until none can be good any more.
    book.revoke(by_token("t"), "bob", &one("c".to_owned(), None)).unwrap();
    book.at_ms += natterjack_authz::policy::MAX_LIFETIME_MS + 5000;
    assert_eq!(remembered(&book), 1);
    book.at_ms += 1;
    assert_eq!(remembered(&book), 0);
}

#[test]
fn a_revocation_that_voids_nothing_is_not_open() {
    let mut book = Book::founded();
    let settle = |book: &mut Book, receipt: &Receipt| {
        let body = json!({"body": {"user": "alice", "settled": receipt.seq}});
        book.revoke(By::House, "_", &body).map(drop)
    };
    let one = json!({"body": {"user": "alice", "jti": "lost"}});
    let first = book.revoke(by_token("t"), "alice", &one).unwrap();
    settle(&mut book, &first).unwrap();
    book.say("alice", &json!({"body": 1})).unwrap();
    let again = book.revoke(by_token("t"), "alice", &one).unwrap();
    assert_eq!(settle(&mut book, &again), Err(ProblemCode::Conflict));
    book.say("alice", &json!({"body": 1})).unwrap();
    let long_ago = json!({"body": {"user": "alice", "before": "2020-01-01T00:00:00Z"}});
    book.revoke(by_token("t"), "alice", &long_ago).unwrap();
    book.say("alice", &json!({"body": 1})).unwrap();
    let yesterday = json!({"body": {"user": "alice", "before": clock::format_ms(START_MS - 1)}});
    let first = book.revoke(by_token("t"), "alice", &yesterday).unwrap();
    assert_eq!(
        book.say("alice", &json!({"body": 1})),
        Err(ProblemCode::RevocationInProgress)
    );
    settle(&mut book, &first).unwrap();
    book.revoke(by_token("t"), "alice", &yesterday).unwrap();
    book.say("alice", &json!({"body": 1})).unwrap();
}

#[test]
fn what_a_server_kept_from_before_a_revocation_is_not_written_after_it() {
    let mut book = Book::founded();
    let kept = |taken_ms| By::Kept { taken_ms };
    let say = |book: &mut Book, taken_ms| {
        let request = request("alice", "lobby", Kind::Msg, &json!({"body": 1}));
        book.ask_by(kept(taken_ms), &request)
            .map(drop)
            .map_err(|problem| problem.code)
    };
    // However old: nothing of hers was ever revoked.
    say(&mut book, 0).unwrap();
    let first = book
        .revoke(
            by_token("t"),
            "admin",
            &json!({"body": {"user": "alice", "jti": "lost"}}),
        )
        .unwrap();
    assert_eq!(say(&mut book, START_MS), Err(ProblemCode::RevocationInProgress));
    book.at_ms += 60_000;
    let settled = json!({"body": {"user": "alice", "settled": first.seq}});
    book.revoke(By::House, "_", &settled).unwrap();
    let at = book.at_ms;
    for (taken_ms, good) in [
        (0, false),
        (START_MS, false),
        (at, false),
        (at + 5000, false),
        (at + 5001, true),
    ] {
        let expected = if good { Ok(()) } else { Err(ProblemCode::TokenRevoked) };
        assert_eq!(say(&mut book, taken_ms), expected, "{taken_ms}");
    }
    // By a log time that is far from this machine's clock.
    let wall_ms = at - 3_600_000;
    let mut draft = Draft::after(book.state.end());
    let now = Now {
        at_ms: at + 10_000,
        wall_ms,
        new_id,
        log_full: false,
    };
    for (ago_ms, good) in [(5000, false), (4999, true)] {
        let mut request = request("alice", "lobby", Kind::Msg, &json!({"body": 1}));
        request.by = kept(wall_ms - ago_ms);
        assert_eq!(
            admit(&mut book.state, &mut draft, &request, &now).is_ok(),
            good,
            "{ago_ms}"
        );
    }
}

#[test]
fn that_a_login_was_refused_only_workers_say() {
    let mut book = Book::founded();
    let body = json!({"body": {"user": "bob", "door": "nats", "reason": "expired", "count": 3, "worker": "authz-1"}});
    let login = request("admin", "_", Kind::Login, &body);
    for by in [By::Connection, by_token("t")] {
        let refused = book.ask_by(by, &login).map_err(|problem| problem.code);
        assert_eq!(refused, Err(ProblemCode::InvalidRequest));
    }
    let house = request("_", "_", Kind::Login, &body);
    book.ask_by(By::House, &house).unwrap();
    // A full log has no room for it: it is no policy.
    book.log_full = true;
    let refused = book.ask_by(By::House, &house).map_err(|problem| problem.code);
    assert_eq!(refused, Err(ProblemCode::LogFull));
}
