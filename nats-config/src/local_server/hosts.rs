use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{Member, RouteSecret, ServerConfig};
use crate::contract::Id;

/// A machine of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Under which name the others and clients reach it.
    pub name: String,
    /// Where it stands; see [`Member::zone`].
    pub zone: Option<Id>,
}

impl FromStr for Host {
    type Err = String;

    /// `name` or `name=zone`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, zone) = text
            .split_once('=')
            .map_or((text, None), |(name, zone)| (name, Some(zone)));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err(format!("{name:?} is no host name or IPv4 address"));
        }
        let zone = zone
            .map(|zone| zone.parse().map_err(|error| format!("zone {zone:?}: {error}")))
            .transpose()?;
        Ok(Self {
            name: name.to_owned(),
            zone,
        })
    }
}

/// The servers of a cluster on machines of their own, one for each host, to be written into files. They listen on all
/// addresses for NATS clients and for each other; the ports are those of `common`, and `port` for each other.
#[must_use]
pub fn members_on(common: &ServerConfig, secret: &RouteSecret, port: u16, hosts: &[Host]) -> Vec<ServerConfig> {
    let any = Ipv4Addr::UNSPECIFIED;
    let routes: Vec<String> = hosts.iter().map(|host| format!("{}:{port}", host.name)).collect();
    let member = |(index, host): (usize, &Host)| ServerConfig {
        server_name: common.name_of_member(index),
        nats: (any, common.nats.port()).into(),
        cluster: Some(Member {
            cluster: common.server_name.clone(),
            listen: (any, port).into(),
            routes: routes.clone(),
            secret: secret.clone(),
            host: Some(host.name.clone()),
            zone: host.zone.clone(),
            shared: common.dir.clone(),
        }),
        ..common.clone()
    };
    hosts.iter().enumerate().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_and_perhaps_a_zone() {
        let rows = [
            ("a.example.org", Some(("a.example.org", None))),
            ("10.0.0.1=east", Some(("10.0.0.1", Some("east")))),
            ("", None),
            ("a\"b", None),
            ("a b", None),
            ("user@a", None),
            ("a=", None),
            ("a=b.c", None),
        ];
        for (text, expected) in rows {
            let host = text.parse::<Host>().ok();
            let found = host
                .as_ref()
                .map(|host| (host.name.as_str(), host.zone.as_ref().map(Id::as_str)));
            assert_eq!(found, expected, "{text}");
        }
    }
}
