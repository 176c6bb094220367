//! `natterjack bench nchan`: beside Nchan (pub/sub in nginx, in memory), in turns on the same machine with the same client.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::crowd::{Crowd, Place, fan_out};
use super::{Measured, http, members};
use crate::config::{Config, Endpoints};
use crate::process::say;

/// The polls that one user may have at a bridge.
const POLLS_OF_ONE: usize = 16;

#[derive(Debug, clap::Args)]
pub(super) struct Nchan {
    /// Where nginx listens, with a publisher at /pub/bench and long-polls at /sub/bench: see `scripts/bench-nchan`
    #[arg(long = "nchan", value_name = "HOST:PORT")]
    address: String,
    /// The processes of that nginx, for their memory
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    pids: Vec<u32>,
    /// Long-polls
    #[arg(long, default_value_t = 2000)]
    polls: usize,
    /// Messages to all of them
    #[arg(long, default_value_t = 30)]
    messages: usize,
    /// Connections that send, each with one request in flight
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds for each measurement of sending
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// Turns: each measures both
    #[arg(long, default_value_t = 2)]
    turns: usize,
    /// Bytes of text in a message
    #[arg(long, default_value_t = 200)]
    size: usize,
}

/// What is measured of one of the two.
#[derive(Default)]
struct Row {
    sent: Measured,
    delivered: usize,
    took: Duration,
    /// Bytes for each parked poll.
    memory: u64,
}

/// A side: where, and how one sends there.
struct Side {
    address: String,
    requests: Vec<String>,
    pids: Vec<u32>,
}

pub(super) async fn run(config: &Config, endpoints: &Endpoints, ask: &Nchan) -> anyhow::Result<()> {
    ensure!(
        ask.polls > 0 && ask.messages > 0 && ask.turns > 0,
        "every number must be more than nothing"
    );
    let tokens = members(config, endpoints, ask.polls.div_ceil(POLLS_OF_ONE))?;
    let own_address = endpoints
        .http
        .strip_prefix("http://")
        .context("the bench speaks plain HTTP")?;
    let own = Side {
        address: own_address.to_owned(),
        requests: tokens
            .iter()
            .map(|token| http::message(own_address, token, ask.size))
            .collect(),
        pids: vec![endpoints.pid],
    };
    let peer = Side {
        address: ask.address.clone(),
        requests: vec![http::post(&ask.address, "/pub/bench", "-", &"x".repeat(ask.size))],
        pids: ask.pids.clone(),
    };
    let (mut of_own, mut of_peer) = (Row::default(), Row::default());
    for turn in 1..=ask.turns {
        say(format_args!("turn {turn} of {}", ask.turns))?;
        let places = (0..ask.polls).map(|_| Place::Nchan {
            modified: String::new(),
            tag: String::new(),
        });
        measure(ask, &peer, places.collect(), &mut of_peer).await?;
        let tokens = tokens.iter().flat_map(|token| std::iter::repeat_n(token, POLLS_OF_ONE));
        let places = tokens.take(ask.polls).map(|token| Place::Natterjack {
            token: token.as_str().into(),
            cursor: String::new(),
        });
        measure(ask, &own, places.collect(), &mut of_own).await?;
    }
    tell(ask, &of_own, &of_peer)
}

async fn measure(ask: &Nchan, side: &Side, places: Vec<Place>, row: &mut Row) -> anyhow::Result<()> {
    row.sent.add(
        http::send_for(
            &side.address,
            &side.requests,
            ask.connections,
            Duration::from_secs(ask.secs),
        )
        .await?,
    );
    let before = memory(&side.pids);
    let mut crowd = Crowd::park(&side.address, places).await?;
    let request = side.requests.first().context("nothing to send")?;
    let send = || http::send_once(&side.address, request);
    // The first is not measured: until all have it, all are parked.
    tokio::time::sleep(Duration::from_secs(2)).await;
    send().await?;
    crowd.hears().await?;
    row.took += fan_out(&mut crowd, ask.messages, send).await?;
    row.delivered += ask.messages * ask.polls;
    let polls = u64::try_from(ask.polls).unwrap_or(u64::MAX);
    row.memory = row.memory.max(memory(&side.pids).saturating_sub(before) / polls);
    Ok(())
}

/// What processes have in memory, shared pages in proportion, in bytes.
fn memory(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

fn tell(ask: &Nchan, own: &Row, peer: &Row) -> anyhow::Result<()> {
    let rate = |row: &Row| f64::from(u32::try_from(row.delivered).unwrap_or(u32::MAX)) / row.took.as_secs_f64();
    for (name, row) in [("Nchan", peer), ("Natterjack", own)] {
        say(format_args!("{name}, {} connections: {}", ask.connections, row.sent))?;
        say(format_args!(
            "{name}, {} long-polls: {:.0} deliveries a second, {} bytes for each parked poll",
            ask.polls,
            rate(row),
            row.memory
        ))?;
    }
    say(format_args!(
        "ratio to Nchan: sends {:.2}, deliveries {:.2}",
        own.sent.rate() / peer.sent.rate(),
        rate(own) / rate(peer)
    ))
}
