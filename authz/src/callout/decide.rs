use natterjack_nats_config::contract::{Id, Principal, Subjects};

use super::claims::Request;
use crate::policy::{SubjectPermissions, View, is_blocked, subject_permissions, token_is_good};
use crate::token::{Session, TokenError, is_api_key};

/// Over which door of the server a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientKind {
    Nats,
    WebSocket,
    Mqtt,
}

/// Who is let in, and with which rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) session: Session,
    /// The NATS account the connection is put into.
    pub(crate) account: &'static str,
    pub(crate) permissions: SubjectPermissions,
}

/// Why somebody is not let in. For the log; the client hears only that it is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the connection is of the unknown type {0:?}")]
    Kind(String),
    #[error("two different tokens were given")]
    TwoTokens,
    #[error("the user name given is not the token's user")]
    User,
    #[error("an MQTT client id must be `{0}`, or that and `:something`")]
    ClientId(String),
    #[error("there is no tenant {0}")]
    Tenant(String),
    #[error("the token was revoked")]
    Revoked,
    #[error("the user has {0} connections already")]
    TooManyConnections(usize),
    #[error("too many logins from there were refused, and this credential is not known")]
    TooManyRefused,
    #[error("the user is blocked in the tenant")]
    Blocked,
    #[error("what the token takes from the user cannot be noted now: {0}")]
    Claims(String),
    #[error("this worker is not registered now")]
    NotRegistered,
}

impl Refusal {
    /// Whether it lies in what the client gave; what cannot be judged now was not refused for good.
    pub(crate) fn is_of_the_client(&self) -> bool {
        !matches!(
            self,
            Self::NotRegistered | Self::Claims(_) | Self::Token(TokenError::Unavailable(_))
        )
    }
}

/// The token that a connection gives: as `auth_token` or as password, empty if it gives none.
pub(crate) fn token_of(request: &Request) -> Result<&str, Refusal> {
    let options = &request.connect_opts;
    let mut tokens = [&options.auth_token, &options.pass]
        .into_iter()
        .filter(|token| !token.is_empty());
    let token = tokens.next();
    if tokens.next().is_some_and(|other| Some(other) != token) {
        return Err(Refusal::TwoTokens);
    }
    Ok(token.map_or("", String::as_str))
}

/// Who a connection says it is, where that can be the name of a user. Nobody has checked it.
pub(crate) fn claimed(request: &Request) -> Option<Id> {
    let named = request.connect_opts.user.as_str();
    // A client that gives its token as a user name has it here too.
    if is_api_key(named) || token_of(request).is_ok_and(|token| token == named) {
        return None;
    }
    let user = named.split_once('.').map_or(named, |(_, user)| user);
    user.parse().ok()
}

/// The door's name, of those that there are.
pub(crate) fn door(kind: &str) -> &'static str {
    match kind {
        "nats" => "nats",
        "websocket" => "websocket",
        "mqtt" => "mqtt",
        _ => "*",
    }
}

/// Judges a connection by what its token says and by the view as it is now.
pub(crate) fn judge(request: &Request, session: Session, view: &View, subjects: &Subjects) -> Result<Entry, Refusal> {
    let kind = kind(&request.client_info.kind)?;
    let Principal { tenant, user } = &session.principal;
    let named = request.connect_opts.user.as_str();
    // A client that gives its token as a user name has it here too: then it is no name.
    let is_name = !named.is_empty() && token_of(request)? != named;
    if is_name && named != user.as_str() && named != Subjects::principal_name(tenant, user) {
        return Err(Refusal::User);
    }
    if kind == ClientKind::Mqtt {
        check_client_id(&request.client_info.mqtt_id, &session.principal)?;
    }
    if !view.has_tenant(tenant) {
        return Err(Refusal::Tenant(tenant.to_string()));
    }
    if !token_is_good(view, &session.principal, &session.token()) {
        return Err(Refusal::Revoked);
    }
    if is_blocked(view, &session.principal) {
        return Err(Refusal::Blocked);
    }
    Ok(Entry {
        account: kind.account(),
        permissions: subject_permissions(view, subjects, &session.principal),
        session,
    })
}

/// An MQTT session belongs to its client id: who may use another's takes over its subscriptions.
fn check_client_id(given: &str, who: &Principal) -> Result<(), Refusal> {
    let own = Subjects::mqtt_client_id(&who.tenant, &who.user);
    match given.strip_prefix(&own) {
        Some(rest) if rest.is_empty() || rest.starts_with(':') => Ok(()),
        _ => Err(Refusal::ClientId(own)),
    }
}

fn kind(name: &str) -> Result<ClientKind, Refusal> {
    match name {
        "nats" => Ok(ClientKind::Nats),
        "websocket" => Ok(ClientKind::WebSocket),
        "mqtt" => Ok(ClientKind::Mqtt),
        other => Err(Refusal::Kind(other.to_owned())),
    }
}

impl ClientKind {
    /// MQTT has an account of its own, because its sessions need JetStream and nobody else may have that near.
    pub(crate) fn account(self) -> &'static str {
        match self {
            Self::Nats | Self::WebSocket => "CLIENTS",
            Self::Mqtt => "DEVICES",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use natterjack_nats_config::contract::Event;
    use serde_json::json;

    use super::*;
    use crate::token::{Issuer, Verifier};

    const NOW: i64 = 1_795_413_600_000;

    struct Desk {
        issuer: Issuer,
        verifier: Verifier,
        view: View,
        _folder: tempfile::TempDir,
    }

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let issuer = Issuer::load_or_create(folder.path()).unwrap();
            let verifier = Verifier::new(&issuer.public_pem()).unwrap();
            let mut view = View::default();
            let events = [
                json!({"room": "lobby", "kind": "room", "body": {}}),
                json!({"room": "lobby", "kind": "member", "body": {"user": "bob", "role": "member"}}),
                json!({"room": "lobby", "kind": "member", "body": {"user": "mal", "role": "member"}}),
                json!({"room": "_", "kind": "user", "body": {"user": "mal", "role": "blocked"}}),
            ];
            for (i, mut event) in events.into_iter().enumerate() {
                for (name, value) in [
                    ("v", json!(1)),
                    ("seq", json!(i + 1)),
                    ("n", json!(i + 1)),
                    ("prev", json!(i)),
                    ("id", json!("x")),
                    ("tenant", json!("main")),
                    ("from", json!("root")),
                    ("at", json!("2026-11-23T06:00:00.000Z")),
                ] {
                    event[name] = value;
                }
                view.apply(&serde_json::from_str::<Event>(&event.to_string()).unwrap());
            }
            Self {
                issuer,
                verifier,
                view,
                _folder: folder,
            }
        }

        fn token(&self, tenant: &str, user: &str) -> String {
            let who = Principal {
                tenant: id(tenant),
                user: id(user),
            };
            self.issuer.issue(&who, Duration::from_mins(1), NOW).unwrap()
        }

        fn judge(&self, kind: &str, mqtt_id: &str, options: serde_json::Value) -> Result<Entry, Refusal> {
            let mut request = Request {
                connect_opts: serde_json::from_value(options).unwrap(),
                ..Request::default()
            };
            request.client_info.kind = kind.to_owned();
            request.client_info.mqtt_id = mqtt_id.to_owned();
            let verified = self.verifier.verify(token_of(&request)?, NOW).now_or_never();
            judge(
                &request,
                verified.expect("a key that is known")?,
                &self.view,
                &Subjects::default(),
            )
        }
    }

    #[test]
    fn a_member_gets_his_own_subjects_and_his_rooms() {
        let desk = Desk::new();
        let entry = desk
            .judge("nats", "", json!({"auth_token": desk.token("main", "bob")}))
            .unwrap();
        assert_eq!(entry.account, "CLIENTS");
        assert_eq!(entry.permissions.publish, ["chat.in.main.bob.>", "chat.api.main.bob.>"]);
        assert_eq!(
            entry.permissions.subscribe,
            ["_INBOX.main.bob.>", "chat.user.main.bob", "chat.room.main.lobby.*"]
        );
        let erin = desk
            .judge("websocket", "", json!({"auth_token": desk.token("main", "erin")}))
            .unwrap();
        assert_eq!(
            erin.permissions.subscribe,
            ["_INBOX.main.erin.>", "chat.user.main.erin"]
        );
    }

    #[test]
    fn the_token_may_come_as_token_or_password_and_the_name_must_fit() {
        let desk = Desk::new();
        let token = desk.token("main", "bob");
        for good in [
            json!({"pass": token}),
            json!({"user": "bob", "pass": token}),
            json!({"user": "main.bob", "pass": token}),
            json!({"user": "bob", "pass": token, "auth_token": token}),
        ] {
            desk.judge("nats", "", good).unwrap();
        }
        assert_eq!(
            desk.judge("nats", "", json!({"user": "alice", "pass": token})),
            Err(Refusal::User)
        );
    }

    #[test]
    fn who_has_no_good_token_stays_out() {
        let desk = Desk::new();
        let missing = || Err(Refusal::Token(TokenError::Missing));
        assert_eq!(desk.judge("nats", "", json!({})), missing());
        assert_eq!(
            desk.judge("nats", "", json!({"user": "bob", "pass": "", "nkey": "UABC"})),
            missing()
        );
        assert_eq!(desk.judge("mqtt", "main:bob", json!({"user": "bob"})), missing());
        let foreign = Desk::new().token("main", "bob");
        let refused = desk.judge("nats", "", json!({"auth_token": foreign}));
        assert!(
            matches!(refused, Err(Refusal::Token(TokenError::Invalid(_)))),
            "{refused:?}"
        );
        let refused = desk.judge("nats", "", json!({"auth_token": desk.token("other", "bob")}));
        assert_eq!(refused, Err(Refusal::Tenant("other".to_owned())));
        let refused = desk.judge("nats", "", json!({"auth_token": desk.token("main", "mal")}));
        assert_eq!(refused, Err(Refusal::Blocked));
        let refused = desk.judge("leafnode", "", json!({"auth_token": desk.token("main", "bob")}));
        assert!(matches!(refused, Err(Refusal::Kind(_))));
    }

    #[test]
    fn only_what_the_client_gave_is_refused_for_good() {
        for later in [
            Refusal::NotRegistered,
            Refusal::Claims(String::new()),
            Refusal::Token(TokenError::Unavailable("for the test")),
        ] {
            assert!(!later.is_of_the_client(), "{later}");
        }
        for own in [Refusal::User, Refusal::Blocked, Refusal::Token(TokenError::Missing)] {
            assert!(own.is_of_the_client(), "{own}");
        }
    }

    #[test]
    fn a_name_that_is_given_is_told_and_never_a_credential() {
        let claimed = |options: serde_json::Value| {
            let connect_opts = serde_json::from_value(options).unwrap();
            claimed(&Request {
                connect_opts,
                ..Request::default()
            })
        };
        let bob = Some(id("bob"));
        assert_eq!(claimed(json!({"user": "bob", "pass": "t"})), bob);
        assert_eq!(claimed(json!({"user": "main.bob", "auth_token": "t"})), bob);
        assert_eq!(claimed(json!({"user": "bob", "pass": "t", "auth_token": "u"})), bob);
        assert_eq!(claimed(json!({"user": "secret", "pass": "secret"})), None);
        assert_eq!(claimed(json!({"user": "nj_0123456789abcdef", "pass": "t"})), None);
        assert_eq!(claimed(json!({"user": "no name"})), None);
        assert_eq!(claimed(json!({})), None);
    }

    #[test]
    fn a_door_has_a_name_and_what_is_none_has_not() {
        for name in ["nats", "websocket", "mqtt"] {
            assert_eq!(door(name), name);
        }
        assert_eq!(door("leafnode"), "*");
    }

    #[test]
    fn an_mqtt_client_uses_its_own_client_id() {
        let desk = Desk::new();
        let options = || json!({"user": "bob", "pass": desk.token("main", "bob")});
        for good in ["main:bob", "main:bob:", "main:bob:phone"] {
            assert_eq!(desk.judge("mqtt", good, options()).unwrap().account, "DEVICES");
        }
        for bad in ["", "bob", "main:bobby", "main:alice", "other:bob", "x-main:bob"] {
            assert!(
                matches!(desk.judge("mqtt", bad, options()), Err(Refusal::ClientId(_))),
                "{bad}"
            );
        }
    }
}
