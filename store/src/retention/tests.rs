use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{HistoryQuery, PastQuery, Seq};
use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder};
use serde_json::json;

use super::remove::round;
use super::rules::holds;
use super::*;
use crate::archive::Database;
use crate::archive::testing::{Databases, Engine, House, Scribe, events, on_each_engine};
use crate::entity::{changed, edit, event, reaction, retention};
use crate::transfer::copy;
use crate::verify::verify;

mod anew;

on_each_engine!(
    what_is_too_old_is_removed_and_the_absence_has_a_reason,
    what_is_held_stays_until_it_is_released,
    a_copy_has_no_more_than_the_archive,
    an_archive_of_before_gets_the_tables,
);

/// Says what is said on some days of November.
struct Diary {
    scribe: Scribe,
    rooms: std::collections::HashMap<String, (u64, Seq)>,
}

impl Diary {
    async fn of(house: &House) -> Self {
        Self {
            scribe: house.scribe().await,
            rooms: std::collections::HashMap::new(),
        }
    }

    async fn note(&mut self, day: u32, (room, from, kind): (&str, &str, &str), body: serde_json::Value) -> Seq {
        let seq = Seq::of(self.scribe.next_frame, 0);
        let (n, prev) = self.rooms.entry(room.to_owned()).or_default();
        *n += 1;
        let mut line = json!({
            "v": 1, "seq": seq, "n": *n, "prev": *prev, "id": format!("id-{seq}"), "tenant": "main", "room": room, "from": from,
            "kind": kind, "at": format!("2026-11-{day:02}T06:00:00.000Z"), "body": body,
        });
        if let Some(target) = line["body"].as_object_mut().and_then(|body| body.remove("of")) {
            line["target"] = json!({"id": format!("id-{target}"), "seq": target});
        }
        *prev = seq;
        self.scribe.append(line.to_string().into()).await;
        seq
    }

    async fn say(&mut self, day: u32, room: &str, from: &str) -> Seq {
        self.note(day, (room, from, "msg"), json!({"text": format!("day {day}")}))
            .await
    }

    /// The lobby keeps seven days, the attic what the configuration says.
    async fn begin(&mut self) {
        let seven = json!({"kind": "group", "retention": {"days": 7}});
        self.note(1, ("lobby", "alice", "room"), seven).await;
        self.note(1, ("attic", "alice", "room"), json!({"kind": "group"})).await;
        self.note(
            1,
            ("lobby", "alice", "member"),
            json!({"user": "bob", "role": "member"}),
        )
        .await;
    }

    async fn archived(&self, house: &House, database: &Database) {
        let mut worker = house.start(database, "one").await;
        worker.reached(self.scribe.end()).await;
        worker.stop().await;
    }
}

fn config(house: &House, days: u32) -> RetentionConfig {
    RetentionConfig {
        log: house.log.clone(),
        days,
        tenants: std::collections::BTreeMap::new(),
    }
}

async fn on(house: &House, database: &Database, days: u32, day: u32) -> u64 {
    let now = clock::parse_ms(&format!("2026-11-{day:02}T06:00:00.000Z")).unwrap();
    round(database, &config(house, days), now).await.unwrap()
}

async fn assert_sound(house: &House, database: &Database) {
    let verified = verify(&house.store().await, database, &house.log, true, |_, _| {})
        .await
        .unwrap();
    assert_eq!((verified.faults, &verified.findings[..]), (0, &[][..]));
}

async fn places(database: &Database) -> Vec<u64> {
    events(database)
        .await
        .iter()
        .map(|row| row.seq.unsigned_abs())
        .collect()
}

async fn what_is_too_old_is_removed_and_the_absence_has_a_reason(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
    let mut diary = Diary::of(&house).await;
    diary.begin().await;
    let first = diary.say(2, "lobby", "alice").await;
    let second = diary.say(3, "lobby", "bob").await;
    diary
        .note(3, ("lobby", "bob", "react"), json!({"emoji": "+1", "of": first}))
        .await;
    diary
        .note(3, ("lobby", "alice", "edit"), json!({"text": "better", "of": first}))
        .await;
    let attic = diary.say(3, "attic", "bob").await;
    // Of what is removed, and yet young.
    let late = diary
        .note(12, ("lobby", "bob", "edit"), json!({"text": "late", "of": second}))
        .await;
    let young = diary.say(13, "lobby", "bob").await;
    diary.archived(&house, &database).await;
    let whole = places(&database).await;
    assert_sound(&house, &database).await;
    let joined = [("lobby", late), ("attic", Seq(attic.0 + 1))];
    assert_eq!(unread(&house, &database, joined).await, [2, 0]);
    assert_eq!(on(&house, &database, 0, 9).await, 0, "nothing is seven days old");
    assert_eq!(on(&house, &database, 0, 11).await, 4);
    assert_eq!(on(&house, &database, 0, 11).await, 0);

    // Policy stays; so does the other room; so does what is young.
    let mut left = whole.clone();
    left.retain(|seq| !(first.0..attic.0).contains(seq));
    assert_eq!(places(&database).await, left);
    let db = database.connection();
    assert_eq!(edit::Entity::find().all(db).await.unwrap(), []);
    assert!(reaction::Entity::find().all(db).await.unwrap().is_empty());
    assert_eq!(changed::Entity::find().all(db).await.unwrap(), []);
    assert_sound(&house, &database).await;
    readers_are_told(&house, &database, (second, young)).await;
    assert_eq!(unread(&house, &database, joined).await, [2, 0]);

    // The configuration speaks for rooms that say nothing; all of it grows old.
    assert_eq!(on(&house, &database, 5, 14).await, 1);
    assert_eq!(unread(&house, &database, joined).await, [2, 0]);
    assert_sound(&house, &database).await;
    // What nobody removed is a fault still.
    event::Entity::delete_by_id((1, 0, i64::try_from(young.0).unwrap()))
        .exec(db)
        .await
        .unwrap();
    let verified = verify(&house.store().await, &database, &house.log, false, |_, _| {})
        .await
        .unwrap();
    assert!(verified.faults > 0);
}

/// What somebody has to read of rooms which he sees from some places on.
async fn unread(house: &House, database: &Database, rooms: [(&str, Seq); 2]) -> Vec<u64> {
    let rooms = rooms.map(|(id, from)| json!({"id": id, "visible_from": from}));
    let query = serde_json::from_value(json!({"tenant": "main", "user": "carol", "rooms": rooms})).unwrap();
    let page = crate::rooms::rooms(database.connection(), &house.log, &query).await;
    let rooms = page.unwrap().unwrap().rooms;
    rooms.iter().map(|room| room.unread).collect()
}

/// Of what is missing between two places.
async fn readers_are_told(house: &House, database: &Database, (second, young): (Seq, Seq)) {
    let db = database.connection();
    let query: HistoryQuery =
        serde_json::from_value(json!({"tenant": "main", "room": "lobby", "visible_from": 0})).unwrap();
    let (page, _) = crate::history::read(db, &house.log, &query).await.unwrap();
    assert!(page.retained_from.unwrap() > second && page.retained_from.unwrap() < young);

    // A cursor of before is told so.
    let query = PastQuery {
        tenant: "main".parse().unwrap(),
        room: Some("lobby".parse().unwrap()),
        after: Seq::ZERO,
        up_to: young,
    };
    let (page, lines) = crate::past::past(db, &house.log, &query).await.unwrap();
    assert!(lines.is_empty() && page.earliest.unwrap() > second, "{page:?}");
    // Also where memory begins before the last of what was removed: what is in memory, the reader gets.
    for (up_to, earliest) in [(second, Some(second)), (Seq::ZERO, None)] {
        let short = PastQuery { up_to, ..query.clone() };
        let (page, lines) = crate::past::past(db, &house.log, &short).await.unwrap();
        assert!(lines.is_empty());
        assert_eq!(page.earliest, earliest);
    }
    let other = PastQuery {
        room: Some("attic".parse().unwrap()),
        ..query
    };
    let (page, lines) = crate::past::past(db, &house.log, &other).await.unwrap();
    assert_eq!((page.earliest, lines.len()), (None, 2));
}

async fn what_is_held_stays_until_it_is_released(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
    let mut diary = Diary::of(&house).await;
    diary.begin().await;
    let of_alice = diary.say(2, "lobby", "alice").await;
    let of_bob = diary.say(2, "lobby", "bob").await;
    let attic = diary.say(2, "attic", "alice").await;
    let hold = |what: &str, name: &str, held: bool| json!({what: name, "held": held});
    diary.note(3, ("_", "auditor", "hold"), hold("user", "bob", true)).await;
    diary
        .note(3, ("_", "auditor", "hold"), hold("room", "attic", true))
        .await;
    diary.say(20, "lobby", "alice").await;
    diary.archived(&house, &database).await;
    assert_eq!(on(&house, &database, 7, 20).await, 1, "alice's in the lobby");
    let there = places(&database).await;
    assert!(there.contains(&of_bob.0) && there.contains(&attic.0) && !there.contains(&of_alice.0));
    assert_sound(&house, &database).await;
    for (what, name, removed) in [("user", "bob", 1), ("room", "attic", 1)] {
        diary.note(20, ("_", "auditor", "hold"), hold(what, name, false)).await;
        diary.archived(&house, &database).await;
        assert_eq!(on(&house, &database, 7, 20).await, removed, "{name}");
        assert_sound(&house, &database).await;
    }
    assert_eq!(
        holds(database.connection(), &house.log, ("main", "user"))
            .await
            .unwrap()
            .len(),
        0
    );
}

async fn a_copy_has_no_more_than_the_archive(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
    let mut diary = Diary::of(&house).await;
    diary.begin().await;
    diary.say(2, "lobby", "alice").await;
    diary.say(3, "lobby", "bob").await;
    diary
        .note(4, ("_", "auditor", "hold"), json!({"user": "bob", "held": true}))
        .await;
    diary.say(5, "attic", "bob").await;
    diary.archived(&house, &database).await;
    let other = Databases::new(Engine::Sqlite);
    let target = other.open("target").await;
    copy(&database, &target, &house.log, |_, _| {}).await.unwrap();
    assert_eq!(
        on(&house, &database, 0, 12).await,
        0,
        "no more than a day beyond the last event"
    );
    diary.say(11, "attic", "bob").await;
    diary.archived(&house, &database).await;
    assert_eq!(on(&house, &database, 0, 12).await, 1);
    copy(&database, &target, &house.log, |_, _| {}).await.unwrap();
    assert_eq!(places(&target).await, places(&database).await);
    let rows = async |of: &Database| {
        let all = retention::Entity::find().order_by_asc(retention::Column::Room);
        all.all(of.connection()).await.unwrap()
    };
    assert_eq!(rows(&target).await, rows(&database).await);
    assert_sound(&house, &target).await;
    let later = copy(&database, &other.open("later").await, &house.log, |_, _| {}).await;
    later.unwrap();
    assert_sound(&house, &other.open("later").await).await;
}

async fn an_archive_of_before_gets_the_tables(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    for sql in [
        "DROP TABLE retention",
        "DROP TABLE hold",
        "DELETE FROM seaql_migrations WHERE version = 'm0006_retention'",
    ] {
        database.connection().execute_unprepared(sql).await.unwrap();
    }
    database.close().await;
    let database = databases.open("archive").await;
    assert_eq!(retention::Entity::find().all(database.connection()).await.unwrap(), []);
}
