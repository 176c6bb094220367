//! `natterjack bench delivery`: one sender, one parked long-poll, nothing else, beside the broker's own durable ack.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::Client;

use super::crowd::{Crowd, Place};
use super::{Measured, http, publish};
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(super) struct Delivery {
    /// Seconds for each measurement
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// Turns: each measures both
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Bytes of text in a message
    #[arg(long, default_value_t = 200)]
    size: usize,
}

/// What one message after the other took, from before it was sent.
#[derive(Default)]
struct Row {
    /// Until its sender had the receipt.
    receipts: Measured,
    /// Until the long-poll had it.
    deliveries: Measured,
}

pub(super) async fn run(
    ask: &Delivery,
    client: &Client,
    replicas: usize,
    (base, token): (&str, &str),
) -> anyhow::Result<()> {
    ensure!(ask.secs > 0 && ask.turns > 0, "every number must be more than nothing");
    let address = base.strip_prefix("http://").context("the bench speaks plain HTTP")?;
    let length = Duration::from_secs(ask.secs);
    let (mut acks, mut own) = (Measured::default(), Row::default());
    for turn in 1..=ask.turns {
        say(format_args!("turn {turn} of {}", ask.turns))?;
        super::make_stream(client, replicas).await?;
        acks.add(publish::publish(client, 1, ask.size, length).await?);
        measure(address, token, (ask.size, length), &mut own).await?;
    }
    super::drop_stream(client).await?;
    say(format_args!(
        "JetStream, one publish in flight: {}",
        acks.took_each("acknowledged")
    ))?;
    say(format_args!(
        "Natterjack, the sender: {}",
        own.receipts.took_each("receipt")
    ))?;
    say(format_args!(
        "Natterjack, a parked long-poll: {}",
        own.deliveries.took_each("delivered")
    ))?;
    let (ack, delivery) = (
        acks.at(50).as_secs_f64() * 1e3,
        own.deliveries.at(50).as_secs_f64() * 1e3,
    );
    say(format_args!(
        "half of the deliveries came within {:.2} ms more than half of the broker's own acks",
        delivery - ack
    ))
}

async fn measure(address: &str, token: &str, (size, length): (usize, Duration), row: &mut Row) -> anyhow::Result<()> {
    let request = http::message(address, token, size);
    let place = Place::Natterjack {
        token: token.into(),
        cursor: String::new(),
    };
    let mut crowd = Crowd::park(address, vec![place]).await?;
    let mut sender = http::Connection::open(address).await?;
    // The first is not measured: once it is heard, the poll is parked behind it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    sender.send(request.as_bytes()).await?;
    crowd.hears().await?;
    let begun = Instant::now();
    while begun.elapsed() < length {
        let asked = Instant::now();
        let receipt = async {
            sender.send(request.as_bytes()).await?;
            anyhow::Ok(asked.elapsed())
        };
        let delivery = async {
            crowd.hears().await?;
            anyhow::Ok(asked.elapsed())
        };
        let (receipt, delivery) = tokio::try_join!(receipt, delivery)?;
        row.receipts.times.push(receipt);
        row.deliveries.times.push(delivery);
    }
    row.receipts.took += begun.elapsed();
    row.deliveries.took += begun.elapsed();
    Ok(())
}
