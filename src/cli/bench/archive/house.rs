//! A nats-server of the bench's own, and a log that is filled as the writer fills it.

use std::path::Path;

use anyhow::{Context, ensure};
use async_nats::{Client, HeaderMap, jetstream};
use natterjack_nats_config::client::{Login, connect};
use natterjack_nats_config::contract::Seq;
use natterjack_nats_config::local_server::{Find, KeyName, Keys, LocalServer, ServerConfig, find};
use natterjack_nats_config::stream::{log_config, reconcile};
use natterjack_nats_config::tail::Log;

use super::made::Made;
use crate::config::Config;

/// What the log may take, in bytes.
const LOG_BYTES: i64 = 64 << 30;

pub(super) struct House {
    keys: Keys,
    server: LocalServer,
}

impl House {
    pub(super) async fn start(config: &Config, folder: &Path) -> anyhow::Result<Self> {
        let binary = find(&Find {
            server_bin: std::env::var_os("NATS_SERVER_BIN").map(Into::into),
            path: std::env::var_os("PATH"),
            data: &config.data,
            offline: config.offline,
            say: &|text| {
                let _ = crate::process::say(text);
            },
        })
        .await?;
        let keys = Keys::load_or_create(&folder.join("keys"))?;
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = ServerConfig {
            server_name: "natterjack-bench".parse()?,
            prefix: "chat".parse()?,
            nats: any,
            websocket: any,
            mqtt: any,
            dir: folder.join("nats"),
            max_store: 2 * LOG_BYTES.unsigned_abs(),
            cluster: None,
            tls: None,
        };
        let server = LocalServer::start(&binary, config, &keys)
            .await
            .context("the nats-server could not be started")?;
        Ok(Self { keys, server })
    }

    pub(super) async fn store(&self) -> anyhow::Result<Client> {
        self.sign_in("store", KeyName::Store).await
    }

    pub(super) async fn bridge(&self) -> anyhow::Result<Client> {
        self.sign_in("bridge", KeyName::Bridge).await
    }

    pub(super) async fn stop(self) {
        self.server.shutdown().await;
    }

    async fn sign_in(&self, role: &'static str, key: KeyName) -> anyhow::Result<Client> {
        let login = Login {
            url: self.server.endpoints().nats_url(),
            role,
            seed: self.keys.seed(key).clone(),
        };
        Ok(connect(&login).await?)
    }
}

/// Writes everything into the log, frame by frame, and gives its end.
pub(super) async fn fill(
    store: &Client,
    log: &Log,
    made: &mut Made,
    events: u32,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Seq> {
    reconcile(store, log_config(log, 1, LOG_BYTES), &[]).await?;
    let jetstream = jetstream::new(store.clone());
    let mut last = 0;
    while let Some(frame) = made.frame(last + 1, events)? {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("bench-{last}").as_str());
        headers.insert("Nats-Expected-Last-Sequence", last.to_string().as_str());
        let ack = jetstream
            .publish_with_headers(log.subject(), headers, frame)
            .await?
            .await?;
        ensure!(ack.sequence == last + 1, "a frame landed elsewhere: {ack:?}");
        last = ack.sequence;
        progress(made.messages());
    }
    Ok(Seq::end_of_frame(last))
}
