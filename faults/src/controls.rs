//! Is the harness any good? Each safeguard is broken once, and the run must find it.

use clap::ValueEnum;

use crate::args::{Arguments, Machine};
use crate::broken::Switch;
use crate::nemesis::Needs;
use crate::{program, run, say};

/// Breaks each safeguard in turn; says whether all of them were found.
pub(crate) async fn run(arguments: &Arguments, machine: &Machine) -> anyhow::Result<bool> {
    let bin = match &arguments.bin {
        Some(named) => named.clone(),
        None => program::find_breakable().await?,
    };
    let mut lines = Vec::new();
    let mut all = true;
    for switch in Switch::value_variants().iter().copied() {
        let exposure = switch.exposure();
        let needs = exposure.faults.iter().map(|kind| kind.needs());
        if let Some(reason) = needs
            .map(|needs: Needs| machine.cannot(needs))
            .find_map(|reason| reason)
        {
            lines.push(format!("{:<20} not tried: {reason}", switch.name()));
            all = false;
            continue;
        }
        say(&format!("--- without {}", switch.name()));
        let one = Arguments {
            seed: Some(arguments.seed.unwrap_or(exposure.seed)),
            duration: exposure.duration,
            faults: exposure.faults,
            quick: exposure.quick,
            json: None,
            bin: Some(bin.clone()),
            switch: Some(switch),
            controls: false,
            ..arguments.clone()
        };
        let verdict = run::judged(&one, machine).await?;
        let found: Vec<&str> = verdict.violations.keys().map(|what| what.as_str()).collect();
        all &= !found.is_empty();
        lines.push(match found.as_slice() {
            [] => format!("{:<20} NOT FOUND", switch.name()),
            found => format!("{:<20} found: {}", switch.name(), found.join(", ")),
        });
    }
    say("--- broken safeguards");
    for line in &lines {
        say(line);
    }
    Ok(all)
}
