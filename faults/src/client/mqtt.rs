use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::Rng;
use rand::rngs::StdRng;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::sync::{OwnedRwLockReadGuard, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::door::{Message, inbound, payload};
use super::setting::{Setting, Tally};
use super::wire::Seen;
use crate::history::{Got, Ms, Name, Outcome, Reader, ReaderKind, Send, hash};
use crate::house::{House, TENANT};
use natterjack_nats_config::contract::{Kind, Subjects};

/// How long a device waits for its own event before it publishes again.
const AGAIN_AFTER: Ms = 2000;
/// How long it tries for one message. One whose event it missed while it was away is not told of again: a repetition is a
/// duplicate.
const GIVE_UP: Ms = 10_000;
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Packets of ours that may wait.
const QUEUE: usize = 64;
const MAX_PACKET: usize = 2 << 20;

/// A device over MQTT: it publishes, and takes its own event on the room's topic for the receipt.
pub(crate) struct Mqtt {
    pub(crate) name: String,
    pub(crate) user: Name,
    pub(crate) rooms: Vec<Name>,
    pub(crate) rng: StdRng,
    /// Which of the servers it speaks to.
    pub(crate) server: usize,
}

/// What it knows.
struct Device {
    name: String,
    user: Name,
    sends: Vec<Send>,
    got: Vec<Got>,
    waiting: Option<Waiting>,
}

/// The message whose event it waits for.
struct Waiting {
    room: Name,
    key: String,
    from: Ms,
    published: Ms,
    _alone: OwnedRwLockReadGuard<()>,
}

impl Mqtt {
    /// Sends and reads until it is told to stop.
    pub(crate) async fn run(mut self, setting: Setting) -> anyhow::Result<(Vec<Send>, Reader)> {
        let (client, events) = self.connect(&setting.house)?;
        let (tell, mut packets) = mpsc::channel(QUEUE);
        let _events = AbortOnDropHandle::new(tokio::spawn(hear(events, tell)));
        let mut device = Device {
            name: self.name.clone(),
            user: self.user.clone(),
            sends: Vec::new(),
            got: Vec::new(),
            waiting: None,
        };
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                packet = packets.recv() => match packet {
                    Some(Packet::ConnAck(_)) => self.subscribe(&client)?,
                    Some(Packet::Publish(message)) => device.take(&setting, &message.payload),
                    Some(_) => {}
                    None => break,
                },
                _ = look.tick() => self.go_on(&setting, &client, &mut device),
                () = setting.stop_reading.cancelled() => break,
            }
        }
        device.give_up(&setting);
        let reader = Reader {
            name: format!("{} Live", self.name).into(),
            user: self.user,
            kind: ReaderKind::Live,
            rooms: self.rooms,
            since: Some(0),
            whole: true,
            got: device.got,
        };
        Ok((device.sends, reader))
    }

    fn connect(&self, house: &House) -> anyhow::Result<(AsyncClient, EventLoop)> {
        let all = house.servers.addresses();
        let (_, address) = all.get(self.server % all.len().max(1)).context("there is no server")?;
        let id = Subjects::mqtt_client_id(&TENANT.parse()?, &self.user.parse()?);
        let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
        options
            .set_credentials(self.user.as_ref(), house.token(&self.user)?)
            .set_keep_alive(Duration::from_secs(20))
            .set_clean_session(true)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET);
        Ok(AsyncClient::new(options, QUEUE))
    }

    fn subscribe(&self, client: &AsyncClient) -> anyhow::Result<()> {
        for room in &self.rooms {
            let subject = Subjects::default().room_log(&TENANT.parse()?, &room.parse()?);
            client.try_subscribe(subject.replace('.', "/"), QoS::AtMostOnce)?;
        }
        Ok(())
    }

    /// Publishes the next message, or once more the one whose event did not come.
    fn go_on(&mut self, setting: &Setting, client: &AsyncClient, device: &mut Device) {
        let now = setting.clock.ms();
        if device
            .waiting
            .as_ref()
            .is_some_and(|waiting| now > waiting.from + GIVE_UP)
        {
            device.give_up(setting);
        }
        if device.waiting.is_none() && !self.rooms.is_empty() {
            let alone = Arc::clone(&setting.quiet).try_read_owned();
            let Some(alone) = alone.ok().filter(|_| !setting.stop_sending.is_cancelled()) else {
                return;
            };
            let at = self.rng.random_range(0..self.rooms.len());
            device.waiting = self.rooms.get(at).map(|room| Waiting {
                room: room.clone(),
                key: format!("{}-{}", device.name, device.sends.len()),
                from: now,
                published: 0,
                _alone: alone,
            });
        }
        let Some(waiting) = &mut device.waiting else { return };
        if waiting.published != 0 && now < waiting.published + AGAIN_AFTER {
            return;
        }
        if waiting.published != 0 {
            Tally::count(&setting.tally.retries);
        }
        waiting.published = now;
        let (room, key) = (&waiting.room, &waiting.key);
        let message = payload(Message { room, key, text: key });
        if let Some(topic) = inbound(&self.user, room, Kind::Msg) {
            // A full queue means that there is no connection: the next look tries again.
            let _ = client.try_publish(topic.replace('.', "/"), QoS::AtLeastOnce, false, message);
        }
    }
}

/// Hands on what comes in. A loop of its own: dropping a poll would drop the connection that it is opening.
async fn hear(mut events: EventLoop, tell: mpsc::Sender<Packet>) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(packet)) => {
                if tell.send(packet).await.is_err() {
                    return;
                }
            }
            Ok(Event::Outgoing(_)) => {}
            Err(_) => tokio::time::sleep(RECONNECT_AFTER).await,
        }
    }
}

impl Device {
    fn take(&mut self, setting: &Setting, bytes: &[u8]) {
        let Ok(seen) = serde_json::from_slice::<Seen>(bytes) else {
            return;
        };
        let at = setting.clock.ms();
        Tally::count(&setting.tally.heard);
        self.got.push(Got {
            at,
            seq: seen.seq,
            hash: hash(bytes),
        });
        let is_own = |waiting: &mut Waiting| *seen.from == *self.user && seen.key.as_deref() == Some(&waiting.key);
        if let Some(waiting) = self.waiting.take_if(is_own) {
            setting.tally.ack(at);
            self.end(waiting, at, Outcome::Ok(seen.receipt()));
        }
    }

    fn give_up(&mut self, setting: &Setting) {
        if let Some(waiting) = self.waiting.take() {
            Tally::count(&setting.tally.unknown);
            self.end(waiting, setting.clock.ms(), Outcome::Unknown);
        }
    }

    fn end(&mut self, waiting: Waiting, to: Ms, outcome: Outcome) {
        self.sends.push(Send {
            user: self.user.clone(),
            room: waiting.room,
            key: waiting.key,
            from: waiting.from,
            to,
            outcome,
            again: Vec::new(),
        });
    }
}
