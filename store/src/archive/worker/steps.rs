//! A process that archives is killed at each step between fetch and acknowledgement.

use std::process::Stdio;

use natterjack_nats_config::client::{Login, Seed, connect};
use natterjack_nats_config::contract::{Seq, Subjects};
use natterjack_nats_config::tail::Log;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::tests::{count_moves, moves};
use super::{ArchiveConfig, Progress, Worker, sql};
use crate::archive::step::Step;
use crate::archive::testing::{Engine, House, LIMIT, assert_archived, on_each_engine, quarantined};
use crate::archive::{Address, Database, Tables};

/// More frames than go into one batch.
const FRAMES: usize = 270;

on_each_engine!(killed_at_each_step_nothing_is_doubled_and_nothing_is_missing);

async fn killed_at_each_step_nothing_is_doubled_and_nothing_is_missing(engine: Engine) {
    let house = House::new(engine).await;
    let mut scribe = house.scribe().await;
    let database = house.database("archive").await;
    count_moves(&database).await;
    sql::begin_watermark(database.connection(), &house.log).await.unwrap();
    for step in Step::ALL {
        for batch in [1, 2] {
            let before = archived(&database, &house.log).await;
            scribe.chatter(FRAMES, 2).await;
            killed_at(&house, step, batch).await;
            let (after, acknowledged) = (archived(&database, &house.log).await, acknowledged(&house).await);
            // What died before it committed its first batch has left nothing, and nothing is acknowledged that is not archived.
            let is_committed =
                batch > 1 || matches!(step, Step::Committed | Step::HalfAcknowledged | Step::Acknowledged);
            assert_eq!(
                after > before,
                is_committed,
                "{step:?} of batch {batch}: {before} {after}"
            );
            assert!(
                acknowledged <= after.frame(),
                "{step:?}: {acknowledged} of {}",
                after.frame()
            );
        }
    }
    let mut last = house.start(&database, "last").await;
    last.reached(scribe.end()).await;
    assert_archived(&database, &scribe.lines).await;
    assert!(quarantined(&database).await.is_empty());
    assert_eq!(moves(&database).await.1, 0);
    last.stop().await;
}

async fn archived(database: &Database, log: &Log) -> Seq {
    sql::archived(database.connection(), log).await.unwrap()
}

/// Up to which frame the consumer has acknowledgements.
async fn acknowledged(house: &House) -> u64 {
    let info = house.stream().await.consumer_info("archive").await.unwrap();
    info.ack_floor.stream_sequence
}

/// Lets a process archive until it dies at a step of its so many-eth batch.
async fn killed_at(house: &House, step: Step, batch: u32) {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "archive::worker::steps::the_victim", "--ignored"])
        .env("NATTERJACK_DIE_AT", format!("{step:?}:{batch}"))
        .env("VICTIM_NATS", house.nats_url())
        .env("VICTIM_SEED", house.keys_dir().join("store.nk"))
        .env("VICTIM_DATABASE", house.databases.url("archive"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let status = tokio::time::timeout(LIMIT, victim.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), None, "{step:?} of batch {batch}: it ended by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is the process that killed_at_each_step_… starts"]
async fn the_victim() {
    let setting = |name: &str| std::env::var(name);
    let (Ok(url), Ok(seed), Ok(address)) = (
        setting("VICTIM_NATS"),
        setting("VICTIM_SEED"),
        setting("VICTIM_DATABASE"),
    ) else {
        return;
    };
    let login = Login {
        url,
        role: "store",
        seed: Seed::read(std::path::Path::new(&seed)).unwrap(),
    };
    let worker = Worker {
        client: connect(&login).await.unwrap(),
        database: Database::open(&Address::parse(&address, None).unwrap(), Tables::Refuse)
            .await
            .unwrap(),
        config: ArchiveConfig {
            log: Log::first(Subjects::default()),
            worker: "victim".to_owned(),
            replicas: 1,
        },
        progress: tokio::sync::watch::channel(Progress::default()).0,
    };
    // It dies before.
    let stop = CancellationToken::new();
    let _ = tokio::time::timeout(LIMIT, worker.archive(&stop)).await;
}
