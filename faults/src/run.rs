//! One run: the house and its clients, the faults one after the other, and the judgement in the end.

mod crowd;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use natterjack_nats_config::local_server::KeyName;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::args::{Arguments, Machine};
use crate::broken::Switch;
use crate::check::{Verdict, check};
use crate::client::{Clock, Setting, Tally};
use crate::collect::collect;
use crate::history::{History, Name};
use crate::house::{House, Plan, Worker, stores};
use crate::mount::Mount;
use crate::nemesis::{Kind, Needs, Planned, SMALL_LOG, Scene, clock_file, happen, schedule};
use crate::report::{Figures, Report};
use crate::{program, say};
use crowd::Crowd;

/// JetStream's limit of a house, in bytes.
const MAX_STORE: u64 = 16 << 30;
/// The same on a file system of its own.
const MAX_STORE_MOUNTED: u64 = 1 << 30;
/// How long clients work before the first fault.
const WARM_UP: Duration = Duration::from_secs(3);
/// How often a line of progress is shown.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long the house may take to be ready after the last fault.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// What happened besides what the checker judges.
#[derive(Debug, Default)]
struct Notes {
    faults: Vec<crate::history::Fault>,
    /// What could not be done, or went wrong beside the promises.
    troubles: Vec<String>,
}

/// Runs, reports, and says whether every promise was kept.
pub(crate) async fn run(arguments: &Arguments, machine: &Machine) -> anyhow::Result<bool> {
    Ok(judged(arguments, machine).await?.count() == 0)
}

/// Runs and reports.
pub(crate) async fn judged(arguments: &Arguments, machine: &Machine) -> anyhow::Result<Verdict> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let kinds = arguments.kinds(machine)?;
    let program = program::find(arguments.bin.as_ref()).await?;
    let names: Vec<String> = kinds.iter().map(|kind| kind.name()).collect();
    say(&format!("seed {seed}; faults: {}", names.join(" ")));
    let dir = make_dir(arguments)?;
    let scene = build(arguments, machine, &kinds, (&program, dir.path())).await?;
    let planned = schedule(seed, &kinds, arguments.duration, arguments.quick);
    let outcome = tokio::select! {
        outcome = play(arguments, &scene, seed, planned) => outcome,
        () = asked_to_stop() => Err(anyhow::anyhow!("stopped by a signal")),
    };
    let ends: Vec<String> = scene.setting.house.workers.iter().flat_map(Worker::ends).collect();
    end(scene).await;
    let (history, notes, figures) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            return Err(error.context(format!("the run failed, everything is in {}", dir.keep().display())));
        }
    };
    let verdict = check(&history);
    let kept = arguments.keep || verdict.count() > 0 || !notes.troubles.is_empty();
    let kept = kept.then(|| dir.keep());
    let report = Report::new(seed, arguments, &history, &verdict)
        .with_figures(figures)
        .with_notes(notes.troubles, ends)
        .kept_in(kept);
    report.show();
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(verdict)
}

fn make_dir(arguments: &Arguments) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("natterjack-faults-");
    let made = match &arguments.dir {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    };
    made.context("no temporary folder can be made")
}

/// What this run needs of a house, and the file systems under its servers.
async fn plan(
    arguments: &Arguments,
    machine: &Machine,
    kinds: &[Kind],
    (program, dir): (&std::path::Path, &std::path::Path),
) -> anyhow::Result<(Plan, Vec<Mount>)> {
    let needs = |need| kinds.iter().any(|kind| kind.needs() == need);
    let nodes = usize::from(arguments.nodes);
    let mut mounts = Vec::new();
    if needs(Needs::Mount) || needs(Needs::ClusterMount) {
        for (number, store) in stores(dir, nodes).into_iter().enumerate() {
            mounts.push(Mount::make(dir.join(format!("disk-{number}.img")), store).await?);
        }
    }
    let mut settings: Vec<(String, String)> = arguments.switch.and_then(Switch::setting).into_iter().collect();
    let max_store = if mounts.is_empty() {
        MAX_STORE
    } else {
        MAX_STORE_MOUNTED
    };
    let log_max = if needs(Needs::SmallLog) {
        SMALL_LOG
    } else {
        max_store / 2
    };
    if nodes > 1 {
        for name in ["NATTERJACK_NATS__REPLICAS", "NATTERJACK_NATS__SERVERS"] {
            settings.push((name.to_owned(), nodes.to_string()));
        }
    }
    settings.push(("NATTERJACK_STORE__LOG_MAX_BYTES".to_owned(), log_max.to_string()));
    let plan = Plan {
        program: program.to_owned(),
        dir: dir.to_owned(),
        nodes,
        max_store,
        lazy: arguments.switch == Some(Switch::SyncAlways),
        cables: needs(Needs::Cables),
        faketime: needs(Needs::Faketime).then(|| machine.faketime.clone()).flatten(),
        settings,
    };
    Ok((plan, mounts))
}

async fn build(
    arguments: &Arguments,
    machine: &Machine,
    kinds: &[Kind],
    (program, dir): (&std::path::Path, &std::path::Path),
) -> anyhow::Result<Scene> {
    let (plan, mounts) = plan(arguments, machine, kinds, (program, dir)).await?;
    let house = House::start(&plan).await?;
    let rooms: Vec<Name> = ["lobby", "plant", "office"].map(Name::from).to_vec();
    let setting = Setting {
        house: Arc::new(house),
        clock: Clock::start(),
        tally: Arc::new(Tally::default()),
        rooms: rooms.into(),
        quiet: Arc::new(RwLock::new(())),
        stop_sending: CancellationToken::new(),
        abandoned: CancellationToken::new(),
        stop_reading: CancellationToken::new(),
    };
    Ok(Scene {
        look: setting.house.look(KeyName::Bridge, "bridge").await?,
        setting,
        mounts,
        sends: Mutex::default(),
        changes: Mutex::default(),
    })
}

/// Ctrl-C, or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

/// Ends all processes, then what they stood on.
async fn end(scene: Scene) {
    for worker in &scene.setting.house.workers {
        worker.hold();
        worker.signal(rustix::process::Signal::KILL);
    }
    let servers = &scene.setting.house.servers;
    for at in 0..servers.count() {
        if let Err(error) = servers.down(at).await {
            say(&format!("a nats-server did not end: {error:#}"));
        }
    }
    drop(scene);
}

async fn play(
    arguments: &Arguments,
    scene: &Scene,
    seed: u64,
    planned: Vec<Planned>,
) -> anyhow::Result<(History, Notes, Figures)> {
    let setting = &scene.setting;
    let crowd = Crowd::gather(arguments, setting, seed).await?;
    tokio::time::sleep(WARM_UP).await;
    let mut notes = Notes::default();
    faults(arguments, scene, planned, &mut notes).await;
    say("no more faults; waiting until all is ready and everything sent is read");
    let mut history = History {
        load_until: setting.clock.ms(),
        faults: notes.faults.clone(),
        ..History::default()
    };
    if let Err(error) = setting.house.ready(READY_WITHIN).await {
        history.not_recovered = Some(format!("{error:#}"));
        setting.abandoned.cancel();
    }
    crowd.disperse(setting, &mut history, &mut notes.troubles).await?;
    history.sends.append(&mut scene.sends.lock());
    history.changes.append(&mut scene.changes.lock());
    let figures = Figures::of(&setting.tally, setting.clock.ms());
    history.acks = setting.tally.take_acks();
    collect(&setting.house, &setting.rooms, &mut history).await?;
    Ok((history, notes, figures))
}

/// Lets the faults happen, one after the other, until the time is over or somebody asks to stop.
async fn faults(arguments: &Arguments, scene: &Scene, planned: Vec<Planned>, notes: &mut Notes) {
    let until = tokio::time::Instant::now() + arguments.duration;
    let mut progress = tokio::time::interval(PROGRESS);
    for one in planned {
        if tokio::time::Instant::now() >= until {
            break;
        }
        let happening = async {
            let outcome = happen(&one, scene, arguments.slack).await;
            tokio::time::sleep(one.pause).await;
            outcome
        };
        tokio::pin!(happening);
        let (fault, outcome) = loop {
            tokio::select! {
                outcome = &mut happening => break outcome,
                _ = progress.tick() => show_progress(scene, notes),
            }
        };
        say(&format!(
            "{:>7.1} s  {} of {}, {:.1} s",
            seconds(fault.from),
            fault.kind,
            fault.target,
            seconds(fault.to - fault.from)
        ));
        if let Err(error) = outcome {
            notes
                .troubles
                .push(format!("{} at {} ms: {error:#}", fault.kind, fault.from));
            say(&format!("           it did not go as planned: {error:#}"));
        }
        notes.faults.push(fault);
    }
    if notes.faults.is_empty() {
        tokio::time::sleep_until(until).await;
    }
}

fn show_progress(scene: &Scene, notes: &Notes) {
    let Setting { tally, clock, .. } = &scene.setting;
    let figures = Figures::of(tally, clock.ms());
    say(&format!(
        "{:>7.1} s  {} acknowledged, {} refused, {} unknown, {} heard, {} faults",
        seconds(figures.elapsed_ms),
        figures.acknowledged,
        figures.refused,
        figures.unknown,
        figures.heard,
        notes.faults.len()
    ));
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Tells a worker its time, where faults change it.
pub(crate) fn clock_settings(
    library: &std::path::Path,
    log: &std::path::Path,
) -> anyhow::Result<Vec<(String, String)>> {
    let file = clock_file(log);
    std::fs::write(&file, "+0").with_context(|| format!("cannot write {}", file.display()))?;
    let setting = |name: &str, value: String| (name.to_owned(), value);
    Ok(vec![
        setting("LD_PRELOAD", library.display().to_string()),
        setting("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        setting("FAKETIME_CACHE_DURATION", "1".to_owned()),
        setting("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}
