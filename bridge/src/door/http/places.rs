//! Places for connections: so many in all, and so many from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// How much of an IPv6 address names a site rather than a machine (RFC 6177): whoever has one address has all of them.
const SITE_BITS: u32 = 64;

/// Who may connect still. 0 is no limit.
pub(super) struct Places {
    in_all: usize,
    per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    in_all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All are taken.
    All,
    /// All that one address may have.
    Address,
}

/// A connection's place, free again when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    counts_in_all: bool,
    address: Option<IpAddr>,
}

impl Places {
    pub(super) fn new(in_all: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            in_all,
            per_address,
            taken: Mutex::default(),
        })
    }

    /// A place for a connection; without an address it counts among all, and for no address.
    pub(super) fn connect(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Full> {
        self.take(true, address)
    }

    /// A place for a client whose connection ends at a proxy, which has a place among all itself.
    pub(super) fn behind_proxy(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        self.take(false, Some(address))
    }

    fn take(self: &Arc<Self>, counts_in_all: bool, address: Option<IpAddr>) -> Result<Place, Full> {
        let address = address.filter(|_| self.per_address > 0).map(site);
        let mut taken = self.taken.lock();
        if counts_in_all && self.in_all > 0 && taken.in_all >= self.in_all {
            return Err(Full::All);
        }
        if let Some(address) = address {
            let of_address = taken.by_address.entry(address).or_default();
            if *of_address >= self.per_address {
                return Err(Full::Address);
            }
            *of_address += 1;
        }
        taken.in_all += usize::from(counts_in_all);
        drop(taken);
        Ok(Place {
            places: Arc::clone(self),
            counts_in_all,
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.in_all -= usize::from(self.counts_in_all);
        if let Some(address) = self.address
            && let Some(of_address) = taken.by_address.get_mut(&address)
        {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

/// What counts as one address.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (Ipv6Addr::BITS - SITE_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn so_many_in_all_and_so_many_from_one_address() {
        let places = Places::new(3, 2);
        let take = |address: &str| places.take(true, Some(ip(address)));
        let first = take("10.0.0.1").ok().unwrap();
        let _second = take("::ffff:10.0.0.1").ok().unwrap();
        assert_eq!(take("10.0.0.1").err(), Some(Full::Address));
        let _other = take("10.0.0.2").ok().unwrap();
        assert_eq!(take("10.0.0.3").err(), Some(Full::All));
        // Behind a proxy: of the address, and not of all.
        let behind = places.behind_proxy(ip("10.0.0.2")).ok().unwrap();
        assert_eq!(places.behind_proxy(ip("10.0.0.2")).err(), Some(Full::Address));
        drop((first, behind));
        let _again = take("10.0.0.1").ok().unwrap();
        assert_eq!(
            places.taken.lock().by_address.len(),
            2,
            "nothing is kept of who has left"
        );
    }

    #[test]
    fn a_site_of_ipv6_is_one_address_and_nought_is_no_limit() {
        let places = Places::new(0, 1);
        let _one = places.take(true, Some(ip("2001:db8:0:1::1"))).ok().unwrap();
        assert_eq!(
            places.take(true, Some(ip("2001:db8:0:1:ffff::2"))).err(),
            Some(Full::Address)
        );
        let _two = places.take(true, Some(ip("2001:db8:0:2::1"))).ok().unwrap();
        let unlimited = Places::new(0, 0);
        let all: Vec<_> = (0..100)
            .map(|_| unlimited.take(true, Some(ip("10.0.0.1"))).ok().unwrap())
            .collect();
        assert_eq!((all.len(), unlimited.taken.lock().by_address.len()), (100, 0));
    }
}
