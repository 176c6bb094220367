//! `natterjack bench archive`: many messages from a log of its own into an empty archive, and beside it the engine's own bulk load of
//! the same rows; then what readers ask, as bridges ask it.

mod house;
mod made;
mod readers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use natterjack_nats_config::contract::{Seq, Subjects};
use natterjack_nats_config::tail::Log;
use natterjack_store::archive::{Address, ArchiveConfig, Database, Progress, Tables, run as archive};
use natterjack_store::{bulk, history, search};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::house::House;
use self::made::Made;
use self::readers::{Answers, Readers};
use crate::cli::verify::bar;
use crate::config::{Config, Global};
use crate::process::{say, start_logging};

#[derive(Debug, clap::Args)]
pub(super) struct ArchiveBench {
    /// Messages
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    messages: u64,
    /// Rooms, among which they are spread
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rooms: u32,
    /// Events in a frame of the log
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    frame: u32,
    /// Questions of each kind
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..))]
    questions: u32,
    /// Where the log is made, and without --database the archive: on the disk that is to be measured. It is removed in the end
    /// [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// What was measured.
struct Row {
    engine: String,
    events: u64,
    archive: Duration,
    bulk: bulk::Loaded,
    index: Duration,
    /// Bytes of the database: the archive, and the index of words.
    sizes: (u64, u64),
    answers: Answers,
}

pub(super) async fn run(global: &Global, bench: &ArchiveBench) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    start_logging(&config.logging)?;
    let parent = bench.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder::make(&parent)?;
    let (address, engine) = match &global.database {
        Some(_) => (config.database()?, None),
        None => (Address::file(&folder.0.join("archive.db")), Some("SQLite")),
    };
    let database = Database::open(&address, Tables::Migrate).await?;
    let log = Log::first(Subjects::default());
    ensure!(
        bulk::is_empty(&database, &log).await?,
        "{address} is somebody's archive: name a database that is empty"
    );
    let engine = engine.map_or_else(|| name(global.database.as_deref().unwrap_or_default()), str::to_owned);
    let house = House::start(&config, &folder.0).await?;
    let measured = measure(bench, (&engine, &database), (&house, &log), &folder.0).await;
    house.stop().await;
    database.close().await;
    show(bench, &measured?)
}

/// The engine, as the URL names it.
fn name(url: &str) -> String {
    match url.split(':').next().unwrap_or_default() {
        "postgres" | "postgresql" => "PostgreSQL".to_owned(),
        "mysql" | "mariadb" => "MariaDB/MySQL".to_owned(),
        _ => "SQLite".to_owned(),
    }
}

async fn measure(
    bench: &ArchiveBench,
    (engine, database): (&str, &Database),
    (house, log): (&House, &Log),
    folder: &Path,
) -> anyhow::Result<Row> {
    let store = house.store().await?;
    let mut made = Made::new(bench.rooms, bench.messages)?;
    let bar = bar("messages written into the log")?;
    bar.set_length(bench.messages);
    let end = house::fill(&store, log, &mut made, bench.frame, |done| bar.set_position(done)).await?;
    bar.finish_and_clear();
    let empty = bulk::size(database).await?;
    let took = archived(store.clone(), (database, log), end, made.events()).await?;
    let archive_size = bulk::size(database).await?;
    let bulk = loaded(database, log, folder).await?;
    ensure!(
        bulk.rows == made.events(),
        "{} events were written, {} are archived",
        made.events(),
        bulk.rows
    );
    let before_index = bulk::size(database).await?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let serving = tokio::spawn(history::run(store, database.clone(), log.clone(), stop.clone()));
    let readers = Readers::new(house.bridge().await?, log.clone(), &made);
    let index = indexed(&readers, (database, log), made.last_message(), stop.child_token()).await?;
    let with_index = bulk::size(database).await?;
    let answers = readers.ask(bench.questions).await?;
    stop.cancel();
    serving.await??;
    Ok(Row {
        engine: engine.to_owned(),
        events: made.events(),
        archive: took,
        bulk,
        index,
        // What the load leaves free in the file is used again, by an engine that does not give it back.
        sizes: (
            archive_size.saturating_sub(empty),
            with_index.saturating_sub(before_index.min(archive_size)),
        ),
        answers,
    })
}

/// Archives the whole log, and says how long that took: from its beginning to the last commit.
async fn archived(
    client: async_nats::Client,
    (database, log): (&Database, &Log),
    end: Seq,
    events: u64,
) -> anyhow::Result<Duration> {
    let config = ArchiveConfig {
        log: log.clone(),
        worker: "bench".to_owned(),
        replicas: 1,
    };
    let (sender, mut progress) = watch::channel(Progress::default());
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let bar = bar("events archived")?;
    bar.set_length(events);
    let begun = Instant::now();
    let mut working = tokio::spawn(archive(client, database.clone(), config, sender, stop.clone()));
    loop {
        tokio::select! {
            changed = progress.changed() => changed.context("the archive stopped")?,
            ended = &mut working => ended?.context("the archive stopped")?,
        }
        let watermark = progress.borrow_and_update().watermark;
        bar.set_position(events * watermark.frame() / end.frame());
        if watermark >= end {
            break;
        }
    }
    let took = begun.elapsed();
    bar.finish_and_clear();
    stop.cancel();
    working.await??;
    Ok(took)
}

async fn loaded(database: &Database, log: &Log, folder: &Path) -> anyhow::Result<bulk::Loaded> {
    let bar = bar("rows loaded by the engine itself")?;
    let loaded = bulk::load(database, log, folder, |rows| bar.set_position(rows)).await;
    bar.finish_and_clear();
    Ok(loaded?)
}

/// Fills the index of words, and says how long that took.
async fn indexed(
    readers: &Readers,
    (database, log): (&Database, &Log),
    last: Seq,
    stop: CancellationToken,
) -> anyhow::Result<Duration> {
    let bar = bar("frames indexed")?;
    bar.set_length(last.frame());
    let begun = Instant::now();
    let _stopped = stop.clone().drop_guard();
    let working = tokio::spawn(search::keep(database.clone(), log.clone(), stop.clone()));
    loop {
        let indexed = readers.indexed().await?;
        bar.set_position(indexed.frame());
        if indexed >= last {
            break;
        }
        ensure!(!working.is_finished(), "the index stopped");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begun.elapsed();
    bar.finish_and_clear();
    stop.cancel();
    working.await?;
    Ok(took)
}

fn show(bench: &ArchiveBench, row: &Row) -> anyhow::Result<()> {
    let events = f64::from(u32::try_from(row.events).unwrap_or(u32::MAX));
    let rate = |took: Duration| events / took.as_secs_f64();
    let (archive, bulk) = (rate(row.archive), rate(row.bulk.took));
    let each = |bytes: u64| bytes / row.events.max(1);
    let Answers {
        page,
        word,
        frequent,
        chinese,
        unread,
    } = &row.answers;
    say(format_args!(
        "{} messages in {} rooms, {} in a frame, {} questions of each kind\n",
        bench.messages, bench.rooms, bench.frame, bench.questions
    ))?;
    say(
        "| engine | archived | bulk load | ratio | indexed behind it | history page | search, a word | a frequent word | Chinese | unread, all rooms | bytes each, index |",
    )?;
    say("|---|---|---|---|---|---|---|---|---|---|---|")?;
    say(format_args!(
        "| {} | {archive:.0}/s | {bulk:.0}/s, {} | {:.2} | {:.0}/s | {page} | {word} | {frequent} | {chinese} | {unread} | {}, {} |",
        row.engine,
        row.bulk.how,
        archive / bulk,
        rate(row.index),
        each(row.sizes.0),
        each(row.sizes.1),
    ))
}

/// A folder that is removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn make(parent: &Path) -> anyhow::Result<Self> {
        let folder = parent.join(format!("natterjack-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the folder is left behind");
        }
    }
}
