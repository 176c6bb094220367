//! A real nats-server, real databases, and a log that the test writes.

mod cut;
mod databases;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, stream::Stream};
use bytes::Bytes;
use natterjack_nats_config::client::{self, Login};
use natterjack_nats_config::contract::{Kind, Seq, Subjects};
use natterjack_nats_config::local_server::{Find, KeyName, Keys, LocalServer, ServerConfig, find};
use natterjack_nats_config::stream::{log_config, reconcile};
use natterjack_nats_config::tail::Log;
use sea_orm::{EntityTrait, QueryOrder};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::cut::Cut;
pub(crate) use self::databases::{Databases, Engine, on_each_engine};
use super::{ArchiveConfig, ArchiveError, Database, Progress, run};
use crate::entity::{event, quarantine};

/// Far more than anything here takes; only a failure waits that long.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// A nats-server, and databases. The server runs with the permissions of production.
pub(crate) struct House {
    pub(crate) databases: Databases,
    /// Of the server.
    folder: TempDir,
    pub(crate) log: Log,
    keys: Keys,
    server: LocalServer,
}

/// Says what happens in rooms, and appends it to the log as the writer does, remembering each line.
pub(crate) struct Scribe {
    pub(crate) log: Log,
    jetstream: jetstream::Context,
    rooms: HashMap<String, (u64, Seq)>,
    pub(crate) next_frame: u64,
    pub(crate) lines: Vec<(Seq, Bytes)>,
}

/// A worker that runs in a task.
pub(crate) struct Running {
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) task: JoinHandle<Result<(), ArchiveError>>,
    stop: CancellationToken,
}

impl House {
    pub(crate) async fn new(engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = find(&Find {
            server_bin: std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from),
            path: std::env::var_os("PATH"),
            data: folder.path(),
            offline: true,
            say: &|_| {},
        })
        .await
        .unwrap();
        let keys = Keys::load_or_create(&folder.path().join("keys")).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig {
            server_name: "store-test".parse().unwrap(),
            prefix: "chat".parse().unwrap(),
            nats: any,
            websocket: any,
            mqtt: any,
            dir: folder.path().join("nats"),
            max_store: 8 << 30,
            cluster: None,
            tls: None,
        };
        let server = LocalServer::start(&binary, config, &keys).await.unwrap();
        let house = Self {
            databases: Databases::new(engine),
            folder,
            log: Log::first(Subjects::default()),
            keys,
            server,
        };
        house.make_log().await;
        house
    }

    pub(crate) async fn make_log(&self) {
        reconcile(&self.store().await, log_config(&self.log, 1, 1 << 30), &[])
            .await
            .unwrap();
    }

    pub(crate) async fn store(&self) -> Client {
        self.sign_in("store", KeyName::Store).await
    }

    pub(crate) async fn bridge(&self) -> Client {
        self.sign_in("bridge", KeyName::Bridge).await
    }

    pub(crate) fn nats_url(&self) -> String {
        self.server.endpoints().nats_url()
    }

    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    async fn sign_in(&self, role: &'static str, key: KeyName) -> Client {
        let url = self.server.endpoints().nats_url();
        client::connect(&Login {
            url,
            role,
            seed: self.keys.seed(key).clone(),
        })
        .await
        .unwrap()
    }

    /// The log's stream.
    pub(crate) async fn stream(&self) -> Stream {
        jetstream::new(self.store().await)
            .get_stream(self.log.stream())
            .await
            .unwrap()
    }

    pub(crate) async fn database(&self, name: &str) -> Database {
        self.databases.open(name).await
    }

    pub(crate) async fn scribe(&self) -> Scribe {
        Scribe {
            log: self.log.clone(),
            jetstream: jetstream::new(self.store().await),
            rooms: HashMap::new(),
            next_frame: 1,
            lines: Vec::new(),
        }
    }

    pub(crate) async fn start(&self, database: &Database, worker: &str) -> Running {
        let config = ArchiveConfig {
            log: self.log.clone(),
            worker: worker.to_owned(),
            replicas: 1,
        };
        let (sender, progress) = watch::channel(Progress::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(self.store().await, database.clone(), config, sender, stop.clone()));
        Running { progress, task, stop }
    }
}

impl Scribe {
    /// Appends a frame of events `(room, kind)`.
    pub(crate) async fn say(&mut self, events: &[(&str, Kind)]) {
        let mut frame = Vec::new();
        for (index, (room, kind)) in events.iter().enumerate() {
            let seq = Seq::of(self.next_frame, index);
            let (n, prev) = self.rooms.entry((*room).to_owned()).or_default();
            *n += 1;
            let line = line(seq, (*n, *prev), room, *kind);
            *prev = seq;
            frame.extend_from_slice(line.as_bytes());
            frame.push(b'\n');
            self.lines.push((seq, Bytes::from(line)));
        }
        self.append(frame.into()).await;
    }

    /// Appends a frame with a change of a message of a room.
    pub(crate) async fn change(&mut self, room: &str, kind: Kind, target: Seq, text: &str) -> Seq {
        let seq = Seq::of(self.next_frame, 0);
        let (n, prev) = self.rooms.entry(room.to_owned()).or_default();
        *n += 1;
        let line = change(seq, (*n, *prev), (room, kind), (target, text));
        *prev = seq;
        self.lines.push((seq, Bytes::from(line.clone())));
        self.append(line.into()).await;
        seq
    }

    /// Appends `frames` frames of `events` messages, spread over three rooms, without waiting for each.
    pub(crate) async fn chatter(&mut self, frames: usize, events: usize) {
        let rooms = ["lobby", "Lobby", "shed"];
        for frame in 0..frames {
            let events: Vec<_> = (0..events)
                .map(|index| (rooms[(frame + index) % 3], Kind::Msg))
                .collect();
            self.say(&events).await;
        }
    }

    /// Appends any bytes as a frame.
    pub(crate) async fn append(&mut self, frame: Bytes) -> u64 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", uuid::Uuid::now_v7().to_string().as_str());
        headers.insert(
            "Nats-Expected-Last-Sequence",
            (self.next_frame - 1).to_string().as_str(),
        );
        let ack = self
            .jetstream
            .publish_with_headers(self.log.subject(), headers, frame)
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(ack.sequence, self.next_frame);
        self.next_frame += 1;
        ack.sequence
    }

    /// The end of the last frame.
    pub(crate) fn end(&self) -> Seq {
        Seq::end_of_frame(self.next_frame - 1)
    }
}

impl Running {
    /// Waits until everything up to `seq` is archived.
    pub(crate) async fn reached(&mut self, seq: Seq) {
        self.wait(|progress| progress.watermark >= seq).await;
    }

    pub(crate) async fn wait(&mut self, what: impl FnMut(&Progress) -> bool) {
        tokio::time::timeout(LIMIT, self.progress.wait_for(what))
            .await
            .unwrap()
            .unwrap();
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }

    /// Waits until it stops by itself.
    pub(crate) async fn ended(self) -> Result<(), ArchiveError> {
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap()
    }

    /// As a crash: whatever it is doing, it does not finish.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// One line of the log.
pub(crate) fn line(seq: Seq, (n, prev): (u64, Seq), room: &str, kind: Kind) -> String {
    let kind = kind.as_str();
    let erase = format!(r#"{{"user":"alice","upto":{seq}}}"#);
    let body = match kind {
        "erase" => erase.as_str(),
        "member" => r#"{"user":"bob","role":"member"}"#,
        "room" => r#"{"title":"Ü"}"#,
        _ => r#"{"text":"  grüß dich \u0000 ","n":1.0}"#,
    };
    format!(
        r#"{{"v":1,"seq":{seq},"n":{n},"prev":{prev},"id":"id-{seq}","tenant":"main","room":"{room}","from":"alice","kind":"{kind}","at":"2026-11-23T06:00:00.123Z","key":"k {seq}","body":{body}}}"#
    )
}

/// One line of the log that changes a message.
pub(crate) fn change(
    seq: Seq,
    (n, prev): (u64, Seq),
    (room, kind): (&str, Kind),
    (target, text): (Seq, &str),
) -> String {
    let field = match kind {
        Kind::React | Kind::Unreact => "emoji",
        Kind::Erase => "reason",
        _ => "text",
    };
    let kind = kind.as_str();
    format!(
        r#"{{"v":1,"seq":{seq},"n":{n},"prev":{prev},"id":"id-{seq}","tenant":"main","room":"{room}","from":"alice","kind":"{kind}","at":"2026-11-23T06:00:00.{:03}Z","target":{{"id":"id-{target}","seq":{target}}},"body":{{"{field}":"{text}"}}}}"#,
        n % 1000
    )
}

pub(crate) async fn events(database: &Database) -> Vec<event::Model> {
    event::Entity::find()
        .order_by_asc(event::Column::Seq)
        .all(database.connection())
        .await
        .unwrap()
}

pub(crate) async fn quarantined(database: &Database) -> Vec<quarantine::Model> {
    quarantine::Entity::find()
        .order_by_asc(quarantine::Column::StreamSeq)
        .all(database.connection())
        .await
        .unwrap()
}

/// The archive has exactly these lines, byte for byte, in this order.
pub(crate) async fn assert_archived(database: &Database, lines: &[(Seq, Bytes)]) {
    let archived = events(database).await;
    assert_eq!(archived.len(), lines.len());
    for (row, (seq, line)) in archived.iter().zip(lines) {
        assert_eq!((row.seq, &row.bytes[..]), (i64::try_from(seq.0).unwrap(), &line[..]));
    }
}
