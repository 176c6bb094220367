use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use super::mailbox::{Delivery, Mailbox};
use super::{DEADLINE, tools};

/// A client of somebody else's making, in a process of its own: a script of `tests/clients` that takes commands as JSON
/// lines on standard input and tells what happens as JSON lines on standard output.
pub(crate) struct Script {
    user: String,
    input: tokio::sync::Mutex<Input>,
    answers: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>,
    pub(crate) mail: Mailbox<Delivery>,
    /// What happened: `connected`, `disconnected`, `error: …`, `granted …`, `refused …`.
    pub(crate) happened: Mailbox<String>,
    _process: Child,
}

struct Input {
    pipe: ChildStdin,
    last: u64,
}

/// A line that a script prints.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// The answer to the command of that number; the first command, number 0, is to connect.
    Answer {
        id: u64,
        value: Value,
    },
    Message {
        subject: String,
        #[serde(default)]
        headers: HashMap<String, String>,
        data: String,
    },
    Happened(String),
}

impl Script {
    /// nats-py over WebSocket, signed in as a user of tenant `main`; the error is what it says of a refusal.
    pub(crate) async fn websocket(url: &str, user: &str, token: &str) -> Result<Self, String> {
        let options = json!({"url": url, "token": token, "inbox": format!("_INBOX.main.{user}")});
        Self::start("nats_ws.py", user, options).await
    }

    /// The same over TLS, with an authority to trust.
    pub(crate) async fn websocket_over_tls(url: &str, user: &str, token: &str, ca: &Path) -> Result<Self, String> {
        assert!(url.starts_with("wss://"), "{url}");
        let options = json!({"url": url, "token": token, "inbox": format!("_INBOX.main.{user}"), "ca": ca});
        Self::start("nats_ws.py", user, options).await
    }

    /// paho-mqtt over TLS, with an authority to trust.
    pub(crate) async fn paho_over_tls(url: &str, user: &str, token: &str, ca: &Path) -> Result<Self, String> {
        let (host, port) = url.strip_prefix("mqtts://").expect("TLS").rsplit_once(':').unwrap();
        let port: u16 = port.parse().unwrap();
        let client_id = format!("main:{user}");
        let options =
            json!({"host": host, "port": port, "client_id": client_id, "user": user, "token": token, "ca": ca});
        Self::start("mqtt.py", user, options).await
    }

    /// paho-mqtt, signed in as a device of tenant `main`.
    pub(crate) async fn paho(url: &str, user: &str, token: &str) -> Result<Self, String> {
        Self::paho_session(url, user, token, true).await
    }

    /// paho-mqtt with a session that ends with its connection (`clean`), or outlives it.
    pub(crate) async fn paho_session(url: &str, user: &str, token: &str, clean: bool) -> Result<Self, String> {
        let (host, port) = url
            .strip_prefix("mqtt://")
            .expect("plain MQTT")
            .rsplit_once(':')
            .unwrap();
        let port: u16 = port.parse().unwrap();
        let client_id = format!("main:{user}");
        let options =
            json!({"host": host, "port": port, "client_id": client_id, "user": user, "token": token, "clean": clean});
        Self::start("mqtt.py", user, options).await
    }

    /// `requests` with sseclient-py, and `websockets`: readers of events by cursor, see [`super::stream`].
    pub(crate) async fn events(user: &str) -> Self {
        Self::start("events.py", user, json!({})).await.unwrap()
    }

    async fn start(script: &str, user: &str, options: Value) -> Result<Self, String> {
        let mut command = Command::from(tools::python(script));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut process = command
            .spawn()
            .unwrap_or_else(|error| panic!("{script} cannot be started: {error}"));
        let output = BufReader::new(process.stdout.take().unwrap());
        let script = Self {
            user: user.to_owned(),
            input: tokio::sync::Mutex::new(Input {
                pipe: process.stdin.take().unwrap(),
                last: 0,
            }),
            answers: Arc::default(),
            mail: Mailbox::new(),
            happened: Mailbox::new(),
            _process: process,
        };
        script.take_lines(output);
        let outcome = script.call("connect", options).await;
        outcome["error"]
            .as_str()
            .map_or(Ok(script), |error| Err(error.to_owned()))
    }

    /// Takes what the script prints, until it ends.
    fn take_lines(&self, output: BufReader<ChildStdout>) {
        let (answers, mail, happened) = (Arc::clone(&self.answers), self.mail.clone(), self.happened.clone());
        tokio::spawn(async move {
            let mut lines = output.lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")) {
                    Line::Answer { id, value } => {
                        let waiting = answers.lock().unwrap().remove(&id);
                        waiting.map(|waiting| waiting.send(value));
                    }
                    Line::Message { subject, headers, data } => {
                        let headers = headers
                            .into_iter()
                            .map(|(name, value)| (name.to_lowercase(), value))
                            .collect();
                        let payload = Bytes::from(STANDARD.decode(data).unwrap());
                        mail.put(Delivery {
                            subject,
                            headers,
                            payload,
                        });
                    }
                    Line::Happened(what) => happened.put(what),
                }
            }
            answers.lock().unwrap().clear();
        });
    }

    /// Gives a command and waits for its answer.
    pub(crate) async fn call(&self, operation: &str, mut arguments: Value) -> Value {
        let (sender, answer) = oneshot::channel();
        {
            let mut input = self.input.lock().await;
            let id = input.last;
            input.last += 1;
            arguments["id"] = id.into();
            arguments["op"] = operation.into();
            self.answers.lock().unwrap().insert(id, sender);
            input.pipe.write_all(format!("{arguments}\n").as_bytes()).await.unwrap();
        }
        let answer = tokio::time::timeout(DEADLINE, answer).await;
        answer
            .unwrap_or_else(|_| panic!("no answer to {operation}"))
            .unwrap_or_else(|_| panic!("{operation}: it ended"))
    }

    /// Listens on subjects or topic filters, until dropped, over every reconnection.
    pub(crate) async fn subscribe(&self, subject: &str) -> Value {
        self.call("subscribe", json!({"subject": subject})).await
    }

    /// A request over NATS: the answer's JSON.
    pub(crate) async fn request(&self, subject: &str, payload: &Value) -> Value {
        let answer = self
            .call(
                "request",
                json!({"subject": subject, "data": STANDARD.encode(payload.to_string())}),
            )
            .await;
        let Some(data) = answer["data"].as_str() else {
            return answer;
        };
        serde_json::from_slice(&STANDARD.decode(data).unwrap()).unwrap()
    }

    /// Sends a text to a room over NATS and gives the receipt or the problem.
    pub(crate) async fn say(&self, room: &str, text: &str) -> Value {
        self.request(
            &format!("chat.in.main.{}.{room}.msg", self.user),
            &json!({"body": {"text": text}}),
        )
        .await
    }

    /// Publishes over MQTT with a `QoS`; the answer comes when that is fulfilled.
    pub(crate) async fn publish_qos(&self, topic: &str, payload: &[u8], qos: u8) -> Value {
        let arguments = json!({"subject": topic, "data": STANDARD.encode(payload), "qos": qos});
        self.call("publish", arguments).await
    }

    /// Publishes bytes as they are. Over MQTT with `QoS` 1: the answer comes with the server's acknowledgement.
    pub(crate) async fn publish(&self, subject: &str, payload: &[u8]) -> Value {
        self.call("publish", json!({"subject": subject, "data": STANDARD.encode(payload)}))
            .await
    }
}
