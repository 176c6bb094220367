//! Many long-polls at once, against Natterjack or Nchan: how fast a message reaches all of them, and what each costs in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http::content_length;

/// The longest that a message may take to all of them.
const HEARD_WITHIN: Duration = Duration::from_mins(1);
/// Connections that are made at once: a listener has a queue of a few hundred.
const AT_ONCE: usize = 100;

/// Where a poll reads on.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// Behind a cursor, as the bearer of a token.
    Natterjack { token: Arc<str>, cursor: String },
    /// Behind a message, by Nchan's two headers; empty: at the next.
    Nchan { modified: String, tag: String },
}

/// Polls that wait on connections of their own until this is dropped.
pub(super) struct Crowd {
    size: usize,
    /// How many messages all of them together have got.
    got: watch::Receiver<usize>,
    seen: usize,
    polls: JoinSet<anyhow::Result<()>>,
}

impl Crowd {
    /// Opens a connection for each place, and asks on it.
    pub(super) async fn park(address: &str, places: Vec<Place>) -> anyhow::Result<Self> {
        let (told, got) = watch::channel(0);
        let told = Arc::new(told);
        let (size, mut polls) = (places.len(), JoinSet::new());
        let asked = Arc::new(AtomicUsize::new(0));
        for (index, place) in places.into_iter().enumerate() {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let poll = Poll {
                stream,
                address: address.to_owned(),
                place,
                asked: Arc::clone(&asked),
            };
            polls.spawn(poll.listen(Arc::clone(&told)));
            while asked.load(Ordering::Relaxed) + AT_ONCE < index {
                tokio::task::yield_now().await;
            }
        }
        Ok(Self {
            size,
            got,
            seen: 0,
            polls,
        })
    }

    /// Waits until every poll has got one message more.
    pub(super) async fn hears(&mut self) -> anyhow::Result<()> {
        self.seen += self.size;
        let seen = self.seen;
        let heard = self.got.wait_for(|got| *got >= seen);
        tokio::select! {
            heard = tokio::time::timeout(HEARD_WITHIN, heard) => {
                heard.context("not all polls got the message")??;
                Ok(())
            }
            Some(ended) = self.polls.join_next() => match ended? {
                Ok(()) => bail!("a poll ended"),
                Err(error) => Err(error),
            },
        }
    }
}

struct Poll {
    stream: TcpStream,
    address: String,
    place: Place,
    asked: Arc<AtomicUsize>,
}

impl Poll {
    async fn listen(mut self, told: Arc<watch::Sender<usize>>) -> anyhow::Result<()> {
        let mut buffer = Vec::with_capacity(2048);
        loop {
            self.stream.write_all(self.request().as_bytes()).await?;
            self.asked.fetch_add(1, Ordering::Relaxed);
            buffer.clear();
            let answer = read(&mut self.stream, &mut buffer).await?;
            if self.go_on(&answer)? {
                told.send_modify(|got| *got += 1);
            }
        }
    }

    fn request(&self) -> String {
        let address = &self.address;
        match &self.place {
            Place::Natterjack { token, cursor } => format!(
                "GET /v1/events?wait=50&cursor={cursor} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n"
            ),
            Place::Nchan { modified, tag } if modified.is_empty() => {
                format!("GET /sub/bench HTTP/1.1\r\nhost: {address}\r\nif-none-match: {tag}\r\n\r\n")
            }
            Place::Nchan { modified, tag } => format!(
                "GET /sub/bench HTTP/1.1\r\nhost: {address}\r\nif-modified-since: {modified}\r\nif-none-match: {tag}\r\n\r\n"
            ),
        }
    }

    /// Takes the place behind an answer; `true` if there was a message.
    fn go_on(&mut self, answer: &str) -> anyhow::Result<bool> {
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("a poll was refused: {answer}");
        }
        match &mut self.place {
            Place::Natterjack { cursor, .. } => {
                let (_, rest) = body.rsplit_once("\"cursor\":\"").context("no cursor")?;
                rest.split('"').next().unwrap_or_default().clone_into(cursor);
                Ok(!body.starts_with("{\"events\":[]"))
            }
            Place::Nchan { modified, tag } => {
                *modified = header(head, "last-modified").unwrap_or_default();
                *tag = header(head, "etag").unwrap_or_default();
                Ok(true)
            }
        }
    }
}

fn header(head: &str, wanted: &str) -> Option<String> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
    Some(value.trim().to_owned())
}

/// A whole answer with a length.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<String> {
    loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("a connection was closed");
        }
        let answer = String::from_utf8_lossy(buffer);
        if let Some((head, body)) = answer.split_once("\r\n\r\n")
            && body.len() >= content_length(head).context("an answer without Content-Length")?
        {
            return Ok(answer.into_owned());
        }
    }
}

/// How long so many messages took to a crowd, each sent when all had the one before.
pub(super) async fn fan_out<F>(crowd: &mut Crowd, messages: usize, send: impl Fn() -> F) -> anyhow::Result<Duration>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let begun = Instant::now();
    for _ in 0..messages {
        send().await?;
        crowd.hears().await?;
    }
    Ok(begun.elapsed())
}
