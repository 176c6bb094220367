use natterjack_nats_config::contract::Subjects;
use proptest::prelude::*;
use serde_json::{Value, json};

use natterjack_nats_config::contract::Seq;

use super::*;
use crate::archive::project;
use crate::archive::testing::{Databases, Engine, change, line, on_each_engine};
use crate::archive::{Database, sql};

on_each_engine!(in_whatever_portions_events_come_they_make_the_same_of_messages);

fn log() -> Log {
    Log::first(Subjects::default())
}

fn row(line: String) -> event::Model {
    let seq = serde_json::from_str::<Value>(&line).unwrap()["seq"].as_u64().unwrap();
    let event = serde_json::from_str(&line).unwrap();
    let bytes = line.into();
    let row = project::row(&log(), &natterjack_nats_config::contract::EventLine { event, bytes }).unwrap();
    assert_eq!(row.seq, i64::try_from(seq).unwrap());
    row
}

fn said(frame: u64) -> event::Model {
    row(line(Seq::of(frame, 0), (frame, Seq::ZERO), "lobby", Kind::Msg))
}

fn changes(frame: u64, kind: Kind, target: u64, text: &str) -> event::Model {
    let at = (frame, Seq::ZERO);
    row(change(
        Seq::of(frame, 0),
        at,
        ("lobby", kind),
        (Seq::of(target, 0), text),
    ))
}

/// Three messages; the first is edited twice, the second edited and deleted, twice, and edited again; the third has reactions and
/// is pinned, the first is pinned no more.
fn rows() -> Vec<event::Model> {
    vec![
        said(1),
        said(2),
        said(3),
        changes(4, Kind::Edit, 1, "once"),
        changes(5, Kind::Edit, 2, "gone"),
        changes(6, Kind::Delete, 2, ""),
        changes(7, Kind::Edit, 1, "twice"),
        changes(8, Kind::Delete, 2, ""),
        changes(9, Kind::Edit, 2, "too late"),
        changes(10, Kind::React, 3, "👍"),
        changes(11, Kind::React, 3, "🎉"),
        changes(12, Kind::Unreact, 3, "👍"),
        changes(13, Kind::Pin, 3, ""),
        changes(14, Kind::Pin, 1, ""),
        changes(15, Kind::Unpin, 1, ""),
    ]
}

async fn keep(database: &Database, rows: &[event::Model]) {
    let transaction = sql::begin(database.connection()).await.unwrap();
    sql::keep(database, &transaction, rows.to_vec()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn differing_from(database: &Database, rows: &[event::Model]) -> Vec<i64> {
    differing(
        database.connection(),
        &log(),
        &Changes::of(rows),
        (i64::MAX, &Horizons::default()),
    )
    .await
    .unwrap()
}

async fn in_whatever_portions_events_come_they_make_the_same_of_messages(engine: Engine) {
    let databases = Databases::new(engine);
    for portions in [&[15][..], &[1; 15], &[4, 2, 9]] {
        let database = databases.open(&format!("archive{}", portions.len())).await;
        let (all, mut rest) = (rows(), &rows()[..]);
        for portion in portions {
            let (now, later) = rest.split_at(*portion);
            keep(&database, now).await;
            rest = later;
        }
        assert_eq!(differing_from(&database, &all).await, [] as [i64; 0]);
        assert_eq!(differing_from(&database, &all[..7]).await, [1 << 10, 2 << 10, 3 << 10]);
        // Again, and from the beginning.
        let transaction = sql::begin(database.connection()).await.unwrap();
        take_in(&transaction, &all[3..11]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(differing_from(&database, &all).await, [] as [i64; 0]);
        let transaction = sql::begin(database.connection()).await.unwrap();
        transaction.execute_unprepared("DELETE FROM changed").await.unwrap();
        transaction
            .execute_unprepared("UPDATE edit SET target = 1")
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(differing_from(&database, &all).await, [1, 1 << 10, 2 << 10, 3 << 10]);
        let transaction = sql::begin(database.connection()).await.unwrap();
        rebuild(&transaction, &log()).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(differing_from(&database, &all).await, [] as [i64; 0]);
    }
}

#[test]
fn the_last_edit_and_the_first_deletion_count() {
    let changes = Changes::of(&rows()).changed;
    let (first, second) = (&changes[&1024], &changes[&2048]);
    assert_eq!((first.edited, first.deleted), (Some(7 << 10), None));
    assert_eq!((second.edited, second.deleted), (Some(9 << 10), Some(6 << 10)));
    assert_eq!(changes.len(), 3);
    assert_eq!(
        (changes[&3072].pinned, changes[&3072].reacted),
        (Some(13 << 10), Some(12 << 10))
    );

    let rows = rows();
    let shown = |seq: i64, edit: Option<&event::Model>| -> Value {
        let line = &rows.iter().find(|row| row.seq == seq).unwrap().bytes;
        let shown = changes[&seq]
            .shown(line, edit.map(|edit| &edit.bytes[..]), None)
            .unwrap();
        assert!(shown.len() <= changes[&seq].size(line.len()));
        serde_json::from_slice(&shown).unwrap()
    };
    let said: Value = serde_json::from_slice(&rows[0].bytes).unwrap();
    let mut expected = said.clone();
    expected["body"] = json!({"text": "twice"});
    expected["edited_at"] = json!("2026-11-23T06:00:00.007Z");
    assert_eq!(shown(1024, Some(&rows[6])), expected);
    let tombstone = shown(2048, None);
    assert_eq!(tombstone["body"], Value::Null);
    assert_eq!(
        tombstone["deleted"],
        json!({"at": "2026-11-23T06:00:00.006Z", "by": "alice"})
    );
    assert!(tombstone.get("key").is_none() && tombstone.get("edited_at").is_none());
    assert_eq!(tombstone["id"], "id-2048");
}

proptest! {
    #[test]
    fn the_order_of_portions_does_not_matter(cut in 0usize..=15, turned in any::<bool>()) {
        let rows = rows();
        let (one, two) = rows.split_at(cut);
        let (one, two) = if turned { (two, one) } else { (one, two) };
        let mut changes = Changes::of(one);
        changes.extend(Changes::of(two));
        let all = Changes::of(&rows);
        prop_assert_eq!((changes.changed, changes.reactions), (all.changed, all.reactions));
    }
}
