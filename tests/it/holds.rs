//! How long rooms are kept, and what must be kept.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::house::{House, seq};

#[tokio::test(flavor = "multi_thread")]
async fn holds_are_put_told_and_ended() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member")]).await;
    let (admin, bob) = (house.http("admin"), house.http("bob"));
    for path in ["/v1/holds/rooms/lobby", "/v1/holds/users/bob"] {
        bob.put(path, &json!({})).await.is_problem(403, "forbidden");
        let held = admin.put(path, &json!({"reason": "case 7"})).await.ok();
        assert_eq!(held["durability"], "db", "the archive knows of it: {held}");
    }
    bob.get("/v1/holds").await.is_problem(403, "forbidden");
    let list = admin.get("/v1/holds").await.ok();
    let names = |list: &Value| -> Vec<Value> {
        let holds = list["holds"].as_array().unwrap();
        holds
            .iter()
            .map(|hold| json!([hold["room"], hold["user"], hold["by"], hold["reason"]]))
            .collect()
    };
    let expected = [
        json!(["lobby", null, "admin", "case 7"]),
        json!([null, "bob", "admin", "case 7"]),
    ];
    assert_eq!(names(&list), expected);
    let shown = house.run(&["hold", "list", "--user", "admin"]);
    assert!(
        shown.starts_with("room\tlobby\t") && shown.lines().count() == 2,
        "{shown}"
    );
    house.run(&["hold", "release-room", "lobby", "--user", "admin"]);
    admin.delete("/v1/holds/users/bob").await.ok();
    assert_eq!(names(&admin.get("/v1/holds").await.ok()), [json!(null); 0]);
    let long = json!({"reason": "x".repeat(257)});
    admin
        .put("/v1/holds/rooms/lobby", &long)
        .await
        .is_problem(400, "invalid-request");
    // Nobody hears of it.
    let begin = bob.get("/v1/events?cursor=earliest&rooms=lobby&wait=0").await;
    assert!(begin.lines("events").iter().all(|line| !line.contains("case 7")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_says_how_long_it_is_kept() {
    let house = House::start().await;
    let alice = house.http("alice");
    let room = json!({"title": "Sensors", "retention": {"days": 7}});
    alice.put("/v1/rooms/telemetry", &room).await.created();
    house.run(&["room", "create", "attic", "--keep-days", "1", "--user", "alice"]);
    for days in [json!(36_501), json!(-1), json!("x"), json!(null)] {
        let wrong = json!({"retention": {"days": days}});
        alice
            .put("/v1/rooms/telemetry", &wrong)
            .await
            .is_problem(400, "invalid-request");
    }
    let last = alice.say("telemetry", "21.5").await;
    let history = house.history("alice", "telemetry", seq(&last)).await;
    assert_eq!(history.len(), 1);
    let log = house.log().join("\n");
    assert!(
        log.contains(r#""retention":{"days":7}"#) && log.contains(r#""retention":{"days":1}"#),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn history_says_from_where_on_it_is_whole() {
    let house = House::start().await;
    house.room("lobby", &[]).await;
    let alice = house.http("alice");
    let said = seq(&alice.say("lobby", "hello").await);
    let path = "/v1/rooms/lobby/messages";
    eventually("it is archived", async || {
        let page = alice.get(path).await.ok();
        (page["messages"][0]["seq"] == said).then_some(())
    })
    .await;
    assert!(alice.get(path).await.ok()["retained_from"].is_null());
    // As retention notes it; days cannot pass here.
    let sql = format!(
        "INSERT OR REPLACE INTO retention (epoch, shard, tenant, room, days, ruled, looked, horizon) \
         SELECT epoch, shard, tenant, room, NULL, 0, seq, seq FROM event WHERE seq = {said}"
    );
    let code =
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=60); db.execute(sys.argv[2]); db.commit()";
    let done = std::process::Command::new("python3")
        .args(["-c", code])
        .arg(house.data().join("archive.db"))
        .arg(sql)
        .status();
    assert!(done.unwrap().success());
    for path in [path, "/v1/rooms/lobby/pins"] {
        assert_eq!(alice.get(path).await.ok()["retained_from"], said, "{path}");
    }
}
