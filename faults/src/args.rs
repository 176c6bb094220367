use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;

use crate::broken::Switch;
use crate::nemesis::{Kind, Needs};

/// Runs a whole Natterjack on this machine, sends and reads through every door while faults happen to it, and checks in
/// the end that every promise was kept: nothing acknowledged is lost, nothing stands twice, one order for all readers, the
/// archive equals the log, nothing is heard or written after a removal.
///
/// A house is a nats-server and two processes each of store, bridge and authz; the clients speak HTTP, NATS and MQTT.
/// Everything is made in a temporary folder and removed in the end; where promises were broken, the folder is kept and
/// named. The exit code is 0 if all promises were kept, 1 if one was broken, 2 if the run itself failed.
#[derive(Debug, Clone, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(name = "natterjack-faults", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Decides which faults come when, and what the clients do; the same seed gives the same [default: a new one, which is
    /// printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long faults happen: 45s, 10m, 2h
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Only these faults, separated by commas; --list shows them [default: all that this machine can do]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT")]
    pub(crate) faults: Vec<Kind>,
    /// No faults at all: is everything well in peace?
    #[arg(long, conflicts_with = "faults")]
    pub(crate) peace: bool,
    /// Show the faults, what each does and what it needs, and end
    #[arg(long)]
    pub(crate) list: bool,
    /// Each fault lasts a few seconds at most
    #[arg(long)]
    pub(crate) quick: bool,
    /// nats-servers: 1, or a cluster of 3
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub(crate) nodes: u8,
    /// Senders over HTTP, each with one message on its way at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) senders: u16,
    /// Milliseconds that a sender waits between its messages
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) pause: u64,
    /// Allow this many times as long without an acknowledgement: for machines that have other work
    #[arg(long, default_value_t = 1, value_name = "FACTOR")]
    pub(crate) slack: u64,
    /// Write the report to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The program under test [default: natterjack beside this program; it is built if it is missing]
    #[arg(long, value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
    /// Where the temporary folder is made [default: the system's]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the folder whatever the result
    #[arg(long)]
    pub(crate) keep: bool,
    /// Break one safeguard of the program under test: this run must find violations
    #[arg(long = "break", value_enum, value_name = "SAFEGUARD")]
    pub(crate) switch: Option<Switch>,
    /// Break each safeguard in turn, and tell which of them were found: one that was not fails
    #[arg(long)]
    pub(crate) controls: bool,
}

const EXAMPLES: &str = "Examples:
  natterjack-faults --quick                                   a minute of everything that this machine can do
  natterjack-faults --seed 7 --faults kill-writer,stop-writer --duration 10m
  natterjack-faults --duration 20m --json report.json         a long run; as root also faults of the disk
  natterjack-faults --controls                                is the harness itself any good?";

impl Arguments {
    /// The faults of this run. Those that were asked for and cannot be done are an error; by default they are left out, with a
    /// word about it.
    pub(crate) fn kinds(&self, machine: &Machine) -> anyhow::Result<Vec<Kind>> {
        if self.peace {
            return Ok(Vec::new());
        }
        if self.faults.is_empty() {
            let all: Vec<Kind> = all_kinds().collect();
            // A full log changes what can be sent in the rest of the run, so it has to be asked for.
            return Ok(all
                .into_iter()
                .filter(|kind| kind.needs() != Needs::SmallLog && self.cannot(machine, kind.needs()).is_none())
                .collect());
        }
        for kind in &self.faults {
            if let Some(reason) = self.cannot(machine, kind.needs()) {
                bail!("{} cannot be done here: {reason}", kind.name());
            }
        }
        Ok(self.faults.clone())
    }

    fn cannot(&self, machine: &Machine, needs: Needs) -> Option<&'static str> {
        let alone = matches!(needs, Needs::Cluster | Needs::ClusterMount) && self.nodes == 1;
        alone.then_some("it needs --nodes 3").or_else(|| machine.cannot(needs))
    }
}

/// Every kind of fault.
pub(crate) fn all_kinds() -> impl Iterator<Item = Kind> {
    <Kind as clap::ValueEnum>::value_variants().iter().copied()
}

/// What this machine can do.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) root: bool,
    pub(crate) faketime: Option<PathBuf>,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let faketime = std::env::var_os("LIBFAKETIME").map(PathBuf::from).or_else(|| {
            let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
            let files = folders.map(|folder| PathBuf::from(folder).join("faketime/libfaketimeMT.so.1"));
            files.into_iter().find(|file| file.is_file())
        });
        Self {
            root: rustix::process::geteuid().is_root() && cfg!(target_os = "linux"),
            faketime,
        }
    }

    /// Why something cannot be done here.
    pub(crate) fn cannot(&self, needs: Needs) -> Option<&'static str> {
        match needs {
            Needs::Mount | Needs::ClusterMount if !self.root => Some("only root on Linux can mount a file system"),
            Needs::Cables if !self.root => Some("only root on Linux can make a network namespace"),
            Needs::Faketime if self.faketime.is_none() => {
                Some("libfaketime is missing (Debian: apt install libfaketime, or LIBFAKETIME=…/libfaketimeMT.so.1)")
            }
            _ => None,
        }
    }
}

/// A whole number and a unit: s, m or h.
fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    const FORM: &str = "write a number and a unit, s, m or h: for example 90s";
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!(FORM),
    };
    let number: u64 = number.parse().context(FORM)?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("2h").unwrap(), Duration::from_hours(2));
        for bad in ["", "s", "1", "1d", "-1s", "1.5m", "1ä"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_machine_cannot_do_is_left_out_unless_it_was_asked_for() {
        let machine = Machine {
            root: false,
            faketime: None,
        };
        let kinds = |text: &[&str]| Arguments::parse_from([&["x"], text].concat()).kinds(&machine);
        let all = kinds(&[]).unwrap();
        assert!(all.contains(&Kind::KillServer) && !all.contains(&Kind::PowerCut) && !all.contains(&Kind::LogFull));
        assert_eq!(
            kinds(&["--faults", "kill-server,log-full"]).unwrap(),
            [Kind::KillServer, Kind::LogFull]
        );
        assert!(
            kinds(&["--faults", "power-cut"])
                .unwrap_err()
                .to_string()
                .contains("root")
        );
    }
}
