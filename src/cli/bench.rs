//! `natterjack bench`: rates as ratios, mostly measured against the running `up`: the project, its peer and its limit in turns.

mod archive;
mod callout;
mod crowd;
mod delivery;
mod frames;
mod http;
mod nchan;
mod publish;

use std::time::{Duration, Instant};

use anyhow::ensure;
use async_nats::Client;
use async_nats::jetstream::{self, stream};
use clap::Subcommand;
use futures_util::stream::{FuturesUnordered, StreamExt};
use natterjack_nats_config::client::{Login, Seed, connect};
use natterjack_nats_config::contract::Id;
use serde_json::json;

use super::server::{Server, own_token};
use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say};

/// The stream of peer and limit, beside the log on the same server with the same flush on every message.
const STREAM: &str = "NATTERJACK_BENCH";
/// A subject that the store's key may publish to.
const SUBJECT: &str = "$KV.NATTERJACK_BENCH.x";
const ROOM: &str = "natterjack-bench";

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Durable sends over HTTP beside two others on the same server, in turns: single JetStream publishes (what there is
    /// without Natterjack), and a program that does nothing but put HTTP bodies into frames (what the server allows)
    Send(Send),
    /// One sender and one parked long-poll, one message at a time, beside the broker's own durable ack, in turns: how long
    /// until it is delivered
    Delivery(delivery::Delivery),
    /// A log of many messages into an empty archive, beside the engine's own bulk load of the same rows; then pages, searches and
    /// unread counts. Needs nothing that runs: it makes a nats-server and an archive of its own
    Archive(archive::ArchiveBench),
    /// Sends and deliveries to parked long-polls beside Nchan, in turns; `scripts/bench-nchan` starts both and runs this
    Nchan(nchan::Nchan),
    /// Connections to NATS by tokens, which the server asks authz about, beside those of static users on the same server, in turns
    Callout(callout::Callout),
}

#[derive(Debug, clap::Args)]
struct Send {
    /// HTTP connections, each with one request in flight; several, separated by commas, are measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    connections: Vec<usize>,
    /// JetStream publishes in flight
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// Turns: each measures all three at each number of connections
    #[arg(long, default_value_t = 2)]
    turns: usize,
    /// Bytes of text in a message
    #[arg(long, default_value_t = 200)]
    size: usize,
}

/// Answers, how long each took, and all of them together.
#[derive(Default)]
struct Measured {
    times: Vec<Duration>,
    took: Duration,
}

/// What is measured at one number of connections.
struct Row {
    connections: usize,
    own: Measured,
    limit: Measured,
}

pub(crate) fn run(global: &Global, bench: &Bench) -> anyhow::Result<()> {
    if let What::Archive(ask) = &bench.what {
        return block_on(|_| archive::run(global, ask));
    }
    let config = Config::load(global)?;
    let endpoints = Endpoints::read(&config.data)?;
    let token = own_token(&config, None)?;
    Server::of(&endpoints, &token).put(&format!("/v1/rooms/{ROOM}"), &json!({"title": "Benchmark"}))?;
    match &bench.what {
        What::Send(send) => run_send(send, &config, &endpoints),
        What::Delivery(ask) => block_on(async |_| {
            let client = as_store(&config, &endpoints).await?;
            delivery::run(ask, &client, config.nats.replicas, (&endpoints.http, &token)).await
        }),
        What::Archive(_) => Ok(()),
        What::Callout(ask) => block_on(|_| callout::run(&config, &endpoints, ask)),
        What::Nchan(ask) => block_on(|_| nchan::run(&config, &endpoints, ask)),
    }
}

fn run_send(send: &Send, config: &Config, endpoints: &Endpoints) -> anyhow::Result<()> {
    let some = send.in_flight > 0 && send.secs > 0 && send.turns > 0 && !send.connections.contains(&0);
    ensure!(
        some && !send.connections.is_empty(),
        "every number must be more than nothing"
    );
    let senders = members(config, endpoints, send.connections.iter().copied().max().unwrap_or(1))?;
    block_on(async |_| {
        let client = as_store(config, endpoints).await?;
        measure(send, &client, config.nats.replicas, (&endpoints.http, &senders)).await
    })
}

/// So many users, members of the room; their tokens. One sender alone would soon have as many keys in the key window as a user
/// may have.
fn members(config: &Config, endpoints: &Endpoints, count: usize) -> anyhow::Result<Vec<String>> {
    let admin = Server::of(endpoints, &own_token(config, None)?);
    let mut tokens = Vec::new();
    for number in 0..count {
        let user: Id = format!("bench-{number}").parse()?;
        admin.put(&format!("/v1/rooms/{ROOM}/members/{user}"), &json!({"role": "member"}))?;
        tokens.push(own_token(config, Some(&user))?);
    }
    Ok(tokens)
}

/// A connection that may have a stream of its own beside the log.
async fn as_store(config: &Config, endpoints: &Endpoints) -> anyhow::Result<Client> {
    let login = Login {
        url: endpoints.nats.clone(),
        role: "store",
        seed: Seed::read(&config.keys_dir().join("store.nk"))?,
    };
    Ok(connect(&login).await?)
}

async fn measure(
    send: &Send,
    client: &Client,
    replicas: usize,
    (http, senders): (&str, &[String]),
) -> anyhow::Result<()> {
    let length = Duration::from_secs(send.secs);
    let mut peer = Measured::default();
    let mut rows: Vec<Row> = send
        .connections
        .iter()
        .map(|connections| Row::of(*connections))
        .collect();
    for turn in 1..=send.turns {
        say(format_args!("turn {turn} of {}", send.turns))?;
        make_stream(client, replicas).await?;
        peer.add(publish::publish(client, send.in_flight, send.size, length).await?);
        for row in &mut rows {
            make_stream(client, replicas).await?;
            row.limit
                .add(frames::measure(client, row.connections, send.size, length).await?);
            row.own
                .add(http::measure(http, senders, (row.connections, send.size), length).await?);
        }
    }
    drop_stream(client).await?;
    say(format_args!(
        "JetStream, {} publishes in flight: {peer}",
        send.in_flight
    ))?;
    for row in &rows {
        say(format_args!(
            "bare frames, {} HTTP connections: {}",
            row.connections, row.limit
        ))?;
        say(format_args!(
            "Natterjack, {} HTTP connections: {}",
            row.connections, row.own
        ))?;
    }
    for row in &rows {
        let (own, limit, peer) = (row.own.rate(), row.limit.rate(), peer.rate());
        say(format_args!(
            "ratio at {}: {:.1} to JetStream, {:.2} to bare frames",
            row.connections,
            own / peer,
            own / limit
        ))?;
    }
    Ok(())
}

/// An empty stream with as many copies as the log has.
async fn make_stream(client: &Client, replicas: usize) -> anyhow::Result<()> {
    let jetstream = jetstream::new(client.clone());
    let _ = jetstream.delete_stream(STREAM).await;
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        num_replicas: replicas,
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await?;
    Ok(())
}

/// Runs so many tasks at once, each told its number and when all began; the times that they measured.
async fn all_at_once<F>(count: usize, task: impl Fn(usize, Instant) -> F) -> anyhow::Result<Measured>
where
    F: Future<Output = anyhow::Result<Vec<Duration>>> + std::marker::Send + 'static,
{
    let start = Instant::now();
    let mut running: FuturesUnordered<_> = (0..count).map(|number| tokio::spawn(task(number, start))).collect();
    let mut times = Vec::new();
    while let Some(some) = running.next().await {
        times.extend(some??);
    }
    Ok(Measured {
        times,
        took: start.elapsed(),
    })
}

async fn drop_stream(client: &Client) -> anyhow::Result<()> {
    jetstream::new(client.clone()).delete_stream(STREAM).await?;
    Ok(())
}

impl Row {
    fn of(connections: usize) -> Self {
        Self {
            connections,
            own: Measured::default(),
            limit: Measured::default(),
        }
    }
}

impl Measured {
    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.took += other.took;
    }

    fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.times.len()).unwrap_or(u32::MAX)) / self.took.as_secs_f64()
    }

    /// So many of a hundred took at most this long.
    fn at(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() * percent / 100).copied().unwrap_or_default()
    }

    /// How many there were a second, by the name of what they are, and how long each took.
    fn took_each(&self, name: &str) -> String {
        let (rate, p50, p99) = (self.rate(), self.at(50), self.at(99));
        format!("{rate:.0} {name} a second, p50 {p50:.1?}, p99 {p99:.1?}")
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.took_each("acknowledged"))
    }
}
