//! Search over HTTP: what one may read is found, by words in any script, and nothing else.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::Http;

/// The texts of what is found, in the order of their sequences.
async fn found(http: &Http, query: &str) -> Vec<String> {
    let page = http.get(&format!("/v1/search?{query}")).await.ok();
    let mut results: Vec<&Value> = page["results"].as_array().unwrap().iter().collect();
    results.sort_by_key(|result| result["message"]["seq"].as_u64().unwrap());
    let text = |result: &&Value| result["message"]["body"]["text"].as_str().unwrap().to_owned();
    results.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_read_is_found_and_nothing_else() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    house.room("vault", &[]).await;
    let (alice, bob, eve) = (house.http("alice"), house.http("bob"), house.http("eve"));
    alice.say("lobby", "The valve is open").await;
    bob.say("lobby", "明天在会议室开会").await;
    alice.say("vault", "the secret valve").await;
    let last = alice.say("lobby", "that valve again").await;
    // Carol sees what comes after her only.
    let member = json!({"role": "member", "visible_from": last["seq"].as_u64().unwrap() + 1});
    alice.put("/v1/rooms/lobby/members/carol", &member).await.ok();
    let carol = house.http("carol");
    alice.say("lobby", "a valve for carol").await;
    eventually("everything is indexed", async || {
        let words = found(&alice, "q=valve").await;
        (words.len() == 4).then_some(())
    })
    .await;

    let of_bob = ["The valve is open", "that valve again", "a valve for carol"];
    assert_eq!(found(&bob, "q=VALVE").await, of_bob);
    assert_eq!(found(&bob, "q=valve&room=lobby&from=alice").await, of_bob);
    assert_eq!(found(&bob, "q=valve&from=bob").await, [""; 0]);
    assert_eq!(found(&bob, "q=%E4%BC%9A%E8%AE%AE").await, ["明天在会议室开会"]);
    assert_eq!(found(&carol, "q=valve").await, ["a valve for carol"]);
    assert_eq!(found(&eve, "q=valve").await, [""; 0]);
    assert_eq!(found(&alice, "q=secret").await, ["the secret valve"]);
    let page = bob.get("/v1/search?q=open").await.ok();
    let snippet = json!({"before": "The valve is ", "found": "open", "after": ""});
    assert_eq!(page["results"][0]["snippet"], snippet, "{page}");

    for who in [&bob, &eve] {
        who.get("/v1/search?q=valve&room=vault")
            .await
            .is_problem(404, "not-found");
        who.get("/v1/search?q=valve&room=nowhere")
            .await
            .is_problem(404, "not-found");
    }
    for query in [
        "",
        "q=",
        "q=%3F",
        "q=valve&limit=0",
        "q=valve&limit=101",
        "q=valve&rooms=lobby",
    ] {
        let answer = bob.get(&format!("/v1/search?{query}")).await;
        answer.is_problem(400, "invalid-request");
    }
    // Who leaves finds nothing any more.
    let gone = alice.delete("/v1/rooms/lobby/members/bob").await;
    assert!(gone.status < 300, "{gone:?}");
    assert_eq!(found(&bob, "q=valve").await, [""; 0]);
}
