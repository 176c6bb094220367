//! A TCP proxy between one worker and the server, which does to the worker's appends what a bad network does.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How an append begins on the wire: a publish with headers to the log's subject.
const APPEND: &[u8] = b"HPUB chat.log.";

/// What happens to the worker's appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing.
    Pass,
    /// The next one waits here until the rule is [`Rule::Pass`] again, and all that follows on the connection with it.
    Hold,
    /// Each is lost; all else passes.
    Lose,
    /// The next one reaches the server, and the worker hears nothing any more until [`Proxy::cut`].
    Deafen,
}

pub(super) struct Proxy {
    pub(super) url: String,
    shared: Shared,
    // Ends all connections when it is dropped.
    _running: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    rule: watch::Sender<Rule>,
    /// How many appends were met by a rule.
    met: watch::Sender<u64>,
    /// Counts up when all connections must end.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(super) async fn to(server: &str) -> Self {
        let server: SocketAddr = server.strip_prefix("nats://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let shared = Shared {
            rule: watch::Sender::new(Rule::Pass),
            met: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
        };
        let mut running = JoinSet::new();
        running.spawn(accept(listener, server, shared.clone()));
        Self {
            url,
            shared,
            _running: running,
        }
    }

    pub(super) fn set(&self, rule: Rule) {
        self.shared.rule.send_replace(rule);
    }

    /// Waits until as many appends in all have been met by a rule.
    pub(super) async fn has_met(&self, appends: u64) {
        let mut met = self.shared.met.subscribe();
        let met = met.wait_for(|met| *met >= appends);
        tokio::time::timeout(super::support::LONG, met)
            .await
            .expect("there was no append")
            .unwrap();
    }

    /// Ends every connection; what was held is lost. New ones are as the rule says.
    pub(super) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Shared) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((worker, _)) = listener.accept().await else {
            return;
        };
        // The server may be away: then so is what is behind it.
        let Ok(server) = TcpStream::connect(server).await else {
            continue;
        };
        connections.spawn(connection(worker, server, shared.clone()));
    }
}

async fn connection(worker: TcpStream, server: TcpStream, shared: Shared) {
    for socket in [&worker, &server] {
        socket.set_nodelay(true).unwrap();
    }
    let (from_worker, to_worker) = worker.into_split();
    let (from_server, to_server) = server.into_split();
    let deaf = watch::Sender::new(false);
    let mut cuts = shared.cuts.subscribe();
    tokio::select! {
        () = there(from_worker, to_server, &shared, &deaf) => {}
        () = back(from_server, to_worker, &deaf) => {}
        _ = cuts.changed() => {}
    }
}

async fn there(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, deaf: &watch::Sender<bool>) {
    let mut bytes = BytesMut::new();
    loop {
        while let Some(length) = command_length(&bytes) {
            let command = bytes.split_to(length);
            let rule = *shared.rule.borrow();
            if rule != Rule::Pass && command.starts_with(APPEND) {
                shared.met.send_modify(|met| *met += 1);
                match rule {
                    Rule::Lose => continue,
                    Rule::Deafen => drop(deaf.send_replace(true)),
                    Rule::Hold => drop(shared.rule.subscribe().wait_for(|rule| *rule == Rule::Pass).await),
                    Rule::Pass => {}
                }
            }
            if to.write_all(&command).await.is_err() {
                return;
            }
        }
        if !matches!(from.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// How many bytes the first command of a client takes, its payload included; nothing before it is whole.
fn command_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let words = str::from_utf8(&bytes[..line]).unwrap();
    let has_payload = words.starts_with("PUB ") || words.starts_with("HPUB ");
    let payload = has_payload.then(|| words.split_whitespace().last().unwrap().parse::<usize>().unwrap() + 2);
    let length = line + payload.unwrap_or(0);
    (bytes.len() >= length).then_some(length)
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, deaf: &watch::Sender<bool>) {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match from.read_buf(&mut bytes).await {
            Ok(1..) => {}
            _ => return,
        }
        if !*deaf.borrow() && to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
