use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use jwt_simple::prelude::Token;
use natterjack_nats_config::contract::{Id, MAX_TOKEN_ID_BYTES, Principal, TokenRef};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::claims::{Mapping, TenantFrom};
use super::key::{Algorithm, Key, Material};
use super::remote::Asked;
use super::settings::{IssuerSettings, SettingsError};
use super::trust::{Checked, Failure, Header, Keys, Trust};
use super::{AUDIENCE, ISSUER};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The most verified tokens that are remembered: verifying costs 50 to 200 µs, remembering 300 bytes.
const MAX_REMEMBERED: usize = 10_000;

/// Says who a token is from. Each issuer has its own audiences, algorithms and keys.
pub struct Verifier {
    trusts: Vec<Trust>,
    verified: Mutex<HashMap<[u8; 32], Remembered>>,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who.
    pub principal: Principal,
    /// What it claims of their role in the tenant, where its issuer's tokens do so.
    pub claimed: Option<ClaimedRole>,
    /// The token's `jti`.
    pub token_id: Option<String>,
    /// `iat`, in milliseconds since 1970.
    pub issued_at_ms: i64,
    /// `exp`, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// What a token claims of its user's role in the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedRole {
    /// Its issuer.
    pub issuer: Arc<str>,
    /// The role; none where it names nothing that means one here.
    pub role: Option<Id>,
}

/// Why a token is not accepted. The answer says only which of these; the rule is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("no token was given")]
    Missing,
    /// It was good.
    #[error("the token has expired")]
    Expired,
    /// It is not acceptable.
    #[error("the token is not acceptable: {0}")]
    Invalid(String),
    /// It cannot be judged now: its issuer's keys are not known, or not the one that it names. Try again.
    #[error("the token cannot be judged now: {0}")]
    Unavailable(&'static str),
}

/// The public key of the local issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the public key {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no key.
    #[error("{path} holds no Ed25519 public key in PEM form")]
    Key {
        /// Where it was read from.
        path: String,
    },
    /// The settings of another issuer cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// A token that was good, by which issuer's which key.
#[derive(Clone)]
struct Remembered {
    session: Session,
    trust: usize,
    key: [u8; 32],
}

/// The one claim that is read before the signature is checked: whose keys to check it with.
#[derive(serde::Deserialize)]
struct Claimed {
    iss: String,
}

impl Session {
    /// The token, as far as its revocation needs to know it.
    #[must_use]
    pub fn token(&self) -> TokenRef {
        TokenRef {
            jti: self.token_id.clone().filter(|jti| jti.len() <= MAX_TOKEN_ID_BYTES),
            issued_at_ms: self.issued_at_ms,
        }
    }
}

impl Verifier {
    /// Verifies what the local issuer's key signed.
    pub fn new(public_pem: &str) -> Result<Self, KeyError> {
        Ok(Self::of(vec![local(public_pem, "the key")?]))
    }

    /// Reads the local issuer's key from a file, `token.pub`.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        Self::open(Some(path), &[])
    }

    /// The issuers of the configuration, and the local one where the file of its key is given. Nothing is fetched before
    /// [`keep_fresh`](Self::keep_fresh).
    pub fn open(local_key: Option<&Path>, issuers: &[IssuerSettings]) -> Result<Self, KeyError> {
        let mut trusts = Vec::new();
        if let Some(path) = local_key {
            let name = path.display().to_string();
            let pem = std::fs::read_to_string(path).map_err(|source| KeyError::Read {
                path: name.clone(),
                source,
            })?;
            trusts.push(local(&pem, &name)?);
        }
        for settings in issuers {
            trusts.push(settings.open()?);
        }
        Ok(Self::of(trusts))
    }

    fn of(trusts: Vec<Trust>) -> Self {
        Self {
            trusts,
            verified: Mutex::default(),
        }
    }

    /// Fetches the keys of issuers that publish them, and keeps them fresh, until it is told to stop.
    pub async fn keep_fresh(&self, shutdown: &CancellationToken) {
        let remotes = self.trusts.iter().filter_map(|trust| match &trust.keys {
            Keys::Remote(remote) => Some(remote.keep_fresh(shutdown)),
            Keys::Fixed(_) => None,
        });
        join_all(remotes).await;
    }

    /// Says who the token is from, at a time. A token that was verified before is only looked up, until it expires or its
    /// key is withdrawn. Waits only for keys that are not known (at most 4 s).
    pub async fn verify(&self, token: &str, now_ms: i64) -> Result<Session, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid(format!("longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let name: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(session) = self.known(&name) {
            if session.expires_at_ms <= now_ms {
                self.verified.lock().remove(&name);
                return Err(TokenError::Expired);
            }
            return Ok(session);
        }
        let (trust, checked) = self.check(token, now_ms).await?;
        let session = checked.session.clone();
        // RFC 7519: *on or after* `exp` it is not accepted; jwt-simple takes it for good at that very moment.
        if session.expires_at_ms <= now_ms {
            return Err(TokenError::Expired);
        }
        let remembered = Remembered {
            session: checked.session,
            trust,
            key: checked.key,
        };
        self.remember(name, remembered, now_ms);
        Ok(session)
    }

    /// Whether a token was good a moment ago: then looking at it again costs next to nothing.
    #[must_use]
    pub fn is_known(&self, token: &str) -> bool {
        let name: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        token.len() <= MAX_TOKEN_BYTES && self.verified.lock().contains_key(&name)
    }

    /// What is remembered of a token, if its key is good still.
    fn known(&self, name: &[u8; 32]) -> Option<Session> {
        let known = self.verified.lock().get(name).cloned()?;
        if self.trusts.get(known.trust)?.still_has(&known.key) {
            return Some(known.session);
        }
        self.verified.lock().remove(name);
        None
    }

    async fn check(&self, token: &str, now_ms: i64) -> Result<(usize, Checked), TokenError> {
        let (number, trust, header) = self.trust(token)?;
        match trust.check(token, &header, now_ms) {
            Ok(checked) => return Ok((number, checked)),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::NoKey) => {}
        }
        let Keys::Remote(remote) = &trust.keys else {
            return Err(unknown_key());
        };
        let asked = remote.ask(header.key_id.as_deref()).await;
        match trust.check(token, &header, now_ms) {
            Ok(checked) => Ok((number, checked)),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::NoKey) if !remote.is_known() => {
                Err(TokenError::Unavailable("the issuer's keys cannot be fetched"))
            }
            Err(Failure::NoKey) if asked == Asked::Fetched => Err(unknown_key()),
            Err(Failure::NoKey) => Err(TokenError::Unavailable("its key is not known yet")),
        }
    }

    /// The issuer that a token says it is of, and what its header says. Nothing here is believed yet.
    fn trust(&self, token: &str) -> Result<(usize, &Trust, Header), TokenError> {
        let invalid = |what: &str| TokenError::Invalid(what.to_owned());
        let metadata = Token::decode_metadata(token).map_err(|error| TokenError::Invalid(error.to_string()))?;
        let claims = token.split('.').nth(1).ok_or_else(|| invalid("no claims"))?;
        let claims = URL_SAFE_NO_PAD
            .decode(claims)
            .map_err(|_| invalid("claims that are no base64url"))?;
        let claimed: Claimed = serde_json::from_slice(&claims)
            .map_err(|_| invalid("claims that are no JSON object with one text `iss`"))?;
        let mut trusts = self.trusts.iter().enumerate();
        let (number, trust) = trusts
            .find(|(_, trust)| trust.issuer == claimed.iss)
            .ok_or_else(|| invalid("`iss` is no issuer that is believed"))?;
        let header = trust.header(metadata.algorithm(), metadata.key_id())?;
        Ok((number, trust, header))
    }

    fn remember(&self, name: [u8; 32], remembered: Remembered, now_ms: i64) {
        let mut verified = self.verified.lock();
        if verified.len() >= MAX_REMEMBERED && !verified.contains_key(&name) {
            verified.retain(|_, known| known.session.expires_at_ms > now_ms);
            if verified.len() >= MAX_REMEMBERED {
                verified.clear();
            }
        }
        verified.insert(name, remembered);
    }
}

fn unknown_key() -> TokenError {
    TokenError::Invalid("no key of the issuer fits".to_owned())
}

/// The local issuer: one Ed25519 key, any tenant, and users by their ids.
fn local(public_pem: &str, path: &str) -> Result<Trust, KeyError> {
    let material = Material::Pem(public_pem.to_owned());
    let key = Key::new(None, &material, &[Algorithm::EdDSA]).ok_or_else(|| KeyError::Key { path: path.to_owned() })?;
    Ok(Trust {
        issuer: ISSUER.to_owned(),
        audiences: [AUDIENCE.to_owned()].into(),
        algorithms: vec![Algorithm::EdDSA],
        typ: None,
        mapping: Mapping {
            user_claim: "sub".to_owned(),
            user_prefix: String::new(),
            hashes_names: false,
            tenant: TenantFrom::Claim {
                name: "tenant".to_owned(),
                among: None,
            },
            authorized_parties: Vec::new(),
            roles: None,
        },
        keys: Keys::Fixed(vec![key]),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jwt_simple::prelude::{Ed25519KeyPair, HS256Key, MACLike};
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::MAX_LIFETIME_MS;
    use crate::token::Issuer;
    use crate::token::trust::tests::{ISS, fetched, key, settings};

    const NOW: i64 = 1_795_413_600_000;

    struct Desk {
        key: Ed25519KeyPair,
        verifier: Verifier,
    }

    impl Desk {
        fn new() -> Self {
            let key = Ed25519KeyPair::generate();
            let verifier = Verifier::new(&key.public_key().to_pem()).unwrap();
            Self { key, verifier }
        }

        fn signed(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let head = format!("{}.{}", part(header), part(claims));
            let pair = jwt_simple::algorithms::Edwards25519KeyPair::from_bytes(&self.key.to_bytes()).unwrap();
            let signature = pair.as_ref().sk.sign(&head, None);
            format!("{head}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }
    }

    fn header() -> Value {
        json!({"alg": "EdDSA", "typ": "JWT"})
    }

    fn claims() -> Value {
        let now = NOW / 1000;
        json!({"iss": "natterjack", "aud": "natterjack", "sub": "alice", "tenant": "main", "iat": now, "exp": now + 60})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    #[tokio::test]
    async fn a_good_token_says_who() {
        let desk = Desk::new();
        let session = desk
            .verifier
            .verify(&desk.signed(&header(), &claims()), NOW)
            .await
            .unwrap();
        assert_eq!(session.principal.user.as_str(), "alice");
        assert_eq!(session.expires_at_ms, NOW + 60_000);
    }

    #[tokio::test]
    async fn a_token_ends_when_it_says_also_when_it_is_remembered() {
        let desk = Desk::new();
        let token = desk.signed(&header(), &claims());
        desk.verifier.verify(&token, NOW + 59_999).await.unwrap();
        assert_eq!(
            desk.verifier.verify(&token, NOW + 60_000).await,
            Err(TokenError::Expired)
        );
        assert_eq!(
            desk.verifier.verify(&token, NOW + 60_001).await,
            Err(TokenError::Expired)
        );
        assert_eq!(Desk::new().verifier.verify("", NOW).await, Err(TokenError::Missing));
    }

    #[tokio::test]
    async fn no_token_is_good_for_more_than_a_year_and_a_day() {
        let desk = Desk::new();
        let token = desk.signed(&header(), &with("exp", json!(NOW / 1000 + 10 * 366 * 24 * 3600)));
        let end = NOW + MAX_LIFETIME_MS;
        assert_eq!(desk.verifier.verify(&token, NOW).await.unwrap().expires_at_ms, end);
        assert_eq!(desk.verifier.verify(&token, end).await, Err(TokenError::Expired));
        let longest = i64::try_from(crate::token::MAX_TTL.as_millis()).unwrap();
        assert_eq!(
            longest, MAX_LIFETIME_MS,
            "what the local issuer may sign is good to its end"
        );
    }

    #[tokio::test]
    async fn whatever_is_not_exactly_right_is_refused() {
        let desk = Desk::new();
        let now = NOW / 1000;
        let bad = [
            ("iss missing", without("iss")),
            ("aud missing", without("aud")),
            ("exp missing", without("exp")),
            ("iat missing", without("iat")),
            ("sub missing", without("sub")),
            ("tenant missing", without("tenant")),
            ("other issuer", with("iss", json!("somebody"))),
            ("other audience", with("aud", json!("elsewhere"))),
            ("empty audiences", with("aud", json!([]))),
            ("exp as text", with("exp", json!("9999999999"))),
            ("future iat", with("iat", json!(now + 6))),
            ("future nbf", with("nbf", json!(now + 6))),
            ("wild sub", with("sub", json!("a.>"))),
            ("wild tenant", with("tenant", json!("*"))),
            ("numeric sub", with("sub", json!(7))),
        ];
        for (what, claims) in bad {
            let refused = desk.verifier.verify(&desk.signed(&header(), &claims), NOW).await;
            assert!(matches!(refused, Err(TokenError::Invalid(_))), "{what}: {refused:?}");
        }
        desk.verifier
            .verify(&desk.signed(&header(), &with("iat", json!(now + 4))), NOW)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn forgeries_are_refused() {
        let desk = Desk::new();
        let good = desk.signed(&header(), &claims());
        let parts: Vec<&str> = good.split('.').collect();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let none = json!({"alg": "none", "typ": "JWT"});
        let other_key = Desk::new().signed(&header(), &claims());
        let hs = HS256Key::from_bytes(desk.key.public_key().to_pem().as_bytes());
        let confused = hs
            .authenticate(jwt_simple::claims::Claims::create(
                std::time::Duration::from_mins(1).into(),
            ))
            .unwrap();
        let mut flipped = parts[2].to_owned().into_bytes();
        flipped[10] = if flipped[10] == b'A' { b'B' } else { b'A' };
        let flipped = String::from_utf8(flipped).unwrap();
        let bad = [
            ("unsigned", format!("{}.{}.", part(&none), parts[1])),
            (
                "alg none with the signature",
                format!("{}.{}.{}", part(&none), parts[1], parts[2]),
            ),
            (
                "altered payload",
                format!("{}.{}.{}", parts[0], part(&with("sub", json!("root"))), parts[2]),
            ),
            ("altered signature", format!("{}.{}.{flipped}", parts[0], parts[1])),
            ("another key", other_key),
            ("the public key as an HMAC secret", confused),
            ("no parts", "token".to_owned()),
            ("two parts", format!("{}.{}", parts[0], parts[1])),
            ("huge", "x".repeat(MAX_TOKEN_BYTES + 1)),
        ];
        for (what, token) in bad {
            let refused = desk.verifier.verify(&token, NOW).await;
            assert!(matches!(refused, Err(TokenError::Invalid(_))), "{what}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn the_local_issuers_tokens_are_good_and_its_key_survives() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::load_or_create(folder.path()).unwrap();
        let again = Issuer::load_or_create(folder.path()).unwrap();
        let who = Principal {
            tenant: "main".parse().unwrap(),
            user: "alice".parse().unwrap(),
        };
        let token = again.issue(&who, Duration::from_mins(1), NOW).unwrap();
        let verifier = Verifier::from_file(&folder.path().join("token.pub")).unwrap();
        assert_eq!(verifier.verify(&token, NOW).await.unwrap().principal, who);
        assert_eq!(issuer.public_pem(), again.public_pem());
        assert!(issuer.issue(&who, crate::token::MAX_TTL * 2, NOW).is_err());
    }

    #[tokio::test]
    async fn a_token_of_any_length_is_looked_at_only_if_it_may_be_so_long() {
        let desk = Desk::new();
        let why = async |bytes: usize| match desk.verifier.verify(&"x".repeat(bytes), NOW).await {
            Err(TokenError::Invalid(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(!why(MAX_TOKEN_BYTES).await.starts_with("longer"));
        assert!(why(MAX_TOKEN_BYTES + 1).await.starts_with("longer"));
        assert!(why(MAX_TOKEN_BYTES + 2).await.starts_with("longer"));
    }

    #[tokio::test]
    async fn a_token_is_known_once_it_was_good() {
        let desk = Desk::new();
        let token = desk.signed(&header(), &claims());
        assert!(!desk.verifier.is_known(&token));
        desk.verifier.verify(&token, NOW).await.unwrap();
        assert!(desk.verifier.is_known(&token));
        let unknown = desk.signed(&header(), &with("sub", json!("bob")));
        assert!(!desk.verifier.is_known(&unknown));
    }

    #[test]
    fn so_many_tokens_are_remembered_and_what_expired_makes_room_first() {
        let desk = Desk::new();
        let remember = |number: usize, expires_at_ms: i64| {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&number.to_le_bytes());
            let session = Session {
                principal: Principal {
                    tenant: "main".parse().unwrap(),
                    user: "alice".parse().unwrap(),
                },
                claimed: None,
                token_id: None,
                issued_at_ms: 0,
                expires_at_ms,
            };
            let remembered = Remembered {
                session,
                trust: 0,
                key: [0; 32],
            };
            desk.verifier.remember(name, remembered, NOW);
            desk.verifier.verified.lock().len()
        };
        assert_eq!(remember(0, NOW), 1);
        for number in 1..MAX_REMEMBERED {
            assert_eq!(remember(number, NOW + 1), number + 1);
        }
        assert_eq!(remember(1, NOW + 1), MAX_REMEMBERED, "one that is there needs no room");
        assert_eq!(remember(MAX_REMEMBERED, NOW + 1), MAX_REMEMBERED, "what expired went");
        assert_eq!(remember(MAX_REMEMBERED + 1, NOW + 1), 1, "nothing had expired");
    }

    #[tokio::test]
    async fn a_key_that_is_not_known_is_no_key_only_once_the_keys_were_fetched() {
        let desk = Desk::new();
        let claims = with("iss", json!(ISS));
        let token = desk.signed(&json!({"alg": "EdDSA", "kid": "new"}), &claims);
        let other = || vec![key(Some("other"), &Ed25519KeyPair::generate())];
        // What was fetched before, what the fetch gets that this token makes, and what comes of it.
        let table = [
            (None, None, "the issuer's keys cannot be fetched"),
            (Some(other()), None, "its key is not known yet"),
            (Some(other()), Some(other()), "no key of the issuer fits"),
        ];
        for (before, then, expected) in table {
            let verifier = Verifier::open(None, &[settings()]).unwrap();
            let trust = &verifier.trusts[0];
            if before.is_some() {
                fetched(trust, before);
            }
            let (verified, ()) = tokio::join!(verifier.verify(&token, NOW), async { fetched(trust, then) });
            match verified {
                Err(TokenError::Unavailable(why)) => assert_eq!(why, expected),
                Err(TokenError::Invalid(why)) => assert_eq!(why, expected),
                other => panic!("{other:?}"),
            }
        }
    }
}
