//! Messages that answer others, and who reacted: over every transport, page after page, and who learns nothing of it.

use hyper::Method;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::{House, seq};
use crate::support::http::Http;

fn thread_of(id: &Value) -> String {
    format!("/v1/rooms/lobby/threads/{}", id.as_str().unwrap())
}

async fn answer(http: &Http, room: &str, to: &Value, text: &str) -> Value {
    let body = json!({"body": {"text": text}, "reply_to": to});
    http.post(&format!("/v1/rooms/{room}/messages"), &body).await.created()
}

/// A thread once `what` holds of it.
async fn thread(http: &Http, path: &str, what: impl Fn(&Value) -> bool) -> Value {
    eventually("the thread is so", async || {
        let answer = http.get(path).await;
        // The archive may not have the message yet; that it waits for it is not what is looked at here.
        let thread = (answer.status == 200).then(|| answer.json())?;
        what(&thread).then_some(thread)
    })
    .await
}

/// A thread once the archive has the deletion, which comes last.
async fn whole(http: &Http, path: &str) -> Value {
    let is_deleted = |reply: &Value| reply["deleted"].is_object();
    thread(http, path, |thread| {
        thread["replies"].as_array().unwrap().iter().any(is_deleted)
    })
    .await
}

fn texts(messages: &Value) -> Vec<&str> {
    let messages = messages.as_array().unwrap().iter();
    messages
        .map(|message| message["body"]["text"].as_str().unwrap_or("-"))
        .collect()
}

/// What is said in the lobby: a message, four that answer it, of which one is edited and one deleted, and one that answers the
/// first of these.
struct Said {
    root: Value,
    answers: [Value; 4],
    nested: Value,
}

async fn said(house: &House) -> Said {
    house.room("lobby", &[("bob", "member")]).await;
    house.room("other", &[("bob", "member")]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let root = alice.say("lobby", "what now?").await;
    let id = &root["id"];
    let first = answer(&bob, "lobby", id, "first").await;
    let native = json!({"body": {"text": "second"}, "reply_to": id});
    let second = house.nats("bob").await.send("lobby", &native).await;
    let third = answer(&alice, "lobby", id, "third").await;
    let nested = answer(&bob, "lobby", &first["id"], "nested").await;
    // The same id in another room names no message there.
    answer(&bob, "other", id, "elsewhere").await;
    let fourth = answer(&bob, "lobby", id, "fourth").await;
    let edit = json!({"body": {"text": "2nd"}}).to_string();
    let changed = format!("/v1/rooms/lobby/messages/{}", second["id"].as_str().unwrap());
    bob.call(Method::PATCH, &changed, &[], edit.into()).await.ok();
    let deleted = format!("/v1/rooms/lobby/messages/{}", fourth["id"].as_str().unwrap());
    bob.delete(&deleted).await.ok();
    Said {
        root,
        answers: [first, second, third, fourth],
        nested,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_is_the_message_and_its_answers_as_they_now_stand() {
    let house = House::start().await;
    let Said {
        root,
        answers: [_, second, third, fourth],
        nested,
    } = said(&house).await;
    let (bob, path) = (house.http("bob"), thread_of(&root["id"]));
    let whole = whole(&bob, &path).await;
    assert_eq!(texts(&whole["replies"]), ["first", "2nd", "third", "-"]);
    assert!(
        whole["replies"][1]["edited_at"].is_string() && whole["next"].is_null(),
        "{whole}"
    );
    // What is deleted is shown as such, and not counted.
    assert_eq!(
        whole["message"]["replies"],
        json!({"count": 3, "last": third["seq"]}),
        "{whole}"
    );
    assert_eq!(
        whole["replies"][0]["replies"],
        json!({"count": 1, "last": nested["seq"]})
    );
    assert_eq!(whole["message"]["body"]["text"], "what now?");

    let page = async |query: &str| bob.get(&format!("{path}?{query}")).await.ok();
    let one = page("after=0&limit=2").await;
    assert_eq!(
        (texts(&one["replies"]), &one["next"]),
        (vec!["first", "2nd"], &second["seq"])
    );
    let two = page(&format!("limit=2&after={}", one["next"])).await;
    assert_eq!(
        (texts(&two["replies"]), &two["next"]),
        (vec!["third", "-"], &Value::Null)
    );
    let newest = page("limit=1").await;
    assert_eq!(
        (texts(&newest["replies"]), &newest["next"]),
        (vec!["-"], &fourth["seq"])
    );
    let before = page(&format!("limit=9&before={}", fourth["seq"])).await;
    assert_eq!(texts(&before["replies"]), ["first", "2nd", "third"]);
    assert_eq!(before["message"], whole["message"]);
    let none = page(&format!("after={}", fourth["seq"])).await;
    assert_eq!((&none["replies"], &none["message"]), (&json!([]), &whole["message"]));
    house.run(&["verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_message_is_shown_its_answers_are_counted() {
    let house = House::start().await;
    let Said { root, answers, .. } = said(&house).await;
    let (bob, path, id) = (house.http("bob"), thread_of(&root["id"]), root["id"].as_str().unwrap());
    let count = json!({"count": 3, "last": answers[2]["seq"]});
    let whole = whole(&bob, &path).await;
    assert_eq!(whole["message"]["replies"], count);
    let native = house.nats("bob").await;
    let asked = json!({"room": "lobby", "id": id});
    assert_eq!(native.api("threads.get", &asked).await, whole);
    assert_eq!(native.api("messages.get", &asked).await["message"], whole["message"]);
    let history = bob.get("/v1/rooms/lobby/messages").await.ok();
    assert_eq!(history["messages"][0], whole["message"]);
    let shown = bob.get(&format!("/v1/rooms/lobby/messages/{id}")).await.ok();
    assert_eq!(shown["message"], whole["message"]);
    eventually("it is found", async || {
        let found = bob.get("/v1/search?q=what").await.ok();
        (found["results"][0]["message"] == whole["message"]).then_some(())
    })
    .await;
    let etag = bob.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
    let again = bob
        .call(Method::GET, &path, &[("if-none-match", &etag)], "".into())
        .await;
    assert_eq!(again.status, 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_a_message_sees_no_thread_and_an_answer_names_an_id() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let alice = house.http("alice");
    let root = alice.say("lobby", "before").await;
    let path = thread_of(&root["id"]);
    let said = answer(&alice, "lobby", &root["id"], "answer").await;
    let late = json!({"role": "member", "visible_from": seq(&said)});
    alice.put("/v1/rooms/lobby/members/carol", &late).await.ok();
    thread(&alice, &path, |thread| thread["replies"][0]["seq"] == said["seq"]).await;
    house.http("eve").get(&path).await.is_problem(404, "not-found");
    house.http("carol").get(&path).await.is_problem(404, "not-found");
    let bob = house.http("bob");
    let nowhere = thread_of(&json!("0192aaaa-0000-7000-8000-000000000000"));
    bob.get(&nowhere).await.is_problem(404, "not-found");
    for query in ["before=9&after=1", "limit=0", "limit=201", "x=1"] {
        bob.get(&format!("{path}?{query}"))
            .await
            .is_problem(400, "invalid-request");
    }
    // In another spelling it is no id that anybody was given.
    let capitals = root["id"].as_str().unwrap().to_uppercase();
    let nats = house.nats("bob").await;
    for bad in ["x", "", &capitals, &"a".repeat(200)] {
        let body = json!({"body": {"text": "?"}, "reply_to": bad});
        bob.post("/v1/rooms/lobby/messages", &body)
            .await
            .is_problem(400, "invalid-request");
        let native = nats.send("lobby", &body).await;
        assert_eq!(native["code"], "invalid-request", "{native}");
    }
}

/// All users of a reaction, page after page.
async fn all(http: &Http, path: &str, limit: usize) -> Vec<(String, u64, Vec<String>)> {
    let (mut found, mut next) = (Vec::<(String, u64, Vec<String>)>::new(), String::new());
    loop {
        let page = http.get(&format!("{path}?limit={limit}{next}")).await.ok();
        let mut on_page = 0;
        for group in page["reactions"].as_array().unwrap() {
            let emoji = group["emoji"].as_str().unwrap().to_owned();
            let users = group["users"].as_array().unwrap().iter();
            let users: Vec<String> = users.map(|user| user.as_str().unwrap().to_owned()).collect();
            on_page += users.len();
            match found.last_mut().filter(|last| last.0 == emoji) {
                Some(last) => last.2.extend(users),
                None => found.push((emoji, group["count"].as_u64().unwrap(), users)),
            }
        }
        assert!(on_page <= limit, "{page}");
        match page["next"].as_str() {
            Some(after) => next = format!("&next={after}"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reacted_is_told_by_reaction_and_user() {
    let house = House::start().await;
    let users = ["Bob", "bob", "carol", "dave"];
    house.room("lobby", &users.map(|user| (user, "member"))).await;
    let alice = house.http("alice");
    let said = alice.say("lobby", "like me").await;
    let message = format!("/v1/rooms/lobby/messages/{}", said["id"].as_str().unwrap());
    let reactions = format!("{message}/reactions");
    for user in users {
        let http = house.http(user);
        http.put(&format!("{reactions}/%F0%9F%91%8D"), &json!({})).await.ok();
        if user != "dave" {
            http.put(&format!("{reactions}/a.b"), &json!({})).await.ok();
        }
    }
    house.http("carol").delete(&format!("{reactions}/a.b")).await.ok();
    let by = |emoji: &str, users: &[&str]| {
        let users = users.iter().map(|user| (*user).to_owned());
        (emoji.to_owned(), users.len() as u64, users.collect::<Vec<_>>())
    };
    let expected = [by("a.b", &["Bob", "bob"]), by("👍", &users)];
    eventually("the archive has all of them", async || {
        let answer = alice.get(&reactions).await;
        (answer.status == 200 && all(&alice, &reactions, 200).await == expected).then_some(())
    })
    .await;
    for limit in 1..=7 {
        assert_eq!(all(&alice, &reactions, limit).await, expected, "{limit} at a time");
    }
    let only = alice.get(&format!("{reactions}?emoji=a.b")).await.ok();
    assert_eq!(
        only["reactions"],
        json!([{"emoji": "a.b", "count": 2, "users": ["Bob", "bob"]}])
    );
    assert_eq!(
        alice.get(&format!("{reactions}?emoji=x")).await.ok()["reactions"],
        json!([])
    );
    let nats = house.nats("dave").await;
    let ask = json!({"room": "lobby", "id": said["id"], "limit": 3});
    let native = nats.api("messages.reactions", &ask).await;
    assert_eq!(native, alice.get(&format!("{reactions}?limit=3")).await.ok());

    alice.delete(&message).await.ok();
    eventually("nobody reacted to what is deleted", async || {
        all(&alice, &reactions, 200).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_a_message_does_not_learn_who_reacted() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let alice = house.http("alice");
    let said = alice.say("lobby", "like me").await;
    let reactions = format!("/v1/rooms/lobby/messages/{}/reactions", said["id"].as_str().unwrap());
    let last = house.http("bob").put(&format!("{reactions}/x"), &json!({})).await.ok();
    eventually("the archive has it", async || {
        let answer = alice.get(&reactions).await;
        (answer.status == 200 && answer.json()["reactions"][0]["count"] == 1).then_some(())
    })
    .await;
    house.http("eve").get(&reactions).await.is_problem(404, "not-found");
    let late = json!({"role": "member", "visible_from": seq(&last)});
    alice.put("/v1/rooms/lobby/members/erin", &late).await.ok();
    house.http("erin").get(&reactions).await.is_problem(404, "not-found");
    let long = format!("emoji={}", "x".repeat(65));
    for bad in ["limit=0", "limit=201", "next=!", "emoji=", &long, "x=1"] {
        alice
            .get(&format!("{reactions}?{bad}"))
            .await
            .is_problem(400, "invalid-request");
    }
}
