//! A token that is not exactly right opens no door.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::algorithms::{Ed25519KeyPair, EdDSAKeyPairLike, HS256Key, MACLike};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::Http;
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::poll::cursor_now;

/// A good token, taken apart, and the key that signed it.
struct Forge {
    good: String,
    claims: Value,
    key: Ed25519KeyPair,
    public: String,
}

impl Forge {
    fn of(house: &House, user: &str) -> Self {
        let good = house.token(user);
        let claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(good.split('.').nth(1).unwrap()).unwrap()).unwrap();
        let file = |name: &str| std::fs::read_to_string(house.data().join("keys").join(name)).unwrap();
        Self {
            good,
            claims,
            key: Ed25519KeyPair::from_pem(&file("token.key")).unwrap(),
            public: file("token.pub"),
        }
    }

    /// Signs whatever it is given with the real key.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.key.key_pair().as_ref().sk.sign(&text, None);
        format!("{text}.{}", encode(signature))
    }

    /// The good token with one claim changed (or taken out, by null), signed with the real key.
    fn with(&self, claim: &str, value: Value) -> String {
        let mut claims = self.claims.clone();
        claims[claim] = value;
        let claims = claims.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        let claims: serde_json::Map<_, _> = claims.map(|(name, value)| (name.clone(), value.clone())).collect();
        self.sign(&json!({"alg": "EdDSA", "typ": "JWT"}), &claims.into())
    }

    fn part(&self, number: usize) -> &str {
        self.good.split('.').nth(number).unwrap()
    }

    /// HS256 with the public key as the secret: the classic confusion.
    fn confused(&self) -> String {
        let mut claims = jwt_simple::claims::Claims::with_custom_claims(
            json!({"tenant": "main"}),
            jwt_simple::prelude::Duration::from_hours(1),
        );
        claims = claims
            .with_issuer("natterjack")
            .with_audience("natterjack")
            .with_subject("alice");
        HS256Key::from_bytes(self.public.as_bytes())
            .authenticate(claims)
            .unwrap()
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Tries a token at every door; none may open.
async fn is_refused_everywhere(house: &House, what: &str, token: &str, code: &str) {
    eprintln!("{what}");
    let http = Http::new(&house.endpoints.http, Some(token));
    for path in ["/v1/me", "/v1/events?wait=0", "/v1/rooms"] {
        http.get(path).await.is_problem(401, code);
    }
    let (nats, ws, mqtt) = tokio::join!(
        Nats::connect(&house.endpoints.nats, "alice", token),
        Nats::connect(&house.endpoints.ws, "alice", token),
        Mqtt::connect(&house.endpoints.mqtt, "main:alice", "alice", token),
    );
    assert!(nats.is_err(), "{what}: let in over NATS");
    assert!(ws.is_err(), "{what}: let in over WebSocket");
    assert!(mqtt.is_err(), "{what}: let in over MQTT");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_refused_at_every_door() {
    let house = House::start().await;
    let forge = Forge::of(&house, "alice");
    let [header, claims, signature] = [0, 1, 2].map(|number| forge.part(number));
    let unsigned = encode(json!({"alg": "none", "typ": "JWT"}).to_string());
    let as_admin = {
        let mut claims = forge.claims.clone();
        claims["sub"] = json!("admin");
        encode(claims.to_string())
    };
    let flipped = {
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        signature[10] ^= 1;
        encode(signature)
    };
    let key = Ed25519KeyPair::generate();
    let stranger = Forge {
        key,
        ..Forge::of(&house, "alice")
    };
    let own_key = json!({"alg": "EdDSA", "typ": "JWT", "jwk": {"kty": "OKP", "crv": "Ed25519"}});
    let table = [
        ("altered claims", format!("{header}.{as_admin}.{signature}")),
        ("an altered signature", format!("{header}.{claims}.{flipped}")),
        ("no signature", format!("{header}.{claims}.")),
        ("alg none", format!("{unsigned}.{claims}.")),
        ("alg none, signed", format!("{unsigned}.{claims}.{signature}")),
        ("the public key as a secret", forge.confused()),
        ("another key", stranger.with("jti", json!("x"))),
        ("a key in the header", stranger.sign(&own_key, &forge.claims)),
        ("nonsense", "nonsense".to_owned()),
    ];
    for (what, token) in &table {
        is_refused_everywhere(&house, what, token, "token-invalid").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_with_wrong_claims_are_refused_at_every_door() {
    let house = House::start().await;
    let forge = Forge::of(&house, "alice");
    let now = forge.claims["iat"].as_i64().unwrap();
    // The forge itself is right: what it signs with a harmless claim changed is accepted.
    let harmless = forge.with("jti", json!("x"));
    Http::new(&house.endpoints.http, Some(&harmless))
        .get("/v1/me")
        .await
        .ok();
    for (claim, value) in [
        ("aud", json!("other")),
        ("aud", Value::Null),
        ("iss", json!("other")),
        ("iss", Value::Null),
        ("exp", Value::Null),
        ("exp", json!("2099")),
        ("sub", Value::Null),
        ("sub", json!("alice.lobby.>")),
        ("tenant", Value::Null),
        ("iat", json!(now + 3600)),
        ("nbf", json!(now + 3600)),
    ] {
        let what = format!("{claim} = {value}");
        is_refused_everywhere(&house, &what, &forge.with(claim, value), "token-invalid").await;
    }
    let expired = forge.with("exp", json!(now - 1));
    is_refused_everywhere(&house, "expired", &expired, "token-expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_a_token() {
    let house = House::start().await;
    let http = Http::new(&house.endpoints.http, None);
    for path in ["/v1/me", "/v1/events", "/v1/rooms", "/v1/rooms/lobby/messages"] {
        http.get(path).await.is_problem(401, "token-missing");
    }
    assert_eq!(http.get("/livez").await.status, 200);
    assert_eq!(http.get("/readyz").await.status, 200);
    assert!(
        async_nats::connect(&house.endpoints.nats).await.is_err(),
        "let in over NATS without a token"
    );
    is_refused_natively(&house, "alice", "", "main:alice").await;
}

async fn is_refused_natively(house: &House, user: &str, token: &str, client_id: &str) {
    let Err(error) = Mqtt::connect(&house.endpoints.mqtt, client_id, user, token).await else {
        panic!("{client_id} with a token of {user}: let in over MQTT")
    };
    eprintln!("{client_id}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mqtt_client_id_belongs_to_its_principal() {
    let house = House::start().await;
    house.room("lobby", &[("dev1", "device"), ("bob", "member")]).await;
    let dev1 = house.mqtt("dev1").await;
    assert!(dev1.subscribe("chat/room/main/lobby/log").await);
    let token = house.token("bob");
    for client_id in [
        "main:dev1",
        "main:dev1:x",
        "main:bobby",
        "main",
        "other:bob",
        "main.bob",
        "bob",
        "",
        "main:BOB",
    ] {
        is_refused_natively(&house, "bob", &token, client_id).await;
        is_refused_natively(&house, "dev1", &token, client_id).await;
    }
    // bob's own are good.
    let second = Mqtt::connect(&house.endpoints.mqtt, "main:bob:phone", "bob", &token)
        .await
        .unwrap();
    assert!(second.subscribe("chat/room/main/lobby/log").await);
    second.publish("chat/in/main/bob/lobby/msg", "it is me").await;
    for (name, device) in [("dev1", &dev1), ("bob", &second)] {
        let from = device
            .mail
            .wait("the message", |got| Some(got.first()?.payload.clone()))
            .await;
        let event: Value = serde_json::from_slice(&from).unwrap();
        assert_eq!(event["from"], "bob", "{name}: {event}");
    }
    assert_eq!(
        dev1.happened.all().iter().filter(|line| *line == "connected").count(),
        1,
        "dev1 was not disturbed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_in_one_tenant_is_none_in_another() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let token = house
        .run(&["token", "--user", "alice", "--tenant", "other"])
        .trim()
        .to_owned();
    let http = Http::new(&house.endpoints.http, Some(&token));
    http.get("/v1/rooms/lobby").await.is_problem(404, "not-found");
    let message = json!({"body": {"text": "x"}});
    http.post("/v1/rooms/lobby/messages", &message)
        .await
        .is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let token = house.run(&["token", "--user", "bob", "--ttl", "5s"]).trim().to_owned();
    let http = Http::new(&house.endpoints.http, Some(&token));
    let nats = Nats::connect(&house.endpoints.nats, "bob", &token).await.unwrap();
    nats.listen(&["lobby"]).await;
    let cursor = cursor_now(&http).await;
    http.get(&format!("/v1/events?cursor={cursor}&wait=50"))
        .await
        .is_problem(401, "token-expired");
    http.get("/v1/me").await.is_problem(401, "token-expired");
    nats.happened
        .wait("the connection is ended", |all| {
            all.iter().any(|line| line == "disconnected").then_some(())
        })
        .await;
    let heard = nats.mail.all().len();
    house.http("alice").say("lobby", "bob's token has expired").await;
    eventually("his client is refused when it comes back", async || {
        nats.happened
            .all()
            .iter()
            .any(|line| line.to_lowercase().contains("authorization violation"))
            .then_some(())
    })
    .await;
    assert_eq!((nats.mail.all().len(), nats.connections()), (heard, 1));
}
