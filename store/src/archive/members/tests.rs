use natterjack_nats_config::contract::{EventLine, Seq, Subjects};

use super::*;
use crate::archive::testing::{Databases, Engine, on_each_engine};
use crate::archive::{Database, project, sql};

on_each_engine!(
    in_whatever_portions_events_come_memberships_are_the_same,
    a_membership_that_stands_otherwise_is_seen_and_put_right,
);

fn log() -> Log {
    Log::first(Subjects::default())
}

/// The event of a frame of its own: who becomes what in which room (`null`: leaves it), and from where on they may read.
fn event(frame: u64, room: &str, (user, role, visible_from): (&str, &str, u64)) -> event::Model {
    let seq = Seq::of(frame, 0);
    let text = format!(
        r#"{{"v":1,"seq":{seq},"n":1,"prev":0,"id":"id-{seq}","tenant":"main","room":"{room}","from":"alice","kind":"member","at":"day {frame}","body":{{"user":"{user}","role":{role},"visible_from":{visible_from}}}}}"#
    );
    let event = serde_json::from_str(&text).unwrap();
    let bytes = text.into();
    project::row(&log(), &EventLine { event, bytes }).unwrap()
}

fn said(frame: u64) -> event::Model {
    event::Model {
        kind: "msg".to_owned(),
        ..event(frame, "lobby", ("bob", "null", 0))
    }
}

fn rows() -> Vec<event::Model> {
    vec![
        event(1, "lobby", ("alice", r#""owner""#, 0)),
        event(2, "lobby", ("bob", r#""member""#, 7)),
        said(3),
        event(4, "Lobby", ("bob", r#""reader""#, 0)),
        // A change of role, and somebody who comes back.
        event(5, "lobby", ("bob", r#""moderator""#, 8)),
        event(6, "lobby", ("erin", r#""member""#, 0)),
        event(7, "lobby", ("erin", "null", 0)),
        event(8, "lobby", ("Bob", r#""member""#, 0)),
        event(9, "lobby", ("Bob", "null", 0)),
        event(10, "lobby", ("Bob", r#""reader""#, 9)),
        // How this one came in is not in the archive.
        event(11, "lobby", ("carol", "null", 0)),
        event(12, "lobby", ("erin", "null", 0)),
    ]
}

/// Room, user, role, from where on they may read; by which frames they joined and left.
type Shown<'a> = (&'a str, &'a str, Option<&'a str>, i64, (Option<i64>, Option<i64>));

const EXPECTED: [Shown<'static>; 6] = [
    ("Lobby", "bob", Some("reader"), 0, (Some(4), None)),
    ("lobby", "Bob", Some("reader"), 9, (Some(10), None)),
    ("lobby", "alice", Some("owner"), 0, (Some(1), None)),
    ("lobby", "bob", Some("moderator"), 8, (Some(2), None)),
    ("lobby", "carol", None, 0, (None, Some(11))),
    ("lobby", "erin", Some("member"), 0, (Some(6), Some(7))),
];

async fn keep(database: &Database, rows: &[event::Model]) {
    let transaction = sql::begin(database.connection()).await.unwrap();
    sql::keep(database, &transaction, rows.to_vec()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn stored(database: &Database) -> Vec<member::Model> {
    let all = member::Entity::find().all(database.connection()).await.unwrap();
    let mut members = Members::default();
    for row in all {
        let room = members.0.entry((row.tenant.clone(), row.room.clone())).or_default();
        assert!(room.insert(row.user_id.clone(), row).is_none());
    }
    members.rows().collect()
}

fn show(row: &member::Model) -> Shown<'_> {
    let day = |seq: Option<i64>| seq.map(|seq| format!("day {}", seq >> 10));
    assert_eq!(
        (&row.joined_at, &row.left_at),
        (&day(row.joined_seq), &day(row.left_seq))
    );
    let frame = |seq: Option<i64>| seq.map(|seq| seq >> 10);
    (
        row.room.as_str(),
        row.user_id.as_str(),
        row.role.as_deref(),
        row.visible_from,
        (frame(row.joined_seq), frame(row.left_seq)),
    )
}

fn expected() -> Members {
    let mut expected = Members::default();
    expected.extend(&rows());
    expected
}

#[test]
fn who_is_in_a_room_and_since_when() {
    let rows: Vec<member::Model> = expected().rows().collect();
    assert_eq!(rows.iter().map(show).collect::<Vec<_>>(), EXPECTED);
}

async fn in_whatever_portions_events_come_memberships_are_the_same(engine: Engine) {
    let databases = Databases::new(engine);
    for (name, portion) in [("one", 1), ("three", 3), ("all", 99)] {
        let database = databases.open(name).await;
        for rows in rows().chunks(portion) {
            keep(&database, rows).await;
        }
        let whole = stored(&database).await;
        assert_eq!(whole.iter().map(show).collect::<Vec<_>>(), EXPECTED, "{name}");
        // A program that knows nothing of it has archived all of it, or the end, also of the trail.
        for forgotten in [
            &["DELETE FROM member"][..],
            &["DELETE FROM member WHERE seq > 5120"],
            &[
                "DELETE FROM member WHERE seq > 6144",
                "DELETE FROM audit WHERE seq > 6144",
            ],
        ] {
            for sql in forgotten {
                database.connection().execute_unprepared(sql).await.unwrap();
            }
            assert_ne!(stored(&database).await, whole);
            sql::catch_up(&database, &log()).await.unwrap();
            assert_eq!(stored(&database).await, whole, "{name}: {forgotten:?}");
        }
    }
    // Something is put in before the end.
    for late in [0, 4, 6, 8] {
        let database = databases.open(&format!("late{late}")).await;
        let mut rest = rows();
        let late = rest.remove(late);
        keep(&database, &rest).await;
        keep(&database, &[late]).await;
        let rows = stored(&database).await;
        assert_eq!(rows.iter().map(show).collect::<Vec<_>>(), EXPECTED);
    }
}

async fn a_membership_that_stands_otherwise_is_seen_and_put_right(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    keep(&database, &rows()).await;
    let db = database.connection();
    let wrong = async |upto: i64| differing(db, &log(), &expected(), upto).await.unwrap();
    assert_eq!(wrong(i64::MAX).await, [] as [i64; 0]);
    for (sql, found) in [
        (
            "UPDATE member SET joined_at = 'day 2' WHERE user_id = 'alice'",
            &[1024][..],
        ),
        ("DELETE FROM member WHERE user_id = 'erin'", &[12 << 10]),
        (
            "UPDATE member SET user_id = 'mallory' WHERE user_id = 'carol'",
            &[11 << 10, 11 << 10],
        ),
        ("UPDATE member SET left_seq = NULL WHERE user_id = 'erin'", &[12 << 10]),
    ] {
        db.execute_unprepared(sql).await.unwrap();
        assert_eq!(wrong(i64::MAX).await, found, "{sql}");
        let transaction = sql::begin(db).await.unwrap();
        rebuild(&transaction, &log()).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(wrong(i64::MAX).await, [] as [i64; 0]);
    }
    // The archive goes on while it is compared.
    keep(
        &database,
        &[
            event(13, "lobby", ("alice", "null", 0)),
            event(14, "lobby", ("dave", r#""member""#, 0)),
        ],
    )
    .await;
    assert_eq!(wrong(12 << 10).await, [] as [i64; 0]);
}
