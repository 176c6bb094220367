//! `natterjack`: a NATS deployment becomes a distributed instant-messaging bus.

mod cli;
mod config;
mod process;
mod role;

use clap::Parser;

use crate::cli::{Arguments, Command};

/// A quarter of the time of a busy bridge went to the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    process::exit_code(run(Arguments::parse()))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = &arguments.global;
    match arguments.command.unwrap_or_default() {
        Command::Up(up) => role::up::run(config, &up),
        Command::Authz => role::authz::run(config),
        Command::Store => role::store::run(config),
        Command::Bridge => role::bridge::run(config),
        Command::Token(token) => cli::token::run(config, &token),
        Command::Key(key) => cli::key::run(config, &key),
        Command::Room(room) => cli::room::run(config, &room),
        Command::Role(role) => cli::role::run(config, &role),
        Command::Explain(explain) => cli::explain::run(config, &explain),
        Command::Revoke(revoke) => cli::revoke::run(config, &revoke),
        Command::Send(send) => cli::send::run(config, &send),
        Command::Tail(tail) => cli::tail::run(config, &tail),
        Command::History(history) => cli::history::run(config, &history),
        Command::Audit(audit) => cli::audit::run(config, &audit),
        Command::Hold(hold) => cli::hold::run(config, &hold),
        Command::Erase(erase) => cli::erase::run(config, &erase),
        Command::Log(log) => cli::log::run(config, &log),
        Command::Migrate(migrate) => cli::migrate::run(config, &migrate),
        Command::Archive(archive) => cli::archive::run(config, &archive),
        Command::Backup(backup) => cli::backup::run(config, &backup),
        Command::Restore(restore) => cli::backup::restore(config, &restore),
        Command::Rebuild(rebuild) => cli::rebuild::run(config, &rebuild),
        Command::Verify(verify) => cli::verify::run(config, &verify),
        Command::Nats(nats) => cli::nats::run(config, &nats),
        Command::Doctor(doctor) => cli::doctor::run(config, &doctor),
        Command::Bench(bench) => cli::bench::run(config, &bench),
        Command::Config(show) => cli::config::run(config, &show),
        Command::Completions(shell) => {
            cli::completions::run(&shell);
            Ok(())
        }
    }
}
