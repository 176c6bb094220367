use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::server::{Connection, Server};
use crate::config::Global;
use crate::process::say;

/// How often it is asked whether it is done.
const ASK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct EraseCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everything that a user wrote so far, in every room: messages, edits, reactions
    User {
        /// Whose words
        name: Id,
        #[command(flatten)]
        how: How,
    },
    /// One message, with its edits
    Message {
        /// The room
        room: Id,
        /// The message's id
        id: String,
        #[command(flatten)]
        how: How,
    },
    /// Show the receipt of an erasure
    Show {
        /// The erasure's `seq`
        seq: u64,
        #[command(flatten)]
        server: Server,
    },
    /// Show the receipts of erasures, the newest first
    List {
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, clap::Args)]
struct How {
    /// Why, for the audit; who hears of the erasure reads it
    #[arg(long)]
    reason: Option<String>,
    /// Wait until nothing within reach has it any more, telling what still does
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, command: &EraseCommand) -> anyhow::Result<()> {
    match &command.what {
        What::User { name, how } => erase(global, how, json!({"user": name})),
        What::Message { room, id, how } => erase(global, how, json!({"room": room, "message": id})),
        What::Show { seq, server } => {
            let connection = server.connect(global)?;
            say(line(&connection.get(&format!("/v1/erasures/{seq}"))?))
        }
        What::List { server } => {
            let answer = server.connect(global)?.get("/v1/erasures")?;
            let receipts = answer.get("erasures").and_then(Value::as_array);
            receipts
                .into_iter()
                .flatten()
                .try_for_each(|receipt| say(line(receipt)))
        }
    }
}

fn erase(global: &Global, how: &How, mut ask: Value) -> anyhow::Result<()> {
    if let (Some(reason), Some(ask)) = (&how.reason, ask.as_object_mut()) {
        ask.insert("reason".to_owned(), json!(reason));
    }
    let connection = how.server.connect(global)?;
    let receipt = connection.post("/v1/erasures", &ask)?;
    say(line(&receipt))?;
    if how.wait {
        wait(&connection, receipt)?;
    }
    Ok(())
}

/// Tells each change until it is done.
fn wait(connection: &Connection, mut receipt: Value) -> anyhow::Result<()> {
    let seq = receipt.get("seq").and_then(Value::as_u64);
    let seq = seq.context("the receipt has no `seq`; is this a Natterjack bridge?")?;
    while receipt.get("state").and_then(Value::as_str) != Some("done") {
        std::thread::sleep(ASK_EVERY);
        let now = connection.get(&format!("/v1/erasures/{seq}"))?;
        if now != receipt {
            say(line(&now))?;
        }
        receipt = now;
    }
    Ok(())
}

/// A receipt as a line: its place, what, how far, what was counted, and what still has it.
fn line(receipt: &Value) -> String {
    let text = |name: &str| receipt.get(name).and_then(Value::as_str).unwrap_or_default();
    let count = |name: &str| {
        receipt
            .pointer(&format!("/counted/{name}"))
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let what = match text("user") {
        "" => format!("message {} in {}", text("message"), text("room")),
        user => format!("user {user}"),
    };
    let pending = receipt.get("pending").and_then(Value::as_array);
    let pending = pending.into_iter().flatten().map(|part| {
        let text = |name: &str| part.get(name).and_then(Value::as_str).unwrap_or_default();
        format!("{} ({})", text("part"), text("until"))
    });
    let pending: Vec<String> = pending.collect();
    format!(
        "{}\t{what}\t{}\t{} messages, {} edits, {} reactions\t{}",
        receipt.get("seq").cloned().unwrap_or_default(),
        text("state"),
        count("messages"),
        count("edits"),
        count("reactions"),
        pending.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_a_line() {
        let receipt = json!({
            "seq": 7, "at": "x", "by": "admin", "room": "lobby", "message": "m1", "state": "pending",
            "counted": {"messages": 1, "edits": 2, "reactions": 0, "search": 1},
            "pending": [{"part": "log", "upto": 5, "until": "it is trimmed"}],
        });
        let expected = "7\tmessage m1 in lobby\tpending\t1 messages, 2 edits, 0 reactions\tlog (it is trimmed)";
        assert_eq!(line(&receipt), expected);
    }
}
