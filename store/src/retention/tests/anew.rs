//! What is made anew of the events that are left.

use natterjack_nats_config::contract::Subjects;

use super::*;
use crate::entity::room;
use crate::rebuild::{Past, RebuildConfig, rebuild_archive};

on_each_engine!(
    a_rebuilt_archive_knows_what_was_removed,
    others_write_meanwhile,
    what_changes_a_message_stays_as_long_as_that,
);

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

async fn a_rebuilt_archive_knows_what_was_removed(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
    let mut diary = Diary::of(&house).await;
    diary.begin().await;
    let first = diary.say(2, "lobby", "alice").await;
    let last = diary.say(3, "lobby", "bob").await;
    let read = json!({"room": "lobby", "seq": last});
    diary.note(3, ("_", "carol", "read"), read).await;
    let kept = diary.say(13, "attic", "bob").await;
    diary.say(13, "attic", "alice").await;
    diary.archived(&house, &database).await;
    assert_eq!(on(&house, &database, 0, 13).await, 2);
    let backup = house.database("backup").await;
    copy(&database, &backup, &house.log, |_, _| {}).await.unwrap();
    house.stream().await.purge().sequence(kept.frame() + 1).await.unwrap();

    let all = [("lobby", Seq::ZERO), ("attic", Seq::ZERO)];
    let before = stand(&database).await;
    assert_eq!(unread(&house, &database, all).await, [0, 3]);
    assert_eq!(stand(&backup).await, before);
    assert_eq!(unread(&house, &backup, all).await, [0, 3]);
    let config = RebuildConfig {
        subjects: Subjects::default(),
        replicas: 1,
        log_max_bytes: 1 << 30,
        worker: "rebuild".to_owned(),
        now: 1_800_000_000,
    };
    let (client, emptied) = (house.store().await, house.database("emptied").await);
    for (name, of, past) in [
        ("a backup", &emptied, Past::Backup(&backup)),
        ("itself", &database, Past::Archive),
    ] {
        let done = rebuild_archive(&client, of, past, &config, |_, _| {}).await.unwrap();
        assert_eq!(done.upto, kept.frame());
        diary.archived(&house, of).await;
        assert_eq!(stand(of).await, before, "{name}");
        assert_eq!(unread(&house, of, all).await, [0, 3], "{name}");
        assert_sound(&house, of).await;
        let query = PastQuery {
            tenant: "main".parse().unwrap(),
            room: None,
            after: first,
            up_to: kept,
        };
        let (page, _) = crate::past::past(of.connection(), &house.log, &query).await.unwrap();
        assert_eq!(page.earliest, Some(last), "{name}");
    }
}

/// Where rooms stand, and up to where they were removed.
async fn stand(database: &Database) -> (Vec<room::Model>, Vec<(String, i64, i64)>) {
    let db = database.connection();
    let rooms = room::Entity::find().order_by_asc(room::Column::Room).all(db).await;
    let rows = retention::Entity::find().order_by_asc(retention::Column::Room);
    let rows = rows.all(db).await.unwrap().into_iter();
    (
        rooms.unwrap(),
        rows.map(|row| (row.room, row.ruled, row.horizon)).collect(),
    )
}
