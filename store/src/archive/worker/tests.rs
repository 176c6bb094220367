use std::sync::Arc;

use bytes::Bytes;
use natterjack_nats_config::contract::Kind;
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, IntoActiveModel, Statement};

use super::super::testing::{
    Engine, House, LIMIT, Running, assert_archived, events, line, on_each_engine, quarantined,
};
use super::*;
use crate::archive::project::hash;
use crate::entity::watermark;

on_each_engine!(
    rows_are_the_lines_of_the_log_byte_for_byte,
    a_backlog_of_small_frames_takes_few_commits_and_large_ones_come_too,
    killed_between_commit_and_ack_nothing_is_doubled_and_nothing_is_missing,
    killed_at_any_moment_nothing_is_doubled_and_nothing_is_missing,
    workers_that_race_are_fenced_by_the_watermark,
    of_two_batches_on_one_watermark_one_is_stored,
    a_batch_on_an_old_watermark_is_rolled_back_whole,
    what_cannot_be_read_is_quarantined_and_the_rest_goes_on,
    poison_is_kept_apart_and_the_rest_flows,
    an_empty_database_is_filled_again_from_the_log_and_an_old_one_is_brought_up_to_date,
    frames_that_the_log_has_not_got_are_recorded,
    a_database_that_fails_is_waited_for_and_nothing_is_acknowledged,
    another_event_at_an_archived_place_is_a_fork_and_changes_nothing,
    the_archive_of_another_log_is_refused,
    epochs_go_only_forward,
    a_second_worker_stands_by_and_takes_over,
);

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
pub(super) async fn count_moves(database: &Database) {
    sql(database, "CREATE TABLE moves (backwards INTEGER)").await;
    let note = "INSERT INTO moves VALUES (CASE WHEN NEW.stream_seq <= OLD.stream_seq THEN 1 ELSE 0 END);";
    let after = "CREATE TRIGGER count_moves AFTER UPDATE ON watermark FOR EACH ROW";
    match database.connection().get_database_backend() {
        DbBackend::Postgres => {
            let body = format!("$$ BEGIN {note} RETURN NEW; END $$");
            let function = format!("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS {body}");
            sql(database, &function).await;
            sql(database, &format!("{after} EXECUTE FUNCTION note()")).await;
        }
        DbBackend::MySql => sql(database, &format!("{after} {note}")).await,
        _ => sql(database, &format!("{after} BEGIN {note} END")).await,
    }
}

/// How often the watermark moved, and how often not forward.
pub(super) async fn moves(database: &Database) -> (i64, i64) {
    let count = async |which: &str| {
        let sql = format!("SELECT COUNT(*) FROM moves {which}");
        let sql = Statement::from_string(database.connection().get_database_backend(), sql);
        let row = database.connection().query_one_raw(sql).await.unwrap().unwrap();
        row.try_get_by_index(0).unwrap()
    };
    (count("").await, count("WHERE backwards = 1").await)
}

async fn rows_are_the_lines_of_the_log_byte_for_byte(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.append(Bytes::new()).await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Member)]).await;
    let database = house.database("archive").await;
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

/// More than is asked for at a time, by number and by size.
async fn a_backlog_of_small_frames_takes_few_commits_and_large_ones_come_too(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(2000, 1).await;
    let (small, mut large) = (scribe.end(), 0);
    let database = house.database("archive").await;
    count_moves(&database).await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(small).await;
    let (commits, backwards) = moves(&database).await;
    assert!((8..=16).contains(&commits) && backwards == 0, "{commits}");
    worker.stop().await;
    while large < 40 {
        scribe.append(vec![b'x'; 500 << 10].into()).await;
        large += 1;
    }
    scribe.chatter(100, 1).await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    assert_archived(&database, &scribe.lines).await;
    assert_eq!(quarantined(&database).await.len(), large);
}

async fn killed_between_commit_and_ack_nothing_is_doubled_and_nothing_is_missing(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(10, 3).await;
    let database = house.database("archive").await;
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

async fn killed_at_any_moment_nothing_is_doubled_and_nothing_is_missing(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    let database = house.database("archive").await;
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

async fn workers_that_race_are_fenced_by_the_watermark(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    let database = house.database("archive").await;
    count_moves(&database).await;
    let stop = CancellationToken::new();
    let mut tasks = Vec::new();
    for name in ["one", "two", "three"] {
        // Without the lease, on connections of its own, as a worker that was paused and does not know that it lost it.
        let own = house.database("archive").await;
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

async fn of_two_batches_on_one_watermark_one_is_stored(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
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
    let (one, two) = (house.database("archive").await, house.database("archive").await);
    let ((done_one, lost_one), (done_two, lost_two)) = tokio::join!(commit_all(one, 3), commit_all(two, 2));
    assert!(lost_one + lost_two > 0, "they never met");
    assert_eq!(events(&database).await.len() as u64, done_one + done_two);
    assert_eq!(moves(&database).await.1, 0);
    assert!(quarantined(&database).await.is_empty());
}

async fn a_batch_on_an_old_watermark_is_rolled_back_whole(engine: Engine) {
    let house = House::new(engine).await;
    let database = house.database("archive").await;
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

async fn what_cannot_be_read_is_quarantined_and_the_rest_goes_on(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(1, 2).await;
    let junk = Bytes::from_static(b"\xff\0 this is no frame");
    let misplaced = Bytes::from(line(Seq::of(9, 0), (1, Seq::ZERO), "lobby", Kind::Msg));
    assert_eq!(scribe.append(junk.clone()).await, 2);
    assert_eq!(scribe.append(misplaced.clone()).await, 3);
    scribe.chatter(2, 2).await;
    let database = house.database("archive").await;
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

/// What a frame may hold, by the frames 1, 2, 3 …, and how much of it is an event.
fn poison() -> Vec<(&'static str, Vec<u8>, usize)> {
    let good = |frame: u64, index: usize| line(Seq::of(frame, index), (1, Seq::ZERO), "lobby", Kind::Msg);
    let body = |frame: u64, body: &str| {
        let line = good(frame, 0);
        let begin = line.find(r#""body":"#).unwrap() + 7;
        format!("{}{body}}}", &line[..begin]).into_bytes()
    };
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let large = format!(r#"{{"text":"{}"}}"#, "ü".repeat(32 * 1024));
    let of_both = |frame: u64, from: &str, to: &str| {
        format!("{}\n{}\n", good(frame, 0), good(frame, 1).replace(from, to)).into_bytes()
    };
    vec![
        ("good", good(1, 0).into(), 1),
        ("no UTF-8", b"\xff\xfe{}".to_vec(), 0),
        (
            "no UTF-8 in a body",
            [&b"{\"v\":1,\"body\":\"\xc3\x28\"}"[..]].concat(),
            0,
        ),
        ("NUL bytes", vec![0; 100], 0),
        ("a NUL in a text", body(5, r#"{"text":"a\u0000b"}"#), 1),
        ("a NUL in a key", good(6, 0).replace("k 6144", r"k\u0000").into(), 0),
        ("a large body", body(7, &large), 1),
        ("a deep body", body(8, &deep), 1),
        (
            "an unknown version beside a good event",
            of_both(9, r#""v":1"#, r#""v":9"#),
            1,
        ),
        (
            "an unknown kind: no reader can read the frame",
            of_both(10, r#""msg""#, r#""hologram""#),
            0,
        ),
        ("half an event", good(11, 0).as_bytes()[..99].to_vec(), 0),
        (
            "numbers out of range",
            good(12, 0).replace(r#""n":1"#, r#""n":18446744073709551615"#).into(),
            0,
        ),
        ("good", good(13, 0).into(), 1),
    ]
}

async fn poison_is_kept_apart_and_the_rest_flows(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    let poison = poison();
    for (name, bytes, _) in &poison {
        scribe.append(bytes.clone().into()).await;
        assert!(!name.is_empty());
    }
    let database = house.database("archive").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    let (events, kept) = (events(&database).await, quarantined(&database).await);
    for (frame, (name, bytes, stored)) in (1i64..).zip(&poison) {
        let of_frame: Vec<_> = events.iter().filter(|row| row.seq >> 10 == frame).collect();
        let apart: Vec<_> = kept.iter().filter(|row| row.stream_seq == frame).collect();
        assert_eq!(of_frame.len(), *stored, "{name}");
        // Every byte is somewhere, but for the ends of lines.
        let mut together: Vec<u8> = of_frame.iter().flat_map(|row| row.bytes.clone()).collect();
        together.extend(apart.iter().flat_map(|row| row.bytes.clone()));
        let whole: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\n').collect();
        together.retain(|byte| *byte != b'\n');
        assert_eq!(together, whole, "{name}");
        assert!(apart.iter().all(|row| !row.reason.is_empty()), "{name}");
    }
}

async fn an_empty_database_is_filled_again_from_the_log_and_an_old_one_is_brought_up_to_date(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(5, 4).await;
    let archive = |name: &'static str| house.database(name);
    let to_the_end = async |database: &Database, end: Seq| {
        let mut worker = house.start(database, "one").await;
        worker.reached(end).await;
        worker.stop().await;
    };
    let first = archive("first").await;
    to_the_end(&first, scribe.end()).await;
    first.close().await;
    house.databases.copy("first", "backup").await;
    scribe.chatter(5, 4).await;
    let first = archive("first").await;
    to_the_end(&first, scribe.end()).await;

    for name in ["empty", "backup"] {
        let database = archive(name).await;
        to_the_end(&database, scribe.end()).await;
        assert_archived(&database, &scribe.lines).await;
    }
}

async fn frames_that_the_log_has_not_got_are_recorded(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(9, 1).await;
    let stream = house.stream().await;
    for stream_seq in [1, 2, 5, 6, 7] {
        stream.delete_message(stream_seq).await.unwrap();
    }
    let database = house.database("archive").await;
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

async fn a_database_that_fails_is_waited_for_and_nothing_is_acknowledged(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(2, 2).await;
    let database = house.database("archive").await;
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

async fn another_event_at_an_archived_place_is_a_fork_and_changes_nothing(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(3, 2).await;
    let database = house.database("archive").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    // Somebody turns the watermark back and changes an event in the middle.
    sql(&database, "UPDATE watermark SET stream_seq = 0").await;
    let (bytes, hash) = (engine.bytes("7b7d"), engine.bytes("00"));
    let change = format!("UPDATE event SET bytes = {bytes}, hash = {hash} WHERE seq = 2049");
    sql(&database, &change).await;
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

async fn the_archive_of_another_log_is_refused(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(3, 2).await;
    let database = house.database("archive").await;
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

async fn epochs_go_only_forward(engine: Engine) {
    let mut house = House::new(engine).await;
    let database = house.database("archive").await;
    let row = watermark::Model {
        shard: 0,
        epoch: 2,
        stream_seq: 5,
        replies: 0,
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

async fn a_second_worker_stands_by_and_takes_over(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(2, 2).await;
    let database = house.database("archive").await;
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
