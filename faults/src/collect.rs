//! What stands where in the end: the log, ROOMS, the archive, history.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use natterjack_nats_config::contract::{Seq, Subjects};
use natterjack_nats_config::local_server::KeyName;
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::client::{Http, entry_of};
use crate::history::{Entry, History, Line, Name, Page, hash};
use crate::house::{ADMIN, House, log};

/// How long the archive and ROOMS may take to reach the end of the log, and one step of reading.
const WITHIN: Duration = Duration::from_secs(90);
/// The same where the house does not work any more.
const LITTLE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most messages of a room that history is asked for.
const HISTORY: usize = 20_000;
/// The most on a page of history.
const PAGE: usize = 200;

/// Reads everything that the checker compares. What has not arrived in time is read as it is: the checker names what is missing.
pub(crate) async fn collect(house: &House, rooms: &[Name], history: &mut History) -> anyhow::Result<()> {
    let client = house.look(KeyName::Bridge, "bridge").await?;
    read_log(&client, history).await?;
    let broken = history.not_recovered.is_some() || !history.damage.is_empty();
    let patience = if broken { LITTLE } else { WITHIN };
    let last = history.log.last().map_or(0, |entry| entry.seq);
    history.archive = read_archive(&house.database, last, patience).await?;
    history.rooms = read_rooms(&client, last, patience).await?;
    if broken {
        return Ok(());
    }
    for room in rooms {
        if let Some(page) = read_history(house, room, &history.log).await? {
            history.pages.push(page);
        }
    }
    Ok(())
}

/// Reads the log by means of its own: what the program's readers pass over is seen too.
async fn read_log(client: &async_nats::Client, history: &mut History) -> anyhow::Result<()> {
    let mut stream = match jetstream::new(client.clone()).get_stream(log().stream()).await {
        Ok(stream) => stream,
        Err(error) => {
            history.damage.push(format!("the log: {error}"));
            return Ok(());
        }
    };
    let end = stream.info().await?.state.last_sequence;
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        ..pull::OrderedConfig::default()
    };
    let mut frames = stream.create_consumer(config).await?.messages().await?;
    let mut names: HashMap<String, Name> = HashMap::new();
    let mut name = |text: &str| -> Name { names.entry(text.to_owned()).or_insert_with(|| text.into()).clone() };
    let mut read = 0;
    while read < end {
        let Ok(Some(frame)) = tokio::time::timeout(WITHIN, frames.next()).await else {
            history
                .damage
                .push(format!("the log cannot be read behind frame {read}"));
            return Ok(());
        };
        let frame = frame?;
        read = frame
            .info()
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .stream_sequence;
        let lines = frame
            .payload
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        for (index, line) in lines.enumerate() {
            match entry_of(Seq::of(read, index), line, &mut name) {
                Ok(entry) => history.log.push(entry),
                Err(error) => history.damage.push(format!("frame {read}, line {index}: {error}")),
            }
        }
    }
    Ok(())
}

async fn read_archive(file: &Path, last: u64, patience: Duration) -> anyhow::Result<Vec<Line>> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let pool = SqlitePool::connect_with(options)
        .await
        .with_context(|| format!("the archive {} cannot be opened", file.display()))?;
    let arrived = async {
        while archived(&pool).await.is_none_or(|archived| archived < last) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(patience, arrived).await.is_err() {
        tracing::warn!(?patience, "the archive did not reach the end of the log");
    }
    let mut rows = sqlx::query("select seq, bytes from event where shard = 0 and epoch = 1 order by seq").fetch(&pool);
    let mut lines = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row?;
        let (seq, bytes): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        lines.push(Line {
            seq: u64::try_from(seq)?,
            hash: hash(&bytes),
        });
    }
    Ok(lines)
}

async fn archived(pool: &SqlitePool) -> Option<u64> {
    let row = sqlx::query("select max(seq) from event").fetch_one(pool).await.ok()?;
    u64::try_from(row.try_get::<i64, _>(0).ok()?).ok()
}

async fn read_rooms(client: &async_nats::Client, last: u64, patience: Duration) -> anyhow::Result<Vec<Line>> {
    let stream = jetstream::new(client.clone())
        .get_stream(Subjects::default().rooms_stream(0))
        .await;
    // Without the stream there is nothing in it, which the checker sees.
    let Ok(mut stream) = stream else {
        return Ok(Vec::new());
    };
    let arrived = async {
        loop {
            let end = stream.info().await.map_or(0, |info| info.state.last_sequence);
            if let Ok(message) = stream.get_raw_message(end).await
                && message.headers.get("Chat-Seq").map(ToString::to_string) == Some(last.to_string())
            {
                return end;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let end = match tokio::time::timeout(patience, arrived).await {
        Ok(end) => end,
        Err(_) => stream.info().await?.state.last_sequence,
    };
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        ..pull::OrderedConfig::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut lines = Vec::new();
    loop {
        // What cannot be read is missing, which the checker sees.
        let Ok(Some(message)) = tokio::time::timeout(patience, messages.next()).await else {
            return Ok(lines);
        };
        let message = message?;
        let place = message
            .info()
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .stream_sequence;
        let seq = message.headers.as_ref().and_then(|headers| headers.get("Chat-Seq"));
        let seq = seq.and_then(|seq| seq.as_str().parse().ok()).unwrap_or_default();
        // Where a fan-out began is no event.
        if message.subject.as_str() != Subjects::default().fan_begin() {
            lines.push(Line {
                seq,
                hash: hash(&message.payload),
            });
        }
        if place >= end {
            return Ok(lines);
        }
    }
}

#[derive(Deserialize)]
struct HistoryPage<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    next: Option<u64>,
}

#[derive(Deserialize)]
struct Place {
    seq: u64,
}

/// The newest messages of a room, by one bridge after the other.
async fn read_history(house: &House, room: &Name, log: &[Entry]) -> anyhow::Result<Option<Page>> {
    let messages = log.iter().rev().filter(|entry| entry.message && entry.room == *room);
    let Some(oldest) = messages.take(HISTORY).last() else {
        return Ok(None);
    };
    let first = oldest.seq - 1;
    let token = house.token(ADMIN)?;
    let mut bridges: Vec<Http> = house.bridges.iter().map(|at| Http::new(*at, token.clone())).collect();
    let (mut lines, mut after) = (Vec::new(), first);
    for turn in 0_usize.. {
        let number = bridges.len().max(1);
        let Some(http) = bridges.get_mut(turn % number) else {
            break;
        };
        let path = format!("/v1/rooms/{room}/messages?after={after}&limit={PAGE}");
        let answer = http.get(&path).await;
        let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
            if turn > HISTORY / PAGE * 3 {
                bail!("history of room {room} does not answer");
            }
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let page: HistoryPage<'_> = serde_json::from_slice(&answer.body)?;
        for message in page.messages {
            let Place { seq } = serde_json::from_str(message.get())?;
            lines.push(Line {
                seq,
                hash: hash(message.get().as_bytes()),
            });
        }
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    Ok(Some(Page {
        room: room.clone(),
        after: first,
        lines,
    }))
}
