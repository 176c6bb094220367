use std::net::IpAddr;
use std::str::FromStr;

use http::HeaderMap;
use ipnet::IpNet;

/// The most hops that are looked at: more are none of ours.
const MAX_HOPS: usize = 32;

/// The proxies in front of a bridge whose word on their clients' addresses counts, and the header in which they say it.
///
/// Only one header counts: a proxy that sets one passes the other on as its client wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
}

/// The header in which proxies name those for whom they ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, by custom.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// An entry of the list of proxies that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address and no network such as 10.0.0.0/8 or fd00::/8")]
pub struct NoNetwork(String);

impl Proxies {
    /// Reads addresses and networks in CIDR notation. None: nobody is trusted, and the headers mean nothing.
    ///
    /// # Errors
    /// The first entry that is neither.
    pub fn parse(trusted: &[String], header: ForwardedHeader) -> Result<Self, NoNetwork> {
        let network = |text: &String| {
            let address = IpAddr::from_str(text).map(IpNet::from);
            address
                .or_else(|_| IpNet::from_str(text))
                .map_err(|_| NoNetwork(text.clone()))
        };
        Ok(Self {
            trusted: trusted.iter().map(network).collect::<Result<_, _>>()?,
            header,
        })
    }

    /// Whether an address is one of them.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Who asks, where `peer` is who has connected: what the nearest proxy saw, and if that was a proxy of ours as well what
    /// that one saw. What stands before the first stranger may be of that one's own making.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        for hop in self.hops(headers).into_iter().rev().take(MAX_HOPS) {
            // `unknown`, a name: from here on nobody knows.
            let Some(hop) = hop else { break };
            client = hop;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// Everybody who is named, the nearest last; none where it is no address.
    fn hops(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let lines = headers.get_all(name).iter();
        let mut hops = Vec::new();
        for line in lines {
            let elements = line.to_str().unwrap_or("unknown").split(',');
            match self.header {
                ForwardedHeader::XForwardedFor => hops.extend(elements.map(address)),
                ForwardedHeader::Forwarded => hops.extend(elements.map(forwarded_for)),
            }
        }
        hops
    }
}

/// `for=…` of one element: `for=192.0.2.1;proto=https`, `For="[2001:db8::1]:4711"`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    address(named.next()?.1.trim().trim_matches('"'))
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.parse().ok();
    let bracketed = || text.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    let with_port = || text.parse().ok().map(|address: std::net::SocketAddr| address.ip());
    plain
        .or_else(bracketed)
        .or_else(with_port)
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ForwardedHeader) -> Proxies {
        let trusted = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(str::to_owned);
        Proxies::parse(&trusted, header).unwrap()
    }

    fn client(header: ForwardedHeader, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        proxies(header).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_first_stranger_seen_from_here_is_the_client() {
        let of = |peer, lines: &[(&'static str, &str)]| client(ForwardedHeader::XForwardedFor, peer, lines);
        let name = "x-forwarded-for";
        assert_eq!(of("203.0.113.9", &[(name, "1.1.1.1")]), "203.0.113.9");
        assert_eq!(of("10.0.0.1", &[(name, "1.1.1.1")]), "1.1.1.1");
        assert_eq!(of("::ffff:10.0.0.1", &[(name, "1.1.1.1:99")]), "1.1.1.1");
        assert_eq!(of("10.0.0.1", &[(name, "6.6.6.6, 1.1.1.1")]), "1.1.1.1");
        assert_eq!(
            of("10.0.0.1", &[(name, "6.6.6.6"), (name, "1.1.1.1 , 192.0.2.7")]),
            "1.1.1.1"
        );
        assert_eq!(of("10.0.0.1", &[(name, "2001:db8::1")]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &[(name, "[2001:db8::1]:8080")]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &[(name, "6.6.6.6, unknown")]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &[(name, "unknown, 10.0.0.2")]), "10.0.0.2");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        // The other header is the client's own word.
        assert_eq!(of("10.0.0.1", &[("forwarded", "for=6.6.6.6")]), "10.0.0.1");
    }

    #[test]
    fn what_rfc_7239_writes_is_read() {
        let of = |value| client(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", value)]);
        for (value, expected) in [
            ("for=1.1.1.1", "1.1.1.1"),
            ("proto=https; For=\"1.1.1.1:47\";by=10.0.0.1", "1.1.1.1"),
            ("for=6.6.6.6, for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=1.1.1.1, for=10.0.0.3", "1.1.1.1"),
            ("for=_hidden", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            ("for=1.1.1.1, ", "10.0.0.1"),
        ] {
            assert_eq!(of(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_no_network_is_named() {
        for bad in ["", "10.0.0.0/33", "proxy", "10.0.0.1:80"] {
            let error = Proxies::parse(&[bad.to_owned()], ForwardedHeader::default()).unwrap_err();
            assert_eq!(error, NoNetwork(bad.to_owned()));
        }
        assert!(!Proxies::default().trusts("127.0.0.1".parse().unwrap()));
    }
}
