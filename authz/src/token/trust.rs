//! One issuer that is believed: its keys, and what its tokens must be like.

use std::collections::HashSet;
use std::time::Duration;

use jwt_simple::JWTError;
use jwt_simple::prelude::{UnixTimeStamp, VerificationOptions};

use super::claims::Mapping;
use super::key::{Algorithm, Key};
use super::remote::Remote;
use super::verifier::{MAX_TOKEN_BYTES, Session, TokenError};

/// The most keys that one token is tried with: a signature costs up to 0.2 ms, and who sends nonsense pays nothing.
const MAX_TRIED: usize = 4;

/// An issuer that is believed.
pub(super) struct Trust {
    pub(super) issuer: String,
    pub(super) audiences: HashSet<String>,
    pub(super) algorithms: Vec<Algorithm>,
    /// What `typ` must be, where that is said.
    pub(super) typ: Option<String>,
    pub(super) mapping: Mapping,
    pub(super) keys: Keys,
}

pub(super) enum Keys {
    Fixed(Vec<Key>),
    Remote(Box<Remote>),
}

/// What a token's header says, as far as it is read: never where a key is (`jku`, `x5u`), nor the key itself (`jwk`, `x5c`).
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
}

/// What a good token says, and the key by which it is good.
pub(super) struct Checked {
    pub(super) session: Session,
    pub(super) key: [u8; 32],
}

/// Why a token is not good now.
pub(super) enum Failure {
    /// It never will be.
    Refused(TokenError),
    /// No key that is known fits; newer keys might.
    NoKey,
}

impl Trust {
    /// The algorithm and the key's name of a token's header.
    pub(super) fn header(&self, algorithm: &str, key_id: Option<&str>) -> Result<Header, TokenError> {
        let algorithm = Algorithm::parse(algorithm).filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or_else(|| TokenError::Invalid("`alg` is none of this issuer's".to_owned()))?;
        let key_id = key_id.map(str::to_owned);
        Ok(Header { algorithm, key_id })
    }

    /// Judges a token by the keys that are known now.
    pub(super) fn check(&self, token: &str, header: &Header, now_ms: i64) -> Result<Checked, Failure> {
        let mut failure = Failure::NoKey;
        for key in self.candidates(header) {
            let Some(verified) = key.verify(header.algorithm, token, self.options(now_ms)) else {
                continue;
            };
            match verified {
                Ok(claims) => {
                    let session = self
                        .mapping
                        .session(&self.issuer, claims, now_ms)
                        .map_err(Failure::Refused)?;
                    return Ok(Checked { session, key: key.mark });
                }
                // Without a name another key may be the right one, perhaps one that is newer than those known.
                Err(error) if header.key_id.is_none() && self.is_remote() && is_of_another_key(&error) => {}
                Err(error) => failure = Failure::Refused(refusal(&error)),
            }
        }
        Err(failure)
    }

    /// Whether a key that was good is so still.
    pub(super) fn still_has(&self, mark: &[u8; 32]) -> bool {
        match &self.keys {
            Keys::Fixed(_) => true,
            Keys::Remote(remote) => !remote.keys(|key| key.mark == *mark).is_empty(),
        }
    }

    /// The keys that a header may mean: those of its `kid`, or all where it has none; only those for its `alg`.
    fn candidates(&self, header: &Header) -> Vec<Key> {
        let named = |key: &Key| match (&header.key_id, &key.id) {
            (Some(asked), Some(id)) => asked == id,
            // A key from a file has no name.
            (Some(_), None) => !self.is_remote(),
            (None, _) => true,
        };
        let fits = |key: &Key| key.fits(header.algorithm) && named(key);
        let mut keys = match &self.keys {
            Keys::Fixed(keys) => keys.iter().filter(|key| fits(key)).cloned().collect(),
            Keys::Remote(remote) => remote.keys(fits),
        };
        keys.truncate(MAX_TRIED);
        keys
    }

    fn is_remote(&self) -> bool {
        matches!(self.keys, Keys::Remote(_))
    }

    fn options(&self, now_ms: i64) -> VerificationOptions {
        let now = UnixTimeStamp::from_millis(u64::try_from(now_ms).unwrap_or_default());
        VerificationOptions {
            // jwt-simple judges `exp` by this time without leeway; `iat` and `nbf` are judged by the mapping, with one.
            artificial_time: Some(now),
            time_tolerance: Some(Duration::ZERO.into()),
            accept_future: true,
            allowed_issuers: Some(HashSet::from([self.issuer.clone()])),
            allowed_audiences: Some(self.audiences.clone()),
            required_signature_type: self.typ.clone(),
            max_token_length: Some(MAX_TOKEN_BYTES),
            ..VerificationOptions::default()
        }
    }
}

/// Whether the signature is wrong, as it is by any other key than the one that signed.
fn is_of_another_key(error: &jwt_simple::Error) -> bool {
    error
        .downcast_ref::<JWTError>()
        .is_none_or(|error| matches!(error, JWTError::InvalidSignature))
}

fn refusal(error: &jwt_simple::Error) -> TokenError {
    match error.downcast_ref::<JWTError>() {
        Some(JWTError::TokenHasExpired) => TokenError::Expired,
        _ => TokenError::Invalid(error.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jwt_simple::prelude::{Claims, Ed25519KeyPair, EdDSAKeyPairLike, JWTClaims, NoCustomClaims};
    use natterjack_nats_config::clock;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::token::IssuerSettings;
    use crate::token::key::Material;

    pub(in crate::token) const ISS: &str = "https://id.example";

    /// A key to check by what the pair signs.
    pub(in crate::token) fn key(id: Option<&str>, pair: &Ed25519KeyPair) -> Key {
        let material = Material::Ed25519(pair.public_key().to_bytes());
        Key::new(id.map(str::to_owned), &material, &[Algorithm::EdDSA]).unwrap()
    }

    /// The settings of an issuer whose keys are fetched.
    pub(in crate::token) fn settings() -> IssuerSettings {
        let settings = json!({
            "issuer": ISS, "audiences": ["chat"], "algorithms": ["EdDSA"], "tenant": "main",
            "jwks_url": "https://id.example/keys",
        });
        serde_json::from_value(settings).unwrap()
    }

    /// As if a fetch had just been made that got these keys, or failed.
    pub(in crate::token) fn fetched(trust: &Trust, keys: Option<Vec<Key>>) {
        let Keys::Remote(remote) = &trust.keys else {
            panic!("its keys are fetched")
        };
        let _ = remote.ended(Instant::now(), keys.ok_or_else(String::new));
    }

    /// An issuer whose keys `a` and `b` are fetched, and those two.
    fn published() -> (Trust, Ed25519KeyPair, Ed25519KeyPair) {
        let trust = settings().open().unwrap();
        let (a, b) = (Ed25519KeyPair::generate(), Ed25519KeyPair::generate());
        fetched(&trust, Some(vec![key(Some("a"), &a), key(Some("b"), &b)]));
        (trust, a, b)
    }

    fn claims() -> JWTClaims<NoCustomClaims> {
        let claims = Claims::create(Duration::from_mins(1).into());
        claims.with_issuer(ISS).with_audience("chat").with_subject("bob")
    }

    /// What a token comes to after so many seconds that says it is by the key of that name.
    fn check(
        trust: &Trust,
        kid: Option<&str>,
        pair: &Ed25519KeyPair,
        (claims, secs): (JWTClaims<NoCustomClaims>, i64),
    ) -> Result<[u8; 32], Failure> {
        let mut pair = pair.clone();
        if let Some(kid) = kid {
            pair = pair.with_key_id(kid);
        }
        let token = pair.sign(claims).unwrap();
        let header = trust.header("EdDSA", kid).map_err(Failure::Refused)?;
        let checked = trust.check(&token, &header, clock::now_ms() + secs * 1000);
        checked.map(|checked| checked.key)
    }

    #[test]
    fn a_token_is_good_by_the_key_that_it_names_or_by_any_if_it_names_none() {
        let (trust, a, b) = published();
        let good = |kid, pair| check(&trust, kid, pair, (claims(), 0)).ok();
        let mark = key(None, &b).mark;
        assert_eq!([good(Some("b"), &b), good(None, &b)], [Some(mark); 2]);
        assert_eq!(good(Some("a"), &a), Some(key(None, &a).mark));
        for (kid, pair) in [("a", &b), ("b", &a)] {
            let refused = check(&trust, Some(kid), pair, (claims(), 0));
            assert!(matches!(refused, Err(Failure::Refused(_))), "it is no other key's");
        }
    }

    #[test]
    fn whatever_a_key_signs_must_be_its_issuers_of_now_and_short() {
        let (trust, a, _) = published();
        let late = check(&trust, None, &a, (claims(), 61));
        assert!(matches!(late, Err(Failure::Refused(TokenError::Expired))));
        let of_another = claims().with_issuer("https://evil.example");
        let long = claims().with_jwt_id("x".repeat(MAX_TOKEN_BYTES));
        for bad in [of_another, long] {
            let refused = check(&trust, Some("a"), &a, (bad, 0));
            assert!(matches!(refused, Err(Failure::Refused(TokenError::Invalid(_)))));
        }
    }

    #[test]
    fn newer_keys_may_fit_where_none_of_those_known_does() {
        let (trust, a, _) = published();
        let new = Ed25519KeyPair::generate();
        let is_open = |kid| matches!(check(&trust, kid, &new, (claims(), 0)), Err(Failure::NoKey));
        assert!(is_open(None) && is_open(Some("c")));
        fetched(&trust, Some(vec![key(None, &a)]));
        assert!(is_open(Some("c")), "a published key without a name is not `c`");
    }

    #[test]
    fn what_was_good_by_a_key_is_so_while_the_key_is_there() {
        let (mut trust, a, b) = published();
        let mark = key(None, &a).mark;
        assert!(trust.still_has(&mark) && !trust.still_has(&[0; 32]));
        fetched(&trust, Some(vec![key(Some("b"), &b)]));
        assert!(trust.still_has(&mark), "for the grace time");
        trust.keys = Keys::Fixed(vec![key(None, &b)]);
        assert!(trust.still_has(&mark), "keys from files are the same until a restart");
    }
}
