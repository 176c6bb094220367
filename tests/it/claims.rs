//! Roles that an identity provider's tokens claim.

use serde_json::{Value, json};

use crate::issuers::{discovered, house, me_at_last, with};
use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::Http;
use crate::support::mqtt::Mqtt;
use crate::support::nats::Nats;
use crate::support::provider::Provider;

fn claiming(provider: &Provider) -> Value {
    let means = json!([{"value": "chat-admins", "role": "admin"}, {"value": "chat-audit", "role": "auditor"}]);
    with(
        discovered(provider),
        json!({"roles_claim": "/realm_access/roles", "roles": means}),
    )
}

/// A token from so many seconds ago with those roles.
fn token(provider: &Provider, user: &str, secs_ago: u64, roles: &Value) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = json!({"iat": now - secs_ago, "realm_access": {"roles": roles}});
    provider.token_with(user, &claims)
}

fn by(house: &House, token: &str) -> Http {
    Http::new(&house.endpoints.http, Some(token))
}

async fn role(house: &House, token: &str) -> Value {
    me_at_last(house, token).await.ok()["role"].clone()
}

/// What the log says of claimed roles.
fn noted(house: &House) -> Vec<Value> {
    let lines = house.log().into_iter();
    let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    events.filter(|event| event["body"]["claimed"].is_object()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gives_a_role_and_a_newer_token_takes_it_for_good() {
    let provider = Provider::start().await;
    let (house, _folder) = house(&[claiming(&provider)]).await;
    let admin = token(&provider, "bob", 100, &json!(["other", "chat-admins"]));
    let fired = token(&provider, "bob", 50, &json!(["other"]));
    for _ in 0..5 {
        assert_eq!(role(&house, &admin).await, "admin");
    }
    by(&house, &admin).get("/v1/audit").await.ok();
    by(&house, &admin)
        .put("/v1/users/eve", &json!({"role": "guest"}))
        .await
        .ok();
    assert_eq!(noted(&house).len(), 1, "nothing is noted where nothing changes");
    for _ in 0..3 {
        assert_eq!(role(&house, &fired).await, "member");
        // The older one is good still, and what it says of the role is not.
        assert_eq!(role(&house, &admin).await, "member");
    }
    by(&house, &admin).get("/v1/audit").await.is_problem(403, "forbidden");
    let noted = noted(&house);
    assert_eq!(noted.len(), 2, "{noted:?}");
    assert_eq!(
        (
            &noted[0]["from"],
            &noted[0]["body"]["role"],
            &noted[0]["body"]["claimed"]["issuer"]
        ),
        (&json!("_"), &json!("admin"), &json!(provider.issuer))
    );
    let path = "/v1/auth/explain?user=bob&permission=tenant.audit";
    let why = house.http("admin").get(path).await.ok();
    assert_eq!(
        (&why["allowed"], &why["rule"]),
        (&json!(false), &json!("role-lacks")),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_over_nats_notes_it_too_and_ends_what_was_opened_with_more() {
    let provider = Provider::start().await;
    let (house, _folder) = house(&[claiming(&provider)]).await;
    let admin = token(&provider, "bob", 100, &json!("chat-admins"));
    me_at_last(&house, &provider.token("carol")).await.ok();
    let before = eventually("a login", async || {
        Nats::connect(&house.endpoints.nats, "bob", &admin).await.ok()
    })
    .await;
    let asked = json!({"user": "eve", "permission": "room.create"});
    assert!(before.api("auth.explain", &asked).await["allowed"].is_boolean());
    let path = "/v1/auth/explain?user=bob&permission=tenant.admin";
    let why = house.http("admin").get(path).await.ok();
    assert_eq!(why["facts"][0]["issuer"], provider.issuer, "{why}");
    let connections = before.connections();
    let fired = token(&provider, "bob", 50, &json!([]));
    Mqtt::connect(&house.endpoints.mqtt, "main:bob", "bob", &fired)
        .await
        .unwrap();
    eventually("the connection is renewed", async || {
        (before.connections() > connections).then_some(())
    })
    .await;
    let refused = before.api("auth.explain", &asked).await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
    assert_eq!(role(&house, &admin).await, "member");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_by_hand_stays_and_unfit_claims_let_nobody_in() {
    let provider = Provider::start().await;
    let (house, _folder) = house(&[claiming(&provider)]).await;
    let by_admin = house.http("admin");
    let audits = token(&provider, "bob", 100, &json!(["chat-audit"]));
    assert_eq!(role(&house, &audits).await, "auditor");
    by_admin.put("/v1/users/bob", &json!({"role": "admin"})).await.ok();
    assert_eq!(role(&house, &audits).await, "admin");
    let nothing = token(&provider, "bob", 50, &json!([]));
    assert_eq!(
        role(&house, &nothing).await,
        "admin",
        "a claim that vanishes takes only its own"
    );
    by_admin.put("/v1/users/bob", &json!({"role": null})).await.ok();
    assert_eq!(role(&house, &nothing).await, "member");
    for (number, bad) in [json!({"chat-admins": true}), json!([7]), json!(["x".repeat(300)])]
        .iter()
        .enumerate()
    {
        let bad = token(&provider, &format!("mallory{number}"), 10, bad);
        by(&house, &bad).get("/v1/me").await.is_problem(401, "token-invalid");
        assert!(Nats::connect(&house.endpoints.nats, "mallory", &bad).await.is_err());
    }
    eventually("the trail tells of it", async || {
        let trail = by_admin.get("/v1/audit?kind=login").await.ok();
        trail.to_string().contains("is no list of texts").then_some(())
    })
    .await;
    assert_eq!(noted(&house).len(), 2);
}
