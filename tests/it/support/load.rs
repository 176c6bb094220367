//! People who talk on at a steady rate, whatever happens, and somebody who listens: what was said when, with which receipt, and when
//! it was heard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::nats::Nats;

/// What one sender says in a second.
const OF_ONE: u64 = 20;
/// The pause before a message is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// A message that has its receipt.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) key: String,
    pub(crate) seq: u64,
    pub(crate) begun: Instant,
    /// Until the receipt was there, however often it was tried.
    pub(crate) took: Duration,
}

type All = Arc<Mutex<Vec<Said>>>;
type Heard = Arc<Mutex<HashMap<String, Instant>>>;

/// Senders over HTTP, each on a connection of its own, and a subscriber over NATS.
pub(crate) struct Load {
    said: All,
    heard: Heard,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many messages a second into `lobby`, by these users in turn.
    pub(crate) async fn start(address: &str, tokens: &[String], listener: &Nats, per_second: u64) -> Self {
        let (said, heard, stop) = (All::default(), Heard::default(), CancellationToken::new());
        listen(listener, Arc::clone(&heard)).await;
        let senders = per_second.div_ceil(OF_ONE);
        let every = Duration::from_micros(1_000_000 * senders / per_second);
        let tasks = (0..senders).zip(tokens.iter().cycle()).map(|(number, token)| {
            let sender = Sender {
                name: format!("s{number}"),
                line: Line::new(address, token),
                said: Arc::clone(&said),
                stop: stop.clone(),
            };
            // Spread over the time between two messages of one sender.
            tokio::spawn(sender.run(
                every,
                every * u32::try_from(number).unwrap() / u32::try_from(senders).unwrap(),
            ))
        });
        let tasks = tasks.collect();
        Self {
            said,
            heard,
            stop,
            tasks,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.said.lock().unwrap().len()
    }

    /// The sequence of the newest receipt, 0 for none.
    pub(crate) fn last(&self) -> u64 {
        let said = self.said.lock().unwrap();
        said.iter().rev().take(1000).map(|said| said.seq).max().unwrap_or(0)
    }

    /// Waits until so many more messages have receipts.
    pub(crate) async fn goes_on(&self, more: usize, within: Duration) {
        let (wanted, until) = (self.count() + more, Instant::now() + within);
        while self.count() < wanted {
            assert!(Instant::now() < until, "senders get no receipts");
            assert!(self.tasks.iter().all(|task| !task.is_finished()), "a sender ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How long receipts and deliveries took of what was said from `from` to `to`.
    pub(crate) fn times(&self, from: Instant, to: Instant) -> Times {
        let heard = self.heard.lock().unwrap();
        let said = self.said.lock().unwrap();
        let mut times = Times::default();
        for said in said.iter().filter(|said| (from..to).contains(&said.begun)) {
            times.receipts.push(said.took);
            times.deliveries.extend(
                heard
                    .get(&said.key)
                    .map(|heard| heard.saturating_duration_since(said.begun)),
            );
        }
        times.receipts.sort_unstable();
        times.deliveries.sort_unstable();
        times
    }

    /// Stops when what is on its way has its receipt, and gives everything in the log's order.
    pub(crate) async fn stop(self) -> Vec<Said> {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        let mut said = std::mem::take(&mut *self.said.lock().unwrap());
        said.sort_by_key(|said| said.seq);
        said
    }
}

/// In order.
#[derive(Default)]
pub(crate) struct Times {
    receipts: Vec<Duration>,
    deliveries: Vec<Duration>,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |times: &[Duration], percent| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        let (receipts, deliveries) = (&self.receipts, &self.deliveries);
        write!(
            f,
            "{} receipts p50 {:.1?} p99 {:.1?} longest {:.1?}, heard p50 {:.1?} p99 {:.1?}",
            receipts.len(),
            at(receipts, 50),
            at(receipts, 99),
            receipts.last().copied().unwrap_or_default(),
            at(deliveries, 50),
            at(deliveries, 99),
        )
    }
}

async fn listen(listener: &Nats, heard: Heard) {
    let mut subscription = listener.client.subscribe("chat.room.main.lobby.log").await.unwrap();
    listener.settle().await;
    tokio::spawn(async move {
        while let Some(message) = subscription.next().await {
            let now = Instant::now();
            if let Some(key) = key_of(&String::from_utf8_lossy(&message.payload)) {
                heard.lock().unwrap().entry(key.to_owned()).or_insert(now);
            }
        }
    });
}

/// The key of an event's line.
pub(crate) fn key_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(r#""key":""#)?;
    Some(rest.split_once('"')?.0)
}

/// The sequence of an event's line, or of a receipt.
pub(crate) fn seq_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(r#""seq":"#)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

struct Sender {
    name: String,
    line: Line,
    said: All,
    stop: CancellationToken,
}

impl Sender {
    async fn run(mut self, every: Duration, offset: Duration) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, every);
        // What could not be said in time is not made up for: it would be a burst.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0.. {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let key = format!("{}-{number}", self.name);
            let begun = Instant::now();
            let seq = loop {
                match self.line.say(&key).await {
                    Ok(seq) => break seq,
                    Err(error) => {
                        may_be_tried_again(&error);
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            let took = begun.elapsed();
            self.said.lock().unwrap().push(Said { key, seq, begun, took });
        }
    }
}

/// A refusal that is no outage is a failure of the test.
fn may_be_tried_again(error: &anyhow::Error) {
    let text = format!("{error:#}");
    assert!(!text.contains("HTTP/1.1 4"), "{text}");
}

/// A connection that is kept, and made anew where it broke.
struct Line {
    address: String,
    token: String,
    socket: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Line {
    fn new(address: &str, token: &str) -> Self {
        Self {
            address: address.to_owned(),
            token: token.to_owned(),
            socket: None,
            buffer: Vec::new(),
        }
    }

    async fn say(&mut self, key: &str) -> anyhow::Result<u64> {
        // Taken: a connection that failed is not used again.
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => TcpStream::connect(&self.address).await?,
        };
        socket.set_nodelay(true)?;
        let body = format!(r#"{{"key":"{key}","body":{{"text":"{key}, and some more words, as people say them"}}}}"#);
        let request = format!(
            "POST /v1/rooms/lobby/messages HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        );
        socket.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            ensure!(socket.read_buf(&mut self.buffer).await? > 0, "the connection ended");
            let answer = String::from_utf8_lossy(&self.buffer);
            let Some((head, body)) = answer.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() < length.context("an answer without a length")?.parse::<usize>()? {
                continue;
            }
            // 200: it was said already, and the receipt was lost.
            ensure!(head.starts_with("HTTP/1.1 20"), "refused: {answer}");
            let seq = seq_of(body).context("no receipt")?;
            self.socket = Some(socket);
            return Ok(seq);
        }
    }
}
