use std::sync::Arc;

use bytes::Bytes;
use natterjack_nats_config::contract::Kind;
use sea_orm::sqlx::{QueryBuilder, Sqlite};
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, IntoActiveModel, Statement};

use super::super::testing::{House, LIMIT, Running, assert_archived, events, line, quarantined};
use super::*;
use crate::archive::project::hash;
use crate::entity::{event, watermark};

impl Worker {
    async fn new(house: &House, database: &Database, name: &str) -> Self {
        let config = ArchiveConfig {
            log: house.log.clone(),
            worker: name.to_owned(),
            replicas: 1,
        };
        let progress = watch::channel(Progress::default()).0;
        Self {
            client: house.store().await,
            database: database.clone(),
            config,
            progress,
        }
    }
}

async fn sql(database: &Database, sql: &str) {
    database.connection().execute_unprepared(sql).await.unwrap();
}

/// Has the database itself note each move of the watermark.
async fn count_moves(database: &Database) {
    sql(database, "CREATE TABLE moves (backwards INTEGER)").await;
    let trigger = "CREATE TRIGGER count_moves AFTER UPDATE ON watermark \
                   BEGIN INSERT INTO moves VALUES (NEW.stream_seq <= OLD.stream_seq); END";
    sql(database, trigger).await;
}

/// How often the watermark moved, and how often not forward.
async fn moves(database: &Database) -> (i64, i64) {
    let sql = Statement::from_string(
        DbBackend::Sqlite,
        "SELECT COUNT(*), COALESCE(SUM(backwards), 0) FROM moves",
    );
    let row = database.connection().query_one_raw(sql).await.unwrap().unwrap();
    (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap())
}

#[tokio::test]
async fn rows_are_the_lines_of_the_log_byte_for_byte() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.append(Bytes::new()).await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Member)]).await;
    let database = house.database("archive.db").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    scribe
        .say(&[("lobby", Kind::Msg), ("shed", Kind::Command), ("lobby", Kind::Reply)])
        .await;
    scribe.append(Bytes::new()).await;
    worker.reached(scribe.end()).await;
    assert!(worker.progress.borrow().ready);
    assert_archived(&database, &scribe.lines).await;
    assert!(quarantined(&database).await.is_empty());

    let rows = events(&database).await;
    let (seq, bytes) = scribe.lines.last().unwrap();
    let row = rows.last().unwrap();
    assert_eq!((row.epoch, row.shard, row.n, row.prev), (1, 0, 4, 3 << 10));
    assert_eq!(
        (row.tenant.as_str(), row.room.as_str(), row.from_user.as_str()),
        ("main", "lobby", "alice")
    );
    assert_eq!(
        (row.id.clone(), row.kind.as_str(), row.key.clone()),
        (format!("id-{seq}"), "reply", Some(format!("k {seq}")))
    );
    assert_eq!((row.at.as_str(), &row.hash), ("2026-11-23T06:00:00.123Z", &hash(bytes)));
    worker.stop().await;
}

#[tokio::test]
async fn killed_between_commit_and_ack_nothing_is_doubled_and_nothing_is_missing() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(10, 3).await;
    let database = house.database("archive.db").await;
    let stream = house.stream().await;
    sql::begin_watermark(database.connection(), &house.log).await.unwrap();
    {
        let mut reader = Reader::open(&house.log, &stream, 0).await.unwrap();
        let mut batch = Batch::after(0);
        reader.fill(&mut batch).await.unwrap();
        assert_eq!(sql::commit(&database, &house.log, batch).await.unwrap(), Commit::Done);
    }
    assert!(!events(&database).await.is_empty());
    scribe.chatter(10, 3).await;
    let mut worker = house.start(&database, "next").await;
    worker.reached(scribe.end()).await;
    assert_archived(&database, &scribe.lines).await;
    worker.stop().await;
}

#[tokio::test]
async fn killed_at_any_moment_nothing_is_doubled_and_nothing_is_missing() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    let database = house.database("archive.db").await;
    count_moves(&database).await;
    let worker = Arc::new(Worker::new(&house, &database, "mortal").await);
    let lives = async {
        for life in 0.. {
            scribe.chatter(4, 5).await;
            let task = tokio::spawn({
                let worker = Arc::clone(&worker);
                async move { worker.archive(&CancellationToken::new()).await }
            });
            // Not a wait for anything: each life is a little longer, so each ends at another place; and on a machine that
            // is slow today they go on until some were long enough to commit.
            tokio::time::sleep(Duration::from_millis(life * 2)).await;
            task.abort();
            if life >= 40 && moves(&database).await.0 >= 10 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, lives).await.unwrap();
    let mut last = house.start(&database, "last").await;
    last.reached(scribe.end()).await;
    assert_archived(&database, &scribe.lines).await;
    assert_eq!(moves(&database).await.1, 0);
    last.stop().await;
}

#[tokio::test]
async fn workers_that_race_are_fenced_by_the_watermark() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    let database = house.database("archive.db").await;
    count_moves(&database).await;
    let stop = CancellationToken::new();
    let mut tasks = Vec::new();
    for name in ["one", "two", "three"] {
        // Without the lease, on connections of its own, as a worker that was paused and does not know that it lost it.
        let own = house.database("archive.db").await;
        let worker = Worker::new(&house, &own, name).await;
        let stop = stop.clone();
        tasks.push(tokio::spawn(async move { worker.archive(&stop).await }));
    }
    scribe.chatter(100, 10).await;
    let end = scribe.end();
    let arrived = async {
        while sql::archived(database.connection(), &house.log).await.unwrap() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, arrived).await.unwrap();
    stop.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_archived(&database, &scribe.lines).await;
    assert!(quarantined(&database).await.is_empty());
    assert_eq!(moves(&database).await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_batches_on_one_watermark_one_is_stored() {
    let house = House::new().await;
    let database = house.database("archive.db").await;
    sql::begin_watermark(database.connection(), &house.log).await.unwrap();
    count_moves(&database).await;
    let commit_all = async |database: Database, frames_each: u64| {
        let (mut done, mut overtaken) = (0u64, 0u64);
        loop {
            let archived = sql::archived(database.connection(), &house.log).await.unwrap().frame();
            if archived >= 200 {
                return (done, overtaken);
            }
            let mut batch = Batch::after(archived);
            for stream_seq in archived + 1..=archived + frames_each {
                let frame = line(Seq::of(stream_seq, 0), (stream_seq, Seq::ZERO), "lobby", Kind::Msg);
                batch.push(&house.log, stream_seq, &Bytes::from(frame));
            }
            match sql::commit(&database, &house.log, batch).await.unwrap() {
                Commit::Done => done += frames_each,
                Commit::Overtaken => overtaken += 1,
            }
        }
    };
    let (one, two) = (house.database("archive.db").await, house.database("archive.db").await);
    let ((done_one, lost_one), (done_two, lost_two)) = tokio::join!(commit_all(one, 3), commit_all(two, 2));
    assert!(lost_one + lost_two > 0, "they never met");
    assert_eq!(events(&database).await.len() as u64, done_one + done_two);
    assert_eq!(moves(&database).await.1, 0);
    assert!(quarantined(&database).await.is_empty());
}

#[tokio::test]
async fn a_batch_on_an_old_watermark_is_rolled_back_whole() {
    let house = House::new().await;
    let database = house.database("archive.db").await;
    sql::begin_watermark(database.connection(), &house.log).await.unwrap();
    let batch = |text: &'static [u8]| {
        let mut batch = Batch::after(0);
        batch.push(&house.log, 1, &Bytes::from_static(text));
        batch
    };
    assert_eq!(
        sql::commit(&database, &house.log, batch(b"")).await.unwrap(),
        Commit::Done
    );
    assert_eq!(
        sql::commit(&database, &house.log, batch(b"junk")).await.unwrap(),
        Commit::Overtaken
    );
    assert!(quarantined(&database).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_quarantined_and_the_rest_goes_on() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(1, 2).await;
    let junk = Bytes::from_static(b"\xff\0 this is no frame");
    let misplaced = Bytes::from(line(Seq::of(9, 0), (1, Seq::ZERO), "lobby", Kind::Msg));
    assert_eq!(scribe.append(junk.clone()).await, 2);
    assert_eq!(scribe.append(misplaced.clone()).await, 3);
    scribe.chatter(2, 2).await;
    let database = house.database("archive.db").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    assert_archived(&database, &scribe.lines).await;
    let kept: Vec<_> = quarantined(&database)
        .await
        .into_iter()
        .map(|row| (row.stream_seq, row.bytes))
        .collect();
    assert_eq!(kept, [(2, junk.to_vec()), (3, misplaced.to_vec())]);
    worker.stop().await;
}

#[tokio::test]
async fn an_empty_database_is_filled_again_from_the_log_and_an_old_one_is_brought_up_to_date() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(5, 4).await;
    let archive = |name: &'static str| house.database(name);
    let to_the_end = async |database: &Database, end: Seq| {
        let mut worker = house.start(database, "one").await;
        worker.reached(end).await;
        worker.stop().await;
    };
    let first = archive("first.db").await;
    to_the_end(&first, scribe.end()).await;
    first.close().await;
    std::fs::copy(house.path("first.db"), house.path("backup.db")).unwrap();
    scribe.chatter(5, 4).await;
    let first = archive("first.db").await;
    to_the_end(&first, scribe.end()).await;

    for name in ["empty.db", "backup.db"] {
        let database = archive(name).await;
        to_the_end(&database, scribe.end()).await;
        assert_archived(&database, &scribe.lines).await;
    }
}

#[tokio::test]
async fn frames_that_the_log_has_not_got_are_recorded() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(9, 1).await;
    let stream = house.stream().await;
    for stream_seq in [1, 2, 5, 6, 7] {
        stream.delete_message(stream_seq).await.unwrap();
    }
    let database = house.database("archive.db").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    scribe.lines.retain(|(seq, _)| ![1, 2, 5, 6, 7].contains(&seq.frame()));
    assert_archived(&database, &scribe.lines).await;
    let reasons: Vec<_> = quarantined(&database).await.into_iter().map(|row| row.reason).collect();
    assert_eq!(
        reasons,
        ["the log has no frames 1 to 2", "the log has no frames 5 to 7"]
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_database_that_fails_is_waited_for_and_nothing_is_acknowledged() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(2, 2).await;
    let database = house.database("archive.db").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.wait(|progress| progress.ready).await;
    sql(&database, "ALTER TABLE event RENAME TO gone").await;
    let before = scribe.end();
    scribe.chatter(3, 2).await;
    worker.wait(|progress| !progress.ready).await;
    assert_eq!(worker.progress.borrow().watermark, before);
    let info = house.stream().await.consumer_info("archive").await.unwrap();
    assert!(info.ack_floor.stream_sequence <= before.frame(), "{info:?}");
    sql(&database, "ALTER TABLE gone RENAME TO event").await;
    worker.reached(scribe.end()).await;
    worker.wait(|progress| progress.ready).await;
    assert_archived(&database, &scribe.lines).await;
    worker.stop().await;
}

#[tokio::test]
async fn another_event_at_an_archived_place_is_a_fork_and_changes_nothing() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(3, 2).await;
    let database = house.database("archive.db").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    // Somebody turns the watermark back and changes an event in the middle.
    sql(&database, "UPDATE watermark SET stream_seq = 0").await;
    sql(
        &database,
        "UPDATE event SET bytes = x'7b7d', hash = x'00' WHERE seq = 2049",
    )
    .await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    let rows = events(&database).await;
    assert_eq!(rows.len(), scribe.lines.len());
    assert_eq!(rows.iter().find(|row| row.seq == 2049).unwrap().bytes, b"{}");
    let [fork] = quarantined(&database).await.try_into().unwrap();
    let (_, truth) = scribe.lines.iter().find(|(seq, _)| seq.0 == 2049).unwrap();
    assert_eq!((fork.stream_seq, fork.line, &fork.bytes[..]), (2, 1, &truth[..]));
    assert!(fork.reason.starts_with("fork"), "{}", fork.reason);
}

#[tokio::test]
async fn the_archive_of_another_log_is_refused() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(3, 2).await;
    let database = house.database("archive.db").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    jetstream::new(house.store().await)
        .delete_stream(house.log.stream())
        .await
        .unwrap();
    house.make_log().await;
    let mut other = house.scribe().await;
    other.say(&[("lobby", Kind::Msg)]).await;
    // The log is shorter than the archive: that may be an old answer, so it is waited for.
    let mut waiting = house.start(&database, "one").await;
    waiting.wait(|progress| progress.watermark > Seq::ZERO).await;
    other.chatter(4, 1).await;
    let Running { task, .. } = waiting;
    let ended = tokio::time::timeout(LIMIT, task).await.unwrap().unwrap();
    let error = ended.unwrap_err();
    assert!(matches!(error, ArchiveError::Fork { seq: Seq(3073), .. }), "{error}");
    assert_archived(&database, &scribe.lines).await;
}

#[tokio::test]
async fn epochs_go_only_forward() {
    let mut house = House::new().await;
    let database = house.database("archive.db").await;
    let row = watermark::Model {
        shard: 0,
        epoch: 2,
        stream_seq: 5,
    };
    watermark::Entity::insert(row.into_active_model())
        .exec_without_returning(database.connection())
        .await
        .unwrap();
    let refused = house.start(&database, "one").await;
    let error = tokio::time::timeout(LIMIT, refused.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(error, ArchiveError::LaterEpoch { found: 2, epoch: 1, .. }),
        "{error}"
    );

    house.log.epoch = 3;
    house.make_log().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(2, 2).await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    assert_archived(&database, &scribe.lines).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_second_worker_stands_by_and_takes_over() {
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(2, 2).await;
    let database = house.database("archive.db").await;
    let mut first = house.start(&database, "first").await;
    first.reached(scribe.end()).await;
    let mut second = house.start(&database, "second").await;
    second.reached(scribe.end()).await;
    second.wait(|progress| progress.ready).await;
    first.kill().await;
    scribe.chatter(2, 2).await;
    second.reached(scribe.end()).await;

    // The lease is taken away from under it: it stops, and takes the lease again.
    let bucket = jetstream::new(house.store().await)
        .get_key_value(house.log.subjects.lease_bucket())
        .await
        .unwrap();
    bucket.purge("archive.0").await.unwrap();
    scribe.chatter(2, 2).await;
    second.reached(scribe.end()).await;
    let held_again = async {
        while bucket.get("archive.0").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, held_again).await.unwrap();
    assert_archived(&database, &scribe.lines).await;
    second.stop().await;
}

/// The rows, ready as they are, by sqlx alone and in transactions as large as the archive's.
async fn bare_load(bare: &Database, rows: &[event::Model]) {
    let pool = bare.connection().get_sqlite_connection_pool();
    for transaction_rows in rows.chunks(64 * 200) {
        let mut transaction = pool.begin().await.unwrap();
        for chunk in transaction_rows.chunks(250) {
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO event ");
            insert.push_values(chunk, |mut one, row| {
                one.push_bind(row.epoch).push_bind(row.shard).push_bind(row.seq);
                one.push_bind(&row.tenant).push_bind(&row.room).push_bind(row.n);
                one.push_bind(row.prev).push_bind(&row.id).push_bind(&row.from_user);
                one.push_bind(&row.kind).push_bind(&row.at).push_bind(&row.key);
                one.push_bind(&row.bytes[..]).push_bind(&row.hash[..]);
            });
            insert.build().execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
}

/// A measurement, not a test: `cargo nextest run --release -p natterjack-store --run-ignored only archive_rate --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures the archive against a bare bulk load, and says what it found"]
async fn archive_rate() {
    const FRAMES: usize = 500;
    let house = House::new().await;
    let mut scribe = house.scribe().await;
    scribe.chatter(FRAMES, 200).await;
    let database = house.database("archive.db").await;
    let begun = std::time::Instant::now();
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    let archive = begun.elapsed();
    worker.stop().await;
    let rows = events(&database).await;
    assert_eq!(rows.len(), FRAMES * 200);
    let count = u32::try_from(rows.len()).unwrap();
    let bytes: usize = rows.iter().map(|row| row.bytes.len()).sum();

    let bare = house.database("bare.db").await;
    let begun = std::time::Instant::now();
    bare_load(&bare, &rows).await;
    let load = begun.elapsed();
    assert_eq!(events(&bare).await, rows);
    let rate = |took: Duration| f64::from(count) / took.as_secs_f64();
    println!("{count} events of {} bytes in {FRAMES} frames", bytes / rows.len());
    println!(
        "archive:   {archive:?}, {:.0} events/s, from the log to the last commit",
        rate(archive)
    );
    println!(
        "bare load: {load:?}, {:.0} events/s, ready rows, the same transactions",
        rate(load)
    );
}
