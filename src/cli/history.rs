use natterjack_nats_config::contract::Id;

use super::print;
use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// The room
    room: Id,
    /// How many messages, 1 to 200
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
    /// Only what stands before this sequence
    #[arg(long, conflicts_with = "after")]
    before: Option<u64>,
    /// Only what stands after this sequence
    #[arg(long)]
    after: Option<u64>,
    /// Print each message's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, history: &History) -> anyhow::Result<()> {
    let bound = match (history.before, history.after) {
        (Some(before), _) => format!("&before={before}"),
        (None, Some(after)) => format!("&after={after}"),
        (None, None) => String::new(),
    };
    let path = format!("/v1/rooms/{}/messages?limit={}{bound}", history.room, history.limit);
    let page = history.server.connect(global)?.get(&path)?;
    print::events(&page, "messages", history.json)?;
    match page.get("next").filter(|next| !next.is_null() && !history.json) {
        Some(next) if history.after.is_some() => say(format_args!("(more: --after {next})")),
        Some(next) => say(format_args!("(more: --before {next})")),
        None => Ok(()),
    }
}
