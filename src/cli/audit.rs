use natterjack_nats_config::contract::Id;
use serde_json::Value;

use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    /// Only what this user did; of refused logins those that named this user
    #[arg(long)]
    actor: Option<Id>,
    /// Only events of this kind: room, member, user, token, key, login
    #[arg(long)]
    kind: Option<Id>,
    /// Only what stands before this sequence
    #[arg(long)]
    before: Option<u64>,
    /// How many entries, 1 to 200
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
    /// Print each entry's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, audit: &Audit) -> anyhow::Result<()> {
    let mut path = format!("/v1/audit?limit={}", audit.limit);
    let before = audit.before.map(|before| before.to_string());
    let fields = [
        ("actor", audit.actor.as_ref().map(Id::as_str)),
        ("kind", audit.kind.as_ref().map(Id::as_str)),
        ("before", before.as_deref()),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            path.extend(["&", name, "=", value]);
        }
    }
    let page = audit.server.connect(global)?.get(&path)?;
    for entry in page.get("entries").and_then(Value::as_array).into_iter().flatten() {
        if audit.json {
            say(entry)?;
        } else if let Some(event) = entry.get("event") {
            let [at, kind, from, room] = ["at", "kind", "from", "room"].map(|field| text(event, field));
            let (seq, body) = (field(event, "seq"), field(event, "body"));
            say(format_args!("{seq}\t{at}\t{kind}\t{from}\t{room}\t{body}"))?;
        }
    }
    match page.get("next").filter(|next| !next.is_null() && !audit.json) {
        Some(next) => say(format_args!("(more: --before {next})")),
        None => Ok(()),
    }
}

fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn field<'a>(event: &'a Value, name: &str) -> &'a Value {
    event.get(name).unwrap_or(&Value::Null)
}
