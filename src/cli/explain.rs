use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// About whom. (--user is who asks)
    about: Id,
    /// The permission, such as room.send, or send.as:dev1 (in the name of dev1)
    permission: String,
    /// The room; without one it is about the tenant
    room: Option<Id>,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, explain: &Explain) -> anyhow::Result<()> {
    let Explain {
        about,
        permission,
        room,
        server,
    } = explain;
    let ask = json!({"user": about, "permission": permission, "room": room});
    let answer = server.connect(global)?.post("/v1/auth/explain", &ask)?;
    let allowed = answer.get("allowed").and_then(Value::as_bool).unwrap_or_default();
    let rule = answer.get("rule").and_then(Value::as_str).unwrap_or_default();
    say(format_args!("{}: {rule}", if allowed { "yes" } else { "no" }))?;
    for fact in answer.get("facts").and_then(Value::as_array).into_iter().flatten() {
        say(line(fact))?;
    }
    Ok(())
}

fn line(fact: &Value) -> String {
    let text = |name: &str| fact.get(name).and_then(Value::as_str);
    let seq = fact.get("seq").and_then(Value::as_u64);
    let seq = seq.map_or("-".to_owned(), |seq| seq.to_string());
    let verbs = fact.get("permissions").and_then(Value::as_array).into_iter().flatten();
    let verbs: Vec<_> = verbs.filter_map(Value::as_str).collect();
    let mut line = format!("{seq}\t{}", text("fact").unwrap_or_default());
    for part in [text("role"), text("kind"), text("scope")].into_iter().flatten() {
        line.push(' ');
        line.push_str(part);
    }
    if !verbs.is_empty() {
        line.push_str(": ");
        line.push_str(&verbs.join(" "));
    }
    line
}
