//! The archive's database frozen, stopped and killed while people talk at a steady rate: nothing is lost, nothing stands twice, and
//! whoever talks and listens live does not notice.
//!
//! Small forms are tests. The large one is by hand, and prints how long receipts and deliveries took and how quickly the archive
//! came level again:
//!
//!     OUTAGE_RATE=1000 OUTAGE_FREEZE=60 OUTAGE_STOP=300 TEST_PROGRAM=target/release/natterjack \
//!       cargo nextest run -E 'test(/^outage::away/)' --no-capture -j 1

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::database::DatabaseServer;
use crate::support::eventually;
use crate::support::house::House;
use crate::support::http::Http;
use crate::support::load::{Load, Said, key_of, seq_of};
use crate::support::roles::{Roles, free_port, is_ready};

const NEWEST: &str = "/v1/rooms/lobby/messages?limit=1";
/// How long things may take beyond what they are meant to, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(100);

/// How large a run is.
#[derive(Debug, Clone, Copy)]
struct Scale {
    per_second: u64,
    /// Seconds.
    freeze: u64,
    stop: u64,
    kills: u64,
}

impl Scale {
    fn of_this_run() -> Self {
        let of = |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
        Self {
            per_second: of("OUTAGE_RATE", 60),
            freeze: of("OUTAGE_FREEZE", 3),
            stop: of("OUTAGE_STOP", 4),
            kills: of("OUTAGE_KILLS", 6),
        }
    }

    /// As many users as one bridge's senders need: each remembers so many keys and no more.
    fn users(self) -> Vec<String> {
        (0..self.per_second.div_ceil(100))
            .map(|number| format!("u{number}"))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn away_postgres() {
    let server = DatabaseServer::start("postgres");
    away("postgres", Some(server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn away_mariadb() {
    let server = DatabaseServer::start("mariadb");
    away("mariadb", Some(server)).await;
}

/// SQLite has no server: another process holds its lock, and the archive cannot commit.
#[tokio::test(flavor = "multi_thread")]
async fn away_sqlite() {
    away("sqlite", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_postgres() {
    killed_at_random(Some(DatabaseServer::start("postgres"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_mariadb() {
    killed_at_random(Some(DatabaseServer::start("mariadb"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_sqlite() {
    killed_at_random(None).await;
}

/// What is done to a database: away, and back.
enum Outage<'a> {
    Server(&'a DatabaseServer, &'static str, &'static str),
    Lock(PathBuf, Option<Child>),
}

impl Outage<'_> {
    fn begin(&mut self) {
        match self {
            Self::Server(server, away, _) => drop(server.act(away)),
            Self::Lock(path, lock) => *lock = Some(hold_lock(path)),
        }
    }

    fn end(&mut self) {
        match self {
            Self::Server(server, _, back) => drop(server.act(back)),
            Self::Lock(_, lock) => {
                let mut lock = lock.take().unwrap();
                lock.kill().unwrap();
                lock.wait().unwrap();
            }
        }
    }
}

/// A process that is in the middle of writing into the file.
fn hold_lock(path: &Path) -> Child {
    let script = "import sqlite3, sys\n\
                  c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n\
                  c.execute('BEGIN IMMEDIATE')\n\
                  print('held', flush=True)\n\
                  sys.stdin.read()";
    let mut lock = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(lock.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"held\n");
    lock
}

async fn away(engine: &str, server: Option<DatabaseServer>) {
    let scale = Scale::of_this_run();
    let house = match &server {
        Some(server) => House::start_on(&server.url).await,
        None => House::start().await,
    };
    let users = scale.users();
    let mut members: Vec<(&str, &str)> = users.iter().map(|user| (user.as_str(), "member")).collect();
    members.push(("bob", "member"));
    house.room("lobby", &members).await;
    let tokens: Vec<String> = users.iter().map(|user| house.token(user)).collect();
    let listener = house.nats("bob").await;
    let load = Load::start(&house.address(), &tokens, &listener, scale.per_second).await;
    let bob = house.http("bob");
    calm(engine, &load, scale).await;
    for (name, seconds, back) in [("freeze", scale.freeze, "thaw"), ("stop", scale.stop, "start")] {
        let outage = match &server {
            Some(server) => Outage::Server(server, name, back),
            None => Outage::Lock(house.data().join("archive.db"), None),
        };
        survive((engine, name), (&load, &bob), outage, (seconds, scale)).await;
        calm(engine, &load, scale).await;
    }
    let said = load.stop().await;
    level(&bob, || said.last().unwrap().seq, PATIENCE).await;
    let database = server.as_ref().map(|server| server.url.as_str());
    whole(&said, |arguments| house.run(arguments), database);
}

/// Some seconds in which nothing happens.
async fn calm(engine: &str, load: &Load, scale: Scale) {
    let begun = Instant::now();
    // A tenth of the outage.
    let receipts = scale.per_second * Ord::max(scale.stop / 10, 2);
    load.goes_on(usize::try_from(receipts).unwrap(), PATIENCE).await;
    eprintln!("{engine}, calm: {}", load.times(begun, Instant::now()));
}

async fn survive(
    (engine, name): (&str, &str),
    (load, bob): (&Load, &Http),
    mut outage: Outage<'_>,
    (seconds, scale): (u64, Scale),
) {
    let (begun, before) = (Instant::now(), load.count());
    let within = Duration::from_secs(3 * seconds) + PATIENCE;
    outage.begin();
    load.goes_on(usize::try_from(scale.per_second * seconds).unwrap(), within)
        .await;
    let (away, sent) = (begun.elapsed(), load.count() - before);
    eprintln!("{engine}, {name}: {}", load.times(begun, Instant::now()));
    outage.end();
    let back = Instant::now();
    // The archive waits for a moment before it tries again.
    let first = level(bob, || load.last(), within).await;
    let (took, events) = (back.elapsed(), load.count() - before);
    let rate = |events: usize, took: Duration| f64::from(u32::try_from(events).unwrap()) / took.as_secs_f64();
    let (sending, drained) = (rate(sent, away), rate(events, took));
    eprintln!(
        "{engine}, {name} of {away:.1?} at {sending:.0}/s: level again after {took:.1?}, {events} events, {drained:.0}/s or {:.1} times \
         what was sent; the first of them after {:.1?}",
        drained / sending,
        first.duration_since(back),
    );
    eprintln!("{engine}, {name}, meanwhile: {}", load.times(back, Instant::now()));
}

/// Waits until history has what was the newest at the look before; gives when it first showed something new.
async fn level(bob: &Http, newest: impl Fn() -> u64, within: Duration) -> Instant {
    let until = Instant::now() + within;
    let (mut wanted, mut first, mut at_first) = (u64::MAX, None, None);
    loop {
        let page = bob.get(NEWEST).await;
        let body = String::from_utf8_lossy(&page.body);
        if let Some(found) = (page.status == 200).then(|| seq_of(&body)).flatten() {
            let at_first = *at_first.get_or_insert(found);
            if found > at_first || found >= wanted {
                first.get_or_insert_with(Instant::now);
            }
            if found >= wanted {
                return first.unwrap();
            }
        }
        assert!(Instant::now() < until, "the archive does not come level: {body}");
        wanted = newest();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The archive has what was said, each once and at its place, and nothing else; and it is the log.
fn whole(said: &[Said], run: impl Fn(&[&str]) -> String, database: Option<&str>) {
    let on = |arguments: &[&'static str]| {
        let mut arguments: Vec<&str> = arguments.to_vec();
        arguments.extend(database.iter().flat_map(|url| ["--database", *url]));
        run(&arguments)
    };
    let exported = on(&["archive", "export", "lobby"]);
    let archived: Vec<(&str, u64)> = exported
        .lines()
        .filter(|line| line.contains(r#""kind":"msg""#))
        .filter_map(|line| Some((key_of(line)?, seq_of(line)?)))
        .collect();
    let expected: Vec<(&str, u64)> = said.iter().map(|said| (said.key.as_str(), said.seq)).collect();
    // Too long to be shown.
    let differs = archived
        .iter()
        .zip(&expected)
        .find(|(archived, expected)| archived != expected);
    assert_eq!((differs, archived.len()), (None, expected.len()));
    let verified = on(&["verify"]);
    assert!(verified.contains(": 0 faults"), "{verified}");
    eprintln!("{} messages, all of them once: {}", said.len(), verified.trim());
}

/// Two stores, and a database: one of the three is killed again and again, at a moment that a seed chooses.
async fn killed_at_random(server: Option<DatabaseServer>) {
    let scale = Scale::of_this_run();
    let mut roles = Roles::start().await;
    if let Some(server) = &server {
        roles = roles.on_database(&server.url);
    }
    let stores = [roles.store(), roles.store()];
    let port = free_port();
    roles.bridge(port);
    is_ready(&roles.http(port, "admin")).await;
    let alice = roles.nats("alice").await;
    let users = scale.users();
    let mut members: Vec<(&str, &str)> = users.iter().map(|user| (user.as_str(), "member")).collect();
    members.push(("bob", "member"));
    roles.room(&alice, "lobby", &members).await;
    let tokens: Vec<String> = users.iter().map(|user| roles.token(user)).collect();
    let (listener, bob) = (roles.nats("bob").await, roles.http(port, "bob"));
    let load = Load::start(&format!("127.0.0.1:{port}"), &tokens, &listener, scale.per_second).await;
    kill(&mut roles, (stores, server.as_ref()), &load, scale).await;
    let said = load.stop().await;
    let last = said.last().unwrap().seq;
    level(&bob, || last, PATIENCE).await;
    eventually("every store is there again", async || {
        let verified = roles.run(&["verify"])?;
        verified.contains(", 0 not archived yet: 0 faults").then_some(())
    })
    .await;
    whole(&said, |arguments| roles.run(arguments).expect("it works"), None);
}

async fn kill(roles: &mut Roles, (mut stores, server): ([u32; 2], Option<&DatabaseServer>), load: &Load, scale: Scale) {
    let seed = std::env::var("OUTAGE_SEED").map_or_else(|_| rand::rng().random(), |text| text.parse().unwrap());
    eprintln!("OUTAGE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let a_second = usize::try_from(scale.per_second).unwrap();
    for kill in 0..scale.kills {
        load.goes_on(rng.random_range(1..=a_second), PATIENCE).await;
        // The first two are one of each, whatever the seed.
        let choice = if kill < 2 { kill } else { rng.random_range(0..3) };
        if let (0, Some(server)) = (choice, server) {
            server.act("kill");
            load.goes_on(rng.random_range(1..=a_second), PATIENCE).await;
            server.act("start");
        } else {
            let place = rng.random_range(0..2);
            roles.kill(stores[place]);
            stores[place] = roles.store();
        }
    }
}
