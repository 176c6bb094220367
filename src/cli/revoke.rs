use anyhow::bail;
use natterjack_nats_config::contract::Id;
use serde_json::{Value, json};

use super::room::state;
use super::server::Server;
use crate::config::Global;
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// All tokens of this user that were issued so far
    #[arg(long = "of", value_name = "USER")]
    of: Option<Id>,
    /// Only the one with this `jti`
    #[arg(long, requires = "of")]
    jti: Option<String>,
    /// When that one expires (RFC 3339): later it need not be remembered
    #[arg(long, value_name = "TIME", requires = "jti")]
    expires: Option<String>,
    /// Only those issued before this time (RFC 3339); without --of, everybody's
    #[arg(long, value_name = "TIME", conflicts_with = "jti")]
    before: Option<String>,
    /// Not tokens, but the user's membership in this room
    #[arg(long, requires = "of", conflicts_with_all = ["jti", "before"])]
    room: Option<Id>,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(global: &Global, revoke: &Revoke) -> anyhow::Result<()> {
    let Revoke {
        of,
        jti,
        expires,
        before,
        room,
        server,
    } = revoke;
    if of.is_none() && before.is_none() {
        bail!("say whose: --of USER, or --before TIME for everybody's");
    }
    let all = [
        ("user", of.as_ref().map(Id::as_str)),
        ("jti", jti.as_deref()),
        ("before", before.as_deref()),
        ("expires", expires.as_deref()),
        ("room", room.as_ref().map(Id::as_str)),
    ];
    let given = all
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    let body: Value = given.collect::<serde_json::Map<_, _>>().into();
    let answer = server.connect(global)?.post("/v1/revocations", &body)?;
    say(format_args!("revoked{}", state(&answer)))
}
