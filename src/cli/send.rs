use std::io::Read;

use anyhow::Context;
use natterjack_nats_config::contract::{Id, SendPayload};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

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
    /// In the name of another user: takes `send.as`, and that both may send there
    #[arg(long = "as", value_name = "USER")]
    on_behalf_of: Option<Id>,
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
    let body: Box<RawValue> = if send.json {
        serde_json::from_str(&text).context("the message is not valid JSON")?
    } else {
        to_raw_value(&json!({ "text": text }))?
    };
    let request = SendPayload {
        key: send.key.clone(),
        on_behalf_of: send.on_behalf_of.clone(),
        ..SendPayload::of_body(body)
    };
    let receipt = send
        .server
        .connect(global)?
        .post(&format!("/v1/rooms/{}/messages", send.room), &request)?;
    say(receipt)
}
