use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use jwt_simple::JWTError;
use jwt_simple::prelude::{Ed25519PublicKey, EdDSAPublicKeyLike, JWTClaims, UnixTimeStamp, VerificationOptions};
use natterjack_nats_config::contract::Principal;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{AUDIENCE, Claims, ISSUER};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// How far a clock may be off where a token is from the future (`iat`, `nbf`). `exp` has no leeway.
const LEEWAY_MS: i64 = 5000;
/// The most verified tokens that are remembered: verifying costs some 50 µs, remembering 200 bytes.
const MAX_REMEMBERED: usize = 10_000;

/// Says who a token is from. Exactly one issuer, audience and algorithm (EdDSA with Ed25519) are accepted.
pub struct Verifier {
    key: Ed25519PublicKey,
    verified: Mutex<HashMap<[u8; 32], Session>>,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who.
    pub principal: Principal,
    /// The token's `jti`.
    pub token_id: Option<String>,
    /// `iat`, in milliseconds since 1970.
    pub issued_at_ms: i64,
    /// `exp`, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// Why a token is not accepted. The answer says only which of the three; the rule is for the log.
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
}

/// The public key cannot be used.
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
}

impl Verifier {
    /// Verifies what this key signed.
    pub fn new(public_pem: &str) -> Result<Self, KeyError> {
        Self::named(public_pem, "the key")
    }

    /// Reads the key from a file, `token.pub`.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let pem = std::fs::read_to_string(path).map_err(|source| KeyError::Read {
            path: name.clone(),
            source,
        })?;
        Self::named(&pem, &name)
    }

    fn named(public_pem: &str, path: &str) -> Result<Self, KeyError> {
        let key = Ed25519PublicKey::from_pem(public_pem).map_err(|_| KeyError::Key { path: path.to_owned() })?;
        Ok(Self {
            key,
            verified: Mutex::default(),
        })
    }

    /// Says who the token is from, at a time. A token that was verified before is only looked up, until it expires.
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<Session, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid(format!("longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let name: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.verified.lock().get(&name).cloned();
        let session = match known {
            Some(session) => session,
            None => self.check(token, now_ms)?,
        };
        if session.expires_at_ms <= now_ms {
            self.verified.lock().remove(&name);
            return Err(TokenError::Expired);
        }
        self.remember(name, &session, now_ms);
        Ok(session)
    }

    fn check(&self, token: &str, now_ms: i64) -> Result<Session, TokenError> {
        let now = UnixTimeStamp::from_millis(u64::try_from(now_ms).unwrap_or_default());
        let options = VerificationOptions {
            // jwt-simple judges `exp` by this time without leeway; `iat` and `nbf` are judged below, with one.
            artificial_time: Some(now),
            time_tolerance: Some(Duration::ZERO.into()),
            accept_future: true,
            allowed_issuers: Some(HashSet::from([ISSUER.to_owned()])),
            allowed_audiences: Some(HashSet::from([AUDIENCE.to_owned()])),
            max_token_length: Some(MAX_TOKEN_BYTES),
            ..VerificationOptions::default()
        };
        let claims = self
            .key
            .verify_token::<Claims>(token, Some(options))
            .map_err(|error| refusal(&error))?;
        session(claims, now_ms)
    }

    fn remember(&self, name: [u8; 32], session: &Session, now_ms: i64) {
        let mut verified = self.verified.lock();
        if verified.len() >= MAX_REMEMBERED && !verified.contains_key(&name) {
            verified.retain(|_, session| session.expires_at_ms > now_ms);
            if verified.len() >= MAX_REMEMBERED {
                verified.clear();
            }
        }
        verified.entry(name).or_insert_with(|| session.clone());
    }
}

fn session(claims: JWTClaims<Claims>, now_ms: i64) -> Result<Session, TokenError> {
    let missing = |claim: &str| TokenError::Invalid(format!("`{claim}` is missing"));
    let ms = |time: UnixTimeStamp| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let expires_at_ms = ms(claims.expires_at.ok_or_else(|| missing("exp"))?);
    let issued_at_ms = ms(claims.issued_at.ok_or_else(|| missing("iat"))?);
    if claims.issuer.is_none() {
        return Err(missing("iss"));
    }
    if claims
        .audiences
        .as_ref()
        .is_none_or(|audiences| !audiences.is_set() && !audiences.is_string())
    {
        return Err(missing("aud"));
    }
    for (claim, time) in [("iat", Some(issued_at_ms)), ("nbf", claims.invalid_before.map(ms))] {
        if time.is_some_and(|time| time > now_ms + LEEWAY_MS) {
            return Err(TokenError::Invalid(format!("`{claim}` is in the future")));
        }
    }
    let user = claims.subject.ok_or_else(|| missing("sub"))?;
    let user = user
        .parse()
        .map_err(|error| TokenError::Invalid(format!("`sub`: {error}")))?;
    let principal = Principal {
        tenant: claims.custom.tenant,
        user,
    };
    Ok(Session {
        principal,
        token_id: claims.jwt_id,
        issued_at_ms,
        expires_at_ms,
    })
}

fn refusal(error: &jwt_simple::Error) -> TokenError {
    match error.downcast_ref::<JWTError>() {
        Some(JWTError::TokenHasExpired) => TokenError::Expired,
        _ => TokenError::Invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jwt_simple::prelude::{Ed25519KeyPair, HS256Key, MACLike};
    use serde_json::{Value, json};

    use super::*;
    use crate::token::Issuer;

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

    #[test]
    fn a_good_token_says_who() {
        let desk = Desk::new();
        let session = desk.verifier.verify(&desk.signed(&header(), &claims()), NOW).unwrap();
        assert_eq!(session.principal.user.as_str(), "alice");
        assert_eq!(session.expires_at_ms, NOW + 60_000);
    }

    #[test]
    fn a_token_ends_when_it_says_also_when_it_is_remembered() {
        let desk = Desk::new();
        let token = desk.signed(&header(), &claims());
        desk.verifier.verify(&token, NOW + 59_999).unwrap();
        assert_eq!(desk.verifier.verify(&token, NOW + 60_000), Err(TokenError::Expired));
        assert_eq!(desk.verifier.verify(&token, NOW + 60_001), Err(TokenError::Expired));
        assert_eq!(Desk::new().verifier.verify("", NOW), Err(TokenError::Missing));
    }

    #[test]
    fn whatever_is_not_exactly_right_is_refused() {
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
            let refused = desk.verifier.verify(&desk.signed(&header(), &claims), NOW);
            assert!(matches!(refused, Err(TokenError::Invalid(_))), "{what}: {refused:?}");
        }
        desk.verifier
            .verify(&desk.signed(&header(), &with("iat", json!(now + 4))), NOW)
            .unwrap();
    }

    #[test]
    fn forgeries_are_refused() {
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
            let refused = desk.verifier.verify(&token, NOW);
            assert!(matches!(refused, Err(TokenError::Invalid(_))), "{what}: {refused:?}");
        }
    }

    #[test]
    fn the_local_issuers_tokens_are_good_and_its_key_survives() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::load_or_create(folder.path()).unwrap();
        let again = Issuer::load_or_create(folder.path()).unwrap();
        let who = Principal {
            tenant: "main".parse().unwrap(),
            user: "alice".parse().unwrap(),
        };
        let token = again.issue(&who, Duration::from_mins(1), NOW).unwrap();
        let verifier = Verifier::from_file(&folder.path().join("token.pub")).unwrap();
        assert_eq!(verifier.verify(&token, NOW).unwrap().principal, who);
        assert_eq!(issuer.public_pem(), again.public_pem());
        assert!(issuer.issue(&who, crate::token::MAX_TTL * 2, NOW).is_err());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Issuer::load_or_create(folder.path()).unwrap();
        let key = folder.path().join("token.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Issuer::load(folder.path()),
            Err(crate::token::IssuerError::Exposed { mode: 0o644, .. })
        ));
    }
}
