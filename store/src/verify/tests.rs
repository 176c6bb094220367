use natterjack_nats_config::contract::Kind;
use sea_orm::ConnectionTrait;

use super::*;
use crate::archive::testing::{Engine, House, assert_archived, on_each_engine, quarantined};

on_each_engine!(
    what_was_changed_behind_the_archives_back_is_found_and_put_right,
    what_was_trimmed_from_the_log_is_looked_at_by_itself,
    what_the_log_never_gave_is_no_fault,
    a_message_that_stands_otherwise_than_its_events_say_is_found_and_put_right,
);

async fn look(house: &House, database: &Database, repair: bool) -> Verified {
    let told = std::sync::Mutex::new((0, 0));
    let verified = verify(&house.store().await, database, &house.log, repair, |done, all| {
        *told.lock().unwrap() = (done, all);
    })
    .await
    .unwrap();
    let (done, all) = *told.lock().unwrap();
    assert_eq!(done, all, "the end was not told");
    verified
}

fn faults(verified: &Verified) -> Vec<(u64, Fault)> {
    verified
        .findings
        .iter()
        .map(|found| (found.seq.0, found.fault))
        .collect()
}

async fn run(database: &Database, sql: &str) {
    database.connection().execute_unprepared(sql).await.unwrap();
}

/// Changes, each at a place of its own.
async fn spoil(database: &Database, engine: Engine) {
    let (braces, zeros) = (engine.bytes("7b7d"), engine.bytes(&"00".repeat(32)));
    for sql in [
        "DELETE FROM event WHERE seq = 5121".to_owned(),
        format!("UPDATE event SET bytes = {braces} WHERE seq = 7168"),
        format!("UPDATE event SET hash = {zeros} WHERE seq = 8192"),
        "UPDATE event SET room = 'attic' WHERE seq = 9217".to_owned(),
        "UPDATE event SET seq = 10250 WHERE seq = 10242".to_owned(),
        "DELETE FROM quarantine".to_owned(),
    ] {
        run(database, &sql).await;
    }
}

async fn what_was_changed_behind_the_archives_back_is_found_and_put_right(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.append(bytes::Bytes::new()).await;
    scribe.chatter(100, 3).await;
    scribe.append(b"junk".to_vec().into()).await;
    scribe.say(&[("lobby", Kind::Room)]).await;
    let database = house.database("archive").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    let clean = look(&house, &database, false).await;
    assert_eq!(
        (clean.events, clean.frames, clean.faults, clean.behind),
        (301, 103, 0, 0),
        "{clean:?}"
    );

    spoil(&database, engine).await;
    let expected = [
        (5121, Fault::Missing),
        (7168, Fault::Differs),
        (8192, Fault::Columns),
        (9217, Fault::Columns),
        (10242, Fault::Missing),
        (10250, Fault::Extra),
        (102 << 10, Fault::Unrecorded),
    ];
    let found = look(&house, &database, false).await;
    // What follows from the others is left out.
    let but_order = |verified: &Verified| {
        let mut found = faults(verified);
        found.retain(|(_, fault)| !matches!(fault, Fault::Order | Fault::Room));
        found
    };
    assert_eq!(but_order(&found), expected);
    assert_eq!(found.repaired, 0);
    let repaired = look(&house, &database, true).await;
    assert_eq!((but_order(&repaired), repaired.repaired), (expected.to_vec(), 7));
    assert_eq!(repaired.faults, 7, "{repaired:?}");
    assert_eq!(look(&house, &database, false).await.faults, 0);
    assert_archived(&database, &scribe.lines).await;
    assert!(quarantined(&database).await.iter().any(|row| row.bytes == b"{}"));
}

async fn what_was_trimmed_from_the_log_is_looked_at_by_itself(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.chatter(20, 3).await;
    let database = house.database("archive").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    house.stream().await.purge().sequence(11).await.unwrap();
    let clean = look(&house, &database, false).await;
    assert_eq!((clean.events, clean.frames, clean.faults), (60, 10, 0), "{clean:?}");
    let braces = engine.bytes("7b7d");
    run(
        &database,
        &format!("UPDATE event SET bytes = {braces} WHERE seq = 2048"),
    )
    .await;
    run(&database, "UPDATE event SET from_user = 'mallory' WHERE seq = 3072").await;
    run(&database, "DELETE FROM event WHERE seq = 4096").await;
    let found = look(&house, &database, true).await;
    let seen = faults(&found);
    assert_eq!(seen[..2], [(2048, Fault::Damaged), (3072, Fault::Columns)], "{seen:?}");
    assert!(matches!(seen[2..], [(_, Fault::Order)]), "{seen:?}");
    assert_eq!(found.repaired, 0);
}

async fn what_the_log_never_gave_is_no_fault(engine: Engine) {
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
    worker.stop().await;
    scribe.chatter(2, 1).await;
    let verified = look(&house, &database, false).await;
    assert_eq!(
        (verified.frames, verified.behind, verified.faults),
        (4, 2, 0),
        "{verified:?}"
    );
    // The archive of a log that is not this one.
    run(&database, "UPDATE watermark SET stream_seq = 99").await;
    let refused = verify(&house.store().await, &database, &house.log, false, |_, _| {}).await;
    assert!(
        matches!(refused, Err(VerifyError::Ahead { archived: 99, last: 11 })),
        "{refused:?}"
    );
}

async fn a_message_that_stands_otherwise_than_its_events_say_is_found_and_put_right(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Msg); 3]).await;
    for index in 0..3 {
        let target = natterjack_nats_config::contract::Seq::of(1, index);
        scribe.change("lobby", Kind::Edit, target, "new").await;
    }
    scribe.say(&[("lobby", Kind::Member)]).await;
    let database = house.database("archive").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    assert_eq!(look(&house, &database, false).await.faults, 0);
    for sql in [
        "UPDATE changed SET deleted = 5, deleted_at = 'x', deleted_by = 'mallory' WHERE seq = 1024",
        "DELETE FROM changed WHERE seq = 1025",
        "DELETE FROM edit WHERE target = 1026",
        "UPDATE member SET role = 'owner'",
    ] {
        run(&database, sql).await;
    }
    let mut expected = [1024, 1025, 1026].map(|seq| (seq, Fault::Standing)).to_vec();
    expected.push((5120, Fault::Member));
    assert_eq!(faults(&look(&house, &database, true).await), expected);
    assert_eq!(look(&house, &database, false).await.faults, 0);
}
