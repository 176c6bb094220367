use clap::Subcommand;
use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Room {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a room; whoever makes it owns it
    Create {
        /// The room's id: A-Z a-z 0-9 _ -, at most 64
        room: Id,
        /// What people call it
        #[arg(long)]
        title: Option<String>,
        /// Remove its messages from the archive after so many days; 0: never [default: as `store.retention` says]
        #[arg(long, value_name = "DAYS")]
        keep_days: Option<u32>,
        /// group, announcement (few send, many read) or device (telemetry in, commands out)
        #[arg(long, default_value = "group")]
        kind: String,
        /// all, or joined: who becomes a member reads what comes after
        #[arg(long, default_value = "all")]
        history: String,
        #[command(flatten)]
        server: Server,
    },
    /// List the rooms you are in
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Add a member, or change a member's role
    Add {
        /// The room
        room: Id,
        /// The user to add
        member: Id,
        /// owner, moderator, member, reader, device, or one of the tenant's own
        #[arg(long, default_value = "member")]
        role: Id,
        #[command(flatten)]
        server: Server,
    },
    /// Find or make your one room with somebody, and print its id
    Direct {
        /// The other one
        with: Id,
        #[command(flatten)]
        server: Server,
    },
    /// Ban somebody from a room, a member or not
    Ban {
        /// The room
        room: Id,
        /// Whom
        member: Id,
        /// Why; who reads the room reads it
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Lift a ban
    Unban {
        /// The room
        room: Id,
        /// Whose
        member: Id,
        #[command(flatten)]
        server: Server,
    },
    /// Remove a member; the answer comes when no connection of theirs hears the room any more
    Remove {
        /// The room
        room: Id,
        /// The user to remove
        member: Id,
        #[command(flatten)]
        server: Server,
    },
}

pub(crate) fn run(global: &Global, room: &Room) -> anyhow::Result<()> {
    match &room.what {
        What::Create {
            room,
            title,
            keep_days,
            kind,
            history,
            server,
        } => {
            let retention = keep_days.map(|days| json!({"days": days}));
            let body = json!({"kind": kind, "title": title, "history": history, "retention": retention});
            create(global, server, room, &body)
        }
        What::List { server } => list(global, server),
        What::Add {
            room,
            member,
            role,
            server,
        } => {
            let path = format!("/v1/rooms/{room}/members/{member}");
            let answer = server.connect(global)?.put(&path, &json!({"role": role}))?;
            say(format_args!("{member} is {role} of {room}{}", state(&answer)))
        }
        What::Direct { with, server } => direct(global, server, with),
        What::Ban {
            room,
            member,
            reason,
            server,
        } => {
            let path = format!("/v1/rooms/{room}/bans/{member}");
            let answer = server.connect(global)?.put(&path, &json!({"reason": reason}))?;
            say(format_args!("{member} is banned from {room}{}", state(&answer)))
        }
        What::Unban { room, member, server } => {
            server
                .connect(global)?
                .delete(&format!("/v1/rooms/{room}/bans/{member}"))?;
            say(format_args!("{member} is banned from {room} no more"))
        }
        What::Remove { room, member, server } => {
            let answer = server
                .connect(global)?
                .delete(&format!("/v1/rooms/{room}/members/{member}"))?;
            say(format_args!("{member} is no member of {room}{}", state(&answer)))
        }
    }
}

fn create(global: &Global, server: &Server, room: &Id, body: &Value) -> anyhow::Result<()> {
    server.connect(global)?.put(&format!("/v1/rooms/{room}"), body)?;
    say(format_args!("room {room} is there"))
}

fn direct(global: &Global, server: &Server, with: &Id) -> anyhow::Result<()> {
    let room = server.connect(global)?.put(&format!("/v1/direct/{with}"), &json!({}))?;
    say(room.get("id").and_then(Value::as_str).unwrap_or_default())
}

fn list(global: &Global, server: &Server) -> anyhow::Result<()> {
    let connection = server.connect(global)?;
    let mut path = "/v1/rooms?limit=200".to_owned();
    loop {
        let page = connection.get(&path)?;
        for room in page.get("rooms").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| room.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            say(format_args!("{}\t{}\t{}", text("id"), text("role"), text("title")))?;
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => path = format!("/v1/rooms?limit=200&next={next}"),
            None => return Ok(()),
        }
    }
}

pub(super) fn state(answer: &Value) -> String {
    let closed = answer
        .get("connections_closed")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let pending = answer.get("state").and_then(Value::as_str) == Some("pending");
    let renewed = if closed > 0 {
        format!("; {closed} live connections renewed")
    } else {
        String::new()
    };
    let warning = if pending {
        "; pending: not every authz worker has confirmed yet"
    } else {
        ""
    };
    format!("{renewed}{warning}")
}
