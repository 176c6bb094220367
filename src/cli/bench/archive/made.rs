//! What is said: the same in every run. Words as frequent as they are in languages: the tenth a tenth as often as the first.

use bytes::Bytes;
use natterjack_nats_config::contract::{Event, Id, Kind, ReadBody, Seq, TENANT_ROOM};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::value::to_raw_value;

/// Different words of each language.
const WORDS: u32 = 20_000;
/// Words of a message: 110 bytes in letters, 42 in Chinese.
const IN_A_MESSAGE: u32 = 15;
const IN_A_CHINESE_MESSAGE: u32 = 7;
/// One message in so many is Chinese.
const CHINESE: u64 = 8;
/// Words are asked for from this rank on: those before stand in more than every hundredth message.
const ASKED_FROM: u32 = 150;
/// Who has read half of everything.
pub(super) const READER: &str = "reader";

pub(super) struct Made {
    rng: StdRng,
    rooms: Vec<Room>,
    /// Of the tenant itself, where what is read is noted.
    tenant: Room,
    wanted: u64,
    messages: u64,
    marks: u32,
    last_message: Seq,
    events: u64,
}

struct Room {
    id: Id,
    n: u64,
    last: Seq,
}

impl Made {
    pub(super) fn new(rooms: u32, messages: u64) -> anyhow::Result<Self> {
        let room = |id: &str| {
            anyhow::Ok(Room {
                id: id.parse()?,
                n: 0,
                last: Seq::ZERO,
            })
        };
        let rooms = (0..rooms).map(|number| room(&format!("room-{number:04}")));
        Ok(Self {
            rng: StdRng::seed_from_u64(1),
            rooms: rooms.collect::<Result<_, _>>()?,
            tenant: room(TENANT_ROOM)?,
            wanted: messages,
            messages: 0,
            marks: 0,
            last_message: Seq::ZERO,
            events: 0,
        })
    }

    pub(super) fn rooms(&self) -> Vec<Id> {
        self.rooms.iter().map(|room| room.id.clone()).collect()
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn last_message(&self) -> Seq {
        self.last_message
    }

    /// The next frame; none when everything is said.
    pub(super) fn frame(&mut self, number: u64, events: u32) -> anyhow::Result<Option<Bytes>> {
        if self.messages == self.wanted {
            return Ok(None);
        }
        let mut frame = Vec::new();
        for index in 0..usize::try_from(events)? {
            let seq = Seq::of(number, index);
            // Half through, the reader has read everything.
            let is_mark = self.messages >= self.wanted / 2 && usize::try_from(self.marks)? < self.rooms.len();
            let event = if is_mark { self.mark(seq)? } else { self.message(seq)? };
            serde_json::to_writer(&mut frame, &event)?;
            frame.push(b'\n');
            self.events += 1;
            if self.messages == self.wanted {
                break;
            }
        }
        Ok(Some(frame.into()))
    }

    fn message(&mut self, seq: Seq) -> anyhow::Result<Event> {
        let text = if self.rng.random_ratio(1, u32::try_from(CHINESE)?) {
            sentence(&mut self.rng, IN_A_CHINESE_MESSAGE, "", chinese)
        } else {
            sentence(&mut self.rng, IN_A_MESSAGE, " ", latin)
        };
        let from = format!("user-{:04}", self.rng.random_range(0..5000));
        let key = format!("{:016x}", self.rng.random::<u64>());
        let place = self.rng.random_range(0..self.rooms.len());
        let Some(room) = self.rooms.get_mut(place) else {
            anyhow::bail!("there are no rooms");
        };
        self.messages += 1;
        self.last_message = seq;
        let body = to_raw_value(&serde_json::json!({ "text": text }))?;
        event(room, (seq, Kind::Msg), (&from, Some(key)), body)
    }

    fn mark(&mut self, seq: Seq) -> anyhow::Result<Event> {
        let read = self.rooms.get(usize::try_from(self.marks)?);
        let Some(Room { id, last, .. }) = read else {
            anyhow::bail!("there are no rooms");
        };
        let body = to_raw_value(&ReadBody {
            room: id.clone(),
            seq: *last,
        })?;
        self.marks += 1;
        event(&mut self.tenant, (seq, Kind::Read), (READER, None), body)
    }
}

fn event(
    room: &mut Room,
    (seq, kind): (Seq, Kind),
    (from, key): (&str, Option<String>),
    body: Box<serde_json::value::RawValue>,
) -> anyhow::Result<Event> {
    let prev = std::mem::replace(&mut room.last, seq);
    room.n += 1;
    Ok(Event {
        v: 1,
        seq,
        n: room.n,
        prev,
        id: format!("019400c0-0000-7000-8000-{:012x}", seq.0),
        tenant: "main".parse()?,
        room: room.id.clone(),
        via: None,
        erased: None,
        from: from.parse()?,
        kind,
        at: "2026-11-23T06:00:00.123Z".to_owned(),
        key,
        reply_to: None,
        target: None,
        body,
    })
}

fn sentence(rng: &mut StdRng, words: u32, between: &str, word: fn(u32) -> String) -> String {
    let words: Vec<String> = (0..words).map(|_| word(rank(rng, 1))).collect();
    words.join(between)
}

/// A word's rank, from `first` on: each half as likely as that of half the rank.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between `first` and the number of words"
)]
fn rank(rng: &mut StdRng, first: u32) -> u32 {
    let (first, last) = (f64::from(first), f64::from(WORDS));
    (first * (last / first).powf(rng.random::<f64>())) as u32
}

/// A word that somebody looks for, and the most frequent one.
pub(super) fn asked(rng: &mut StdRng) -> String {
    latin(rank(rng, ASKED_FROM))
}

pub(super) fn asked_in_chinese(rng: &mut StdRng) -> String {
    chinese(rank(rng, ASKED_FROM))
}

pub(super) fn frequent() -> String {
    latin(1)
}

/// A word of letters: syllables that count.
fn latin(rank: u32) -> String {
    const SYLLABLES: [&str; 20] = [
        "ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za", "ne", "li",
        "to", "mu",
    ];
    let mut rest = rank;
    let mut word = String::new();
    for _ in 0..4 {
        let syllable = usize::try_from(rest % 20).ok().and_then(|at| SYLLABLES.get(at));
        word.push_str(syllable.copied().unwrap_or_default());
        rest /= 20;
        if rest == 0 {
            break;
        }
    }
    word
}

/// A word of two characters, out of a thousand.
fn chinese(rank: u32) -> String {
    let character = |number: u32| char::from_u32(0x4e00 + number % 1000).unwrap_or('一');
    [character(rank * 7), character(rank / 3 + 500)].iter().collect()
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::events_of;

    use super::*;

    #[test]
    fn frames_are_a_log() {
        let mut made = Made::new(3, 1000).unwrap();
        let (mut count, mut number) = (0, 1);
        while let Some(frame) = made.frame(number, 70).unwrap() {
            let lines = events_of(number, &frame).unwrap();
            count += lines.len() as u64;
            number += 1;
        }
        assert_eq!((made.messages(), made.events(), count), (1000, 1003, 1003));
        assert_eq!(made.last_message().frame(), number - 1);
        assert_eq!(made.rooms.iter().map(|room| room.n).sum::<u64>(), 1000);
    }

    #[test]
    fn words_are_different_and_frequent_ones_are_frequent() {
        let words: std::collections::HashSet<String> = (1..WORDS).map(latin).collect();
        assert_eq!(words.len(), WORDS as usize - 1);
        let mut rng = StdRng::seed_from_u64(7);
        let ranks: Vec<u32> = (0..10_000).map(|_| rank(&mut rng, 1)).collect();
        let first = ranks.iter().filter(|rank| **rank == 1).count();
        assert!((500..900).contains(&first), "{first}");
        assert!(ranks.iter().all(|rank| (1..WORDS).contains(rank)));
        assert!((0..1000).all(|_| asked(&mut rng) != frequent()));
    }
}
