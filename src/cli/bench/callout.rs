use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::ConnectOptions;
use natterjack_nats_config::client::Seed;
use natterjack_nats_config::contract::Subjects;

use super::{Measured, all_at_once};
use crate::cli::server::own_token;
use crate::config::{Config, Endpoints};
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(super) struct Callout {
    /// Connections that are opened at once
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// Users who connect, one after the other, each with a token of their own
    #[arg(long, default_value_t = 1000)]
    users: usize,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// Turns: each measures both
    #[arg(long, default_value_t = 2)]
    turns: usize,
}

/// How somebody signs in.
#[derive(Clone)]
enum Login {
    /// A user of the configuration: the server decides alone.
    Static(Seed),
    /// Users and their tokens: the server asks authz.
    Tokens(Arc<[(String, String)]>),
}

/// Connects, waits until the server has let one in, and goes; again and again.
pub(super) async fn run(config: &Config, endpoints: &Endpoints, asked: &Callout) -> anyhow::Result<()> {
    let some = asked.at_once > 0 && asked.users > 0 && asked.secs > 0 && asked.turns > 0;
    ensure!(some, "every number must be more than nothing");
    let seed = Seed::read(&config.keys_dir().join("bridge.nk"))?;
    let tokens = (0..asked.users).map(|number| {
        let user = format!("bench-{number}");
        let token = own_token(config, Some(&user.parse()?))?;
        anyhow::Ok((Subjects::user_inbox(&config.tenant, &user.parse()?), token))
    });
    let tokens: Vec<_> = tokens.collect::<anyhow::Result<_>>()?;
    let (fixed, tokens) = (Login::Static(seed), Login::Tokens(tokens.into()));
    let length = Duration::from_secs(asked.secs);
    let (mut alone, mut by_callout) = (Measured::default(), Measured::default());
    for turn in 1..=asked.turns {
        say(format_args!("turn {turn} of {}", asked.turns))?;
        alone.add(measure(&endpoints.nats, &fixed, asked.at_once, length).await?);
        by_callout.add(measure(&endpoints.nats, &tokens, asked.at_once, length).await?);
    }
    let ratio = by_callout.rate() / alone.rate();
    say(format_args!("static users: {}", alone.took_each("connections")))?;
    say(format_args!("by the callout: {}", by_callout.took_each("connections")))?;
    say(format_args!("ratio: {ratio:.2}"))
}

async fn measure(url: &str, login: &Login, at_once: usize, length: Duration) -> anyhow::Result<Measured> {
    let next = Arc::new(AtomicUsize::new(0));
    all_at_once(at_once, |_, start| {
        let (url, login, next) = (url.to_owned(), login.clone(), Arc::clone(&next));
        async move {
            let mut times = Vec::new();
            while start.elapsed() < length {
                let begun = Instant::now();
                let client = login.options(next.fetch_add(1, Ordering::Relaxed)).connect(&url).await;
                // The server's answer to the client's first PING: it is in.
                let client = client.context("a connection was refused")?;
                times.push(begun.elapsed());
                drop(client);
            }
            Ok(times)
        }
    })
    .await
}

impl Login {
    fn options(&self, number: usize) -> ConnectOptions {
        let options = match self {
            Self::Static(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
            Self::Tokens(tokens) => match tokens.get(number % tokens.len().max(1)) {
                Some((inbox, token)) => ConnectOptions::with_token(token.clone()).custom_inbox_prefix(inbox.clone()),
                None => ConnectOptions::new(),
            },
        };
        options.connection_timeout(Duration::from_secs(10))
    }
}
