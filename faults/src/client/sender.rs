use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::door::{Attempt, Door, Message};
use super::setting::{Setting, Tally};
use crate::history::{Ms, Name, Outcome, Send};

/// How long a sender tries for one message.
const GIVE_UP: Ms = 60_000;
/// How old a message may be that is repeated: well inside the ten minutes for which keys are known.
const REPEAT_WITHIN: Ms = 120_000;
/// How often a message is repeated although its receipt is there.
const REPEAT: f64 = 0.02;
/// The pause before an attempt is repeated, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 20..200;

/// Somebody who sends one message after the other, each until it is known what became of it.
pub(crate) struct Sender {
    pub(crate) name: String,
    pub(crate) user: Name,
    pub(crate) rooms: Vec<Name>,
    pub(crate) door: Door,
    pub(crate) rng: StdRng,
    /// The pause between messages.
    pub(crate) pause: Duration,
}

impl Sender {
    /// Sends until it is told to stop, and gives what it knows of each message.
    pub(crate) async fn run(mut self, setting: Setting) -> Vec<Send> {
        let mut sends: Vec<Send> = Vec::new();
        while !setting.stop_sending.is_cancelled() && !self.rooms.is_empty() {
            let alone = setting.quiet.read().await;
            let room = self.rooms.get(self.rng.random_range(0..self.rooms.len())).cloned();
            let Some(room) = room else { break };
            let key = format!("{}-{}", self.name, sends.len());
            let send = self.send(&setting, room, key).await;
            note(&setting, &send);
            sends.push(send);
            if self.rng.random_bool(REPEAT) {
                self.repeat(&setting, &mut sends).await;
            }
            drop(alone);
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
        }
        sends
    }

    async fn send(&mut self, setting: &Setting, room: Name, key: String) -> Send {
        let from = setting.clock.ms();
        let outcome = self.until_known(setting, &room, &key).await;
        Send {
            user: self.user.clone(),
            room,
            key,
            from,
            to: setting.clock.ms(),
            outcome,
            again: Vec::new(),
        }
    }

    async fn until_known(&mut self, setting: &Setting, room: &str, key: &str) -> Outcome {
        let message = Message { room, key, text: key };
        let give_up = setting.clock.ms() + GIVE_UP;
        let mut doubt = false;
        loop {
            match self.door.attempt(message).await {
                Attempt::Receipt(receipt) => return Outcome::Ok(receipt),
                Attempt::Refused(code) if !doubt => return Outcome::Failed(code),
                Attempt::Refused(_) => return Outcome::Unknown,
                Attempt::NotTaken => {}
                Attempt::Unknown => doubt = true,
            }
            if setting.clock.ms() > give_up || setting.abandoned.is_cancelled() {
                return Outcome::Unknown;
            }
            Tally::count(&setting.tally.retries);
            let pause = self.rng.random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Asks again for a message that was acknowledged lately: the receipt must be the same.
    async fn repeat(&mut self, setting: &Setting, sends: &mut [Send]) {
        let oldest = setting.clock.ms().saturating_sub(REPEAT_WITHIN);
        let young = sends.partition_point(|send| send.from < oldest);
        let at = self
            .rng
            .random_range(young.min(sends.len().saturating_sub(1))..sends.len());
        let Some(send) = sends.get_mut(at) else { return };
        if !matches!(send.outcome, Outcome::Ok(_)) {
            return;
        }
        let (room, key) = (send.room.clone(), send.key.clone());
        let message = Message {
            room: &room,
            key: &key,
            text: &key,
        };
        if let Attempt::Receipt(receipt) = self.door.attempt(message).await {
            send.again.push(receipt);
        }
    }
}

fn note(setting: &Setting, send: &Send) {
    match &send.outcome {
        Outcome::Ok(_) => setting.tally.ack(send.to),
        Outcome::Failed(_) => Tally::count(&setting.tally.refused),
        Outcome::Unknown => Tally::count(&setting.tally.unknown),
    }
}
