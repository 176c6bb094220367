//! Roles that tokens claim, on their way into the log.
//!
//! A request over NATS says who asks and not by which token, and the policy knows users and no tokens. So what a token claims is
//! noted in the log when it is shown, where that is news, and counts from there on as a role does that somebody gave.

use std::time::Duration;

use async_nats::{Client, Request as Ask};
use bytes::BytesMut;
use natterjack_nats_config::contract::{
    By, ClaimedBy, Id, Kind, Outcome, Principal, Problem, ProblemCode, Receipt, Request, SendPayload, TENANT_ROOM,
    UserBody, read_outcomes, write_bundle_line,
};
use natterjack_nats_config::tail::Log;
use serde_json::value::to_raw_value;

use crate::follow::Followed;
use crate::policy::{DEFAULT_ROLE, View, is_blocked, is_news, token_is_good};
use crate::token::Session;

/// How long the writer has at a login over NATS, whose server waits for 5 s in all.
const WITHIN: Duration = Duration::from_millis(1500);

/// What a token says that the view does not know yet.
pub struct News {
    /// What has to be written.
    pub request: Request,
    /// Whether anything is taken from the user by it: then nobody may go on before it is written.
    pub takes: bool,
}

/// What a session's token claims, where that is news. A token that is not good any more says nothing, and a role that there
/// is not counts as none.
#[must_use]
pub fn news(view: &View, session: &Session) -> Option<News> {
    let claimed = session.claimed.as_ref()?;
    let (who, issued_at_ms) = (&session.principal, session.issued_at_ms);
    let Principal { tenant, user } = who;
    let rights = |role: &Id| view.rights_of_role(tenant, role);
    let role = claimed.role.clone().filter(|role| rights(role).is_some());
    let known = view.claimed(tenant, user, &claimed.issuer);
    let is_news = is_news(known, role.as_ref(), issued_at_ms);
    if !is_news || !view.has_tenant(tenant) || is_blocked(view, who) || !token_is_good(view, who, &session.token()) {
        return None;
    }
    let default: Id = DEFAULT_ROLE.parse().ok()?;
    let of = |role: Option<&Id>| rights(role.unwrap_or(&default)).unwrap_or_default().of(user);
    let before = of(known.and_then(|known| known.role.as_ref()));
    let takes = of(role.as_ref()).lacks(&before).is_some();
    let body = UserBody {
        user: user.clone(),
        role,
        claimed: Some(ClaimedBy {
            issuer: claimed.issuer.to_string(),
            issued_at_ms,
        }),
    };
    let house: Id = TENANT_ROOM.parse().ok()?;
    Some(News {
        request: Request {
            principal: Principal {
                tenant: tenant.clone(),
                user: house.clone(),
            },
            by: By::House,
            room: house,
            kind: Kind::User,
            payload: SendPayload::of_body(to_raw_value(&body).ok()?),
            vouched: None,
        },
        takes,
    })
}

/// Notes what a token claims at a login over NATS, and waits until the view knows it.
///
/// # Errors
/// Where that does not come about and the token takes something from its user. What it would give comes with the next login.
pub(crate) async fn note(
    (client, log): (&Client, &Log),
    followed: &Followed,
    session: &Session,
) -> Result<(), Problem> {
    let Some(news) = news(&followed.view(), session) else {
        return Ok(());
    };
    let noted = async {
        ask(client, log, &news.request).await?;
        let mut passed = followed.passed();
        let known = passed.wait_for(|_| self::news(&followed.view(), session).is_none());
        known.await.map(|_| ()).map_err(|error| unavailable(&error))
    };
    let noted = tokio::time::timeout(WITHIN, noted)
        .await
        .map_err(|error| unavailable(&error));
    concluded(noted.flatten(), news.takes, session)
}

/// What a login comes to once noting has: what the token takes from the user must not stay because the log was away for a moment,
/// and what it gives can wait.
///
/// # Errors
/// Where it was not noted, and takes something.
pub fn concluded(noted: Result<(), Problem>, takes: bool, session: &Session) -> Result<(), Problem> {
    match noted {
        Err(problem) if takes => Err(problem),
        Err(problem) => {
            tracing::warn!(%problem, user = %session.principal.user, "a role that a token claims is not noted yet");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Whether it is written: by this door, or by another that was quicker.
///
/// # Errors
/// What the writer refused it with.
pub fn written(outcome: Result<Receipt, Problem>) -> Result<(), Problem> {
    match outcome {
        Err(problem) if problem.code != ProblemCode::Conflict => Err(problem),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Has the writer write it, unless another worker did so already.
async fn ask(client: &Client, log: &Log, request: &Request) -> Result<(), Problem> {
    let mut bundle = BytesMut::new();
    write_bundle_line(&mut bundle, request).map_err(|error| unavailable(&error))?;
    let ask = Ask::new().payload(bundle.freeze()).timeout(Some(WITHIN));
    let answer = client.send_request(log.subjects.write(log.shard), ask).await;
    let answer = answer.map_err(|error| unavailable(&error))?;
    match read_outcomes(&answer.payload).next() {
        Some(Ok(Outcome::Receipt(receipt))) => written(Ok(receipt)),
        Some(Ok(Outcome::Problem(problem))) => written(Err(problem)),
        Some(Err(error)) => Err(unavailable(&error)),
        None => Err(unavailable(&"the writer's answer is empty")),
    }
}

fn unavailable(why: &dyn std::fmt::Display) -> Problem {
    Problem::new(ProblemCode::BrokerUnavailable, why.to_string())
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::token::ClaimedRole;

    fn view(events: &[Value]) -> View {
        let mut view = View::default();
        for (number, body) in events.iter().enumerate() {
            let kind = if body.get("valid_after_ms").is_some() {
                "token"
            } else {
                "user"
            };
            let event = json!({
                "v": 1, "seq": number + 1, "n": 1, "prev": 0, "id": "x", "tenant": "main", "room": "_", "from": "root",
                "kind": kind, "at": "2026-11-23T06:00:00.000Z", "body": body,
            });
            view.apply(&serde_json::from_str::<Event>(&event.to_string()).unwrap());
        }
        view
    }

    fn session(tenant: &str, role: Option<&str>, issued_at_ms: i64) -> Session {
        Session {
            principal: Principal {
                tenant: tenant.parse().unwrap(),
                user: "bob".parse().unwrap(),
            },
            claimed: Some(ClaimedRole {
                issuer: "https://a".into(),
                role: role.map(|role| role.parse().unwrap()),
            }),
            token_id: None,
            issued_at_ms,
            expires_at_ms: i64::MAX,
        }
    }

    #[test]
    fn only_what_a_good_token_newly_says_is_news_and_what_takes_is_told() {
        let founded = json!({"user": "root", "role": "admin"});
        let claimed = |role: &str| {
            let by = json!({"issuer": "https://a", "issued_at_ms": 10});
            json!({"user": "bob", "role": role, "claimed": by})
        };
        let of = |last: Value| view(&[founded.clone(), last]);
        let (new, blocked) = (of(json!({})), of(json!({"user": "bob", "role": "blocked"})));
        let (revoked, admin) = (of(json!({"user": "bob", "valid_after_ms": 50})), of(claimed("admin")));
        let guest = of(claimed("guest"));
        // None: no news. Else whether it takes something.
        let table = [
            (&new, "main", Some("admin"), 20, Some(false)),
            (&new, "main", Some("guest"), 20, Some(true)),
            (&new, "main", Some("nowhere"), 20, None),
            (&new, "main", None, 20, None),
            (&new, "nowhere", Some("admin"), 20, None),
            (&blocked, "main", Some("admin"), 20, None),
            (&revoked, "main", Some("admin"), 20, None),
            (&revoked, "main", Some("admin"), 60, Some(false)),
            (&admin, "main", Some("admin"), 20, None),
            (&admin, "main", None, 20, Some(true)),
            (&admin, "main", None, 9, None),
            (&admin, "main", Some("auditor"), 20, Some(true)),
            (&guest, "main", None, 20, Some(false)),
        ];
        for (number, (view, tenant, role, at_ms, expected)) in table.into_iter().enumerate() {
            let news = news(view, &session(tenant, role, at_ms));
            assert_eq!(news.map(|news| news.takes), expected, "row {number}");
        }
        let mut silent = session("main", None, 20);
        silent.claimed = None;
        assert!(news(&admin, &silent).is_none());
    }

    fn refused(code: ProblemCode) -> Problem {
        Problem::new(code, "for the test")
    }

    #[test]
    fn nobody_gets_in_whose_token_takes_what_could_not_be_noted() {
        let concluded =
            |noted, takes| concluded(noted, takes, &session("main", None, 20)).map_err(|problem| problem.code);
        let away = || Err(refused(ProblemCode::BrokerUnavailable));
        assert_eq!(concluded(away(), true), Err(ProblemCode::BrokerUnavailable));
        assert_eq!(concluded(away(), false), Ok(()), "what it would give can wait");
        assert_eq!((concluded(Ok(()), true), concluded(Ok(()), false)), (Ok(()), Ok(())));
    }

    #[test]
    fn what_another_door_wrote_first_is_written() {
        let written = |code| written(Err(refused(code))).map_err(|problem| problem.code);
        assert_eq!(written(ProblemCode::Conflict), Ok(()));
        assert_eq!(written(ProblemCode::Forbidden), Err(ProblemCode::Forbidden));
    }
}
