use std::io::Read;

use anyhow::Context;
use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// The room
    room: Id,
    /// The message; `-` reads it from standard input
    text: String,
    /// Idempotency key: sent again with the same key, a message stands in the log once
    #[arg(long)]
    key: Option<String>,
    /// The message is JSON, taken as the body
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, send: &Send) -> anyhow::Result<()> {
    let text = if send.text == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input is no UTF-8 text")?;
        text.trim_end_matches('\n').to_owned()
    } else {
        send.text.clone()
    };
    let body: Value = if send.json {
        serde_json::from_str(&text).context("the message is not valid JSON")?
    } else {
        json!({ "text": text })
    };
    let mut request = json!({ "body": body });
    if let (Some(key), Some(fields)) = (&send.key, request.as_object_mut()) {
        fields.insert("key".to_owned(), json!(key));
    }
    let receipt = send
        .server
        .connect(global)?
        .post(&format!("/v1/rooms/{}/messages", send.room), &request)?;
    say(receipt)
}
