use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use natterjack_nats_config::contract::Seq;
use sha2::{Digest, Sha256};

use super::{Heard, Reader};

const VERSION: u8 = 2;
/// Version, epoch, sequence, reader, filter, heard.
const FIELDS: usize = 1 + 4 + 8 + 8 + 8 + 8;
/// The version before, which said nothing of what is not kept.
const FORMER_VERSION: u8 = 1;
const FORMER_FIELDS: usize = FIELDS - 8;
/// HMAC-SHA256, truncated as RFC 2104 allows: half of it.
const MAC: usize = 16;

/// Makes and reads cursors: base64url of the fields and a MAC, the same for every bridge that has the key.
///
/// A cursor only says where its reader stands, never what they may see: that is judged by the rights of now.
pub(crate) struct Cursors {
    mac: Hmac<Sha256>,
    epoch: u32,
}

/// Why a cursor is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CursorError {
    /// Not made by us, or damaged.
    #[error("it was not made here, or was changed on its way")]
    NotOurs,
    /// Made for somebody else.
    #[error("it was made for another user")]
    OtherReader,
    /// Made for another selection of rooms.
    #[error("it was made for another `rooms`")]
    OtherFilter,
    /// From before the log was replaced.
    #[error("it is from another epoch of the log")]
    OtherEpoch,
}

struct Fields {
    epoch: u32,
    seq: Seq,
    who: [u8; 8],
    filter: [u8; 8],
    heard: Heard,
}

impl Cursors {
    pub(crate) fn new(key: &[u8; 32], epoch: u32) -> Self {
        // HMAC fills a key up with zeros to the hash's block (RFC 2104), so this is the key itself.
        let mut block = [0; 64];
        block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        Self {
            mac: <Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into()),
            epoch,
        }
    }

    /// The cursor of a reader who has everything up to `seq`, and has `heard` so much of what is not kept.
    pub(crate) fn make(&self, reader: &Reader, seq: Seq, heard: Heard) -> String {
        let mut bytes = Vec::with_capacity(FIELDS + MAC);
        bytes.push(VERSION);
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(seq.0.to_be_bytes());
        bytes.extend(hash_of_reader(reader));
        bytes.extend(hash_of_filter(reader));
        bytes.extend(heard.bridge.to_be_bytes());
        bytes.extend(heard.number.to_be_bytes());
        let mac = self.mac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(mac.iter().take(MAC));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Up to where this reader has everything, and has heard what is not kept.
    pub(crate) fn parse(&self, cursor: &str, reader: &Reader) -> Result<(Seq, Heard), CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| CursorError::NotOurs)?;
        let len = match bytes.first() {
            Some(&FORMER_VERSION) => FORMER_FIELDS,
            _ => FIELDS,
        };
        let (fields, mac) = bytes.split_at_checked(len).ok_or(CursorError::NotOurs)?;
        if mac.len() != MAC
            || self
                .mac
                .clone()
                .chain_update(fields)
                .verify_truncated_left(mac)
                .is_err()
        {
            return Err(CursorError::NotOurs);
        }
        let fields = read(fields).ok_or(CursorError::NotOurs)?;
        if fields.who != hash_of_reader(reader) {
            return Err(CursorError::OtherReader);
        }
        if fields.filter != hash_of_filter(reader) {
            return Err(CursorError::OtherFilter);
        }
        if fields.epoch != self.epoch {
            return Err(CursorError::OtherEpoch);
        }
        Ok((fields.seq, fields.heard))
    }
}

fn read(fields: &[u8]) -> Option<Fields> {
    let (version, rest) = fields.split_first()?;
    let (epoch, rest) = rest.split_first_chunk::<4>()?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (who, rest) = rest.split_first_chunk::<8>()?;
    let (filter, rest) = rest.split_first_chunk::<8>()?;
    let heard = match *version {
        VERSION => {
            let (bridge, rest) = rest.split_first_chunk::<4>()?;
            Heard {
                bridge: u32::from_be_bytes(*bridge),
                number: u32::from_be_bytes(*rest.first_chunk::<4>()?),
            }
        }
        FORMER_VERSION => Heard::default(),
        _ => return None,
    };
    Some(Fields {
        epoch: u32::from_be_bytes(*epoch),
        seq: Seq(u64::from_be_bytes(*seq)),
        who: *who,
        filter: *filter,
        heard,
    })
}

fn hash_of_reader(reader: &Reader) -> [u8; 8] {
    hash([reader.who.tenant.as_str(), reader.who.user.as_str()].into_iter())
}

fn hash_of_filter(reader: &Reader) -> [u8; 8] {
    hash(reader.filter.rooms().map(natterjack_nats_config::Id::as_str))
}

/// Ids hold no dot, so a dot after each tells them apart.
fn hash<'a>(ids: impl Iterator<Item = &'a str>) -> [u8; 8] {
    let mut hash = Sha256::new();
    for id in ids {
        hash.update(id);
        hash.update(".");
    }
    hash.finalize().first_chunk::<8>().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Principal;
    use proptest::prelude::*;

    use super::*;

    fn reader(tenant: &str, user: &str, rooms: &[&str]) -> Reader {
        Reader {
            who: Principal {
                tenant: tenant.parse().unwrap(),
                user: user.parse().unwrap(),
            },
            filter: rooms.iter().map(|room| room.parse().unwrap()).collect(),
        }
    }

    proptest! {
        #[test]
        fn parsing_undoes_making(user in "[A-Za-z0-9_-]{1,64}", rooms in prop::collection::vec("[a-z]{1,8}", 0..4), seq in any::<u64>(), epoch in any::<u32>()) {
            let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
            let reader = reader("main", &user, &rooms);
            let cursors = Cursors::new(&[7; 32], epoch);
            let heard = Heard { bridge: epoch.rotate_left(7), number: epoch ^ 5 };
            prop_assert_eq!(cursors.parse(&cursors.make(&reader, Seq(seq), heard), &reader), Ok((Seq(seq), heard)));
        }

        #[test]
        fn a_change_anywhere_is_refused(seq in any::<u64>(), at in 0usize..FIELDS + MAC, flip in 1u8..) {
            let reader = reader("main", "alice", &[]);
            let cursors = Cursors::new(&[7; 32], 1);
            let mut bytes = URL_SAFE_NO_PAD.decode(cursors.make(&reader, Seq(seq), Heard::default())).unwrap();
            bytes[at] ^= flip;
            prop_assert_eq!(cursors.parse(&URL_SAFE_NO_PAD.encode(bytes), &reader), Err(CursorError::NotOurs));
        }

        #[test]
        fn junk_is_refused(junk in "\\PC{0,80}") {
            let cursors = Cursors::new(&[7; 32], 1);
            prop_assert_eq!(cursors.parse(&junk, &reader("main", "alice", &[])), Err(CursorError::NotOurs));
        }
    }

    #[test]
    fn each_way_of_not_fitting_has_its_name() {
        let alice = reader("main", "alice", &["a", "b"]);
        let cursors = Cursors::new(&[7; 32], 1);
        let cursor = cursors.make(&alice, Seq(9), Heard::default());
        let table = [
            (
                &cursors,
                reader("main", "alice", &["b", "a"]),
                Ok((Seq(9), Heard::default())),
            ),
            (
                &cursors,
                reader("main", "bob", &["a", "b"]),
                Err(CursorError::OtherReader),
            ),
            (
                &cursors,
                reader("mainalice", "x", &["a", "b"]),
                Err(CursorError::OtherReader),
            ),
            (
                &cursors,
                reader("other", "alice", &["a", "b"]),
                Err(CursorError::OtherReader),
            ),
            (&cursors, reader("main", "alice", &["a"]), Err(CursorError::OtherFilter)),
            (
                &cursors,
                reader("main", "alice", &["ab"]),
                Err(CursorError::OtherFilter),
            ),
            (&cursors, reader("main", "alice", &[]), Err(CursorError::OtherFilter)),
            (&Cursors::new(&[7; 32], 2), alice.clone(), Err(CursorError::OtherEpoch)),
            (&Cursors::new(&[8; 32], 1), alice.clone(), Err(CursorError::NotOurs)),
        ];
        for (cursors, reader, expected) in table {
            assert_eq!(cursors.parse(&cursor, &reader), expected, "{reader:?}");
        }
        for bad in [
            "",
            "earliest",
            &cursor[1..],
            &format!("{cursor}A"),
            &format!("{cursor}="),
            &cursor[..8],
        ] {
            assert_eq!(cursors.parse(bad, &alice), Err(CursorError::NotOurs), "{bad}");
        }
    }
}
