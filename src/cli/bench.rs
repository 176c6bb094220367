//! `natterjack bench`: rates as ratios, measured against the running `up`, peer and project in turns.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use clap::Subcommand;
use futures_util::stream::{FuturesUnordered, StreamExt};
use natterjack_nats_config::client::{Login, Seed, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::{Server, own_token};
use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say};

/// The stream of the peer, beside the log on the same server with the same flush on every message.
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
    /// Durable sends over HTTP against single JetStream publishes on the same server, in turns
    Send {
        /// HTTP connections, each with one request in flight
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// JetStream publishes in flight
        #[arg(long, default_value_t = 256)]
        in_flight: usize,
        /// Seconds for each measurement
        #[arg(long, default_value_t = 5)]
        secs: u64,
        /// Turns: each measures the peer and then the project
        #[arg(long, default_value_t = 2)]
        turns: usize,
        /// Bytes of text in a message
        #[arg(long, default_value_t = 200)]
        size: usize,
    },
}

/// Answers per second and how long they took.
struct Figures {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

pub(crate) fn run(global: &Global, bench: &Bench) -> anyhow::Result<()> {
    let What::Send {
        connections,
        in_flight,
        secs,
        turns,
        size,
    } = bench.what;
    ensure!(
        connections > 0 && in_flight > 0 && secs > 0 && turns > 0,
        "every number must be more than nothing"
    );
    let config = Config::load(global)?;
    let endpoints = Endpoints::read(&config.data)?;
    let token = own_token(&config, None)?;
    let seed = Seed::read(&config.keys_dir().join("store.nk"))?;
    Server::of(&endpoints, &token).put(&format!("/v1/rooms/{ROOM}"), &serde_json::json!({"title": "Benchmark"}))?;
    block_on(async |_| {
        let client = connect(&Login {
            url: endpoints.nats.clone(),
            role: "store",
            seed,
        })
        .await?;
        let (mut peer_sum, mut own_sum) = (0.0, 0.0);
        for turn in 1..=turns {
            let length = Duration::from_secs(secs);
            let peer = publish(&client, in_flight, size, length).await?;
            say(format_args!(
                "turn {turn}: JetStream, {in_flight} publishes in flight: {peer}"
            ))?;
            let own = send(&endpoints.http, &token, connections, size, length).await?;
            say(format_args!(
                "turn {turn}: Natterjack, {connections} HTTP connections:  {own}"
            ))?;
            (peer_sum, own_sum) = (peer_sum + peer.rate, own_sum + own.rate);
        }
        say(format_args!("ratio: {:.1}", own_sum / peer_sum))
    })
}

async fn publish(
    client: &async_nats::Client,
    in_flight: usize,
    size: usize,
    length: Duration,
) -> anyhow::Result<Figures> {
    let jetstream = jetstream::new(client.clone());
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        ..stream::Config::default()
    };
    jetstream.get_or_create_stream(config).await?;
    let payload = Bytes::from(vec![b'x'; size]);
    let start = Instant::now();
    let one = || async {
        let asked = Instant::now();
        jetstream.publish(SUBJECT, payload.clone()).await?.await?;
        anyhow::Ok(asked.elapsed())
    };
    let mut running: FuturesUnordered<_> = (0..in_flight).map(|_| one()).collect();
    let mut times = Vec::new();
    while let Some(time) = running.next().await {
        times.push(time.context("a publish failed")?);
        if start.elapsed() < length {
            running.push(one());
        }
    }
    let figures = Figures::of(times, start.elapsed());
    jetstream.delete_stream(STREAM).await?;
    Ok(figures)
}

async fn send(base: &str, token: &str, connections: usize, size: usize, length: Duration) -> anyhow::Result<Figures> {
    let address = base
        .strip_prefix("http://")
        .context("the bench speaks plain HTTP")?
        .to_owned();
    let body = serde_json::json!({"body": {"text": "x".repeat(size)}}).to_string();
    let request = format!(
        "POST /v1/rooms/{ROOM}/messages HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut tasks = FuturesUnordered::new();
    let start = Instant::now();
    for _ in 0..connections {
        let (address, request) = (address.clone(), request.clone());
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let mut times = Vec::new();
            while start.elapsed() < length {
                let asked = Instant::now();
                connection.send(request.as_bytes()).await?;
                times.push(asked.elapsed());
            }
            anyhow::Ok(times)
        }));
    }
    let mut times = Vec::new();
    while let Some(some) = tasks.next().await {
        times.extend(some??);
    }
    Ok(Figures::of(times, start.elapsed()))
}

/// A connection as cheap as can be, because the client shares the machine with what it measures: one request is always
/// the same bytes, and of an answer only the status and the length are read.
struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(4096),
        })
    }

    async fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.socket.write_all(request).await?;
        self.buffer.clear();
        loop {
            ensure!(
                self.socket.read_buf(&mut self.buffer).await? > 0,
                "the bridge closed a connection"
            );
            let answer = String::from_utf8_lossy(&self.buffer);
            let Some((head, body)) = answer.split_once("\r\n\r\n") else {
                continue;
            };
            if body.len() < content_length(head).context("an answer without Content-Length")? {
                continue;
            }
            ensure!(head.starts_with("HTTP/1.1 2"), "a send was refused: {answer}");
            return Ok(());
        }
    }
}

fn content_length(head: &str) -> Option<usize> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let (_, length) = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    length.trim().parse().ok()
}

impl Figures {
    fn of(mut times: Vec<Duration>, took: Duration) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Self {
            rate: f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX)) / took.as_secs_f64(),
            p50: at(50),
            p99: at(99),
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} acknowledged a second, p50 {:.1?}, p99 {:.1?}",
            self.rate, self.p50, self.p99
        )
    }
}
