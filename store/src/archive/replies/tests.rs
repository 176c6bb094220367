use natterjack_nats_config::contract::{Seq, Subjects};
use serde_json::{Value, json};

use super::*;
use crate::archive::sql;
use crate::archive::testing::{Databases, Engine, on_each_engine};
use crate::archive::{Database, project};
use crate::retention::Horizons;

on_each_engine!(
    answers_are_the_same_in_whatever_portions_they_are_taken_in,
    an_archive_of_before_is_taken_in,
    only_answers_of_the_same_room_count,
);

fn log() -> Log {
    Log::first(Subjects::default())
}

fn row(frame: u64, room: &str, kind: &str, reply_to: Option<&str>) -> event::Model {
    let seq = Seq::of(frame, 0);
    let mut event = json!({
        "v": 1, "seq": seq, "n": frame, "prev": 0, "id": format!("id-{frame}"), "tenant": "main", "room": room, "from": "alice",
        "kind": kind, "at": "2026-11-23T06:00:00.123Z",
    });
    if let Some(target) = reply_to {
        event["reply_to"] = json!(target);
    }
    // Last, as the writer has it: what stands in a body is none of the event's own fields.
    event["body"] = json!({"text": "\"reply_to\":", "reply_to": "id-1"});
    let bytes = event.to_string().into_bytes();
    let line = natterjack_nats_config::contract::EventLine {
        event: serde_json::from_slice(&bytes).unwrap(),
        bytes: bytes.into(),
    };
    project::row(&log(), &line).unwrap()
}

fn rows() -> Vec<event::Model> {
    vec![
        row(1, "lobby", "msg", None),
        row(2, "lobby", "msg", Some("id-1")),
        row(3, "lobby", "reply", Some("id-1")),
        row(4, "lobby", "msg", Some("ID-1")),
        row(5, "other", "msg", Some("id-1")),
        row(6, "lobby", "edit", Some("id-1")),
        row(7, "lobby", "msg", Some("id-2")),
    ]
}

async fn insert(database: &Database, rows: &[event::Model]) {
    let transaction = sql::begin(database.connection()).await.unwrap();
    database.insert().run(&transaction, rows.to_vec()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn wrong(database: &Database) -> Vec<i64> {
    differing(
        database.connection(),
        &log(),
        &Replies::of(&rows()),
        (i64::MAX, &Horizons::default()),
    )
    .await
    .unwrap()
}

async fn answers_are_the_same_in_whatever_portions_they_are_taken_in(engine: Engine) {
    let all = rows();
    for portion in [1, 3, 7] {
        let databases = Databases::new(engine);
        let database = databases.open("archive").await;
        for part in all.chunks(portion) {
            let transaction = sql::begin(database.connection()).await.unwrap();
            sql::keep(&database, &transaction, part.to_vec()).await.unwrap();
            store(&transaction, (1, 0), Replies::of(part)).await.unwrap();
            transaction.commit().await.unwrap();
        }
        assert_eq!(wrong(&database).await, [] as [i64; 0], "{portion} at a time");
        for sql in [
            "UPDATE reply SET target = 'x' WHERE seq = 2048",
            "DELETE FROM reply WHERE seq = 3072",
            "UPDATE reply SET seq = 9 WHERE seq = 7168",
        ] {
            database.connection().execute_unprepared(sql).await.unwrap();
        }
        let mut found = wrong(&database).await;
        found.sort_unstable();
        assert_eq!(found, [9, 2048, 3072, 7168]);
        let transaction = sql::begin(database.connection()).await.unwrap();
        rebuild(&transaction, &log()).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(wrong(&database).await, [] as [i64; 0]);
    }
}

/// What a program wrote that knows no answers, before the migration and behind it.
async fn an_archive_of_before_is_taken_in(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    sql::begin_watermark(database.connection(), &log()).await.unwrap();
    insert(&database, &rows()[..3]).await;
    for sql in [
        "DROP TABLE reply",
        "ALTER TABLE watermark DROP COLUMN replies",
        "UPDATE watermark SET stream_seq = 3",
        "DELETE FROM seaql_migrations WHERE version = 'm0007_replies'",
    ] {
        database.connection().execute_unprepared(sql).await.unwrap();
    }
    database.close().await;
    let database = databases.open("archive").await;
    insert(&database, &rows()[3..]).await;
    let old = "UPDATE watermark SET stream_seq = 7";
    database.connection().execute_unprepared(old).await.unwrap();
    let stored = async || reply::Entity::find().all(database.connection()).await.unwrap().len();
    assert_eq!(
        (stored().await, wrong(&database).await),
        (0, Vec::new()),
        "not taken in, and known not to be"
    );
    sql::catch_up(&database, &log()).await.unwrap();
    assert_eq!((stored().await, wrong(&database).await), (5, Vec::new()));
    let mark = async || sql::watermark(database.connection(), &log()).await.unwrap().unwrap();
    let old = mark().await;
    assert_eq!((old.stream_seq, old.replies), (7, 7));
    // From here on it goes with the watermark, and stays behind where it was behind.
    assert!(sql::move_watermark(database.connection(), &old, (1, 8)).await.unwrap());
    assert_eq!((mark().await.stream_seq, mark().await.replies), (8, 8));
    let behind = "UPDATE watermark SET replies = 2";
    database.connection().execute_unprepared(behind).await.unwrap();
    assert!(
        sql::move_watermark(database.connection(), &mark().await, (1, 9))
            .await
            .unwrap()
    );
    assert_eq!((mark().await.stream_seq, mark().await.replies), (9, 2));
    assert!(
        sql::begin_epoch(database.connection(), &Log { epoch: 2, ..log() }, &mark().await)
            .await
            .unwrap()
    );
    assert_eq!((mark().await.epoch, mark().await.replies), (2, 0));
}

async fn only_answers_of_the_same_room_count(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let transaction = sql::begin(database.connection()).await.unwrap();
    sql::keep(&database, &transaction, rows()).await.unwrap();
    transaction.commit().await.unwrap();
    let lines: Vec<(i64, Vec<u8>)> = rows().into_iter().map(|row| (row.seq, row.bytes)).collect();
    let shown = async |log: &Log| {
        let lines = add(database.connection(), log, lines.clone()).await.unwrap();
        let of = |line: &[u8]| serde_json::from_slice::<Value>(line).unwrap()["replies"].clone();
        lines.iter().map(|(_, line)| of(line)).collect::<Vec<_>>()
    };
    let none = Value::Null;
    let expected = [
        json!({"count": 2, "last": 3072}),
        json!({"count": 1, "last": 7168}),
        none.clone(),
        none.clone(),
        none.clone(),
        none.clone(),
        none.clone(),
    ];
    assert_eq!(shown(&log()).await, expected);
    assert_eq!(shown(&Log { epoch: 2, ..log() }).await, vec![none; 7]);
    let (tenant, lobby) = ("main".parse().unwrap(), "lobby".parse().unwrap());
    let (of_first, in_order) = (log(), (Order::Asc, 9));
    let room = Room {
        log: &of_first,
        tenant: &tenant,
        id: &lobby,
    };
    let range = Range {
        first: Seq::ZERO,
        last: Seq(u64::MAX),
    };
    let places = of_thread(database.connection(), room, "id-1", (range, in_order.0, in_order.1)).await;
    assert_eq!(places.unwrap(), [2048, 3072]);
}
