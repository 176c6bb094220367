use natterjack_nats_config::contract::{Kind, Seq, Subjects};

use sea_orm::EntityTrait;

use super::*;
use crate::archive::Database;
use crate::archive::now::{self, Changes};
use crate::archive::sql::{self, Range, Room};
use crate::archive::testing::{Databases, Engine, House, assert_archived, events, on_each_engine, quarantined};
use crate::entity::member;
use crate::retention::Horizons;

on_each_engine!(
    an_archive_moves_to_every_other_engine_as_it_is,
    a_room_goes_out_and_in_again_byte_for_byte,
    what_is_no_export_is_refused,
    a_user_is_told_what_they_wrote_and_where_they_are,
);

const ENGINES: [Engine; 3] = [Engine::Sqlite, Engine::Postgres, Engine::MariaDb];

/// An archive of some rooms, with something in quarantine.
async fn filled(house: &House) -> (crate::archive::testing::Scribe, Database) {
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Member)]).await;
    scribe.append(b"junk".to_vec().into()).await;
    scribe.chatter(150, 8).await;
    let said = Seq::of(3, 0);
    for (kind, text) in [(Kind::Edit, "new"), (Kind::Edit, "newer"), (Kind::Delete, "")] {
        scribe.change("lobby", kind, said, text).await;
    }
    let database = house.database("archive").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    (scribe, database)
}

async fn an_archive_moves_to_every_other_engine_as_it_is(engine: Engine) {
    let house = House::new(engine).await;
    let (mut scribe, source) = filled(&house).await;
    for other in ENGINES.into_iter().filter(|other| *other != engine) {
        let databases = Databases::new(other);
        let target = databases.open("target").await;
        let told = std::sync::Mutex::new((0, 0));
        let tell = |done, all| *told.lock().unwrap() = (done, all);
        let end = scribe.end().frame();
        assert_eq!(copy(&source, &target, &house.log, tell).await.unwrap(), end);
        assert_eq!(*told.lock().unwrap(), (end, end));
        assert_eq!(copy(&source, &target, &house.log, tell).await.unwrap(), end);
        assert_eq!(events(&source).await, events(&target).await);
        assert_eq!(quarantined(&source).await, quarantined(&target).await);
        assert_eq!(members(&target).await, members(&source).await);
        assert_stands(&target).await;
        // The log goes on, and a store goes on with the copy.
        scribe.chatter(2, 2).await;
        let mut worker = house.start(&target, "two").await;
        worker.reached(scribe.end()).await;
        worker.stop().await;
        assert_archived(&target, &scribe.lines).await;
        let ahead = copy(&source, &target, &house.log, |_, _| {}).await.unwrap_err();
        assert!(matches!(ahead, TransferError::Target(_)), "{ahead}");
        let mut worker = house.start(&source, "one").await;
        worker.reached(scribe.end()).await;
        worker.stop().await;
    }
}

/// What was changed stands as the archive's own events make it.
async fn assert_stands(database: &Database) {
    let changes = Changes::of(&events(database).await);
    assert_eq!((changes.changed.len(), changes.edits.len()), (1, 2));
    let log = natterjack_nats_config::tail::Log::first(Subjects::default());
    let wrong = now::differing(database.connection(), &log, &changes, (i64::MAX, &Horizons::default()))
        .await
        .unwrap();
    assert_eq!(wrong, [] as [i64; 0]);
}

async fn members(database: &Database) -> Vec<member::Model> {
    let all = member::Entity::find().all(database.connection()).await.unwrap();
    assert_eq!(all.len(), 1);
    all
}

async fn history(database: &Database, house: &House) -> Vec<Vec<u8>> {
    let (tenant, room) = ("main".parse().unwrap(), "lobby".parse().unwrap());
    let room = Room {
        log: &house.log,
        tenant: &tenant,
        id: &room,
    };
    let range = Range {
        first: Seq::ZERO,
        last: sql::archived(database.connection(), &house.log).await.unwrap(),
    };
    let lines = sql::lines(database.connection(), room, range).await.unwrap();
    lines.into_iter().map(|(_, line)| line).collect()
}

async fn a_room_goes_out_and_in_again_byte_for_byte(engine: Engine) {
    let house = House::new(engine).await;
    let (scribe, source) = filled(&house).await;
    let (tenant, room) = ("main".parse().unwrap(), "lobby".parse().unwrap());
    let what = Exported {
        log: &house.log,
        tenant: &tenant,
        room: &room,
        apart: None,
    };
    let mut file = Vec::new();
    let count = export(&source, what, &mut file, |_, _| {}).await.unwrap();
    assert_eq!(count, 405);
    for other in ENGINES.into_iter().filter(|other| *other != engine) {
        let databases = Databases::new(other);
        let target = databases.open("target").await;
        let header = import(&target, &Subjects::default(), &mut file.as_slice(), |_, _| {})
            .await
            .unwrap();
        assert_eq!((header.events, header.upto), (405, scribe.end().frame()));
        let told = history(&target, &house).await;
        assert_stands(&target).await;
        assert_eq!(told.len(), 400);
        assert_eq!(members(&target).await, members(&source).await);
        assert_eq!(told, history(&source, &house).await);
        let mut again = Vec::new();
        export(&target, what, &mut again, |_, _| {}).await.unwrap();
        assert_eq!(again, file);
        // Of everything else it says that it has not got it.
        let absence = sql::last_absence(target.connection(), &house.log, 999).await.unwrap();
        assert_eq!(absence, Some((1, scribe.end().frame())));
        let twice = import(&target, &Subjects::default(), &mut file.as_slice(), |_, _| {}).await;
        assert!(matches!(twice, Err(TransferError::Target(_))), "{twice:?}");
    }
}

async fn what_is_no_export_is_refused(engine: Engine) {
    let databases = Databases::new(engine);
    let target = databases.open("target").await;
    let header = r#"{"format":"natterjack-export","version":1,"shard":0,"epoch":1,"tenant":"main","room":"lobby","upto":9,"events":2}"#;
    let line = |seq: u64, room: &str| crate::archive::testing::line(Seq(seq), (1, Seq::ZERO), room, Kind::Msg);
    for (file, number, why) in [
        (String::new(), 1, "empty"),
        ("{}".to_owned(), 1, "format"),
        (header.replace(":1,\"shard", ":2,\"shard"), 1, "version"),
        (format!("{header}\n{}\n", line(1024, "lobby")), 2, "announced"),
        (format!("{header}\n{}\nnonsense\n", line(1024, "lobby")), 3, "expected"),
        (
            format!("{header}\n{}\n{}\n", line(1024, "lobby"), line(1025, "Lobby")),
            3,
            "of the room",
        ),
        (
            format!("{header}\n{}\n{}\n", line(1024, "lobby"), line(99 << 10, "lobby")),
            3,
            "behind the end",
        ),
        (
            format!("{header}\n{}\n{}\n", line(1025, "lobby"), line(1024, "lobby")),
            3,
            "before",
        ),
    ] {
        let error = import(&target, &Subjects::default(), &mut file.as_bytes(), |_, _| {})
            .await
            .unwrap_err();
        let TransferError::Line { line, why: found } = &error else {
            panic!("{error}")
        };
        assert!(*line == number && found.contains(why), "{file}: {error}");
    }
    assert!(events(&target).await.is_empty());
}

async fn a_user_is_told_what_they_wrote_and_where_they_are(engine: Engine) {
    let house = House::new(engine).await;
    let (scribe, database) = filled(&house).await;
    let tenant = "main".parse().unwrap();
    let of = async |user: &str| -> Vec<String> {
        let (user, mut file) = (user.parse().unwrap(), Vec::new());
        let what = ExportedUser {
            log: &house.log,
            tenant: &tenant,
            user: &user,
        };
        let count = export_user(&database, what, &mut file, |_, _| {}).await.unwrap();
        let lines: Vec<String> = String::from_utf8(file).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len() as u64, count + 1);
        lines
    };
    let header = |lines: &[String]| serde_json::from_str::<serde_json::Value>(&lines[0]).unwrap();
    let line = |index: usize| String::from_utf8(scribe.lines[index].1.to_vec()).unwrap();
    let bob = of("bob").await;
    assert_eq!(bob[1..], [line(1)], "somebody else let him in");
    let joined = serde_json::json!([
        {"room": "lobby", "role": "member", "joined": Seq::of(1, 1), "joined_at": "2026-11-23T06:00:00.123Z"}
    ]);
    assert_eq!(header(&bob)["rooms"], joined);
    let alice = of("alice").await;
    let all: Vec<String> = (0..scribe.lines.len()).map(line).collect();
    assert_eq!(alice[1..], all);
    assert_eq!(header(&alice)["events"], scribe.lines.len());
    assert_eq!(of("erin").await.len(), 1);
}
