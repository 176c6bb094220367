use crate::config::{Config, DEFAULT_FILE, Global};
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigCommand {
    /// Print the default file, every setting explained, instead of the settings in force
    #[arg(long)]
    default: bool,
}

pub(crate) fn run(global: &Global, show: &ConfigCommand) -> anyhow::Result<()> {
    if show.default {
        return say(DEFAULT_FILE.trim_end());
    }
    let config = Config::load(global)?;
    say(toml::to_string(&config)?.trim_end())
}
