use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use natterjack_authz::claimed::{News, concluded, news, written};
use natterjack_authz::policy::{is_blocked, token_is_good};
use natterjack_authz::refused::{RefusedLogin, RefusedLogins};
use natterjack_authz::token::{Session as Authenticated, TokenError, Verifier, is_api_key, session_by_key};
use natterjack_nats_config::contract::{Actor, By, Principal, Problem, ProblemCode};
use natterjack_nats_config::{Subjects, clock};
use tokio::time::Instant;

use crate::bundle::Sending;
use crate::feed::Feed;
use crate::ops::{Bridge, Session};

/// Finds out who makes a request, by the token or API key that it has.
pub(crate) struct Auth {
    verifier: Arc<Verifier>,
    /// Knows the API keys.
    feed: Arc<Feed>,
    /// Tells the audit trail.
    refused: Arc<RefusedLogins>,
    /// Where what tokens claim is noted.
    sending: Sending,
}

/// How long it may take until what a token claims is noted, and known here.
const NOTED_WITHIN: Duration = Duration::from_secs(10);
/// What a claim only gives is not waited for any longer: without the log requests go on as they can.
const GIVEN_WITHIN: Duration = Duration::from_secs(1);

/// The caller, after the token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) who: Actor,
    /// When the token expires, in milliseconds since 1970.
    pub(crate) expires_at_ms: i64,
}

/// What the header `Authorization` holds.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    token: String,
    /// Whom it must be of, where that is said (Basic).
    user: Option<String>,
}

impl Auth {
    pub(crate) fn new(verifier: Arc<Verifier>, bridge: &Bridge, refused: Arc<RefusedLogins>) -> Self {
        Self {
            verifier,
            feed: Arc::clone(&bridge.feed),
            refused,
            sending: bridge.sending.clone(),
        }
    }

    /// The caller: by a token, or by an API key.
    ///
    /// # Errors
    /// `token-missing`, `token-expired`, `token-invalid` or `issuer-unavailable`. Which rule a token broke is told to the log only.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        self.judge(&given(headers)?, "http").await
    }

    /// Whoever asks over NATS, by a token in the request: the connection does not say what opened it.
    ///
    /// # Errors
    /// As [`caller`](Self::caller), and where the token is somebody else's.
    pub(crate) async fn by_token_of(&self, who: &Principal, token: String) -> Result<Actor, Problem> {
        let user = Some(Subjects::principal_name(&who.tenant, &who.user));
        Ok(self.judge(&Given { token, user }, "nats").await?.who)
    }

    async fn judge(&self, Given { token, user }: &Given, door: &'static str) -> Result<Caller, Problem> {
        let verified = if is_api_key(token) {
            self.by_key(token)?
        } else {
            self.verifier.verify(token, clock::now_ms()).await
        };
        let session = verified.map_err(|error| {
            self.note_refused(user.as_deref(), &error, door);
            problem(&error)
        })?;
        if user.as_ref().is_some_and(|user| !is_named(&session.principal, user)) {
            return Err(Problem::new(
                ProblemCode::TokenInvalid,
                "the token is another user's: with Basic the name is the user and the password is the token or API key",
            ));
        }
        self.note_void(&session, door);
        self.note_claims(&session).await?;
        Ok(Caller {
            who: Actor {
                by: By::Token(session.token()),
                principal: session.principal,
            },
            expires_at_ms: session.expires_at_ms,
        })
    }

    /// Has noted what the token claims of its user's role, where that is news, before anything is asked by it.
    async fn note_claims(&self, session: &Authenticated) -> Result<(), Problem> {
        // Where this bridge does not know the log yet the request is refused for that.
        if session.claimed.is_none() || !self.feed.is_caught_up() {
            return Ok(());
        }
        let Some(News { request, takes }) = self.feed.with_view(|view| news(view, session)) else {
            return Ok(());
        };
        let noted = async {
            written(self.sending.ask(request)?.outcome().await)?;
            let known = || self.feed.with_view(|view| news(view, session).is_none());
            self.feed.wait_until(known).await;
            Ok(())
        };
        let late = || {
            Problem::new(
                ProblemCode::BrokerUnavailable,
                "what the token claims is not noted yet; try again",
            )
        };
        let within = if takes { NOTED_WITHIN } else { GIVEN_WITHIN };
        let noted = tokio::time::timeout(within, noted).await;
        concluded(noted.unwrap_or_else(|_| Err(late())), takes, session)
            .map_err(|problem| Problem::new(ProblemCode::BrokerUnavailable, problem.detail))
    }

    /// A token that is as it should be, of somebody who may do nothing: the request is refused where it is judged, and here it is
    /// told to the audit trail.
    fn note_void(&self, session: &Authenticated, door: &'static str) {
        let who = &session.principal;
        let why = self.feed.with_view(|view| {
            let is_revoked = !token_is_good(view, who, &session.token());
            let blocked = is_blocked(view, who).then_some("the user is blocked in the tenant");
            is_revoked.then_some("the token was revoked").or(blocked)
        });
        if let Some(why) = why {
            let user = Some(who.user.clone());
            self.refused.note(RefusedLogin::new(user, "", door, &why));
        }
    }

    /// What cannot be judged was not refused.
    fn note_refused(&self, user: Option<&str>, error: &TokenError, door: &'static str) {
        if matches!(error, TokenError::Missing | TokenError::Unavailable(_)) {
            return;
        }
        let named = user.map(|user| user.split_once('.').map_or(user, |(_, user)| user));
        let claimed = named.and_then(|user| user.parse().ok());
        self.refused.note(RefusedLogin::new(claimed, "", door, error));
    }

    fn by_key(&self, key: &str) -> Result<Result<Authenticated, TokenError>, Problem> {
        if !self.feed.is_caught_up() {
            let detail = "this bridge is still reading the log; try again, or ask another bridge";
            return Err(Problem::new(ProblemCode::Overloaded, detail));
        }
        let now_ms = clock::now_ms();
        Ok(self.feed.with_view(|view| session_by_key(view, key, now_ms)))
    }
}

impl Caller {
    /// How long the session still lasts.
    pub(crate) fn expires_in(&self) -> Duration {
        let left = u64::try_from(self.expires_at_ms - clock::now_ms()).unwrap_or_default();
        Duration::from_millis(left)
    }

    /// The session of a reader.
    pub(crate) fn session(&self) -> Session {
        Session {
            until: Instant::now() + self.expires_in(),
            actor: self.who.clone(),
        }
    }
}

/// The name under which somebody may sign in: `user`, or `tenant.user`.
fn is_named(who: &Principal, name: &str) -> bool {
    name == who.user.as_str() || name.split_once('.') == Some((who.tenant.as_str(), who.user.as_str()))
}

fn given(headers: &HeaderMap) -> Result<Given, Problem> {
    let missing = || {
        let detail = "this needs a token or an API key: send the header `Authorization: Bearer <token>`";
        Problem::new(ProblemCode::TokenMissing, detail)
    };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Problem::new(
            ProblemCode::TokenInvalid,
            "`Authorization` is given twice; send one",
        ));
    }
    let text = value.to_str().map_err(|_| invalid())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Given {
            token: token.trim().to_owned(),
            user: None,
        }),
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => basic(pair.trim()).ok_or_else(invalid),
        _ => Err(missing()),
    }
}

/// RFC 7617: base64 of `user:password`; the password is the token.
fn basic(pair: &str) -> Option<Given> {
    let pair = String::from_utf8(STANDARD.decode(pair).ok()?).ok()?;
    let (user, token) = pair.split_once(':')?;
    Some(Given {
        token: token.to_owned(),
        user: Some(user.to_owned()),
    })
}

fn problem(error: &TokenError) -> Problem {
    match error {
        TokenError::Missing => Problem::new(ProblemCode::TokenMissing, "the token is empty"),
        TokenError::Expired => Problem::new(ProblemCode::TokenExpired, "the token has expired; get a new one"),
        TokenError::Invalid(_) => {
            tracing::info!(%error, "a token was refused");
            invalid()
        }
        TokenError::Unavailable(_) => {
            tracing::warn!(%error, "a token cannot be judged");
            let detail = "the keys of the token's issuer are being fetched, or its service does not answer; try again";
            Problem::new(ProblemCode::IssuerUnavailable, detail)
        }
    }
}

fn invalid() -> Problem {
    Problem::new(
        ProblemCode::TokenInvalid,
        "the token cannot be accepted; get a new one from the issuer",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected = Result<(&'static str, Option<&'static str>), ProblemCode>;

    #[test]
    fn a_token_is_taken_from_one_header_and_nowhere_else() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            given(&headers)
                .map(|given| (given.token, given.user))
                .map_err(|problem| problem.code)
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let of_alice = basic("alice:abc");
        let no_colon = basic("abc");
        let with_colon = basic("alice:a:b");
        let table: &[(&[&str], Expected)] = &[
            (&["Bearer abc"], Ok(("abc", None))),
            (&["bearer  abc "], Ok(("abc", None))),
            (&[&of_alice], Ok(("abc", Some("alice")))),
            (&[&with_colon], Ok(("a:b", Some("alice")))),
            (&[&no_colon], Err(ProblemCode::TokenInvalid)),
            (&["Basic !"], Err(ProblemCode::TokenInvalid)),
            (&[], Err(ProblemCode::TokenMissing)),
            (&["abc"], Err(ProblemCode::TokenMissing)),
            (&["Digest abc"], Err(ProblemCode::TokenMissing)),
            (&["Bearer a", "Bearer b"], Err(ProblemCode::TokenInvalid)),
            (&["Bearer ä"], Err(ProblemCode::TokenInvalid)),
        ];
        for (values, expected) in table {
            let expected = expected.map(|(token, user)| (token.to_owned(), user.map(str::to_owned)));
            assert_eq!(read(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_name_is_the_user_with_or_without_the_tenant() {
        let who = Principal {
            tenant: "main".parse().unwrap(),
            user: "alice".parse().unwrap(),
        };
        for (name, expected) in [
            ("alice", true),
            ("main.alice", true),
            ("Alice", false),
            ("other.alice", false),
            ("main.", false),
            ("", false),
        ] {
            assert_eq!(is_named(&who, name), expected, "{name}");
        }
    }
}
