//! What is read and unread: marks over every transport, and the list of rooms.

use async_nats::HeaderMap;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::events::parse;
use crate::support::eventually;
use crate::support::house::{House, seq};
use crate::support::http::Http;
use crate::support::poll::Poll;
use crate::support::script::Script;
use crate::support::stream::{ask, frame, say};

const READ: &str = "/v1/rooms/lobby/read";

/// The lobby in a user's list, once `what` holds of it.
async fn lobby(http: &Http, what: impl Fn(&Value) -> bool) -> Value {
    eventually("the list says so", async || {
        let list = http.get("/v1/rooms?unread=true").await.ok();
        let room = list["rooms"]
            .as_array()
            .unwrap()
            .iter()
            .find(|room| room["id"] == "lobby")
            .cloned();
        room.filter(&what)
    })
    .await
}

/// bob reads on, over each transport.
async fn marked_over_every_transport(house: &House, said: &[Value]) -> [Value; 3] {
    let bob = house.http("bob");
    let by_http = bob.put(READ, &json!({"seq": said[0]["seq"]})).await.ok();
    let nats = house.nats("bob").await;
    let payload = json!({"seq": said[1]["seq"]}).to_string();
    let answer = nats
        .request("chat.in.main.bob.lobby.read", payload, HeaderMap::new())
        .await
        .unwrap();
    let by_nats: Value = serde_json::from_slice(&answer.payload).unwrap();
    let socket = Script::events("bob").await;
    socket.call("open", ask(house, "ws", "bob", &json!({}))).await;
    say(
        &socket,
        &json!({"op": "read", "ref": "r", "room": "lobby", "seq": said[2]["seq"]}),
    )
    .await;
    let by_socket = frame(&socket, "a receipt", |frame| frame["ref"] == "r").await["receipt"].clone();
    [by_http, by_nats, by_socket]
}

/// What a poll has got, once that is enough.
async fn heard(poll: &Poll, what: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    poll.mail
        .wait(what, |got| {
            let events = got
                .iter()
                .map(|delivery| parse(std::str::from_utf8(&delivery.payload).unwrap()));
            let events: Vec<Value> = events.collect();
            enough(&events).then_some(events)
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_over_every_transport_count_and_only_their_user_hears_them() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("red", "reader")]).await;
    let (alice, bob) = (house.http("alice"), house.http("bob"));
    let (of_alice, of_bob) = (Poll::from_now(&alice).await, Poll::from_now(&bob).await);
    let mut said = Vec::new();
    for number in 0..5 {
        said.push(alice.say("lobby", &format!("message {number}")).await);
    }
    let last = &said[4];
    let list = lobby(&bob, |room| room["last"]["seq"] == last["seq"]).await;
    assert_eq!(
        (&list["unread"], &list["read"]),
        (&last["n"], &json!({"seq": 0, "n": 0})),
        "{list}"
    );
    assert_eq!(list["last_message"], parse(&house.messages()[4]));
    // Who wrote the last message has read it.
    let own = lobby(&alice, |room| room["last"]["seq"] == last["seq"]).await;
    assert_eq!(
        (&own["unread"], &own["read"]["seq"]),
        (&json!(0), &last["seq"]),
        "{own}"
    );

    let receipts = marked_over_every_transport(&house, &said).await;
    // A mark never goes back.
    bob.put(READ, &json!({"seq": said[0]["seq"]})).await.ok();
    let list = lobby(&bob, |room| room["unread"] == 2).await;
    assert_eq!(
        list["read"],
        json!({"seq": said[2]["seq"], "n": said[2]["n"]}),
        "{list}"
    );
    let nats = house.nats("bob").await;
    assert_eq!(nats.api("rooms.list", &json!({"unread": true})).await["rooms"][0], list);

    let marks = |events: &[Value]| events.iter().filter(|event| event["kind"] == "read").count();
    let mut events = heard(&of_bob, "bob hears his marks", |events| marks(events) == 4).await;
    events.retain(|event| event["kind"] == "read");
    for (receipt, event) in receipts.iter().zip(&events) {
        assert_eq!(seq(receipt), seq(event), "{event}");
    }
    assert_eq!(events[0]["body"], json!({"room": "lobby", "seq": said[0]["seq"]}));
    let fence = alice.say("lobby", "fence").await;
    let is_there = |events: &[Value]| events.iter().any(|event| event["seq"] == fence["seq"]);
    let all = heard(&of_alice, "alice hears the fence", is_there).await;
    assert!(all.iter().all(|event| event["kind"] == "msg"), "{all:?}");
    let next = last["n"].as_u64().unwrap() + 1;
    assert_eq!(fence["n"], json!(next), "marks are no events of the room");
    house.run(&["verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_marks_nothing_and_nobody_reads_ahead() {
    let house = House::start().await;
    house.room("lobby", &[("red", "reader")]).await;
    let said = house.http("alice").say("lobby", "hello").await;
    let (red, eve) = (house.http("red"), house.http("eve"));
    let upto = json!({"seq": said["seq"]});
    eve.put(READ, &upto).await.is_problem(404, "not-found");
    eve.put("/v1/rooms/nowhere/read", &upto)
        .await
        .is_problem(404, "not-found");
    let key = [("idempotency-key", "k")];
    let put = async || red.call(Method::PUT, READ, &key, upto.to_string().into()).await.ok();
    let (first, again) = (put().await, put().await);
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
    red.put(READ, &json!({"seq": seq(&said) + 1}))
        .await
        .is_problem(400, "invalid-request");
    for body in [json!({}), json!({"seq": -1}), json!({"seq": 1, "n": 1})] {
        red.put(READ, &body).await.is_problem(400, "invalid-request");
    }
    red.put("/v1/rooms/_/read", &upto)
        .await
        .is_problem(400, "invalid-request");
    red.get("/v1/rooms?unread=maybe")
        .await
        .is_problem(400, "invalid-request");
    let list = lobby(&red, |room| room["read"]["seq"] == said["seq"]).await;
    assert_eq!(list["unread"], 0, "{list}");
}
