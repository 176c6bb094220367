//! Tokens of other issuers, case by case.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use jwt_simple::prelude::{
    Claims, Duration, ECDSAP256KeyPairLike, ECDSAP384KeyPairLike, ES256KeyPair, ES384KeyPair, Ed25519KeyPair,
    EdDSAKeyPairLike, HS256Key, MACLike, PS256KeyPair, RS256KeyPair, RSAKeyPairLike, UnixTimeStamp,
};
use serde_json::{Value, json};

use super::verifier::{MAX_TOKEN_BYTES, Session, TokenError, Verifier};
use super::{Algorithm, IssuerSettings};

/// A key for these tests and nothing else: to make one takes an unoptimized build 15 s.
pub(super) const RSA: &str = include_str!("rsa.pem");
const NOW: i64 = 1_795_413_600_000;
const ISS: &str = "https://id.example/realm";

/// A folder of key files and the settings of one issuer.
struct Desk {
    folder: tempfile::TempDir,
    settings: Value,
}

impl Desk {
    fn new(algorithm: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), key).unwrap();
        let settings = json!({
            "issuer": ISS, "audiences": ["chat", "other"], "algorithms": [algorithm], "tenant": "main",
            "key_file": folder.path().join("key"),
        });
        Self { folder, settings }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        if value.is_null() {
            self.settings.as_object_mut().unwrap().remove(name);
        } else {
            self.settings[name] = value;
        }
        self
    }

    fn open(&self) -> Result<Verifier, String> {
        let settings: IssuerSettings =
            serde_json::from_value(self.settings.clone()).map_err(|error| error.to_string())?;
        Verifier::open(None, &[settings]).map_err(|error| error.to_string())
    }

    fn verify(&self, token: &str) -> Result<Session, TokenError> {
        verify(&self.open().unwrap(), token)
    }
}

fn verify(verifier: &Verifier, token: &str) -> Result<Session, TokenError> {
    verifier.verify(token, NOW).now_or_never().expect("a key that is known")
}

fn claims() -> Value {
    let now = NOW / 1000;
    json!({"iss": ISS, "aud": "chat", "sub": "alice", "iat": now, "exp": now + 60})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Signs any header and any claims with a secret.
fn by_secret(secret: &[u8], header: &Value, claims: &str) -> String {
    let head = format!("{}.{}", part(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = HS256Key::from_bytes(secret).authentication_tag(head.as_bytes());
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn good_claims() -> jwt_simple::claims::JWTClaims<jwt_simple::claims::NoCustomClaims> {
    let now = UnixTimeStamp::from_millis(u64::try_from(NOW).unwrap());
    let mut claims = Claims::create(Duration::from_mins(1))
        .with_issuer(ISS)
        .with_audience("chat")
        .with_subject("alice");
    (claims.issued_at, claims.invalid_before, claims.expires_at) =
        (Some(now), None, Some(now + Duration::from_mins(1)));
    claims
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn hs() -> (Value, Desk) {
    (json!({"alg": "HS256", "typ": "JWT"}), Desk::new("HS256", SECRET))
}

#[test]
fn every_algorithm_is_accepted_where_it_is_the_issuers_and_nowhere_else() {
    let rs = RS256KeyPair::from_pem(RSA).unwrap();
    let ps = PS256KeyPair::from_pem(&rs.to_pem().unwrap()).unwrap();
    let (es256, es384, ed) = (
        ES256KeyPair::generate(),
        ES384KeyPair::generate(),
        Ed25519KeyPair::generate(),
    );
    let rsa_pem = rs.public_key().to_pem().unwrap();
    let table = [
        ("RS256", rsa_pem.clone(), rs.sign(good_claims()).unwrap()),
        ("PS256", rsa_pem, ps.sign(good_claims()).unwrap()),
        (
            "ES256",
            es256.public_key().to_pem().unwrap(),
            es256.sign(good_claims()).unwrap(),
        ),
        (
            "ES384",
            es384.public_key().to_pem().unwrap(),
            es384.sign(good_claims()).unwrap(),
        ),
        ("EdDSA", ed.public_key().to_pem(), ed.sign(good_claims()).unwrap()),
        (
            "HS256",
            SECRET.to_owned(),
            HS256Key::from_bytes(SECRET.as_bytes())
                .authenticate(good_claims())
                .unwrap(),
        ),
    ];
    for (algorithm, key, _) in &table {
        let desk = Desk::new(algorithm, key);
        for (other, _, token) in &table {
            let verified = desk.verify(token);
            assert_eq!(
                verified.is_ok(),
                algorithm == other,
                "{other} where {algorithm} is asked for: {verified:?}"
            );
        }
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    let pair = RS256KeyPair::from_pem(RSA).unwrap();
    let pem = pair.public_key().to_pem().unwrap();
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let desk = Desk::new("RS256", &pem);
    desk.verify(&pair.sign(good_claims()).unwrap()).unwrap();
    for secret in [
        pem.as_bytes(),
        pem.trim().as_bytes(),
        &pair.public_key().to_der().unwrap(),
    ] {
        let token = by_secret(secret, &header, &claims().to_string());
        assert!(matches!(desk.verify(&token), Err(TokenError::Invalid(_))));
    }
    // Nor can it be made one by the settings.
    for settings in [
        Desk::new("HS256", &pem),
        Desk::new("RS256", &pem).with("algorithms", json!(["RS256", "HS256"])),
    ] {
        assert!(settings.open().is_err());
    }
}

#[test]
fn headers_choose_nothing_but_among_the_issuers_keys() {
    let (_, desk) = hs();
    let text = claims().to_string();
    let sign = |header: Value| by_secret(SECRET.as_bytes(), &header, &text);
    for good in [
        json!({"alg": "HS256"}),
        json!({"alg": "HS256", "typ": "at+jwt"}),
        json!({"alg": "HS256", "kid": "any: a key in a file has no name"}),
        json!({"alg": "HS256", "kid": "../../../../dev/null"}),
        json!({"alg": "HS256", "jku": "https://evil.example/keys", "x5u": "https://evil.example/"}),
    ] {
        assert!(desk.verify(&sign(good.clone())).is_ok(), "{good}");
    }
    let none = part(&json!({"alg": "none"}));
    let bad = [
        sign(json!({"alg": "none"})),
        sign(json!({"alg": "None"})),
        sign(json!({"alg": "hs256"})),
        sign(json!({"alg": "HS384"})),
        sign(json!({"alg": "RS256"})),
        sign(json!({"alg": ["HS256"]})),
        sign(json!({"typ": "JWT"})),
        sign(json!({"alg": "HS256", "crit": ["exp"]})),
        sign(json!({"alg": "HS256", "typ": "JOSE"})),
        format!("{none}.{}.", part(&claims())),
        format!("{none}.{}", part(&claims())),
        format!("{}.{}.", part(&json!({"alg": "HS256"})), part(&claims())),
        format!("{}.", sign(json!({"alg": "HS256"}))),
        sign(json!({"alg": "HS256"})).replace('.', ".."),
        by_secret(&[], &json!({"alg": "HS256", "kid": ""}), &text),
        by_secret(b"", &json!({"alg": "HS256", "kid": "' UNION SELECT 'x"}), &text),
        by_secret(b"x", &json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "eA"}}), &text),
        "x".repeat(MAX_TOKEN_BYTES + 1),
        sign(json!({"alg": "HS256", "fill": "x".repeat(MAX_TOKEN_BYTES)})),
        format!(
            "{}.{}.AA",
            part(&json!({"alg": "HS256"})),
            URL_SAFE_NO_PAD.encode("[".repeat(4000))
        ),
    ];
    for token in bad {
        let refused = desk.verify(&token);
        assert!(matches!(refused, Err(TokenError::Invalid(_))), "{token}: {refused:?}");
    }
}

#[test]
fn the_type_of_a_token_can_be_asked_for() {
    let (_, desk) = hs();
    let desk = desk.with("typ", json!("at+jwt"));
    let sign = |header: Value| by_secret(SECRET.as_bytes(), &header, &claims().to_string());
    desk.verify(&sign(json!({"alg": "HS256", "typ": "at+jwt"}))).unwrap();
    for other in [
        json!({"alg": "HS256"}),
        json!({"alg": "HS256", "typ": "JWT"}),
        json!({"alg": "HS256", "typ": "logout+jwt"}),
    ] {
        assert!(desk.verify(&sign(other.clone())).is_err(), "{other}");
    }
}

#[test]
fn whatever_claim_is_not_exactly_right_is_refused() {
    let (header, desk) = hs();
    let now = NOW / 1000;
    let sign = |claims: &Value| by_secret(SECRET.as_bytes(), &header, &claims.to_string());
    for good in [
        with("aud", json!(["x", "other"])),
        with("iat", json!(now + 4)),
        with("iat", json!(now + 5)),
        with("nbf", json!(now + 4)),
        with("tenant", json!("ignored: the settings say which")),
    ] {
        assert!(desk.verify(&sign(&good)).is_ok(), "{good}");
    }
    for (claims, expected) in [
        (with("exp", json!(now)), TokenError::Expired),
        (with("exp", json!(now - 1)), TokenError::Expired),
    ] {
        assert_eq!(desk.verify(&sign(&claims)), Err(expected), "{claims}");
    }
    let bad = [
        with("iss", Value::Null),
        with("iss", json!("https://id.example/realm/")),
        with("iss", json!("natterjack")),
        with("iss", json!([ISS])),
        with("aud", Value::Null),
        with("aud", json!("Chat")),
        with("aud", json!([])),
        with("aud", json!({"chat": true})),
        with("exp", Value::Null),
        with("exp", json!("9999999999")),
        with("exp", json!(-1)),
        with("iat", Value::Null),
        with("iat", json!(now + 6)),
        with("nbf", json!(now + 6)),
        with("sub", Value::Null),
        with("sub", json!("")),
        with("sub", json!(7)),
        json!([claims()]),
    ];
    for claims in bad {
        let refused = desk.verify(&sign(&claims));
        assert!(matches!(refused, Err(TokenError::Invalid(_))), "{claims}: {refused:?}");
    }
}

#[test]
fn a_claim_that_stands_there_twice_is_refused() {
    let (header, desk) = hs();
    for twice in [
        r#","sub":"root""#,
        r#","iss":"https://id.example/realm""#,
        r#","org":"a","org":"b""#,
    ] {
        let text = claims().to_string();
        let token = by_secret(
            SECRET.as_bytes(),
            &header,
            &format!("{}{twice}}}", text.trim_end_matches('}')),
        );
        assert!(matches!(desk.verify(&token), Err(TokenError::Invalid(_))), "{twice}");
    }
}

#[test]
fn one_issuers_key_signs_for_no_other() {
    let (header, desk) = hs();
    let other_secret = "fedcba9876543210fedcba9876543210";
    std::fs::write(desk.folder.path().join("other"), other_secret).unwrap();
    let one: IssuerSettings = serde_json::from_value(desk.settings.clone()).unwrap();
    let two = IssuerSettings {
        issuer: "https://other.example".to_owned(),
        key_file: Some(desk.folder.path().join("other")),
        tenant: "blue".parse().ok(),
        user_prefix: "x-".to_owned(),
        ..one.clone()
    };
    let verifier = Verifier::open(None, &[one, two]).unwrap();
    let sign = |secret: &str, iss: &str| by_secret(secret.as_bytes(), &header, &with("iss", json!(iss)).to_string());
    let named = |token: &str| {
        let who = verify(&verifier, token).map(|session| session.principal);
        who.map(|who| format!("{}.{}", who.tenant, who.user))
    };
    assert_eq!(named(&sign(SECRET, ISS)).unwrap(), "main.alice");
    assert_eq!(
        named(&sign(other_secret, "https://other.example")).unwrap(),
        "blue.x-alice"
    );
    assert!(named(&sign(SECRET, "https://other.example")).is_err());
    assert!(named(&sign(other_secret, ISS)).is_err());
}

#[test]
fn names_become_ids_that_cannot_be_chosen_to_meet() {
    let (header, desk) = hs();
    let desk = desk.with("user_prefix", json!("s-"));
    let verifier = desk.open().unwrap();
    let user = |sub: &str| {
        let token = by_secret(SECRET.as_bytes(), &header, &with("sub", json!(sub)).to_string());
        verify(&verifier, &token).unwrap().principal.user.to_string()
    };
    assert_eq!(user("alice"), "s-alice");
    let hashed = user("auth0|alice@example.org");
    assert!(hashed.starts_with("s-h-") && hashed.len() == 44, "{hashed}");
    assert_eq!(hashed, user("auth0|alice@example.org"), "it is stable");
    assert_eq!(
        hashed, "s-h-81ec34414c6e41c630ce4a2cbc696f9702fd6a42",
        "in every version: ids stand in the log"
    );
    assert_ne!(hashed, user("auth0|Alice@example.org"));
    assert_ne!(
        user(hashed.trim_start_matches("s-")),
        hashed,
        "who calls himself by another's hash is not that one"
    );
    for odd in ["a.b", "*", "me>", "ü", "a b", "x\n", &"l".repeat(63)] {
        assert!(user(odd).starts_with("s-h-"), "{odd}");
    }
}

#[test]
fn a_claim_names_the_tenant_among_those_listed() {
    let (header, desk) = hs();
    let desk = desk
        .with("tenant", Value::Null)
        .with("tenant_claim", json!("/org/id"))
        .with("tenants", json!(["red", "blue"]));
    let tenant = |org: Value| {
        let token = by_secret(SECRET.as_bytes(), &header, &with("org", org).to_string());
        desk.verify(&token).map(|session| session.principal.tenant.to_string())
    };
    assert_eq!(tenant(json!({"id": "red"})).unwrap(), "red");
    for bad in [
        json!({"id": "main"}),
        json!({"id": "*"}),
        json!({"id": ["red"]}),
        json!({}),
        json!("red"),
        Value::Null,
    ] {
        assert!(tenant(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn the_client_that_a_token_was_given_to_can_be_asked_for() {
    let (header, desk) = hs();
    let desk = desk.with("authorized_parties", json!(["web", "app"]));
    let verifier = desk.open().unwrap();
    let good = |claims: Value| verify(&verifier, &by_secret(SECRET.as_bytes(), &header, &claims.to_string())).is_ok();
    assert!(good(with("azp", json!("web"))) && good(with("client_id", json!("app"))));
    let both = |azp: &str| {
        let mut claims = with("azp", json!(azp));
        claims["client_id"] = json!("web");
        claims
    };
    assert!(good(both("app")) && !good(both("evil")));
    assert!(!good(claims()) && !good(with("azp", json!("evil"))) && !good(with("azp", json!(["web"]))));
}

fn roles() -> Value {
    json!([{"value": "boss", "role": "admin"}, {"value": "look", "role": "auditor"}])
}

#[test]
fn the_first_value_that_means_something_is_the_role() {
    let (header, desk) = hs();
    let desk = desk
        .with("roles_claim", json!("/realm_access/roles"))
        .with("roles", roles());
    let claimed = |desk: &Desk, access: Value| {
        let token = by_secret(SECRET.as_bytes(), &header, &with("realm_access", access).to_string());
        let claimed = desk.verify(&token)?.claimed.expect("its issuer's tokens claim roles");
        assert_eq!(&*claimed.issuer, ISS);
        Ok(claimed.role.map(|role| role.to_string()))
    };
    let many = |count: usize| json!({"roles": vec!["x"; count]});
    let table = [
        (json!({"roles": ["look", "boss"]}), Some("admin")),
        (json!({"roles": ["look"]}), Some("auditor")),
        (json!({"roles": "look"}), Some("auditor")),
        (json!({"roles": ["Look", "look "]}), None),
        (json!({"roles": []}), None),
        (json!({"roles": null}), None),
        (json!({}), None),
        (Value::Null, None),
        (many(500), None),
        (json!({"roles": ["look", "x".repeat(256)]}), Some("auditor")),
    ];
    for (access, expected) in table {
        let role: Result<_, TokenError> = claimed(&desk, access.clone());
        assert_eq!(role.unwrap().as_deref(), expected, "{access}");
    }
    for bad in [
        json!({"roles": {"boss": true}}),
        json!({"roles": 7}),
        json!({"roles": ["boss", 7]}),
        json!({"roles": ["boss", "x".repeat(257)]}),
        many(501),
    ] {
        let refused = claimed(&desk, bad.clone());
        assert!(matches!(refused, Err(TokenError::Invalid(_))), "{bad}: {refused:?}");
    }
    let guests = desk.with("otherwise", json!("guest"));
    assert_eq!(claimed(&guests, json!({})).unwrap().as_deref(), Some("guest"));
    assert_eq!(
        claimed(&guests, json!({"roles": ["boss"]})).unwrap().as_deref(),
        Some("admin")
    );
    let (_, silent) = hs();
    let token = by_secret(SECRET.as_bytes(), &header, &claims().to_string());
    assert_eq!(
        silent.verify(&token).unwrap().claimed,
        None,
        "roles are not this issuer's to say"
    );
}

/// An issuer's settings with some that are other than usual, opened.
fn opened(changes: &Value) -> Result<Verifier, String> {
    let mut desk = Desk::new("EdDSA", &Ed25519KeyPair::generate().public_key().to_pem());
    for (name, value) in changes.as_object().unwrap() {
        desk = desk.with(name, value.clone());
    }
    desk.open()
}

fn issuer_of(bytes: usize) -> String {
    format!("https://{}", "x".repeat(bytes - 8))
}

fn value_of(bytes: usize) -> Value {
    json!([{"value": "x".repeat(bytes), "role": "admin"}])
}

fn values(count: usize) -> Value {
    json!(vec![json!({"value": "x", "role": "admin"}); count])
}

#[test]
fn settings_may_go_as_far_as_they_say() {
    for good in [
        json!({}),
        json!({"key_file": null, "discovery": true}),
        json!({"key_file": null, "jwks_url": "https://id.example/keys"}),
        json!({"tenant": null, "tenant_claim": "org", "tenants": ["red"]}),
        json!({"user_prefix": "x".repeat(20)}),
        json!({"refresh_secs": 1, "unknown_key_secs": 1, "stale_secs": 2}),
        json!({"roles_claim": "groups", "roles": value_of(256)}),
        json!({"roles_claim": "groups", "roles": values(200)}),
        json!({"roles_claim": "groups", "roles": roles(), "issuer": issuer_of(256)}),
    ] {
        assert_eq!(opened(&good).err(), None, "{good}");
    }
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let bad = [
        json!({"refresh_secs": 0}),
        json!({"unknown_key_secs": 0}),
        json!({"tenants": ["red"]}),
        json!({"algorithms": ["EdDSA", "HS256"]}),
        json!({"roles_claim": "groups", "roles": value_of(257)}),
        json!({"roles_claim": "groups", "roles": values(201)}),
        json!({"roles_claim": "groups", "roles": roles(), "issuer": issuer_of(257)}),
        json!({"issuer": ""}),
        json!({"issuer": "natterjack"}),
        json!({"audiences": []}),
        json!({"audiences": [""]}),
        json!({"algorithms": []}),
        json!({"algorithms": ["none"]}),
        json!({"algorithms": ["RS256"]}),
        json!({"key_file": null}),
        json!({"key_file": "/nowhere/key"}),
        json!({"discovery": true}),
        json!({"tenant": null}),
        json!({"tenant_claim": "org"}),
        json!({"tenant": null, "tenant_claim": "org"}),
        json!({"user_prefix": "a."}),
        json!({"user_prefix": "x".repeat(21)}),
        json!({"tenent": "main"}),
        json!({"stale_secs": 300}),
        json!({"roles_claim": "groups"}),
        json!({"roles": roles()}),
        json!({"otherwise": "guest"}),
        json!({"roles_claim": "", "roles": roles()}),
        json!({"roles_claim": "groups", "roles": [{"value": "", "role": "admin"}]}),
        json!({"roles_claim": "groups", "roles": [{"value": "x", "role": "no role"}]}),
        json!({"roles_claim": "groups", "roles": [{"value": "x", "role": "blocked"}]}),
        json!({"roles_claim": "groups", "roles": roles(), "otherwise": "blocked"}),
        json!({"roles_claim": "groups", "roles": [{"value": "x", "rule": "admin"}]}),
        json!({"key_file": null, "jwks_url": "http://id.example/keys"}),
        json!({"key_file": null, "discovery": true, "algorithms": ["HS256"]}),
        json!({"key_file": null, "discovery": true, "issuer": "staff"}),
    ];
    for changes in bad {
        assert!(opened(&changes).is_err(), "{changes}");
    }
    assert!(Desk::new("HS256", "a short secret").open().is_err());
}

#[test]
fn times_that_are_not_said_are_those_of_the_default_file() {
    let settings: IssuerSettings = serde_json::from_value(Desk::new("EdDSA", "").settings).unwrap();
    let times = (
        settings.refresh_secs,
        settings.unknown_key_secs,
        settings.grace_secs,
        settings.stale_secs,
    );
    assert_eq!(times, (300, 10, 60, 3600));
}

#[test]
fn names_of_algorithms_are_those_of_the_settings() {
    for name in [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ] {
        let algorithm: Algorithm = serde_json::from_value(json!(name)).unwrap();
        assert_eq!((algorithm.as_str(), Algorithm::parse(name)), (name, Some(algorithm)));
    }
    assert_eq!(Algorithm::parse("Ed25519"), Some(Algorithm::EdDSA));
    assert_eq!((Algorithm::parse("none"), Algorithm::parse("hs256")), (None, None));
}
