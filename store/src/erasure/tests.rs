use std::collections::HashMap;

use bytes::Bytes;
use natterjack_nats_config::contract::{Erasable, ErasableQuery, Event, Kind, Seq};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, Statement};

use super::sweep::{round, step};
use super::*;
use crate::archive::testing::{Engine, House, Scribe, events, on_each_engine};
use crate::archive::{Database, now, sql};
use crate::entity::{erasure, event};
use crate::rebuild::{Past, RebuildConfig, rebuild_archive};
use crate::verify::{Fault, Verified, verify};

on_each_engine!(
    a_message_is_erased_with_its_edits_and_its_words,
    what_a_user_wrote_is_erased_in_pieces_and_shown_to_nobody_meanwhile,
    of_two_erasures_the_first_counts_whichever_is_done_first,
    what_is_erased_stays_so_in_an_archive_made_anew,
    what_is_held_is_not_erasable,
);

/// What stands in every message of the log's, and in what is left of none.
const SECRET: &[u8] = "grüß".as_bytes();

async fn archived(house: &House, scribe: &Scribe, database: &Database) {
    let mut worker = house.start(database, "one").await;
    worker.reached(scribe.end()).await;
    worker.stop().await;
    // Twice: the first round only finds where it begins.
    for _ in 0..2 + scribe.lines.len() / 400 {
        crate::search::index_some(database, &house.log).await.unwrap();
    }
}

async fn verified(house: &House, database: &Database, repair: bool) -> Verified {
    let client = house.store().await;
    verify(&client, database, &house.log, repair, |_, _| {}).await.unwrap()
}

fn faults(verified: &Verified) -> Vec<(u64, Fault)> {
    let findings = verified.findings.iter();
    findings.map(|finding| (finding.seq.0, finding.fault)).collect()
}

async fn words(database: &Database, seqs: &[Seq]) -> usize {
    let list: Vec<String> = seqs.iter().map(ToString::to_string).collect();
    let sql = format!("SELECT seq FROM search WHERE seq IN ({})", list.join(", "));
    let db = database.connection();
    let statement = Statement::from_string(sea_orm::ConnectionTrait::get_database_backend(db), sql);
    sea_orm::ConnectionTrait::query_all_raw(db, statement)
        .await
        .unwrap()
        .len()
}

async fn row(database: &Database, seq: Seq) -> event::Model {
    let rows = event::Entity::find().filter(event::Column::Seq.eq(sql::bound(seq)));
    rows.one(database.connection()).await.unwrap().unwrap()
}

async fn noted(database: &Database) -> erasure::Model {
    let mut all = erasure::Entity::find().all(database.connection()).await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn has(row: &event::Model, text: &[u8]) -> bool {
    row.bytes.windows(text.len()).any(|part| part == text)
}

async fn a_message_is_erased_with_its_edits_and_its_words(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe
        .say(&[("lobby", Kind::Room), ("lobby", Kind::Msg), ("lobby", Kind::Msg)])
        .await;
    let (said, other) = (Seq::of(1, 1), Seq::of(1, 2));
    let edit = scribe.change("lobby", Kind::Edit, said, "grüß anew").await;
    scribe.change("lobby", Kind::React, said, "👍").await;
    let database = house.database("archive").await;
    archived(&house, &scribe, &database).await;
    assert_eq!(words(&database, &[said, other]).await, 2);
    let erase = scribe.change("lobby", Kind::Erase, said, "Art. 17").await;
    // What is said anew of it behind that is erased too.
    let late = scribe.change("lobby", Kind::Edit, said, "grüß late").await;
    archived(&house, &scribe, &database).await;
    for seq in [said, edit, late] {
        let row = row(&database, seq).await;
        assert!(!has(&row, SECRET) && row.key.is_none(), "{seq}");
        assert_eq!(row.hash, crate::archive::project::hash(&row.bytes));
        let event: Event = serde_json::from_slice(&row.bytes).unwrap();
        assert_eq!((event.seq, event.erased, event.body.get()), (seq, Some(erase), "null"));
    }
    assert!(has(&row(&database, other).await, SECRET));
    assert_eq!(words(&database, &[said, other]).await, 1);
    let noted = noted(&database).await;
    assert_eq!((noted.messages, noted.complete, noted.last), (1, 1, sql::bound(late)));
    assert!(noted.edits >= 2 && noted.words >= 1, "{noted:?}");
    let line = row(&database, said).await.bytes;
    let changes = now::at(database.connection(), (1, 0), &[sql::bound(said)])
        .await
        .unwrap();
    let nothing = Known::default();
    let shown = now::show(
        database.connection(),
        &house.log,
        (vec![(sql::bound(said), line)], &nothing),
        &changes,
    );
    let shown: serde_json::Value = serde_json::from_slice(&shown.await.unwrap()[0].1).unwrap();
    assert_eq!(
        (&shown["body"], &shown["erased"]),
        (&serde_json::json!(null), &serde_json::json!(erase))
    );
    assert!(shown["reactions"].is_null() && shown["edited_at"].is_null(), "{shown}");
    assert_eq!(faults(&verified(&house, &database, false).await), []);

    put_back_and_found(&house, &scribe, (&database, said, other, erase)).await;
}

/// Somebody puts words back, or says of what is not erased that it is.
async fn put_back_and_found(
    house: &House,
    scribe: &Scribe,
    (database, said, other, erase): (&Database, Seq, Seq, Seq),
) {
    put_back(database, scribe, said).await;
    let told = verified(house, database, false).await;
    assert_eq!(faults(&told), [(said.0, Fault::Unerased)]);
    let mut forged = row(database, other).await;
    forged = Known::of_one("main", other, erase).without(&forged).unwrap().0;
    replace(database, forged).await;
    let told = verified(house, database, true).await;
    assert_eq!(faults(&told), [(said.0, Fault::Unerased), (other.0, Fault::Erased)]);
    assert!(!has(&row(database, said).await, SECRET) && has(&row(database, other).await, SECRET));
    assert_eq!(faults(&verified(house, database, false).await), []);
    let kept = crate::archive::testing::quarantined(database).await;
    assert!(
        kept.iter()
            .all(|kept| !kept.bytes.windows(SECRET.len()).any(|part| part == SECRET))
    );
}

/// The event as it stood in the log.
async fn put_back(database: &Database, scribe: &Scribe, seq: Seq) {
    let (_, line): &(Seq, Bytes) = scribe.lines.iter().find(|(place, _)| *place == seq).unwrap();
    let frame = crate::archive::project::frame(&scribe.log, seq.frame(), &frame_of(scribe, seq.frame()));
    let original = frame.events.into_iter().find(|row| row.bytes == line[..]).unwrap();
    replace(database, original).await;
}

fn frame_of(scribe: &Scribe, frame: u64) -> Bytes {
    let lines = scribe.lines.iter().filter(|(seq, _)| seq.frame() == frame);
    let lines: Vec<&[u8]> = lines.map(|(_, line)| &line[..]).collect();
    Bytes::from(lines.join(&b'\n'))
}

async fn replace(database: &Database, row: event::Model) {
    let db = database.connection();
    event::Entity::delete_by_id((row.epoch, row.shard, row.seq))
        .exec(db)
        .await
        .unwrap();
    let transaction = sql::begin(db).await.unwrap();
    database.insert().run(&transaction, vec![row]).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn in_pieces(
    house: &House,
    database: &Database,
    (begun, erase): (erasure::Model, Seq),
    (first, after): (Seq, Seq),
) {
    // Some of it is done when whoever does it dies; another goes on, and a third is late.
    let next = step(database, &house.log, begun.clone()).await.unwrap().unwrap();
    assert_eq!(next.messages, 500);
    assert_eq!(
        step(database, &house.log, begun).await.unwrap(),
        None,
        "it was taken by another"
    );
    assert_eq!(faults(&verified(house, database, false).await), []);
    round(database, &house.log).await.unwrap();
    let done = noted(database).await;
    assert_eq!((done.complete, done.messages, done.reactions), (1, 1200, 1));
    assert_eq!(done.last, sql::bound(first) + ((120i64) << 10));
    let rows = events(database).await;
    let left: Vec<i64> = rows.iter().filter(|row| has(row, SECRET)).map(|row| row.seq).collect();
    assert_eq!(left, [sql::bound(after)]);
    assert!(
        rows.iter().any(|row| row.kind == "room" && has(row, "Ü".as_bytes())),
        "policy stays"
    );
    assert_eq!(
        rows.iter()
            .filter(|row| super::redact::erased_by(row) == Some(erase))
            .count(),
        1201
    );
    assert_eq!(faults(&verified(house, database, false).await), []);
    let none = crate::entity::reaction::Entity::find()
        .all(database.connection())
        .await
        .unwrap();
    assert!(none.is_empty(), "{none:?}");
}

async fn what_a_user_wrote_is_erased_in_pieces_and_shown_to_nobody_meanwhile(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Member)]).await;
    scribe.chatter(120, 10).await;
    let first = Seq::of(2, 0);
    scribe.change("lobby", Kind::React, first, "grüß").await;
    scribe.say(&[("_", Kind::Erase)]).await;
    let erase = Seq::of(scribe.next_frame - 1, 0);
    scribe.say(&[("lobby", Kind::Msg)]).await;
    let after = Seq::of(scribe.next_frame - 1, 0);
    let database = house.database("archive").await;
    archived(&house, &scribe, &database).await;
    let begun = noted(&database).await;
    assert_eq!(
        (begun.complete, begun.messages, begun.from_user.as_str()),
        (0, 0, "alice")
    );

    // Not begun: it is there, handed out without, and nothing is wrong with that.
    let (db, log) = (database.connection(), &house.log);
    assert!(has(&row(&database, first).await, SECRET));
    let show = async |seq: Seq| {
        let line = row(&database, seq).await.bytes;
        let unfinished = Known::unfinished(db, log).await.unwrap();
        now::show(db, log, (vec![(sql::bound(seq), line)], &unfinished), &HashMap::new())
            .await
            .unwrap()
            .remove(0)
            .1
    };
    assert!(is_erased(&show(first).await) && !is_erased(&show(after).await));
    assert_eq!(faults(&verified(&house, &database, false).await), []);

    in_pieces(&house, &database, (begun, erase), (first, after)).await;

    // Somebody puts it back.
    put_back(&database, &scribe, first).await;
    assert_eq!(
        faults(&verified(&house, &database, true).await),
        [(first.0, Fault::Unerased)]
    );
    round(&database, log).await.unwrap();
    assert_eq!(faults(&verified(&house, &database, false).await), []);
    assert!(!has(&row(&database, first).await, SECRET));
}

async fn of_two_erasures_the_first_counts_whichever_is_done_first(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Msg)]).await;
    let said = Seq::of(1, 1);
    let edit = scribe.change("lobby", Kind::Edit, said, "grüß anew").await;
    scribe.say(&[("_", Kind::Erase)]).await;
    let of_user = Seq::of(scribe.next_frame - 1, 0);
    scribe.change("lobby", Kind::Erase, said, "").await;
    let database = house.database("archive").await;
    // The message alone is erased at once; all that the user wrote, in the next round.
    archived(&house, &scribe, &database).await;
    for _ in 0..2 {
        for seq in [said, edit] {
            let row = row(&database, seq).await;
            assert_eq!(redact::erased_by(&row), Some(of_user), "{seq}");
        }
        assert_eq!(faults(&verified(&house, &database, false).await), []);
        round(&database, &house.log).await.unwrap();
    }
    let mut all = erasure::Entity::find().all(database.connection()).await.unwrap();
    all.sort_by_key(|row| row.seq);
    let counted: Vec<(i64, i64)> = all.iter().map(|row| (row.messages, row.edits)).collect();
    assert_eq!(counted, [(1, 1), (0, 0)], "each is counted once");
}

async fn what_is_erased_stays_so_in_an_archive_made_anew(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Msg)]).await;
    scribe.chatter(20, 3).await;
    scribe.change("lobby", Kind::Erase, Seq::of(1, 1), "").await;
    scribe.say(&[("_", Kind::Erase)]).await;
    scribe.chatter(3, 1).await;
    let database = house.database("archive").await;
    archived(&house, &scribe, &database).await;
    round(&database, &house.log).await.unwrap();
    let secrets = async |database: &Database| {
        let rows = events(database).await;
        rows.iter().filter(|row| has(row, SECRET)).count()
    };
    assert_eq!(secrets(&database).await, 3);
    let before = events(&database).await;

    // The log was trimmed: the past comes from the archive, what is behind it from the log.
    house.stream().await.purge().sequence(10).await.unwrap();
    let client = house.store().await;
    let config = RebuildConfig {
        subjects: house.log.subjects.clone(),
        worker: "test".to_owned(),
        replicas: 1,
        log_max_bytes: 1 << 30,
        now: 1,
    };
    rebuild_archive(&client, &database, Past::Archive, &config, |_, _| {})
        .await
        .unwrap();
    archived(&house, &scribe, &database).await;
    round(&database, &house.log).await.unwrap();
    let after: Vec<event::Model> = events(&database)
        .await
        .into_iter()
        .filter(|row| row.epoch > 0)
        .collect();
    assert_eq!(after, before);
    assert_eq!(faults(&verified(&house, &database, false).await), []);

    // A copy of it, also on the way to another database.
    let target = house.database("target").await;
    crate::transfer::copy(&database, &target, &house.log, |_, _| {})
        .await
        .unwrap();
    round(&target, &house.log).await.unwrap();
    assert_eq!(secrets(&target).await, 3);
    assert_eq!(faults(&verified(&house, &target, false).await), []);
}

async fn what_is_held_is_not_erasable(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe
        .say(&[("lobby", Kind::Room), ("lobby", Kind::Msg), ("shed", Kind::Room)])
        .await;
    let database = house.database("archive").await;
    let id = format!("id-{}", Seq::of(1, 1));
    let ask = async |user: Option<&str>| -> Erasable {
        let query = ErasableQuery {
            tenant: "main".parse().unwrap(),
            user: user.map(|user| user.parse().unwrap()),
            room: user.is_none().then(|| "lobby".parse().unwrap()),
            message: user.is_none().then(|| id.clone()),
        };
        erasable(database.connection(), &house.log, &query).await.unwrap()
    };
    archived(&house, &scribe, &database).await;
    let found = ask(None).await;
    assert_eq!(
        (found.held, found.seq, found.watermark),
        (false, Some(Seq::of(1, 1)), scribe.end())
    );
    let mut n = 0;
    for (body, held) in [
        (r#"{"room":"shed","held":true}"#, [false, false, false]),
        (r#"{"room":"lobby","held":true}"#, [true, true, false]),
        (r#"{"room":"lobby","held":false}"#, [false, false, false]),
        (r#"{"user":"alice","held":true}"#, [true, true, false]),
        (r#"{"user":"alice","held":false}"#, [false, false, false]),
    ] {
        n += 1;
        let seq = Seq::of(scribe.next_frame, 0);
        let line = format!(
            r#"{{"v":1,"seq":{seq},"n":{n},"prev":0,"id":"h{n}","tenant":"main","room":"_","from":"root","kind":"hold","at":"2026-11-23T06:00:00.123Z","body":{body}}}"#
        );
        scribe.append(line.into()).await;
        archived(&house, &scribe, &database).await;
        let asked = [ask(None).await, ask(Some("alice")).await, ask(Some("bob")).await];
        assert_eq!(asked.map(|found| found.held), held, "{body}");
    }
}
