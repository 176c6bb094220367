//! What a person types.

pub(crate) mod archive;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod erase;
pub(crate) mod explain;
pub(crate) mod history;
pub(crate) mod hold;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod migrate;
pub(crate) mod nats;
mod print;
pub(crate) mod rebuild;
pub(crate) mod revoke;
pub(crate) mod role;
pub(crate) mod room;
pub(crate) mod send;
pub(crate) mod server;
pub(crate) mod tail;
pub(crate) mod token;
pub(crate) mod verify;

use clap::{Parser, Subcommand};

use crate::config::Global;
use crate::role::up::UpFlags;

/// Natterjack turns a NATS deployment into a distributed instant-messaging bus.
///
/// Without a command it does `up`: a nats-server, the workers and the HTTP door in one process, ready to use.
#[derive(Debug, Parser)]
#[command(name = "natterjack", version, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything in one process: a nats-server of its own, authz, store, bridge [the default]
    Up(UpFlags),
    /// Run one role: decide who may connect to NATS, and end connections whose rights were taken away
    Authz,
    /// Run one role: the writer of the log, the archive and history
    Store,
    /// Run one role: the HTTP door
    Bridge,
    /// Print a token (a signed JWT) for a user and nothing else
    Token(token::Token),
    /// API keys, for services and devices: make them, list them, end them
    Key(key::Key),
    /// Make rooms, list them, add and remove members
    Room(room::Room),
    /// Roles: list them, make and change the tenant's own, give them in the tenant
    Role(role::Role),
    /// Say why somebody may do something, or not: the rule, and the events that it rests on
    Explain(explain::Explain),
    /// Revoke tokens: of a user, one of them, or everybody's; or end a membership. The answer comes when it has reached every
    /// connection
    Revoke(revoke::Revoke),
    /// Send a message to a room
    Send(send::Send),
    /// Follow rooms as events come in
    Tail(tail::Tail),
    /// Show what was said in a room
    History(history::History),
    /// Who changed rights, revoked tokens, was refused: the audit trail, newest first; for those with `tenant.audit`
    Audit(audit::Audit),
    /// Keep rooms, and what users wrote, whatever their age (legal hold); show what is held. For administrators and auditors
    Hold(hold::HoldCommand),
    /// Erase for good what a user wrote, or one message; show the receipts of that. For administrators
    Erase(erase::EraseCommand),
    /// Look at the log itself
    Log(log::LogCommand),
    /// The tables of the archive: what they lack, and bring them up to date
    Migrate(migrate::MigrateCommand),
    /// Move the archive to another database; write a room's events to a file, and read them from there
    Archive(archive::ArchiveCommand),
    /// Write a backup of everything into a new folder, while all of it runs: the archive with the end of the log, keys,
    /// settings. It is compared with the log once it is written
    Backup(backup::Backup),
    /// Make a new data folder of a backup, and a log of a new epoch that goes on behind it
    Restore(backup::Restore),
    /// Make the log anew from the archive, or the archive from the log. All workers must have been stopped
    Rebuild(rebuild::RebuildCommand),
    /// Compare the archive with the log, and repair it. Fails if faults are left
    Verify(verify::Verify),
    /// NATS accounts for tools of your own
    Nats(nats::NatsCommand),
    /// Look at servers, streams, workers, archive and audit; says what to do, and fails if something is not well
    Doctor(doctor::Doctor),
    /// Measure this installation against its limits, as ratios
    Bench(bench::Bench),
    /// Show the settings
    Config(config::ConfigCommand),
    /// Print completions for a shell: natterjack completions bash > /`etc/bash_completion.d/natterjack`
    Completions(completions::Completions),
}

impl Default for Command {
    fn default() -> Self {
        Self::Up(UpFlags::default())
    }
}
