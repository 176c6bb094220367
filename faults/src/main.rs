//! `natterjack-faults`: runs a whole Natterjack under load, injects faults, and checks what was promised.

mod args;
mod broken;
mod check;
mod client;
mod collect;
mod controls;
mod history;
mod house;
mod mount;
mod nemesis;
mod program;
mod report;
mod run;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Machine};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("natterjack-faults: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Does what was asked; says whether all went as it must.
fn start(arguments: &Arguments) -> anyhow::Result<bool> {
    let machine = Machine::look();
    if arguments.list {
        list(&machine);
        return Ok(true);
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("error,async_nats=off,natterjack_faults=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(async {
        if arguments.controls {
            controls::run(arguments, &machine).await
        } else {
            run::run(arguments, &machine).await
        }
    })
}

fn list(machine: &Machine) {
    for kind in args::all_kinds() {
        let cannot = machine.cannot(kind.needs());
        let cannot = cannot.map_or_else(String::new, |reason| format!(" [not here: {reason}]"));
        say(&format!("{:<15} {}{cannot}", kind.name(), kind.about()));
    }
}

/// A line for people.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
