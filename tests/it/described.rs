//! The OpenAPI and `AsyncAPI` documents: what they must have, and that the check of every answer against it sees a fault.
//! (`support/http.rs` holds each answer of the other tests against it.)

use std::io::Write;
use std::process::Stdio;

use hyper::{HeaderMap, Method};
use natterjack_nats_config::Subjects;
use natterjack_nats_config::contract::ProblemCode;
use serde_json::{Value, json};

use crate::support::contract::judge;
use crate::support::house::House;
use crate::support::http::{Answer, Http};
use crate::support::tools::node_script;

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_served_as_it_is_checked_here() {
    let house = House::start().await;
    let served = Http::new(&house.endpoints.http, None).get("/openapi.json").await.ok();
    assert_eq!(served, natterjack_bridge::openapi());
    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(served["info"]["title"], "Natterjack");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_of_the_subjects_is_good_for_its_parser() {
    let house = House::start().await;
    let served = Http::new(&house.endpoints.http, None).get("/asyncapi.json").await.ok();
    assert_eq!(served, natterjack_bridge::asyncapi(&Subjects::default()));
    let judged = judged_by_parser(&served);
    assert_eq!(judged["channels"], json!(served["channels"].as_object().unwrap().len()));
    // Severity 0 is an error.
    let errors = |judged: &Value| {
        let said = judged["said"].as_array().unwrap().iter();
        said.filter(|said| said["severity"] == 0).cloned().collect::<Vec<_>>()
    };
    assert_eq!(errors(&judged), Vec::<Value>::new());
    let mut broken = served;
    broken["operations"]["request"]["action"] = json!("shout");
    assert!(
        !errors(&judged_by_parser(&broken)).is_empty(),
        "the parser does not see a fault"
    );
}

fn judged_by_parser(document: &Value) -> Value {
    let mut parser = node_script("asyncapi.mjs")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = parser.stdin.take().unwrap();
    input.write_all(document.to_string().as_bytes()).unwrap();
    drop(input);
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_heard_on_a_subject_is_as_its_document_says() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let document = natterjack_bridge::asyncapi(&Subjects::default());
    let fits = |shape: &str, payload: &Value| {
        let mut schema = document["components"]["schemas"][shape].clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        validator
            .validate(payload)
            .unwrap_or_else(|error| panic!("{shape}: {error}: {payload}"));
        let message = document["components"]["messages"][shape]["payload"]["$ref"].clone();
        assert_eq!(message, format!("#/components/schemas/{shape}"));
    };
    let bob = house.nats("bob").await;
    bob.listen(&["lobby"]).await;
    bob.subscribe("chat.room.main.lobby.now").await;
    bob.settle().await;
    fits("Receipt", &bob.say("lobby", "hello").await);
    fits("Problem", &bob.say("nowhere", "hello").await);
    let typing = bob.request("chat.in.main.bob.lobby.typing", "{}", async_nats::HeaderMap::new());
    fits("Receipt", &crate::support::nats::parse(&typing.await.unwrap()));
    let heard = async |what: &str, field: &str, last: &str| {
        let found = bob.mail.wait(what, |got| {
            let mut payloads = got.iter().filter(|got| got.subject.ends_with(last));
            let is_it = |payload: &Value| payload.get(field).is_some();
            payloads.find_map(|got| serde_json::from_slice(&got.payload).ok().filter(is_it))
        });
        found.await
    };
    fits("Event", &heard("the event", "seq", ".log").await);
    fits("Ephemeral", &heard("the typing", "kind", ".now").await);
    fits("RoomHead", &heard("the head", "head", ".now").await);
    for (service, ask, shape) in [
        (
            "events.get",
            json!({"cursor": "earliest", "rooms": ["lobby"], "wait": 0}),
            "EventsPage",
        ),
        ("history.get", json!({"room": "lobby"}), "HistoryPage"),
        ("rooms.list", json!({}), "RoomsPage"),
        ("members.list", json!({"room": "lobby", "joined": true}), "MembersPage"),
        ("me.get", json!({}), "Own"),
        ("sync.get", json!({}), "SyncPage"),
        ("users.list", json!({}), "UsersPage"),
    ] {
        fits(shape, &bob.api(service, &ask).await);
    }
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
            let is_open = !path.starts_with("/v1/") || path == "/v1/hooks/{hook}";
            assert_eq!(operation["security"].is_array(), !is_open, "{what}");
            let none = Vec::new();
            let parameters = operation["parameters"].as_array().unwrap_or(&none);
            for place in path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            {
                let is_it = |parameter: &Value| parameter["name"] == place && parameter["in"] == "path";
                let parameter = parameters.iter().find(|parameter| is_it(parameter));
                let schema = &parameter.unwrap_or_else(|| panic!("{what}: {place}"))["schema"];
                let is_bounded = schema["pattern"].is_string() || schema["maxLength"].is_u64();
                assert!(is_bounded, "{what}: {place}: {schema}");
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
    let me = json!({
        "tenant": "main", "user": "bob", "role": "member", "permissions": [], "rooms": 1, "expires_in": 7, "expires_at": "x",
        "limits": {"event_bytes": 1, "key_bytes": 1, "polls": 1, "wait_seconds": 1, "events": 1},
    });
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
