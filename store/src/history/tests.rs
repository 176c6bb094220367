use std::collections::HashMap;

use async_nats::Message;
use futures_util::future::join_all;
use natterjack_nats_config::contract::Kind;
use sea_orm::ConnectionTrait;
use serde_json::json;

use super::*;
use crate::archive::testing::{Engine, House, LIMIT, on_each_engine};

on_each_engine!(
    pages_are_what_the_bounds_say,
    messages_are_the_lines_of_the_log_byte_for_byte,
    a_wrong_request_is_told_what_is_wrong,
    an_answer_goes_to_a_workers_inbox_only,
    a_database_that_fails_is_a_reason_to_ask_again,
    pages_of_large_messages_fit_an_answer_and_leave_none_out,
    several_stores_share_the_work,
    reactions_and_pins_are_shown,
    messages_are_shown_as_they_now_stand,
);

/// Services that answer, a bridge that asks.
struct Answering {
    bridge: Client,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<Result<(), HistoryError>>>,
}

impl Answering {
    async fn start(house: &House, databases: &[&Database]) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for database in databases {
            let client = house.store().await;
            tasks.push(tokio::spawn(run(
                client,
                (*database).clone(),
                house.log.clone(),
                stop.clone(),
            )));
        }
        let this = Self {
            bridge: house.bridge().await,
            stop,
            tasks,
        };
        let up = async {
            while this.infos().await.len() < databases.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, up).await.unwrap();
        this
    }

    /// The statistics of each instance that is up, by instance.
    async fn infos(&self) -> HashMap<String, serde_json::Value> {
        let inbox = self.bridge.new_inbox();
        let mut answers = self.bridge.subscribe(inbox.clone()).await.unwrap();
        self.bridge
            .publish_with_reply("$SRV.STATS.natterjack-store", inbox, Bytes::new())
            .await
            .unwrap();
        let mut infos = HashMap::new();
        while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(200), answers.next()).await {
            if let Ok(info) = serde_json::from_slice::<serde_json::Value>(&answer.payload) {
                infos.insert(info["id"].as_str().unwrap().to_owned(), info);
            }
        }
        infos
    }

    async fn ask(&self, verb: &str, payload: impl Into<Bytes>) -> Message {
        let subject = Subjects::default().store_service(verb);
        tokio::time::timeout(LIMIT, self.bridge.request(subject, payload.into()))
            .await
            .unwrap()
            .unwrap()
    }

    async fn page(&self, query: serde_json::Value) -> HistoryPage {
        let answer = self.ask(HISTORY_VERB, query.to_string()).await;
        serde_json::from_slice(&answer.payload).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    async fn problem(&self, payload: &str) -> Problem {
        let answer = self.ask(HISTORY_VERB, payload.to_owned()).await;
        let problem: Problem = serde_json::from_slice(&answer.payload).unwrap();
        let headers = answer.headers.unwrap();
        assert_eq!(headers.get(NATS_SERVICE_ERROR).unwrap().as_str(), problem.code.as_str());
        assert_eq!(
            headers.get(NATS_SERVICE_ERROR_CODE).unwrap().as_str(),
            problem.status.to_string()
        );
        problem
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            tokio::time::timeout(LIMIT, task).await.unwrap().unwrap().unwrap();
        }
    }
}

fn seq_of(message: &RawValue) -> u64 {
    serde_json::from_str::<serde_json::Value>(message.get()).unwrap()["seq"]
        .as_u64()
        .unwrap()
}

/// Archives what the scribe says, and gives the database.
async fn archived(house: &House, end: Seq) -> Database {
    let database = house.database("archive").await;
    let mut worker = house.start(&database, "one").await;
    worker.reached(end).await;
    worker.stop().await;
    database
}

/// What it shows, the query, the messages of the page, and `next`; of a room with the 15 messages `all`.
type Case<'a> = (&'static str, serde_json::Value, &'a [u64], Option<u64>);

#[rustfmt::skip]
fn cases(all: &[u64]) -> Vec<Case<'_>> {
    let (first, last, far) = (all[0], all[14], u64::MAX);
    vec![
        ("the newest page is all there is",     json!({}),                                              all,           None),
        ("the newest page",                     json!({"limit": 4}),                                    &all[11..],   Some(all[11])),
        ("as many as there are: no next",       json!({"limit": 15}),                                   all,           None),
        ("the page before it",                  json!({"limit": 4, "before": all[11]}),                 &all[7..11],  Some(all[7])),
        ("the oldest page",                     json!({"limit": 4, "before": all[3]}),                  &all[..3],    None),
        ("before the first",                    json!({"before": first}),                               &[],          None),
        ("before everything",                   json!({"before": 0}),                                   &[],          None),
        ("before a place that is none of ours", json!({"limit": 2, "before": all[2] + 1}),              &all[1..3],   Some(all[1])),
        ("before the end of time",              json!({"limit": 1, "before": far}),                     &all[14..],   Some(last)),
        ("from the beginning",                  json!({"limit": 4, "after": 0}),                        &all[..4],    Some(all[3])),
        ("on from there",                       json!({"limit": 4, "after": all[3]}),                   &all[4..8],   Some(all[7])),
        ("the last page",                       json!({"limit": 4, "after": all[10]}),                  &all[11..],   None),
        ("after the last",                      json!({"after": last}),                                 &[],          None),
        ("after the end of time",               json!({"after": far}),                                  &[],          None),
        ("what was before is unseen",           json!({"visible_from": all[5]}),                        &all[5..],    None),
        ("unseen also from the beginning",      json!({"visible_from": all[5], "after": 0, "limit": 2}), &all[5..7],  Some(all[6])),
        ("unseen also page by page",            json!({"visible_from": all[5], "before": all[7]}),      &all[5..7],   None),
        ("nothing to see yet",                  json!({"visible_from": last + 1}),                      &[],          None),
        ("nothing to see before",               json!({"visible_from": all[5], "before": all[5]}),      &[],          None),
        ("no such room",                        json!({"room": "LOBBY"}),                               &[],          None),
        ("another tenant's room",               json!({"tenant": "other"}),                             &[],          None),
    ]
}

async fn pages_are_what_the_bounds_say(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Room), ("lobby", Kind::Member)]).await;
    // lobby: msg, (shed), command, (member), reply, in frames 2 to 6; Lobby is another room.
    for _ in 2..=6 {
        scribe
            .say(&[
                ("lobby", Kind::Msg),
                ("shed", Kind::Msg),
                ("Lobby", Kind::Msg),
                ("lobby", Kind::Command),
                ("lobby", Kind::Member),
                ("lobby", Kind::Reply),
            ])
            .await;
    }
    let all: Vec<u64> = (2..=6u64)
        .flat_map(|frame| [0, 3, 5].map(|index| frame << 10 | index))
        .collect();
    let database = archived(&house, scribe.end()).await;
    let service = Answering::start(&house, &[&database]).await;
    for (name, query, seqs, next) in cases(&all) {
        let mut full = json!({"tenant": "main", "room": "lobby", "visible_from": 0});
        full.as_object_mut().unwrap().extend(query.as_object().unwrap().clone());
        let page = service.page(full).await;
        let got: Vec<u64> = page.messages.iter().map(|message| seq_of(message)).collect();
        assert_eq!((got.as_slice(), page.next), (seqs, next.map(Seq)), "{name}");
        assert_eq!(page.watermark, scribe.end(), "{name}");
    }
    service.stop().await;
}

async fn messages_are_the_lines_of_the_log_byte_for_byte(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe
        .say(&[("shed", Kind::Msg), ("shed", Kind::Command), ("shed", Kind::Reply)])
        .await;
    let database = archived(&house, scribe.end()).await;
    let service = Answering::start(&house, &[&database]).await;
    let query = json!({"tenant": "main", "room": "shed", "visible_from": 0});
    let answer = service.ask(HISTORY_VERB, query.to_string()).await;
    let lines: Vec<&str> = scribe
        .lines
        .iter()
        .map(|(_, line)| std::str::from_utf8(line).unwrap())
        .collect();
    let (watermark, messages) = (scribe.end(), lines.join(","));
    let whole = format!(r#"{{"watermark":{watermark},"messages":[{messages}],"next":null}}"#);
    assert_eq!(std::str::from_utf8(&answer.payload).unwrap(), whole);
    service.stop().await;
}

async fn a_wrong_request_is_told_what_is_wrong(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Msg)]).await;
    let database = archived(&house, scribe.end()).await;
    let service = Answering::start(&house, &[&database]).await;
    for (rest, why) in [
        (r#","before":9,"after":1"#, "not both"),
        (r#","limit":0"#, "limit"),
        (r#","limit":201"#, "limit"),
        (r#","before":"x""#, "expected u64"),
        (r#","unknown":1"#, "unknown"),
        (r#","tenant":"a.b""#, "tenant"),
    ] {
        let problem = service
            .problem(&format!(r#"{{"tenant":"main","room":"lobby","visible_from":0{rest}}}"#))
            .await;
        assert_eq!(
            (problem.code, problem.status),
            (ProblemCode::InvalidRequest, 400),
            "{rest}"
        );
        assert!(problem.detail.contains(why), "{rest}: {}", problem.detail);
    }
    for wrong in ["", "null", "{", "\u{0}"] {
        assert_eq!(
            service.problem(wrong).await.code,
            ProblemCode::InvalidRequest,
            "{wrong:?}"
        );
    }
    service.stop().await;
}

async fn an_answer_goes_to_a_workers_inbox_only(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Msg)]).await;
    let database = archived(&house, scribe.end()).await;
    let service = Answering::start(&house, &[&database]).await;
    // An answer sent to the log's subject would be a forged frame.
    let subject = Subjects::default().store_service(WATERMARK_VERB);
    service
        .bridge
        .publish_with_reply(subject, house.log.subject(), Bytes::new())
        .await
        .unwrap();
    let answer = service.ask(WATERMARK_VERB, "").await;
    let watermark: ArchiveWatermark = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(watermark.watermark, scribe.end());
    assert_eq!(house.log.end(&service.bridge).await.unwrap(), scribe.end().frame());

    service.stop().await;
}

async fn a_database_that_fails_is_a_reason_to_ask_again(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Msg)]).await;
    let database = archived(&house, scribe.end()).await;
    let service = Answering::start(&house, &[&database]).await;
    database
        .connection()
        .execute_unprepared("ALTER TABLE watermark RENAME TO gone")
        .await
        .unwrap();
    let problem = service
        .problem(r#"{"tenant":"main","room":"lobby","visible_from":0}"#)
        .await;
    assert_eq!(
        (problem.code, problem.status, problem.retryable),
        (ProblemCode::StoreLagging, 503, true)
    );
    service.stop().await;
}

async fn pages_of_large_messages_fit_an_answer_and_leave_none_out(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    for n in 1..=12u64 {
        let seq = Seq::of(n, 0);
        let text = "x".repeat(100 * 1024);
        let line = format!(
            r#"{{"v":1,"seq":{seq},"n":{n},"prev":0,"id":"x","tenant":"main","room":"lobby","from":"alice","kind":"msg","at":"2026-11-23T06:00:00.123Z","body":"{text}"}}"#
        );
        scribe.append(line.into()).await;
    }
    let database = archived(&house, scribe.end()).await;
    let service = Answering::start(&house, &[&database]).await;
    let (mut seqs, mut after) = (Vec::new(), Seq::ZERO);
    let sizes = loop {
        let page = service
            .page(json!({"tenant": "main", "room": "lobby", "visible_from": 0, "after": after}))
            .await;
        assert!(page.messages.iter().map(|message| message.get().len()).sum::<usize>() <= MAX_HISTORY_BYTES);
        seqs.push(
            page.messages
                .iter()
                .map(|message| seq_of(message) >> 10)
                .collect::<Vec<_>>(),
        );
        match page.next {
            Some(next) => after = next,
            None => break seqs.iter().map(Vec::len).collect::<Vec<_>>(),
        }
    };
    assert_eq!(sizes, [5, 5, 2]);
    assert_eq!(seqs.concat(), (1..=12).collect::<Vec<u64>>());
    service.stop().await;
}

async fn several_stores_share_the_work(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Msg)]).await;
    let database = archived(&house, scribe.end()).await;
    let service = Answering::start(&house, &[&database, &database]).await;
    let query = json!({"tenant": "main", "room": "lobby", "visible_from": 0});
    let pages = join_all((0..80).map(|_| service.page(query.clone()))).await;
    assert!(pages.iter().all(|page| page.messages.len() == 1));
    let served: Vec<u64> = service
        .infos()
        .await
        .values()
        .flat_map(|info| info["endpoints"].as_array().unwrap().clone())
        .filter(|endpoint| endpoint["name"] == HISTORY_VERB)
        .map(|endpoint| endpoint["num_requests"].as_u64().unwrap())
        .collect();
    assert_eq!((served.len(), served.iter().sum::<u64>()), (2, 80));
    assert!(served.iter().all(|requests| *requests > 0), "{served:?}");
    service.stop().await;
}

#[test]
fn a_page_is_cut_at_the_limit_and_at_the_bytes_and_is_never_empty_without_need() {
    let half = MAX_HISTORY_BYTES / 2 - 1;
    #[rustfmt::skip]
    let cases: [(&str, &[usize], usize, usize, bool); 7] = [
        ("nothing",                        &[],                          5, 0, false),
        ("all",                            &[10, 10],                    5, 2, false),
        ("as many as the limit",           &[10, 10],                    2, 2, false),
        ("one more than the limit",        &[10, 10, 10],                2, 2, true),
        ("as many as the bytes",           &[half, half],                5, 2, false),
        ("more than the bytes",            &[half, half, 10],            5, 2, true),
        ("the first is too large already", &[MAX_HISTORY_BYTES + 9, 10], 5, 1, true),
    ];
    for (name, sizes, limit, on_page, more) in cases {
        let found: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| (Seq(100 - index as u64), *size))
            .collect();
        let cut = cut(&found, limit);
        let seqs: Vec<Seq> = found.iter().take(on_page).map(|(seq, _)| *seq).collect();
        let range = seqs.last().map(|oldest| sql::Range {
            first: *oldest,
            last: seqs[0],
        });
        assert_eq!(
            cut,
            Cut {
                range,
                count: on_page,
                next: more.then(|| *seqs.last().unwrap())
            },
            "{name}"
        );
    }
}

async fn messages_are_shown_as_they_now_stand(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Msg); 4]).await;
    let place = |index| Seq::of(1, index);
    scribe.change("lobby", Kind::Edit, place(0), "once").await;
    let last = scribe.change("lobby", Kind::Edit, place(0), "twice").await;
    scribe.change("lobby", Kind::Edit, place(1), "gone").await;
    scribe.change("lobby", Kind::Delete, place(1), "").await;
    let database = archived(&house, scribe.end()).await;
    let answering = Answering::start(&house, &[&database]).await;
    let page = answering
        .page(json!({"tenant": "main", "room": "lobby", "visible_from": 0}))
        .await;
    assert_eq!((page.messages.len(), page.watermark), (4, scribe.end()));
    let shown: Vec<serde_json::Value> = page
        .messages
        .iter()
        .map(|message| serde_json::from_str(message.get()).unwrap())
        .collect();
    assert_eq!(shown[0]["body"], json!({"text": "twice"}));
    assert_eq!(
        (&shown[1]["body"], &shown[1]["deleted"]["by"]),
        (&json!(null), &json!("alice"))
    );
    let untouched: Vec<&str> = page.messages[2..].iter().map(|message| message.get()).collect();
    assert_eq!(
        untouched,
        [&scribe.lines[2].1[..], &scribe.lines[3].1[..]].map(|line| std::str::from_utf8(line).unwrap())
    );

    one_message_is_shown_with_what_it_was(&answering, &scribe, &page, last).await;
    answering.stop().await;
}

async fn one_message_is_shown_with_what_it_was(
    answering: &Answering,
    scribe: &crate::archive::testing::Scribe,
    page: &HistoryPage,
    last: Seq,
) {
    let place = |index| Seq::of(1, index);
    let one = async |room: &str, place: Seq, visible_from: u64| {
        let query = json!({"tenant": "main", "room": room, "id": format!("id-{place}"), "visible_from": visible_from});
        let answer = answering.ask(MESSAGE_VERB, query.to_string()).await;
        serde_json::from_slice::<natterjack_nats_config::contract::MessageShown>(&answer.payload).unwrap()
    };
    let edited = one("lobby", place(0), 0).await;
    assert_eq!(edited.message.unwrap().get(), page.messages[0].get());
    assert_eq!(edited.original.unwrap().get().as_bytes(), &scribe.lines[0].1[..]);
    let edits: Vec<u64> = edited.edits.iter().map(|edit| seq_of(edit)).collect();
    assert_eq!(edits, [Seq::of(2, 0).0, last.0]);
    let deleted = one("lobby", place(1), 0).await;
    assert_eq!(deleted.message.unwrap().get(), page.messages[1].get());
    assert!(deleted.original.is_none() && deleted.edits.is_empty());
    let untouched = one("lobby", place(2), 0).await;
    assert_eq!(untouched.message.unwrap().get(), page.messages[2].get());
    for (room, place, visible_from) in [
        ("Lobby", place(0), 0),
        ("lobby", place(0), 1025),
        ("lobby", last, 0),
        ("lobby", Seq(9), 0),
    ] {
        assert!(one(room, place, visible_from).await.message.is_none(), "{room} {place}");
    }
}

async fn reactions_and_pins_are_shown(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    scribe.say(&[("lobby", Kind::Msg); 5]).await;
    let place = |index| Seq::of(1, index);
    for (kind, index, text) in [
        (Kind::React, 1, "👍"),
        (Kind::React, 1, "🎉"),
        (Kind::Unreact, 1, "🎉"),
        (Kind::React, 2, "x"),
        (Kind::Pin, 0, ""),
        (Kind::Pin, 1, ""),
        (Kind::Pin, 3, ""),
        (Kind::Pin, 4, ""),
        (Kind::Unpin, 0, ""),
        (Kind::Delete, 3, ""),
    ] {
        scribe.change("lobby", kind, place(index), text).await;
    }
    let database = archived(&house, scribe.end()).await;
    let answering = Answering::start(&house, &[&database]).await;
    let page = async |more: serde_json::Value| {
        let mut query = json!({"tenant": "main", "room": "lobby", "visible_from": 0});
        query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let page = answering.page(query).await;
        let shown = page
            .messages
            .iter()
            .map(|message| serde_json::from_str(message.get()).unwrap());
        (shown.collect::<Vec<serde_json::Value>>(), page.next)
    };
    let (all, _) = page(json!({})).await;
    assert_eq!(all[1]["reactions"], json!([{"emoji": "👍", "count": 1}]));
    assert_eq!(all[2]["reactions"], json!([{"emoji": "x", "count": 1}]));
    assert!(all[0].get("pinned").is_none() && all[0].get("reactions").is_none());
    assert_eq!(all[4]["pinned"]["by"], "alice");
    let (pinned, next) = page(json!({"pinned": true})).await;
    assert_eq!((pinned, next), (vec![all[1].clone(), all[4].clone()], None));
    let (first, next) = page(json!({"pinned": true, "after": 0, "limit": 1})).await;
    assert_eq!((first, next), (vec![all[1].clone()], Some(place(1))));
    answering.stop().await;
}
