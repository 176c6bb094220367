use clap::Subcommand;
use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::room::state;
use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a key and print it and nothing else: it is shown this once
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// Whose it is [default: your own]
        #[arg(long = "of", value_name = "USER")]
        of: Option<Id>,
        /// When it ends (RFC 3339) [default: when it is revoked]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// List keys: id, when it was made, when it ends, what it is for
    List {
        /// Whose [default: your own]
        #[arg(long = "of", value_name = "USER")]
        of: Option<Id>,
        #[command(flatten)]
        server: Server,
    },
    /// End a key; the answer comes when nothing that it opened is left
    Revoke {
        /// The key's id: what stands between `nj_` and the next `_`
        id: Id,
        #[command(flatten)]
        server: Server,
    },
}

pub(crate) fn run(global: &Global, key: &Key) -> anyhow::Result<()> {
    match &key.what {
        What::Create {
            name,
            of,
            expires,
            server,
        } => {
            let mut body = json!({"name": name});
            for (field, value) in [("user", of.as_ref().map(Id::as_str)), ("expires", expires.as_deref())] {
                if let (Some(value), Some(body)) = (value, body.as_object_mut()) {
                    body.insert(field.to_owned(), json!(value));
                }
            }
            let made = server.connect(global)?.post("/v1/keys", &body)?;
            say(text(&made, "key"))
        }
        What::List { of, server } => list(global, of.as_ref(), server),
        What::Revoke { id, server } => {
            let answer = server.connect(global)?.delete(&format!("/v1/keys/{id}"))?;
            say(format_args!("revoked{}", state(&answer)))
        }
    }
}

fn list(global: &Global, of: Option<&Id>, server: &Server) -> anyhow::Result<()> {
    let connection = server.connect(global)?;
    let user = of.map_or_else(String::new, |of| format!("&user={of}"));
    let mut next = String::new();
    loop {
        let page = connection.get(&format!("/v1/keys?next={next}{user}"))?;
        for key in page.get("keys").and_then(Value::as_array).into_iter().flatten() {
            let [id, created, name] = ["id", "created", "name"].map(|field| text(key, field));
            let expires = key.get("expires").and_then(Value::as_str).unwrap_or("-");
            say(format_args!("{id}\t{created}\t{expires}\t{name}"))?;
        }
        match page.get("next").and_then(Value::as_str) {
            Some(more) => more.clone_into(&mut next),
            None => return Ok(()),
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
