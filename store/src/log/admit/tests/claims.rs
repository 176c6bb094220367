//! Roles that tokens claim.

use serde_json::{Value, json};

use super::*;

type Outcome = Result<Receipt, ProblemCode>;

impl Book {
    fn claim_by(&mut self, by: By, (issuer, at): (&str, i64), role: Option<&str>) -> Outcome {
        let claimed = json!({"issuer": issuer, "issued_at_ms": at});
        let body = json!({"body": {"user": "bob", "role": role, "claimed": claimed}});
        let asked = self.ask_by(by, &request("_", "_", Kind::User, &body));
        asked.map_err(|problem| problem.code)
    }

    fn claim(&mut self, at: i64, role: Option<&str>) -> Outcome {
        self.claim_by(By::House, ("https://a", at), role)
    }

    fn role_of_bob(&self) -> &str {
        self.state.view.tenant_role(&id("main"), &id("bob"))
    }
}

#[test]
fn a_role_that_a_newer_token_took_away_is_not_brought_back_by_an_older_one() {
    let mut book = Book::founded();
    book.claim(10, Some("admin")).unwrap();
    assert_eq!(book.claim(10, Some("admin")), Err(ProblemCode::Conflict), "once");
    assert_eq!(book.claim(20, Some("admin")), Err(ProblemCode::Conflict), "nothing new");
    book.claim(30, None).unwrap();
    assert_eq!(book.role_of_bob(), "member");
    for at in [10, 29, 30] {
        assert_eq!(book.claim(at, Some("admin")), Err(ProblemCode::Conflict), "{at}");
    }
    book.claim(31, Some("auditor")).unwrap();
    assert_eq!(book.role_of_bob(), "auditor");
}

#[test]
fn only_workers_say_what_is_claimed_and_only_roles_that_there_are() {
    let mut book = Book::founded();
    let token = TokenRef {
        jti: None,
        issued_at_ms: 1,
    };
    for by in [By::Connection, By::Token(token), By::Kept { taken_ms: 1 }] {
        assert_eq!(
            book.claim_by(by, ("https://a", 1), Some("admin")),
            Err(ProblemCode::InvalidRequest)
        );
    }
    let claimed = json!({"issuer": "https://a", "issued_at_ms": 1});
    let by_admin = json!({"body": {"user": "bob", "role": "admin", "claimed": claimed}});
    assert!(book.ask("admin", "_", Kind::User, &by_admin).is_err());
    for role in ["blocked", "nowhere"] {
        assert_eq!(book.claim(1, Some(role)), Err(ProblemCode::InvalidRequest), "{role}");
    }
    for issuer in ["", &"x".repeat(257)] {
        let refused = book.claim_by(By::House, (issuer, 1), Some("admin"));
        assert_eq!(refused, Err(ProblemCode::InvalidRequest));
    }
    assert_eq!(book.role_of_bob(), "member");
    let body = json!({"body": {"user": "bob", "role": "admin", "claimed": claimed}});
    let mut elsewhere = request("_", "_", Kind::User, &body);
    elsewhere.principal.tenant = id("nowhere");
    assert_eq!(
        book.ask_by(By::House, &elsewhere).unwrap_err().code,
        ProblemCode::NotFound
    );
}

#[test]
fn what_is_given_counts_before_what_is_claimed_and_is_taken_back_apart() {
    let mut book = Book::founded();
    let give = |book: &mut Book, role: Option<&str>| {
        let body: Value = json!({"body": {"user": "bob", "role": role}});
        book.ask("admin", "_", Kind::User, &body).unwrap();
    };
    book.claim(10, Some("admin")).unwrap();
    give(&mut book, Some("guest"));
    assert_eq!(book.role_of_bob(), "guest");
    book.claim(20, Some("auditor")).unwrap();
    assert_eq!(book.role_of_bob(), "guest");
    give(&mut book, None);
    assert_eq!(book.role_of_bob(), "auditor");
    book.claim_by(By::House, ("https://b", 1), Some("device")).unwrap();
    assert_eq!(book.role_of_bob(), "device", "the last one counts");
    book.claim_by(By::House, ("https://b", 2), None).unwrap();
    assert_eq!(book.role_of_bob(), "auditor");
    for number in 3..=8 {
        let issuer = format!("https://{number}");
        book.claim_by(By::House, (&issuer, 1), Some("guest")).unwrap();
    }
    let ninth = book.claim_by(By::House, ("https://9", 1), Some("guest"));
    assert_eq!(ninth, Err(ProblemCode::RateLimited));
}

#[test]
fn a_role_that_is_claimed_is_held_and_nobody_gives_by_taking_back() {
    let mut book = Book::founded();
    let role = json!({"body": {"role": "ops", "scope": "tenant", "permissions": ["room.create"]}});
    book.ask("admin", "_", Kind::Role, &role).unwrap();
    book.claim(10, Some("ops")).unwrap();
    let delete = json!({"body": {"role": "ops", "scope": "tenant", "permissions": null}});
    let refused = book.ask("admin", "_", Kind::Role, &delete).unwrap_err();
    assert_eq!(refused.code, ProblemCode::Conflict);
    // Somebody who may give roles and lacks what is claimed.
    let small = json!({"body": {"role": "small", "scope": "tenant", "permissions": ["tenant.admin", "room.create", "room.direct"]}});
    book.ask("admin", "_", Kind::Role, &small).unwrap();
    for (user, role) in [("eve", "small"), ("bob", "guest")] {
        book.ask("admin", "_", Kind::User, &json!({"body": {"user": user, "role": role}}))
            .unwrap();
    }
    book.claim(20, Some("admin")).unwrap();
    let refused = book.ask("eve", "_", Kind::User, &json!({"body": {"user": "bob", "role": null}}));
    assert_eq!(refused.unwrap_err().code, ProblemCode::Forbidden);
}
