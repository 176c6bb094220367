use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::{Client, Message, RequestErrorKind};
use futures_util::StreamExt;
use natterjack_nats_config::clock;
use parking_lot::Mutex;
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
    /// The servers that have ever answered, to be able to name one that does not.
    known: Mutex<BTreeSet<String>>,
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
    server: Server,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
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
        Self {
            client,
            servers,
            known: Mutex::default(),
        }
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
        let mut answers = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| failed(&error))?;
        let payload = query.to_string().into();
        self.client
            .publish_with_reply("$SYS.REQ.SERVER.PING.CONNZ", inbox, payload)
            .await
            .map_err(|error| failed(&error))?;
        // By name: one server that answers twice does not speak for another one.
        let mut pages = BTreeMap::new();
        let all = async {
            while pages.len() < self.servers {
                let Some(message) = answers.next().await else { return };
                if let Some((name, data)) = answer_of(&message) {
                    pages.insert(name, data);
                }
            }
        };
        let in_time = timeout(WITHIN, all).await.is_ok();
        self.known.lock().extend(pages.keys().cloned());
        if in_time && pages.len() == self.servers {
            return Ok(pages.into_values().collect());
        }
        Err(self.missing(&pages))
    }

    fn missing(&self, answered: &BTreeMap<String, Data>) -> NotAnswered {
        let known = self.known.lock();
        let silent: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|name| !answered.contains_key(*name))
            .collect();
        if silent.is_empty() {
            return NotAnswered(format!(
                "{} of {} servers told their connections in time",
                answered.len(),
                self.servers
            ));
        }
        NotAnswered(format!("no answer from server {}", silent.join(", ")))
    }

    /// Closes a connection. `false`: it was gone already.
    pub(crate) async fn close(&self, connection: &Connection) -> Result<bool, NotAnswered> {
        let subject = format!("$SYS.REQ.SERVER.{}.KICK", connection.server);
        let payload = json!({"cid": connection.cid}).to_string().into();
        let answer = match timeout(WITHIN, self.client.request(subject, payload)).await {
            Ok(Ok(answer)) => answer,
            // The server was restarted, under another id. If it only cannot be reached, the next look is not answered by all.
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => return Ok(false),
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

fn answer_of(message: &Message) -> Option<(String, Data)> {
    let answer: Answer = serde_json::from_slice(&message.payload).ok()?;
    Some((answer.server.name, answer.data?))
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
