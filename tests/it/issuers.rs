//! Identity providers side by side: their tokens open every door, their keys change while people talk, and what they do
//! wrong lets nobody in.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Method;
use jwt_simple::algorithms::{HS256Key, MACLike, RS256KeyPair, RSAKeyPairLike};
use jwt_simple::claims::JWTClaims;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::{Answer, Http};
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::provider::{Behaviour, Provider};

/// An RSA key for tests: to make one takes an unoptimized build many seconds.
const RSA: &str = include_str!("../../authz/src/token/tests/rsa.pem");

/// A house that believes issuers. The folder holds its configuration.
pub(crate) async fn house(issuers: &[Value]) -> (House, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = toml::Table::new();
    let issuers: Vec<toml::Value> = issuers.iter().map(|one| toml::Value::try_from(one).unwrap()).collect();
    config.insert("issuers".to_owned(), issuers.into());
    let file = folder.path().join("config.toml");
    std::fs::write(&file, config.to_string()).unwrap();
    let house = House::start_with([("NATTERJACK_CONFIG", file.to_str().unwrap())]).await;
    (house, folder)
}

pub(crate) fn discovered(provider: &Provider) -> Value {
    json!({
        "issuer": provider.issuer, "audiences": ["chat"], "algorithms": ["ES256"], "discovery": true, "tenant": "main",
    })
}

pub(crate) fn with(mut settings: Value, more: Value) -> Value {
    let (Value::Object(settings_), Value::Object(more)) = (&mut settings, more) else {
        panic!("no objects")
    };
    settings_.extend(more);
    settings
}

pub(crate) async fn me(house: &House, token: &str) -> Answer {
    Http::new(&house.endpoints.http, Some(token)).get("/v1/me").await
}

/// Asks again while the house says that it cannot judge the token yet.
pub(crate) async fn me_at_last(house: &House, token: &str) -> Answer {
    eventually("the token is judged", async || {
        Some(me(house, token).await).filter(|answer| answer.status != 503)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_several_issuers_open_every_door() {
    let (staff, partners) = (Provider::start().await, Provider::start().await);
    let by_url = json!({
        "issuer": partners.issuer, "audiences": ["chat"], "algorithms": ["ES256"], "tenant": "main", "user_prefix": "p-",
        "jwks_url": format!("{}/keys", partners.issuer),
    });
    let (house, _folder) = house(&[discovered(&staff), by_url]).await;
    house.room("lobby", &[("alice", "owner"), ("p-alice", "member")]).await;
    for (user, token) in [("alice", staff.token("alice")), ("p-alice", partners.token("alice"))] {
        assert_eq!(me_at_last(&house, &token).await.ok()["user"], user);
        let http = Http::new(&house.endpoints.http, Some(&token));
        http.say("lobby", "by HTTP").await;
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{token}")));
        let nobody = Http::new(&house.endpoints.http, None);
        let by_basic = nobody
            .call(Method::GET, "/v1/me", &[("authorization", &basic)], Bytes::new())
            .await;
        assert_eq!(by_basic.ok()["user"], user);
        for url in [&house.endpoints.nats, &house.endpoints.ws] {
            let nats = Nats::connect(url, user, &token).await.unwrap();
            nats.listen(&["lobby"]).await;
            nats.say("lobby", "by NATS").await;
        }
        Mqtt::connect(&house.endpoints.mqtt, &format!("main:{user}"), user, &token)
            .await
            .unwrap();
    }
    // The same name at two issuers is two people, and the local issuer is still there.
    let from = |line: &String| serde_json::from_str::<Value>(line).unwrap()["from"].clone();
    assert_eq!(
        house.messages().iter().map(from).collect::<Vec<_>>(),
        ["alice", "alice", "alice", "p-alice", "p-alice", "p-alice"]
    );
    assert_eq!(me(&house, &house.token("alice")).await.ok()["user"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_id_has_one_of_its_own() {
    let provider = Provider::start().await;
    let (house, _folder) = house(&[discovered(&provider)]).await;
    let token = provider.token("auth0|alice@example.org");
    let user = me_at_last(&house, &token).await.ok()["user"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(user.starts_with("h-") && user.len() == 42, "{user}");
    house.room("lobby", &[(&user, "member")]).await;
    let nats = Nats::connect(&house.endpoints.nats, &user, &token).await.unwrap();
    nats.listen(&["lobby"]).await;
    assert!(nats.say("lobby", "hello").await["seq"].is_u64());
    Http::new(&house.endpoints.http, Some(&token))
        .say("lobby", "hello")
        .await;
}

/// Users who ask all the time, each with a token of the moment, at both doors.
async fn traffic(house: &House, provider: &Provider, stop: &AtomicBool, asked: &AtomicUsize) {
    while !stop.load(Ordering::SeqCst) {
        let token = provider.token("alice");
        let answer = me_at_last(house, &token).await;
        assert_eq!(answer.status, 200, "a valid user was refused: {answer:?}");
        asked.fetch_add(1, Ordering::SeqCst);
    }
}

/// Signs in over NATS, as clients do: again when it fails.
async fn signs_in(house: &House, token: &str) {
    eventually("a login over NATS", async || {
        Nats::connect(&house.endpoints.nats, "alice", token).await.ok()
    })
    .await;
}

/// A new key, at once in use and the only one that is published.
async fn rotate(house: &House, provider: &Provider) {
    let before = provider.token("alice");
    me_at_last(house, &before).await.ok();
    signs_in(house, &before).await;
    provider.rotate();
    // What is signed by the new key is good at once, by everybody, before any regular fetch.
    signs_in(house, &provider.token("alice")).await;
    // What was signed by the old one is good no longer once the grace time is over, though it was good before.
    eventually("the withdrawn key's token is refused", async || {
        let answer = me(house, &before).await;
        (answer.status != 200).then(|| answer.is_problem(401, "token-invalid"))
    })
    .await;
    eventually("and over NATS", async || {
        Nats::connect(&house.endpoints.nats, "alice", &before).await.err()
    })
    .await;
    me(house, &before).await.is_problem(401, "token-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_in_the_middle_of_traffic() {
    let provider = Provider::start().await;
    let settings = json!({"refresh_secs": 1, "unknown_key_secs": 1, "grace_secs": 6});
    let (house, _folder) = house(&[with(discovered(&provider), settings)]).await;
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let users = join_all((0..4).map(|_| traffic(&house, &provider, &stop, &asked)));
    let rotations = async {
        for _ in 0..3 {
            rotate(&house, &provider).await;
            let so_far = asked.load(Ordering::SeqCst);
            eventually("traffic goes on", async || {
                (asked.load(Ordering::SeqCst) > so_far + 8).then_some(())
            })
            .await;
        }
        stop.store(true, Ordering::SeqCst);
    };
    tokio::join!(users, rotations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_locks_out_only_whom_nobody_can_judge() {
    let provider = Provider::start().await;
    let settings = json!({"refresh_secs": 1, "unknown_key_secs": 1});
    let (mut house, _folder) = house(&[with(discovered(&provider), settings)]).await;
    let token = provider.token("alice");
    me_at_last(&house, &token).await.ok();
    signs_in(&house, &token).await;
    provider.behave(Behaviour::Down);
    let asked = provider.asked();
    eventually("fetches that fail", async || {
        // A fresh token each time: what is remembered would prove nothing.
        me(&house, &provider.token("bob")).await.ok();
        (provider.asked() > asked + 4).then_some(())
    })
    .await;
    signs_in(&house, &provider.token("alice")).await;
    // After a restart nothing is known of its keys. That is no verdict on the token; other issuers are not concerned.
    house.stop();
    house.restart().await;
    me(&house, &token).await.is_problem(503, "issuer-unavailable");
    me(&house, &house.token("alice")).await.ok();
    assert!(Nats::connect(&house.endpoints.nats, "alice", &token).await.is_err());
    provider.behave(Behaviour::Right);
    me_at_last(&house, &token).await.ok();
    signs_in(&house, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_unknown_keys_makes_one_fetch_and_holds_up_nobody() {
    let provider = Provider::start().await;
    let settings = json!({"refresh_secs": 3000, "unknown_key_secs": 3000});
    let (house, _folder) = house(&[with(discovered(&provider), settings)]).await;
    me_at_last(&house, &provider.token("alice")).await.ok();
    signs_in(&house, &provider.token("alice")).await;
    let before = provider.fetches();
    let storm = join_all((0..60).map(|number| {
        let (house, provider) = (&house, &provider);
        async move {
            let answer = me(house, &provider.token_of_unknown_key(&format!("made up {number}"))).await;
            assert!([401, 503].contains(&answer.status), "{answer:?}");
            me(house, &provider.token(&format!("user{number}"))).await.ok();
        }
    }));
    storm.await;
    assert!(
        provider.fetches() <= before + 1,
        "{} fetches",
        provider.fetches() - before
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_does_wrong_lets_nobody_in() {
    let inside = Provider::start().await;
    let [huge, redirects, liar, elsewhere] = [
        Provider::start().await,
        Provider::start().await,
        Provider::start().await,
        Provider::start().await,
    ];
    huge.behave(Behaviour::Oversized);
    redirects.behave(Behaviour::Redirect(format!("{}/keys", inside.issuer)));
    liar.claim("issuer", "https://accounts.example");
    elsewhere.claim(
        "jwks_uri",
        &format!("{}/keys", inside.issuer.replace("127.0.0.1", "localhost")),
    );
    let by_url = json!({
        "issuer": "redirected", "audiences": ["chat"], "algorithms": ["ES256"], "tenant": "main",
        "jwks_url": format!("{}/keys", redirects.issuer),
    });
    let wrong = [&huge, &redirects, &liar, &elsewhere];
    let mut settings: Vec<Value> = wrong.iter().map(|provider| discovered(provider)).collect();
    settings.push(by_url);
    let (house, _folder) = house(&settings).await;
    for provider in wrong {
        me(&house, &provider.token("alice"))
            .await
            .is_problem(503, "issuer-unavailable");
        assert!(
            Nats::connect(&house.endpoints.nats, "alice", &provider.token("alice"))
                .await
                .is_err()
        );
    }
    // Nor do the keys of the address it was sent to count, or were even fetched.
    let token = inside.token_with("alice", &json!({"iss": "redirected"}));
    me(&house, &token).await.is_problem(503, "issuer-unavailable");
    assert_eq!(inside.fetches(), 0);
    me(&house, &house.token("alice")).await.ok();
}

/// An issuer with an RSA key in a file, and the forger who knows that public key.
struct Staff {
    claims: Value,
    pem: String,
    good: String,
}

impl Staff {
    fn new(now: u64) -> Self {
        let key = RS256KeyPair::from_pem(RSA).unwrap();
        let claims = json!({"iss": "staff", "aud": "chat", "sub": "alice", "iat": now, "exp": now + 3600});
        let signed: JWTClaims<Value> = serde_json::from_value(claims.clone()).unwrap();
        Self {
            claims,
            pem: key.public_key().to_pem().unwrap(),
            good: key.sign(signed).unwrap(),
        }
    }

    /// HS256 with the public key as the secret.
    fn confused(&self, more: Value) -> String {
        let header = with(json!({"alg": "HS256", "typ": "JWT"}), more);
        let head = format!("{}.{}", part(&header), part(&self.claims));
        let tag = HS256Key::from_bytes(self.pem.as_bytes()).authentication_tag(head.as_bytes());
        format!("{head}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// The good token under another header.
    fn under(&self, header: &Value) -> String {
        format!("{}.{}", part(header), self.good.split_once('.').unwrap().1)
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn forgeries(provider: &Provider, other: &Provider, staff: &Staff, now: u64) -> Vec<(&'static str, String)> {
    let signed = |more: Value| provider.token_with("alice", &more);
    let keys = format!("{}/keys", other.issuer);
    let local = json!({"iss": "natterjack", "aud": "natterjack", "tenant": "main"});
    vec![
        ("the RSA key as an HMAC secret", staff.confused(json!({}))),
        (
            "that with a path for a name",
            staff.confused(json!({"kid": "../../../../dev/null"})),
        ),
        ("alg none", staff.under(&json!({"alg": "none"}))),
        (
            "no signature",
            format!("{}.{}.", part(&json!({"alg": "none"})), part(&staff.claims)),
        ),
        ("another algorithm of the family", staff.under(&json!({"alg": "PS256"}))),
        (
            "a key's address in the header",
            staff.under(&json!({"alg": "RS256", "jku": keys, "x5u": keys})),
        ),
        ("another issuer's key", signed(json!({"iss": other.issuer}))),
        ("another issuer's name", signed(json!({"iss": "staff"}))),
        ("the local issuer's name", signed(local)),
        ("somebody else's audience", signed(json!({"aud": "mail"}))),
        ("from the future", signed(json!({"iat": now + 600}))),
        ("not before the future", signed(json!({"nbf": now + 600}))),
        ("oversized", signed(json!({"fill": "x".repeat(8192)}))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_of_issuers_are_refused_at_every_door() {
    let (provider, other) = (Provider::start().await, Provider::start().await);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let staff = Staff::new(now);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("public.pem");
    std::fs::write(&file, &staff.pem).unwrap();
    let by_file = json!({
        "issuer": "staff", "audiences": ["chat"], "algorithms": ["RS256"], "tenant": "main", "key_file": file,
    });
    let (house, _folder) = house(&[discovered(&provider), discovered(&other), by_file]).await;
    for good in [&staff.good, &provider.token("alice"), &other.token("alice")] {
        me_at_last(&house, good).await.ok();
        signs_in(&house, good).await;
    }
    let before = other.fetches();
    for (what, token) in forgeries(&provider, &other, &staff, now) {
        is_refused_everywhere(&house, what, &token).await;
    }
    let expired = provider.token_with("alice", &json!({"iat": now - 7200, "exp": now - 1}));
    me(&house, &expired).await.is_problem(401, "token-expired");
    // One for each worker: another issuer's key has a name that is not known there.
    assert!(other.fetches() <= before + 2, "an address in a header is never asked");
}

async fn is_refused_everywhere(house: &House, what: &str, token: &str) {
    let answer = me_at_last(house, token).await;
    eprintln!("{what}");
    answer.is_problem(401, "token-invalid");
    let (nats, ws, mqtt) = tokio::join!(
        Nats::connect(&house.endpoints.nats, "alice", token),
        Nats::connect(&house.endpoints.ws, "alice", token),
        Mqtt::connect(&house.endpoints.mqtt, "main:alice", "alice", token),
    );
    assert!(nats.is_err() && ws.is_err() && mqtt.is_err(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_that_cannot_be_meant_are_refused_before_a_port_opens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let refusal = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let data = folder.path().join("data");
        let output = crate::support::house::up(&data)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        assert!(!data.exists(), "something was made");
        crate::support::house::refusal(&output)
    };
    let issuer =
        "[[issuers]]\nissuer = 'https://id.example'\naudiences = ['chat']\nalgorithms = ['RS256']\ntenant = 'main'\n";
    for (text, names) in [
        (format!("{issuer}jwks_url = 'http://id.example/keys'"), "https"),
        (format!("{issuer}discovery = true\nkey_file = '/x'"), "exactly one"),
        (issuer.replace("'RS256'", "'none'"), "algorithms"),
        (issuer.replace("'chat'", ""), "audiences"),
        (format!("{issuer}discovery = true\n{issuer}discovery = true"), "twice"),
        ("local_tokens = false".to_owned(), "no token would be accepted"),
    ] {
        let refusal = refusal(&text);
        assert!(refusal.contains(names), "{text}: {refusal}");
    }
}
