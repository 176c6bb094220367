//! What is made anew of the events that are left.

use super::*;

on_each_engine!(what_changes_a_message_stays_as_long_as_that, others_write_meanwhile,);

async fn what_changes_a_message_stays_as_long_as_that(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
    let mut diary = Diary::of(&house).await;
    diary.begin().await;
    let of_alice = diary.say(2, "lobby", "alice").await;
    let of_bob = diary.say(2, "lobby", "bob").await;
    for of in [of_alice, of_bob] {
        diary.note(3, ("lobby", "bob", "delete"), json!({"of": of})).await;
    }
    let hold = |held: bool| json!({"user": "alice", "held": held});
    diary.note(3, ("_", "auditor", "hold"), hold(true)).await;
    diary.say(20, "lobby", "alice").await;
    diary.archived(&house, &database).await;
    assert_eq!(on(&house, &database, 7, 20).await, 2, "bob's message and its deletion");
    let other = Databases::new(Engine::Sqlite);
    let target = other.open("target").await;
    copy(&database, &target, &house.log, |_, _| {}).await.unwrap();
    for of in [&database, &target] {
        let changed = changed::Entity::find().all(of.connection()).await.unwrap();
        let deleted: Vec<_> = changed.iter().map(|row| (row.seq, row.deleted.is_some())).collect();
        assert_eq!(deleted, [(i64::try_from(of_alice.0).unwrap(), true)]);
        assert_sound(&house, of).await;
    }
    diary.note(20, ("_", "auditor", "hold"), hold(false)).await;
    diary.archived(&house, &database).await;
    assert_eq!(on(&house, &database, 7, 20).await, 2, "both go together");
    assert_sound(&house, &database).await;
}

/// On SQLite a transaction that reads before it writes fails if another one is committed in between.
async fn others_write_meanwhile(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
    let mut diary = Diary::of(&house).await;
    diary.begin().await;
    let rooms = 20;
    for room in 0..rooms {
        diary.say(2, &format!("room-{room}"), "alice").await;
    }
    diary.say(20, "lobby", "alice").await;
    diary.archived(&house, &database).await;
    let (stop, other) = (tokio_util::sync::CancellationToken::new(), database.clone());
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let mut written = 0;
        while !stopped.is_cancelled() {
            let sql = "UPDATE watermark SET replies = replies + 1";
            other.connection().execute_unprepared(sql).await.unwrap();
            written += 1;
        }
        written
    });
    assert_eq!(on(&house, &database, 7, 20).await, rooms);
    stop.cancel();
    assert!(writer.await.unwrap() > 0);
}
