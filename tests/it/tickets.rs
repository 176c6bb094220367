//! Tickets, for clients that cannot set headers.

use serde_json::json;

use crate::support::http::Http;
use crate::support::poll::cursor_now;
use crate::support::roles::Roles;
use crate::support::script::Script;

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_at_any_bridge() {
    let (roles, ports, _) = Roles::with_two_bridges().await;
    roles
        .room(&roles.nats("alice").await, "lobby", &[("bob", "member")])
        .await;
    let bridges = ports.map(|port| roles.http(port, "bob"));
    let script = Script::events("bob").await;
    let cursor = cursor_now(&bridges[0]).await;
    roles.nats("alice").await.say("lobby", "hello").await;
    for transport in ["sse", "ws"] {
        let ticket = ticket(&bridges[0]).await;
        let read = async |bridge: &Http| {
            let ask = json!({
                "transport": transport, "address": bridge.address(), "ticket": ticket, "cursor": cursor, "count": 1,
            });
            script.call("read", ask).await
        };
        let answer = read(&bridges[1]).await;
        assert_eq!(
            answer["events"].as_array().map(Vec::len),
            Some(1),
            "{transport}: {answer}"
        );
        for bridge in &bridges {
            let again = read(bridge).await;
            assert_eq!(again["status"], 401, "{transport}: {again}");
            assert!(again["body"].as_str().unwrap().contains("\"token-invalid\""), "{again}");
        }
    }
    let nobody = Http::new(&format!("http://{}", bridges[0].address()), None);
    let used = ticket(&bridges[0]).await;
    nobody.get(&format!("/v1/events?wait=0&ticket={used}")).await.ok();
    for bad in [used.as_str(), &used[1..], "", "x"] {
        let answer = nobody.get(&format!("/v1/events?wait=0&ticket={bad}")).await;
        answer.is_problem(401, "token-invalid");
    }
    nobody
        .post("/v1/tickets", &json!({}))
        .await
        .is_problem(401, "token-missing");
}

async fn ticket(bridge: &Http) -> String {
    let given = bridge.post("/v1/tickets", &json!({})).await.created();
    assert_eq!(given["expires_in"], 30, "{given}");
    given["ticket"].as_str().unwrap().to_owned()
}
