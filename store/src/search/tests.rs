use natterjack_nats_config::contract::{Kind, SearchPage, SearchQuery, SearchRoom, Seq, Subjects};
use natterjack_nats_config::tail::Log;
use sea_orm::{ConnectionTrait, EntityTrait, IntoActiveModel};

use super::index::{self, Round};
use super::search;
use crate::archive::Database;
use crate::archive::sql;
use crate::archive::testing::{Databases, Engine, on_each_engine};
use crate::entity::{event, watermark};

on_each_engine!(
    every_script_is_found,
    the_better_result_comes_first,
    only_the_rooms_asked_for_and_what_is_visible,
    stores_index_together_and_nothing_twice,
    a_lost_index_is_filled_again,
    epochs_are_indexed_one_after_the_other,
    a_query_of_many_rooms_is_answered,
    a_frequent_word_is_found_among_the_newest_and_a_rare_one_anywhere,
    what_was_edited_or_deleted_is_found_no_more,
);

fn log() -> Log {
    Log::first(Subjects::default())
}

/// Events in the archive, as the worker leaves them: `(room, from, kind, text)`; the first has the sequence 1024.
async fn archive(database: &Database, epoch: i64, events: &[(&str, &str, Kind, &str)]) {
    let rows: Vec<_> = (1i64..)
        .zip(events)
        .map(|(frame, (room, from, kind, text))| event::Model {
            epoch,
            shard: 0,
            seq: frame << 10,
            tenant: "main".to_owned(),
            room: (*room).to_owned(),
            n: 1,
            prev: 0,
            id: "i".to_owned(),
            from_user: (*from).to_owned(),
            kind: kind.as_str().to_owned(),
            at: "a".to_owned(),
            key: None,
            bytes: serde_json::json!({"seq": frame << 10, "body": {"text": text}})
                .to_string()
                .into_bytes(),
            hash: vec![0; 32],
        })
        .collect();
    let db = database.connection();
    let transaction = sql::begin(db).await.unwrap();
    database.insert().run(&transaction, rows).await.unwrap();
    transaction.commit().await.unwrap();
    let mark = watermark::Model {
        shard: 0,
        epoch,
        stream_seq: i64::try_from(events.len()).unwrap(),
        replies: 0,
    };
    db.execute_unprepared("DELETE FROM watermark").await.unwrap();
    watermark::Entity::insert(mark.into_active_model())
        .exec_without_returning(db)
        .await
        .unwrap();
}

async fn index_all(database: &Database, log: &Log) {
    // A round that is idle may have indexed the last ones of an epoch.
    let mut idle = 0;
    while idle < 2 {
        idle = match index::round(database, log).await.unwrap() {
            Round::Indexed => 0,
            Round::Idle => idle + 1,
        };
    }
}

fn query(q: &str, rooms: &[(&str, u64)]) -> SearchQuery {
    SearchQuery {
        tenant: "main".parse().unwrap(),
        q: q.to_owned(),
        rooms: rooms
            .iter()
            .map(|(id, visible_from)| SearchRoom {
                id: id.parse().unwrap(),
                visible_from: Seq(*visible_from),
            })
            .collect(),
        from: None,
        limit: 20,
    }
}

async fn ask(database: &Database, query: &SearchQuery) -> SearchPage {
    search(database.connection(), &log(), query).await.unwrap().unwrap()
}

/// The frames of what is found, in the order of the answer.
async fn frames(database: &Database, query: &SearchQuery) -> Vec<u64> {
    let page = ask(database, query).await;
    let seq = |json: &str| {
        serde_json::from_str::<serde_json::Value>(json).unwrap()["seq"]
            .as_u64()
            .unwrap()
    };
    page.results
        .iter()
        .map(|result| seq(result.message.get()) >> 10)
        .collect()
}

async fn every_script_is_found(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let texts = [
        "The pump was deployed to it",
        "明天下午三点在会议室开会",
        "新しいポンプを設置しました",
        "펌프가 고장났습니다",
        "насос сломался",
        "ปั๊มเสียแล้ว",
        "only the www knows \u{0} NUL",
    ];
    let said: Vec<_> = texts.iter().map(|text| ("lobby", "alice", Kind::Msg, *text)).collect();
    archive(&database, 1, &said).await;
    index_all(&database, &log()).await;
    for (q, found) in [
        ("PUMP", &[1][..]),
        ("deploy", &[1]),
        ("deploy pump", &[1]),
        ("pump valve", &[]),
        // Words that an engine's own parser leaves out as too short or too common.
        ("it", &[1]),
        ("the www", &[7]),
        ("nul", &[7]),
        ("会议", &[2]),
        ("会议室", &[2]),
        ("会", &[2]),
        ("ポンプ", &[3]),
        ("設置", &[3]),
        ("펌프", &[4]),
        ("고장", &[4]),
        ("НАСОС", &[5]),
        ("เสีย", &[6]),
        ("'; DROP TABLE search; --", &[]),
        ("pump* OR \"x\" -y", &[]),
    ] {
        assert_eq!(frames(&database, &query(q, &[("lobby", 0)])).await, found, "{q}");
    }
    let page = ask(&database, &query("会议室", &[("lobby", 0)])).await;
    assert_eq!(page.results[0].snippet.found, "会议室");
    assert_eq!((page.watermark, page.indexed), (Seq::end_of_frame(7), Seq(7 << 10)));
    assert!(!page.more);
    let nothing = search(database.connection(), &log(), &query("?!", &[("lobby", 0)]))
        .await
        .unwrap();
    assert!(nothing.unwrap_err().detail.contains("`q`"));
}

async fn the_better_result_comes_first(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let long = format!("a valve {}", "and much else that is said here ".repeat(20));
    archive(
        &database,
        1,
        &[
            ("lobby", "alice", Kind::Msg, "valve valve valve"),
            ("lobby", "alice", Kind::Msg, &long),
            ("lobby", "alice", Kind::Msg, "nothing of the kind"),
            ("lobby", "alice", Kind::Msg, "more of nothing"),
        ],
    )
    .await;
    index_all(&database, &log()).await;
    assert_eq!(frames(&database, &query("valve", &[("lobby", 0)])).await, [1, 2]);
    let one = SearchQuery {
        limit: 1,
        ..query("valve", &[("lobby", 0)])
    };
    let page = ask(&database, &one).await;
    assert_eq!((page.results.len(), page.more), (1, true));
}

async fn only_the_rooms_asked_for_and_what_is_visible(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    archive(
        &database,
        1,
        &[
            ("lobby", "alice", Kind::Msg, "valve"),
            ("Lobby", "alice", Kind::Msg, "valve"),
            ("shed", "bob", Kind::Command, "valve"),
            ("lobby", "bob", Kind::Reply, "valve"),
            ("lobby", "bob", Kind::Room, "valve"),
        ],
    )
    .await;
    index_all(&database, &log()).await;
    let sorted = async |query: SearchQuery| {
        let mut found = frames(&database, &query).await;
        found.sort_unstable();
        found
    };
    for (rooms, found) in [
        (&[("lobby", 0)][..], &[1, 4][..]),
        (&[("lobby", 1025)], &[4]),
        (&[("lobby", 4 << 10), ("Lobby", 0), ("shed", 9 << 10)], &[2, 4]),
        (&[("lobby", u64::MAX)], &[]),
        (&[("attic", 0)], &[]),
        (&[], &[]),
    ] {
        assert_eq!(sorted(query("valve", rooms)).await, found, "{rooms:?}");
    }
    let of = |from: &str| SearchQuery {
        from: Some(from.parse().unwrap()),
        ..query("valve", &[("lobby", 0), ("shed", 0)])
    };
    assert_eq!(sorted(of("bob")).await, [3, 4]);
    assert_eq!(sorted(of("Bob")).await, [0; 0]);
    let other = SearchQuery {
        tenant: "Main".parse().unwrap(),
        ..query("valve", &[("lobby", 0)])
    };
    assert_eq!(sorted(other).await, [0; 0]);
}

async fn stores_index_together_and_nothing_twice(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let said: Vec<_> = (0..2000).map(|_| ("lobby", "alice", Kind::Msg, "valve")).collect();
    archive(&database, 1, &said).await;
    let log = log();
    let other = databases.open("archive").await;
    tokio::join!(index_all(&database, &log), index_all(&other, &log));
    index_all(&database, &log).await;
    let all = SearchQuery {
        limit: 100,
        ..query("valve", &[("lobby", 0)])
    };
    let page = ask(&database, &all).await;
    assert_eq!(
        (page.results.len(), page.more, page.indexed),
        (100, true, Seq(2000 << 10))
    );
    let count = sea_orm::Statement::from_string(
        database.connection().get_database_backend(),
        "SELECT COUNT(*) FROM search",
    );
    let row = database.connection().query_one_raw(count).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 2000);
}

async fn a_lost_index_is_filled_again(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    archive(&database, 1, &[("lobby", "alice", Kind::Msg, "valve")]).await;
    index_all(&database, &log()).await;
    for lost in ["DELETE FROM search", "DELETE FROM search_mark"] {
        database.connection().execute_unprepared(lost).await.unwrap();
    }
    assert_eq!(frames(&database, &query("valve", &[("lobby", 0)])).await, [0; 0]);
    index_all(&database, &log()).await;
    assert_eq!(frames(&database, &query("valve", &[("lobby", 0)])).await, [1]);
}

async fn epochs_are_indexed_one_after_the_other(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    archive(&database, 1, &[("lobby", "alice", Kind::Msg, "valve")]).await;
    archive(
        &database,
        3,
        &[
            ("lobby", "alice", Kind::Msg, "valve"),
            ("lobby", "bob", Kind::Msg, "valve"),
        ],
    )
    .await;
    let third = Log { epoch: 3, ..log() };
    index_all(&database, &third).await;
    let found = search(database.connection(), &third, &query("valve", &[("lobby", 0)]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.results.len(), 2);
    assert_eq!(frames(&database, &query("valve", &[("lobby", 0)])).await, [1]);
}

async fn a_frequent_word_is_found_among_the_newest_and_a_rare_one_anywhere(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let said = |text: &'static str| ("lobby", "alice", Kind::Msg, text);
    let mut events = vec![said("pump and valve"); 10];
    events[3] = said("seldom a pump");
    events.extend(vec![said("a pump"); 60]);
    events[65] = said("pump, pump, pump");
    events[66] = ("shed", "alice", Kind::Msg, "pump, pump, pump");
    archive(&database, 1, &events).await;
    index_all(&database, &log()).await;
    let of = async |q: &str, limit: u16| {
        let query = SearchQuery {
            limit,
            ..query(q, &[("lobby", 0)])
        };
        let more = ask(&database, &query).await.more;
        (frames(&database, &query).await, more)
    };
    let (best, more) = of("pump", 3).await;
    assert_eq!((best[0], best.len(), more), (66, 3, true), "{best:?}");
    assert_eq!(best[1..], [70, 69], "{best:?}");
    assert_eq!(of("seldom", 3).await, (vec![4], false));
    assert_eq!(of("sel", 3).await, (vec![4], false));
    let (all, more) = of("pump", 69).await;
    assert_eq!((all.len(), more), (69, false));
    let (of_old, more) = of("valve pump", 20).await;
    assert_eq!((of_old.len(), more), (9, false));
    assert_eq!(of("ump", 3).await, (vec![], false));
}

async fn a_query_of_many_rooms_is_answered(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    archive(&database, 1, &[("r1999", "alice", Kind::Msg, "valve")]).await;
    index_all(&database, &log()).await;
    let names: Vec<String> = (0..2000).map(|number| format!("r{number}")).collect();
    for visible_from in [0, 1, 1025] {
        let rooms: Vec<_> = names.iter().map(|name| (name.as_str(), visible_from)).collect();
        let found = frames(&database, &query("valve", &rooms)).await;
        assert_eq!(found.len(), usize::from(visible_from < 1025), "{visible_from}");
    }
}

fn said(frame: u64) -> String {
    let place = Seq::of(frame, 0);
    crate::archive::testing::line(place, (frame, Seq::ZERO), "lobby", Kind::Msg)
}

fn changed(frame: u64, kind: Kind, target: u64, text: &str) -> String {
    let target = Seq::of(target, 0);
    crate::archive::testing::change(Seq::of(frame, 0), (frame, Seq::ZERO), ("lobby", kind), (target, text))
}

async fn keep_lines(database: &Database, lines: Vec<String>) {
    let rows = lines.into_iter().map(|line| {
        let event = serde_json::from_str(&line).unwrap();
        let bytes = line.into();
        crate::archive::project::row(&log(), &natterjack_nats_config::contract::EventLine { event, bytes }).unwrap()
    });
    let transaction = sql::begin(database.connection()).await.unwrap();
    sql::keep(database, &transaction, rows.collect()).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn what_was_edited_or_deleted_is_found_no_more(engine: Engine) {
    let databases = Databases::new(engine);
    let database = databases.open("archive").await;
    let keep = async |lines: Vec<String>| keep_lines(&database, lines).await;
    sql::begin_watermark(database.connection(), &log()).await.unwrap();
    let find = async |word: &str| frames(&database, &query(word, &[("lobby", 0)])).await;
    keep(vec![said(1), said(2), said(3)]).await;
    index_all(&database, &log()).await;
    assert_eq!(find("dich").await.len(), 3);
    keep(vec![
        changed(4, Kind::Edit, 1, "apple"),
        changed(5, Kind::Edit, 1, "pear"),
        changed(6, Kind::Delete, 2, ""),
    ])
    .await;
    // Deleted at once, whatever the index still says.
    assert!(!find("dich").await.contains(&2));
    let indexed = async || {
        let sql = "SELECT COUNT(*) FROM search";
        let statement = sea_orm::Statement::from_string(database.connection().get_database_backend(), sql);
        let row = database.connection().query_one_raw(statement).await.unwrap().unwrap();
        row.try_get_by_index::<i64>(0).unwrap()
    };
    index_all(&database, &log()).await;
    assert_eq!(indexed().await, 2, "the deleted message is in the index no more");
    assert_eq!(
        (find("dich").await, find("pear").await, find("apple").await),
        (vec![3], vec![1], vec![])
    );
    let page = ask(&database, &query("pear", &[("lobby", 0)])).await;
    assert_eq!(page.results[0].snippet.found, "pear");
    // From the beginning, with all of it known.
    for table in ["search", "search_mark"] {
        database
            .connection()
            .execute_unprepared(&format!("DELETE FROM {table}"))
            .await
            .unwrap();
    }
    index_all(&database, &log()).await;
    assert_eq!(
        (indexed().await, find("dich").await, find("pear").await),
        (2, vec![3], vec![1])
    );
}
