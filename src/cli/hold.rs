use clap::Subcommand;
use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct HoldCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Keep all of a room, whatever its age
    Room(Named),
    /// Keep what a user wrote, in every room
    User(Named),
    /// Let a room grow old again
    ReleaseRoom(Named),
    /// Let what a user wrote grow old again
    ReleaseUser(Named),
    /// Show what is held, one hold a line: what, name, since, by whom, why
    List {
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The room or the user
    name: Id,
    /// Why, for the audit
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, command: &HoldCommand) -> anyhow::Result<()> {
    match &command.what {
        What::Room(named) => put(global, "rooms", named),
        What::User(named) => put(global, "users", named),
        What::ReleaseRoom(named) => end(global, "rooms", named),
        What::ReleaseUser(named) => end(global, "users", named),
        What::List { server } => list(global, server),
    }
}

fn put(global: &Global, what: &str, Named { name, reason, server }: &Named) -> anyhow::Result<()> {
    let path = format!("/v1/holds/{what}/{name}");
    server.connect(global)?.put(&path, &json!({"reason": reason}))?;
    say(format_args!("{name} is held"))
}

fn end(global: &Global, what: &str, Named { name, server, .. }: &Named) -> anyhow::Result<()> {
    server.connect(global)?.delete(&format!("/v1/holds/{what}/{name}"))?;
    say(format_args!("{name} is held no more"))
}

fn list(global: &Global, server: &Server) -> anyhow::Result<()> {
    let answer = server.connect(global)?.get("/v1/holds")?;
    for hold in answer.get("holds").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| hold.get(name).and_then(Value::as_str);
        let what = if text("room").is_some() { "room" } else { "user" };
        say(format_args!(
            "{what}\t{}\t{}\t{}\t{}",
            text(what).unwrap_or_default(),
            text("at").unwrap_or_default(),
            text("by").unwrap_or_default(),
            text("reason").unwrap_or_default()
        ))?;
    }
    Ok(())
}
