use natterjack_nats_config::contract::{EventLine, Seq, Subjects};

use super::*;
use crate::archive::testing::{Databases, Engine, line, on_each_engine};
use crate::archive::{Database, project, sql};

on_each_engine!(
    in_whatever_portions_events_come_the_chain_is_the_same,
    a_change_of_a_row_or_of_an_event_before_it_is_seen,
);

fn log() -> Log {
    Log::first(Subjects::default())
}

fn row(text: String) -> event::Model {
    let event = serde_json::from_str(&text).unwrap();
    let bytes = text.into();
    project::row(&log(), &EventLine { event, bytes }).unwrap()
}

fn rows() -> Vec<event::Model> {
    let kinds = [
        Kind::Room,
        Kind::Member,
        Kind::Msg,
        Kind::User,
        Kind::Msg,
        Kind::Token,
        Kind::Key,
        Kind::Msg,
    ];
    let plain = kinds.iter().zip(1..);
    let mut rows: Vec<_> = plain
        .map(|(kind, frame)| row(line(Seq::of(frame, 0), (frame, Seq::ZERO), "lobby", *kind)))
        .collect();
    let seq = Seq::of(9, 0);
    rows.push(row(format!(
        r#"{{"v":1,"seq":{seq},"n":1,"prev":0,"id":"id-{seq}","tenant":"main","room":"_","from":"_","kind":"login","at":"2026-11-23T06:00:00.123Z","body":{{"user":"mallory","door":"nats","reason":"x","count":2,"worker":"w"}}}}"#
    )));
    rows
}

async fn keep(database: &Database, rows: &[event::Model]) {
    let transaction = sql::begin(database.connection()).await.unwrap();
    sql::keep(database, &transaction, rows.to_vec()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn stored(database: &Database) -> Vec<audit::Model> {
    let find = audit::Entity::find().order_by(audit::Column::Seq, Order::Asc);
    find.all(database.connection()).await.unwrap()
}

async fn wrong(database: &Database) -> Vec<i64> {
    let mut expected = Trail::default();
    expected.extend(&rows());
    differing(database.connection(), &log(), &expected, i64::MAX)
        .await
        .unwrap()
}

async fn in_whatever_portions_events_come_the_chain_is_the_same(engine: Engine) {
    let databases = Databases::new(engine);
    let mut expected = Trail::default();
    expected.extend(&rows());
    let who: Vec<_> = expected
        .rows
        .iter()
        .map(|row| (row.kind.as_str(), row.actor.as_str()))
        .collect();
    assert_eq!(who.last(), Some(&("login", "mallory")));
    assert_eq!(who.len(), 6);
    for (name, portion) in [("one", 1), ("three", 3), ("all", 9)] {
        let database = databases.open(name).await;
        for rows in rows().chunks(portion) {
            keep(&database, rows).await;
        }
        assert_eq!(stored(&database).await, expected.rows, "{name}");
        // Forgotten by an older program, taken in again, wholly or from where it ends.
        for sql in ["DELETE FROM audit", "DELETE FROM audit WHERE seq > 4096"] {
            let transaction = sql::begin(database.connection()).await.unwrap();
            transaction.execute_unprepared(sql).await.unwrap();
            catch_up(&transaction, &log()).await.unwrap();
            transaction.commit().await.unwrap();
            assert_eq!(stored(&database).await, expected.rows, "{name}: {sql}");
        }
    }
    // What is put in before the end changes all behind it.
    let database = databases.open("late").await;
    let (first, rest) = (&rows()[..1], &rows()[2..]);
    keep(&database, first).await;
    keep(&database, rest).await;
    assert_ne!(stored(&database).await, expected.rows);
    keep(&database, &rows()[1..2]).await;
    assert_eq!(stored(&database).await, expected.rows);
}

async fn a_change_of_a_row_or_of_an_event_before_it_is_seen(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    keep(&database, &rows()).await;
    assert_eq!(wrong(&database).await, Vec::<i64>::new());
    let zeros = engine.bytes(&"00".repeat(32));
    let seq = 4 << 10;
    for (sql, found) in [
        (
            format!("UPDATE audit SET actor = 'nobody' WHERE seq = {seq}"),
            vec![seq],
        ),
        (format!("UPDATE audit SET hash = {zeros} WHERE seq = {seq}"), vec![seq]),
        (format!("DELETE FROM audit WHERE seq = {seq}"), vec![seq]),
        (
            format!("UPDATE audit SET seq = {} WHERE seq = {seq}", seq + 1),
            vec![seq, seq + 1],
        ),
    ] {
        let connection = database.connection();
        connection.execute_unprepared(&sql).await.unwrap();
        assert_eq!(wrong(&database).await, found, "{sql}");
        let transaction = sql::begin(connection).await.unwrap();
        rebuild(&transaction, &log()).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(wrong(&database).await, Vec::<i64>::new());
    }
    let mut changed = rows();
    changed[0].hash = vec![7; 32];
    let mut other = Trail::default();
    other.extend(&changed);
    let differ = differing(database.connection(), &log(), &other, i64::MAX)
        .await
        .unwrap();
    assert_eq!(differ.len(), 6, "every row behind a changed event");
}
