use anyhow::{Context, bail};
use natterjack_authz::token::Issuer;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Id, Principal};
use std::time::Duration;

use crate::config::{Config, Global};
use crate::process::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    /// Whom the token is for
    #[arg(long)]
    user: Id,
    /// The user's tenant [default: the configured one, main]
    #[arg(long)]
    tenant: Option<Id>,
    /// How long it is good for: 90s, 15m, 1h, 30d
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
}

pub(crate) fn run(global: &Global, token: &Token) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let issuer = Issuer::load(&config.keys_dir()).with_context(|| {
        format!(
            "{} holds no key to sign with; `natterjack up` makes one at its first start",
            config.data.display()
        )
    })?;
    let principal = Principal {
        tenant: token.tenant.clone().unwrap_or(config.tenant),
        user: token.user.clone(),
    };
    say(issuer.issue(&principal, token.ttl, clock::now_ms())?)
}

/// A whole number and a unit: s, m, h or d.
fn parse_ttl(text: &str) -> anyhow::Result<Duration> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => bail!("write a number and a unit, s, m, h or d: for example 1h"),
    };
    let number: u64 = number
        .parse()
        .context("write a whole number and a unit: for example 1h")?;
    match number.checked_mul(seconds) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => bail!("the time must be more than nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_ttl("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_ttl("30d").unwrap(), Duration::from_hours(720));
        for bad in ["", "1", "h", "-1h", "1w", "0s", "1.5h", "99999999999999999999d", "1ä"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
