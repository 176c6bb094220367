use async_nats::jetstream;
use natterjack_nats_config::checkpoint::Checkpoints;
use natterjack_nats_config::contract::{Kind, Seq, Subjects};
use natterjack_nats_config::tail::Log;
use sea_orm::{ConnectionTrait, Statement};

use super::rekey::TABLES;
use super::*;
use crate::archive::Database;
use crate::archive::testing::{Databases, Engine, House, Scribe, assert_archived, events, on_each_engine, quarantined};
use crate::entity::event;
use crate::verify::verify;

on_each_engine!(
    a_lost_log_goes_on_in_a_new_epoch,
    a_fork_keeps_both_sides,
    a_log_that_is_the_archives_is_left_alone,
    an_archive_is_made_anew_from_the_log_and_what_came_before,
);

const NOW: u32 = 1_800_000_000;

fn config() -> RebuildConfig {
    RebuildConfig {
        subjects: Subjects::default(),
        replicas: 1,
        log_max_bytes: 1 << 30,
        worker: "rebuild".to_owned(),
        now: NOW,
    }
}

/// An archive of a log with some rooms and a message that was changed.
async fn filled(house: &House) -> (Scribe, Database) {
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Member)]).await;
    scribe.chatter(20, 3).await;
    scribe.change("lobby", Kind::Edit, Seq::of(2, 0), "new").await;
    let database = house.database("archive").await;
    archive(house, &database, scribe.end()).await;
    (scribe, database)
}

async fn archive(house: &House, database: &Database, end: Seq) {
    let mut worker = house.start(database, "one").await;
    worker.reached(end).await;
    worker.stop().await;
}

async fn lose_the_log(house: &House) {
    let jetstream = jetstream::new(house.store().await);
    jetstream.delete_stream(house.log.stream()).await.unwrap();
}

async fn rebuilt(house: &House, database: &Database) -> Result<Rebuilt, RebuildError> {
    rebuild_log(&house.store().await, database, &config(), |_, _| {}).await
}

async fn faults(house: &House, database: &Database, log: &Log) -> u64 {
    let verified = verify(&house.store().await, database, log, false, |_, _| {})
        .await
        .unwrap();
    assert!(verified.findings.is_empty(), "{verified:?}");
    verified.faults
}

async fn a_lost_log_goes_on_in_a_new_epoch(engine: Engine) {
    let mut house = House::new(engine).await;
    let (mut scribe, database) = filled(&house).await;
    lose_the_log(&house).await;
    let told = std::sync::Mutex::new((0, 0));
    let tell = |done, all| *told.lock().unwrap() = (done, all);
    let done = rebuild_log(&house.store().await, &database, &config(), tell)
        .await
        .unwrap();
    let end = scribe.end().frame();
    assert_eq!(*told.lock().unwrap(), (end, end));
    assert_eq!(
        (done.log.epoch, done.upto, done.events, done.apart),
        (NOW, end, 63, None)
    );

    let client = house.store().await;
    let bounds = done.log.bounds(&client).await.unwrap();
    assert_eq!((bounds.first, bounds.last), (end + 1, end), "the sequences go on");
    let checkpoints = Checkpoints::join(&client, &done.log).await.unwrap().unwrap();
    let kept = checkpoints.list().await.unwrap();
    assert_eq!(kept.iter().map(|kept| kept.manifest.end).collect::<Vec<_>>(), [end]);
    let state = crate::log::begin_state(&client, &done.log).await.unwrap();
    assert_eq!(state.end(), end);
    let lobby = "lobby".parse().unwrap();
    assert_eq!(
        state.head(&"main".parse().unwrap(), &lobby).seq,
        scribe.lines.last().unwrap().0
    );
    let rooms = jetstream::new(client.clone()).get_stream("CHAT_ROOMS_0").await.unwrap();
    let info = rooms.cached_info();
    assert!(info.config.republish.is_none(), "history is no news");
    assert_eq!(info.state.messages, 63 + 1, "the rooms are filled");
    let last = rooms.get_raw_message(info.state.last_sequence).await.unwrap();
    assert_eq!(last.payload, scribe.lines.last().unwrap().1);

    // The log is written on, and the archive with it.
    house.log = done.log.clone();
    scribe.log = done.log.clone();
    scribe.chatter(5, 2).await;
    archive(&house, &database, scribe.end()).await;
    assert_archived(&database, &scribe.lines).await;
    assert_eq!(faults(&house, &database, &done.log).await, 0);
}

async fn a_fork_keeps_both_sides(engine: Engine) {
    let mut house = House::new(engine).await;
    let (scribe, database) = filled(&house).await;
    let before = events(&database).await;
    // Another log under the same name: its beginning is the same, then it differs, and it is longer.
    lose_the_log(&house).await;
    house.make_log().await;
    let mut other = house.scribe().await;
    other.say(&[("lobby", Kind::Room), ("lobby", Kind::Member)]).await;
    other.chatter(3, 3).await;
    other.say(&[("attic", Kind::Msg)]).await;
    for _ in 0..scribe.end().frame() {
        other.say(&[("attic", Kind::Msg)]).await;
    }
    let worker = house.start(&database, "one").await;
    let stopped = worker.ended().await.unwrap_err();
    assert!(stopped.to_string().contains("natterjack rebuild"), "{stopped}");

    both_sides_are_kept((&mut house, &database), before, (scribe, &other)).await;
}

async fn both_sides_are_kept(
    (house, database): (&mut House, &Database),
    before: Vec<event::Model>,
    (mut scribe, other): (Scribe, &Scribe),
) {
    let done = rebuilt(house, database).await.unwrap();
    let last = other.end().frame();
    assert_eq!(done.upto, last, "no frame's number is given twice");
    let apart = other.lines.iter().filter(|(seq, _)| seq.frame() > 4).count() as u64;
    assert_eq!(done.apart, Some((apart, 1)));
    let rows = events(database).await;
    let of = |epoch: i64| rows.iter().filter(move |row| row.epoch == epoch);
    let moved: Vec<event::Model> = before
        .into_iter()
        .map(|row| event::Model {
            epoch: i64::from(NOW),
            ..row
        })
        .collect();
    assert_eq!(of(i64::from(NOW)).cloned().collect::<Vec<_>>(), moved);
    let kept: Vec<&[u8]> = of(1).map(|row| &row.bytes[..]).collect();
    let there: Vec<&[u8]> = other
        .lines
        .iter()
        .filter(|(seq, _)| seq.frame() > 4)
        .map(|(_, line)| &line[..])
        .collect();
    assert_eq!(kept, there);
    assert!(
        quarantined(database)
            .await
            .iter()
            .any(|row| row.reason.contains("a new epoch begins"))
    );
    // Nobody writes the old one any more.
    let refused = jetstream::new(house.store().await)
        .publish(house.log.subject(), "late".into())
        .await
        .unwrap()
        .await;
    assert!(refused.is_err(), "{refused:?}");
    house.log = done.log.clone();
    (scribe.log, scribe.next_frame) = (done.log.clone(), last + 1);
    scribe.chatter(2, 2).await;
    archive(house, database, scribe.end()).await;
    assert_eq!(faults(house, database, &done.log).await, 0);
}

async fn a_log_that_is_the_archives_is_left_alone(engine: Engine) {
    let house = House::new(engine).await;
    let empty = house.database("empty").await;
    assert!(matches!(rebuilt(&house, &empty).await, Err(RebuildError::Empty)));
    let (mut scribe, database) = filled(&house).await;
    scribe.chatter(2, 2).await;
    let refused = rebuilt(&house, &database).await.unwrap_err();
    assert!(matches!(refused, RebuildError::Agree { .. }), "{refused}");
    let worker = house.start(&database, "one").await;
    let mut held = worker.progress.clone();
    held.wait_for(|progress| progress.ready).await.unwrap();
    let busy = rebuilt(&house, &database).await.unwrap_err();
    assert!(matches!(&busy, RebuildError::Busy(key) if key == "archive.0"), "{busy}");
    worker.stop().await;
    archive(&house, &database, scribe.end()).await;
    assert_archived(&database, &scribe.lines).await;
}

async fn an_archive_is_made_anew_from_the_log_and_what_came_before(engine: Engine) {
    let house = House::new(engine).await;
    let (scribe, database) = filled(&house).await;
    let backup = house.database("backup").await;
    crate::transfer::copy(&database, &backup, &house.log, |_, _| {})
        .await
        .unwrap();
    house.stream().await.purge().sequence(11).await.unwrap();
    let zeros = engine.bytes(&"00".repeat(32));
    let spoil = async |which: &str| {
        let sql = format!("UPDATE event SET hash = {zeros} WHERE epoch = 1 AND {which}");
        database.connection().execute_unprepared(&sql).await.unwrap();
    };
    let (client, config) = (house.store().await, config());
    let anew = async |past: Past<'_>| rebuild_archive(&client, &database, past, &config, |_, _| {}).await;
    let ours = async || -> Vec<event::Model> {
        events(&database)
            .await
            .into_iter()
            .filter(|row| row.epoch == 1)
            .collect()
    };
    let whole = ours().await;

    // From what it has itself, where that agrees with the log; it went wrong at the end only.
    spoil("seq = 15360").await;
    let done = anew(Past::Archive).await.unwrap();
    assert_eq!((done.log.epoch, done.upto, done.apart), (1, 10, Some((63, -1))));
    archive(&house, &database, scribe.end()).await;
    assert_eq!(ours().await, whole);
    assert_eq!(faults(&house, &database, &house.log).await, 0);

    // It has nothing of this log: only a backup helps.
    spoil("seq >= 11264").await;
    let refused = anew(Past::Archive).await.unwrap_err();
    assert!(matches!(refused, RebuildError::NoPast { first: 11 }), "{refused}");
    let done = anew(Past::Backup(&backup)).await.unwrap();
    assert_eq!((done.upto, done.apart), (10, Some((63, -2))));
    archive(&house, &database, scribe.end()).await;
    assert_eq!(ours().await, whole);
    assert_eq!(faults(&house, &database, &house.log).await, 0);

    // Or it begins where the log does, and says so.
    let done = anew(Past::Nowhere).await.unwrap();
    assert_eq!((done.upto, done.events), (0, 0));
    archive(&house, &database, scribe.end()).await;
    let left: Vec<_> = whole.into_iter().filter(|row| row.seq >> 10 > 10).collect();
    assert_eq!(ours().await, left);
    let absent = |row: &crate::entity::quarantine::Model| row.epoch == 1 && row.reason.contains("no frames 1 to 10");
    assert!(quarantined(&database).await.iter().any(absent));
}

/// A table that a migration adds later has to be thought of here.
#[tokio::test]
async fn every_table_that_names_an_epoch_is_moved() {
    let databases = Databases::new(Engine::Sqlite);
    let database = databases.open("archive").await;
    let db = database.connection();
    let sql = "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'epoch' \
               AND m.name NOT LIKE 'search%' ORDER BY m.name";
    let rows = db
        .query_all_raw(Statement::from_string(db.get_database_backend(), sql.to_owned()))
        .await
        .unwrap();
    let found: Vec<String> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
    let mut known: Vec<&str> = TABLES.to_vec();
    known.push("watermark");
    known.sort_unstable();
    assert_eq!(found, known);
}
