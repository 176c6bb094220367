use natterjack_nats_config::contract::Id;
use serde_json::Value;

use super::print;
use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// Only these rooms; none means all of yours
    rooms: Vec<Id>,
    /// Start where an earlier run ended (it prints its cursor with --print-cursor), or at `earliest`
    #[arg(long, default_value = "")]
    cursor: String,
    /// Print each event's JSON
    #[arg(long)]
    json: bool,
    /// Stop when there is nothing more now, instead of waiting for what comes
    #[arg(long)]
    no_follow: bool,
    /// Print the cursor on a last line when it stops
    #[arg(long)]
    print_cursor: bool,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, tail: &Tail) -> anyhow::Result<()> {
    let connection = tail.server.connect(global)?;
    let rooms: Vec<&str> = tail.rooms.iter().map(Id::as_str).collect();
    let rooms = rooms.join(",");
    let wait = if tail.no_follow { 0 } else { 25 };
    let mut cursor = tail.cursor.clone();
    loop {
        let page = connection.get(&format!(
            "/v1/events?cursor={cursor}&wait={wait}&limit=1000&rooms={rooms}"
        ))?;
        print::events(&page, "events", tail.json)?;
        page.get("cursor")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .clone_into(&mut cursor);
        let more = page.get("more").and_then(Value::as_bool).unwrap_or_default();
        if tail.no_follow && !more {
            return if tail.print_cursor {
                say(format_args!("cursor: {cursor}"))
            } else {
                Ok(())
            };
        }
    }
}
