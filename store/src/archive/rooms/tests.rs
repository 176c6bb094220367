use natterjack_nats_config::contract::{EventLine, Seq, Subjects};

use super::*;
use crate::archive::testing::{Databases, Engine, line, on_each_engine};
use crate::archive::{Database, project, sql};

on_each_engine!(
    in_whatever_portions_events_come_rooms_stand_the_same,
    an_archive_of_before_is_counted,
    rooms_of_two_tenants_stand_apart,
);

fn log() -> Log {
    Log::first(Subjects::default())
}

fn row(line: String) -> event::Model {
    let event = serde_json::from_str(&line).unwrap();
    let bytes = line.into();
    project::row(&log(), &EventLine { event, bytes }).unwrap()
}

fn says(frame: u64, n: u64, room: &str, kind: Kind) -> event::Model {
    row(line(Seq::of(frame, 0), (n, Seq::ZERO), room, kind))
}

fn reads(frame: u64, room: &str, upto: u64) -> event::Model {
    let seq = Seq::of(frame, 0);
    row(format!(
        r#"{{"v":1,"seq":{seq},"n":1,"prev":0,"id":"id-{seq}","tenant":"main","room":"_","from":"bob","kind":"read","at":"2026-11-23T06:00:00.123Z","body":{{"room":"{room}","seq":{}}}}}"#,
        Seq::of(upto, 0)
    ))
}

/// Lobby and Lobby are two rooms; bob reads on, back, and up to where nothing of the room stands.
fn rows() -> Vec<event::Model> {
    vec![
        says(1, 1, "lobby", Kind::Room),
        says(2, 2, "lobby", Kind::Msg),
        says(3, 1, "Lobby", Kind::Msg),
        reads(4, "lobby", 2),
        says(5, 3, "lobby", Kind::Reply),
        says(6, 4, "lobby", Kind::Member),
        reads(7, "lobby", 5),
        reads(8, "lobby", 1),
        reads(9, "Lobby", 8),
    ]
}

async fn keep(database: &Database, rows: &[event::Model]) {
    let transaction = sql::begin(database.connection()).await.unwrap();
    sql::keep(database, &transaction, rows.to_vec()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn assert_stands(database: &Database) {
    let wrong = differing(
        database.connection(),
        &log(),
        &Standings::of(&rows()),
        (i64::MAX, &Horizons::default()),
    )
    .await;
    assert_eq!(wrong.unwrap(), 0);
    let names = ["lobby", "Lobby", "shed"];
    let (mut rooms, mut marks) = of_user(database.connection(), &log(), ("main", "bob"), &names)
        .await
        .unwrap();
    rooms.sort_by_key(|row| row.seq);
    marks.sort_by_key(|row| row.seq);
    let rooms: Vec<_> = rooms
        .iter()
        .map(|row| (row.room.as_str(), row.seq >> 10, row.n, row.message >> 10))
        .collect();
    assert_eq!(rooms, [("Lobby", 3, 1, 3), ("lobby", 6, 4, 5)]);
    let marks: Vec<_> = marks
        .iter()
        .map(|row| (row.room.as_str(), row.seq >> 10, row.n))
        .collect();
    assert_eq!(marks, [("lobby", 5, 3), ("Lobby", 8, 1)]);
    let other = of_user(database.connection(), &log(), ("main", "Bob"), &names)
        .await
        .unwrap();
    assert!(other.1.is_empty());
}

async fn in_whatever_portions_events_come_rooms_stand_the_same(engine: Engine) {
    let databases = Databases::new(engine);
    for portions in [&[9][..], &[1; 9], &[4, 3, 2]] {
        let database = databases.open(&format!("archive{}", portions.len())).await;
        let (all, mut rest) = (rows(), &rows()[..]);
        for portion in portions {
            let (now, later) = rest.split_at(*portion);
            keep(&database, now).await;
            rest = later;
        }
        assert_stands(&database).await;
        let transaction = sql::begin(database.connection()).await.unwrap();
        take_in(&transaction, &all[1..7]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_stands(&database).await;
        for sql in ["UPDATE room SET n = 7 WHERE room = 'lobby'", "DELETE FROM read_mark"] {
            database.connection().execute_unprepared(sql).await.unwrap();
        }
        let wrong = differing(
            database.connection(),
            &log(),
            &Standings::of(&all),
            (i64::MAX, &Horizons::default()),
        )
        .await;
        assert_eq!(wrong.unwrap(), 3);
        let transaction = sql::begin(database.connection()).await.unwrap();
        rebuild(&transaction, &log()).await.unwrap();
        transaction.commit().await.unwrap();
        assert_stands(&database).await;
    }
}

async fn rooms_of_two_tenants_stand_apart(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let of_blue = |row: event::Model| event::Model {
        tenant: "blue".to_owned(),
        ..row
    };
    for (first, last) in [(1, 2), (3, 4)] {
        let of_main = [
            says(first, first, "lobby", Kind::Msg),
            says(first, first, "den", Kind::Msg),
        ];
        let of_other = of_blue(says(last, 9 * last, "lobby", Kind::Msg));
        let transaction = sql::begin(database.connection()).await.unwrap();
        let standings = Standings::of(&[&of_main[..], &[of_other]].concat());
        store(&transaction, (1, 0), standings).await.unwrap();
        transaction.commit().await.unwrap();
    }
    let stand = async |tenant: &str| {
        let (mut rooms, _) = of_user(database.connection(), &log(), (tenant, "bob"), &["lobby", "den"])
            .await
            .unwrap();
        rooms.sort_by(|one, other| one.room.cmp(&other.room));
        rooms.into_iter().map(|row| (row.room, row.n)).collect::<Vec<_>>()
    };
    assert_eq!(stand("main").await, [("den".to_owned(), 3), ("lobby".to_owned(), 3)]);
    assert_eq!(stand("blue").await, [("lobby".to_owned(), 36)]);
}

/// What a program wrote that knows no rooms, before the migration and behind it.
async fn an_archive_of_before_is_counted(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let insert = async |database: &Database, rows: &[event::Model]| {
        let transaction = sql::begin(database.connection()).await.unwrap();
        database.insert().run(&transaction, rows.to_vec()).await.unwrap();
        transaction.commit().await.unwrap();
    };
    let (before, behind) = (&rows()[..3], &rows()[3..]);
    insert(&database, before).await;
    for sql in [
        "DROP TABLE room",
        "DROP TABLE read_mark",
        "DELETE FROM seaql_migrations WHERE version = 'm0004_rooms'",
    ] {
        database.connection().execute_unprepared(sql).await.unwrap();
    }
    database.close().await;
    let database = databases.open("archive").await;
    let counted = differing(
        database.connection(),
        &log(),
        &Standings::of(before),
        (i64::MAX, &Horizons::default()),
    )
    .await;
    assert_eq!(counted.unwrap(), 0);
    insert(&database, behind).await;
    sql::begin_watermark(database.connection(), &log()).await.unwrap();
    sql::catch_up(&database, &log()).await.unwrap();
    assert_stands(&database).await;
}
