use std::future::ready;
use std::time::Duration;

use async_nats::{Client, Message};
use futures_util::StreamExt;
use natterjack_nats_config::clock;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use crate::callout::Connection;

/// Connections on one page of an answer; the server allows no more.
const PAGE: usize = 1024;
/// The most connections of a server that are looked through.
const MOST: usize = 1 << 20;
/// How long a server may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// Finds and closes connections, as the system account may.
pub(crate) struct Connections {
    client: Client,
    servers: usize,
}

/// A connection of a person or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) connection: Connection,
    /// `{tenant}.{user}`
    pub(crate) name: String,
    /// When it was opened, in milliseconds since 1970 by the server's clock.
    pub(crate) since_ms: i64,
}

/// Not every server answered: nothing is known of the others.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotAnswered(String);

impl NotAnswered {
    pub(crate) fn still_open() -> Self {
        Self("a closed connection is still listed".to_owned())
    }
}

#[derive(Default, Deserialize)]
struct Kicked {
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    server_id: String,
    #[serde(default)]
    connections: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    cid: u64,
    #[serde(default)]
    start: String,
    #[serde(default)]
    authorized_user: String,
    #[serde(default)]
    account: String,
}

impl Connections {
    /// `servers` is how many must answer.
    pub(crate) fn new(client: Client, servers: usize) -> Self {
        Self { client, servers }
    }

    /// The connections of one principal, or of all.
    pub(crate) async fn list(&self, name: Option<&str>) -> Result<Vec<Listed>, NotAnswered> {
        let mut listed = Vec::new();
        // The servers' `total` counts connections that the query leaves out, so the last page is known by being short.
        for offset in (0..MOST).step_by(PAGE) {
            let pages = self.page(name, offset).await?;
            let is_last = pages.iter().all(|page| page.connections.len() < PAGE);
            listed.extend(pages.into_iter().flat_map(listed_of));
            if is_last {
                return Ok(listed);
            }
        }
        Err(NotAnswered(format!("a server has more than {MOST} connections")))
    }

    async fn page(&self, name: Option<&str>, offset: usize) -> Result<Vec<Data>, NotAnswered> {
        let failed = |error: &dyn std::fmt::Display| NotAnswered(format!("the servers cannot be asked: {error}"));
        let mut query = json!({"auth": true, "limit": PAGE, "offset": offset});
        if let (Some(name), Some(query)) = (name, query.as_object_mut()) {
            query.insert("user".to_owned(), json!(name));
        }
        let inbox = self.client.new_inbox();
        let answers = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| failed(&error))?;
        let payload = query.to_string().into();
        self.client
            .publish_with_reply("$SYS.REQ.SERVER.PING.CONNZ", inbox, payload)
            .await
            .map_err(|error| failed(&error))?;
        let pages = answers
            .filter_map(|message| ready(data_of(&message)))
            .take(self.servers)
            .collect::<Vec<_>>();
        match timeout(WITHIN, pages).await {
            Ok(pages) if pages.len() == self.servers => Ok(pages),
            _ => Err(NotAnswered(format!(
                "not all of {} servers told their connections in time",
                self.servers
            ))),
        }
    }

    /// Closes a connection. `false`: it was gone already.
    pub(crate) async fn close(&self, connection: &Connection) -> Result<bool, NotAnswered> {
        let subject = format!("$SYS.REQ.SERVER.{}.KICK", connection.server);
        let payload = json!({"cid": connection.cid}).to_string().into();
        let answer = match timeout(WITHIN, self.client.request(subject, payload)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(NotAnswered(format!("a connection could not be closed: {error}"))),
            Err(_) => return Err(NotAnswered("a server did not close a connection in time".to_owned())),
        };
        let kicked: Kicked = serde_json::from_slice(&answer.payload).unwrap_or_default();
        if let Some(error) = &kicked.error {
            tracing::info!(cid = connection.cid, %error, "a connection was gone before it could be closed");
        }
        Ok(kicked.error.is_none())
    }
}

fn data_of(message: &Message) -> Option<Data> {
    serde_json::from_slice::<Answer>(&message.payload).ok()?.data
}

fn listed_of(page: Data) -> impl Iterator<Item = Listed> {
    let server = page.server_id;
    page.connections
        .into_iter()
        .filter(|entry| matches!(entry.account.as_str(), "CLIENTS" | "DEVICES"))
        .map(move |entry| Listed {
            connection: Connection {
                server: server.clone(),
                cid: entry.cid,
            },
            name: entry.authorized_user,
            since_ms: clock::parse_ms(&entry.start).unwrap_or_default(),
        })
}
