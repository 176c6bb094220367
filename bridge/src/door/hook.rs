//! Incoming webhooks: addresses that somebody else's program posts to without a token of its own.
//!
//! A hook is a member of its room, a user of its own that nobody signs in as, so the log says who made it, the writer decides
//! what it may do, and whoever may remove a member may revoke it. Its address names that membership under a MAC, made by
//! the key that all bridges share: nothing is kept of it, every bridge knows it, and it cannot be shown a second time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use natterjack_nats_config::contract::{Id, Principal, Seq};
use sha2::Sha256;

const VERSION: u8 = 1;
/// Apart from the MACs of cursors and tickets, which the same key makes.
const PURPOSE: &[u8] = b"natterjack hook";
/// HMAC-SHA256, truncated as RFC 2104 allows: half of it.
const MAC: usize = 16;
/// Version, the membership's sequence.
const FIELDS: usize = 1 + 8;

/// Makes and reads the addresses of hooks.
pub(crate) struct Hooks(Hmac<Sha256>);

/// What an address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// The hook's own user.
    pub(crate) who: Principal,
    /// Where it sends to.
    pub(crate) room: Id,
    /// The event that made it a member. A membership given again is another one: an address that was revoked stays so.
    pub(crate) since: Seq,
}

impl Hooks {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        // HMAC fills a key up with zeros to the hash's block (RFC 2104), so this is the key itself.
        let mut block = [0; 64];
        block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        Self(<Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into()).chain_update(PURPOSE))
    }

    /// The secret part of a hook's address.
    pub(crate) fn secret(&self, hook: &Hook) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(hook.since.0.to_be_bytes());
        // No id holds a dot.
        bytes.extend(format!("{}.{}.{}", hook.who.tenant, hook.who.user, hook.room).bytes());
        let tag = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(tag.iter().take(MAC));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a secret says; `None` if it is none of ours.
    pub(crate) fn read(&self, secret: &str) -> Option<Hook> {
        let bytes = URL_SAFE_NO_PAD.decode(secret).ok()?;
        let (said, tag) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        let is_ours = self.0.clone().chain_update(said).verify_truncated_left(tag).is_ok();
        let (fields, names) = said.split_at_checked(FIELDS).filter(|_| is_ours)?;
        let (version, since) = fields.split_first()?;
        if *version != VERSION {
            return None;
        }
        let names = std::str::from_utf8(names).ok()?;
        let [tenant, user, room] = names.split('.').collect::<Vec<_>>().try_into().ok()?;
        Some(Hook {
            who: Principal {
                tenant: tenant.parse().ok()?,
                user: user.parse().ok()?,
            },
            room: room.parse().ok()?,
            since: Seq(u64::from_be_bytes(since.try_into().ok()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook() -> Hook {
        Hook {
            who: Principal {
                tenant: "main".parse().unwrap(),
                user: "hook-1f3a".parse().unwrap(),
            },
            room: "lobby".parse().unwrap(),
            since: Seq(43008),
        }
    }

    #[test]
    fn an_address_says_what_it_was_made_of_to_who_has_the_key() {
        let hooks = Hooks::new(&[7; 32]);
        let secret = hooks.secret(&hook());
        assert_eq!(hooks.read(&secret), Some(hook()));
        assert_eq!(Hooks::new(&[8; 32]).read(&secret), None);
        assert!(
            secret
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }

    #[test]
    fn an_address_that_is_altered_anywhere_is_none() {
        let hooks = Hooks::new(&[7; 32]);
        let secret = hooks.secret(&hook());
        let bytes = URL_SAFE_NO_PAD.decode(&secret).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(hooks.read(&URL_SAFE_NO_PAD.encode(altered)), None, "byte {at}");
            assert_eq!(hooks.read(&URL_SAFE_NO_PAD.encode(&bytes[..at])), None, "cut at {at}");
        }
        for text in ["", "x", "!", "AAAA", &secret[1..]] {
            assert_eq!(hooks.read(text), None, "{text:?}");
        }
    }
}
