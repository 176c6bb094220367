//! The OpenAPI document: what it must have, and that the check of every answer against it sees a fault.
//! (`support/http.rs` holds each answer of the other tests against it.)

use hyper::{HeaderMap, Method};
use natterjack_nats_config::contract::ProblemCode;
use serde_json::{Value, json};

use crate::support::contract::judge;
use crate::support::house::House;
use crate::support::http::{Answer, Http};

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_served_as_it_is_checked_here() {
    let house = House::start().await;
    let served = Http::new(&house.endpoints.http, None).get("/openapi.json").await.ok();
    assert_eq!(served, natterjack_bridge::openapi());
    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(served["info"]["title"], "Natterjack");
}

#[test]
fn every_code_and_every_path_with_its_parameters_is_in_it() {
    let document = natterjack_bridge::openapi();
    let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
    let expected: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(codes, &json!(expected));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let default = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"];
            assert_eq!(default["$ref"], "#/components/schemas/Problem", "{what}");
            assert_eq!(operation["security"].is_array(), path.starts_with("/v1/"), "{what}");
            let none = Vec::new();
            let parameters = operation["parameters"].as_array().unwrap_or(&none);
            for place in path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            {
                let is_it = |parameter: &Value| parameter["name"] == place && parameter["in"] == "path";
                assert!(parameters.iter().any(is_it), "{what}: {place}");
            }
        }
    }
}

#[test]
fn what_is_not_described_is_seen() {
    let document = natterjack_bridge::openapi();
    let judge = |method: Method, path: &str, status: u16, media: &str, body: &Value| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", media.parse().unwrap());
        let answer = Answer {
            status,
            headers,
            body: body.to_string().into(),
        };
        judge(&document, &method, path, &answer)
    };
    let (json, problem) = ("application/json", "application/problem+json");
    let me = json!({"tenant": "main", "user": "bob", "role": "member", "rooms": 1, "expires_in": 7});
    let refusal = json!({
        "type": "x", "title": "x", "status": 404, "code": "not-found", "detail": "x", "retryable": false, "request_id": "x",
    });
    judge(Method::GET, "/v1/me?x=y", 200, json, &me).unwrap();
    judge(Method::GET, "/v1/rooms/lobby", 404, problem, &refusal).unwrap();
    let mut more = me.clone();
    more["secret"] = json!(1);
    let mut less = me.clone();
    less.as_object_mut().unwrap().remove("role");
    let mut unknown = refusal.clone();
    unknown["code"] = json!("no-such-code");
    for (method, path, status, media, body) in [
        (Method::GET, "/v1/me", 200, json, &more),
        (Method::GET, "/v1/me", 200, json, &less),
        (Method::GET, "/v1/me", 200, "text/html", &me),
        (Method::GET, "/v1/me", 202, json, &me),
        (Method::GET, "/v1/you", 200, json, &me),
        (Method::POST, "/v1/me", 200, json, &me),
        (Method::GET, "/v1/rooms/lobby", 404, problem, &unknown),
        (Method::GET, "/v1/rooms/lobby", 404, json, &refusal),
    ] {
        assert!(
            judge(method.clone(), path, status, media, body).is_err(),
            "{method} {path} {status} {media} {body}"
        );
    }
}
