use clap::{Subcommand, ValueEnum};
use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::room::state;
use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Role {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List every role: built in, and the tenant's own
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Make a role of the tenant's own, or change it for all who hold it
    Set {
        /// The role's name: A-Z a-z 0-9 _ -, at most 64; none of the built-in ones
        role: Id,
        /// Where it is given
        #[arg(long, value_enum, default_value_t = Scope::Room)]
        scope: Scope,
        /// The permissions, such as room.read room.send, send.as:plant7- (in the names of those whose ids begin so); without any the role gives nothing
        permissions: Vec<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Delete a role of the tenant's own that nobody holds
    Delete {
        /// The role
        role: Id,
        #[command(flatten)]
        server: Server,
    },
    /// Give a user a role in the tenant: `blocked` takes everything, `member` is the default
    Give {
        /// To whom. (--user is who asks)
        to: Id,
        /// The role
        role: Id,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scope {
    Tenant,
    Room,
}

pub(crate) fn run(global: &Global, role: &Role) -> anyhow::Result<()> {
    match &role.what {
        What::List { server } => list(global, server),
        What::Set {
            role,
            scope,
            permissions,
            server,
        } => {
            let scope = match scope {
                Scope::Tenant => "tenant",
                Scope::Room => "room",
            };
            let body = json!({"scope": scope, "permissions": permissions});
            let answer = server.connect(global)?.put(&format!("/v1/roles/{role}"), &body)?;
            say(format_args!("role {role} is there{}", state(&answer)))
        }
        What::Delete { role, server } => {
            server.connect(global)?.delete(&format!("/v1/roles/{role}"))?;
            say(format_args!("role {role} is deleted"))
        }
        What::Give { to, role, server } => {
            let path = format!("/v1/users/{to}");
            let answer = server.connect(global)?.put(&path, &json!({"role": role}))?;
            say(format_args!("{to} is {role} of the tenant{}", state(&answer)))
        }
    }
}

fn list(global: &Global, server: &Server) -> anyhow::Result<()> {
    let page = server.connect(global)?.get("/v1/roles")?;
    for role in page.get("roles").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| role.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let verbs = role.get("permissions").and_then(Value::as_array).into_iter().flatten();
        let verbs: Vec<_> = verbs.filter_map(Value::as_str).collect();
        let built_in = role.get("built_in").and_then(Value::as_bool).unwrap_or_default();
        let whose = if built_in { "built in" } else { "own" };
        say(format_args!(
            "{}\t{}\t{whose}\t{}",
            text("scope"),
            text("role"),
            verbs.join(" ")
        ))?;
    }
    Ok(())
}
