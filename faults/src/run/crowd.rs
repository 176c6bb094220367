use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use natterjack_nats_config::local_server::KeyName;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{JoinHandle, JoinSet};

use crate::args::Arguments;
use crate::client::{
    Attempt, Door, Flapper, Http, HttpDoor, Live, Message, Mqtt, NatsDoor, Poll, Sender, Setting, Tap, connect_user,
    set_up,
};
use crate::history::{Change, History, Ms, Name, Outcome, Reader, Send};
use crate::house::ADMIN;
use crate::nemesis::STALLED;

/// How many users share the senders over HTTP: each has a bound on its keys.
const HTTP_USERS: usize = 8;
const NATS_SENDERS: usize = 3;
const DEVICES: usize = 2;
const POLLS: usize = 3;
/// How long a poll waits, in seconds, and how much it takes: by turns.
const POLL_KINDS: [(u64, usize); 3] = [(25, 1000), (2, 100), (0, 17)];
/// Who is added and removed.
const FLIP: &str = "flip";
/// How long readers may take to come to the end once nobody sends any more.
const READ_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the last message of a room is tried.
const LAST_WITHIN: Ms = 30_000;
/// Longer than live readers wait before they look by cursor.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// All clients of a run.
pub(super) struct Crowd {
    senders: JoinSet<Vec<Send>>,
    devices: JoinSet<anyhow::Result<(Vec<Send>, Reader)>>,
    polls: JoinSet<Reader>,
    lives: JoinSet<anyhow::Result<Vec<Reader>>>,
    flapper: JoinHandle<Vec<Change>>,
    tap: JoinHandle<Vec<Reader>>,
    /// How far each reader is that must come to the end.
    places: Vec<(Name, Arc<AtomicU64>)>,
}

/// Hands out seeds for the decisions of each client, in a fixed order.
struct Seeds(StdRng);

impl Seeds {
    fn next(&mut self) -> StdRng {
        StdRng::seed_from_u64(self.0.random())
    }
}

impl Crowd {
    /// Makes the rooms with their members, and sets all clients to work.
    pub(super) async fn gather(arguments: &Arguments, setting: &Setting, seed: u64) -> anyhow::Result<Self> {
        let numbered = |what: &str, count: usize| (0..count).map(|at| Name::from(format!("{what}{at}"))).collect();
        let http: Vec<Name> = numbered("http", HTTP_USERS.min(arguments.senders.into()));
        let nats: Vec<Name> = numbered("nats", NATS_SENDERS);
        let devices: Vec<Name> = numbered("dev", DEVICES);
        let mut members = [http.clone(), nats.clone(), devices.clone()].concat();
        members.extend([FLIP, STALLED].map(Name::from));
        set_up(&setting.house, &setting.rooms, &members).await?;
        let mut seeds = Seeds(StdRng::seed_from_u64(seed ^ 0x6e61_7474));
        let mut crowd = Self {
            senders: JoinSet::new(),
            devices: JoinSet::new(),
            polls: JoinSet::new(),
            lives: JoinSet::new(),
            flapper: tokio::spawn(flapper(setting, seeds.next())?.run(setting.clone())),
            tap: tokio::spawn(Tap::run(
                setting.house.look(KeyName::Bridge, "bridge").await?,
                setting.clone(),
            )),
            places: Vec::new(),
        };
        let pause = Duration::from_millis(arguments.pause);
        for at in 0..arguments.senders.into() {
            let Some(user) = http.get(at % http.len().max(1)) else {
                continue;
            };
            let door = http_door(setting, user, at)?;
            crowd.send(setting, (user, format!("{user}-{at}")), door, (seeds.next(), pause));
        }
        for user in &nats {
            let (client, _) = connect_user(&setting.house, user).await?;
            let door = Door::Nats(NatsDoor::new(client, user));
            crowd.send(setting, (user, user.to_string()), door, (seeds.next(), pause));
            crowd.live(setting, user, true);
        }
        for (server, user) in devices.iter().enumerate() {
            let device = Mqtt {
                name: user.to_string(),
                user: user.clone(),
                rooms: setting.rooms.to_vec(),
                rng: seeds.next(),
                server,
            };
            crowd.devices.spawn(device.run(setting.clone()));
        }
        crowd.poll_all(setting, &http, &mut seeds)?;
        crowd.flip(setting, &mut seeds)?;
        Ok(crowd)
    }

    fn send(&mut self, setting: &Setting, (user, name): (&Name, String), door: Door, (rng, pause): (StdRng, Duration)) {
        let sender = Sender {
            name,
            user: user.clone(),
            rooms: setting.rooms.to_vec(),
            door,
            rng,
            pause,
        };
        self.senders.spawn(sender.run(setting.clone()));
    }

    fn poll_all(&mut self, setting: &Setting, users: &[Name], seeds: &mut Seeds) -> anyhow::Result<()> {
        for (at, user) in users.iter().cycle().take(POLLS).enumerate() {
            let (wait, limit) = POLL_KINDS.get(at % POLL_KINDS.len()).copied().unwrap_or((25, 100));
            let name = Name::from(format!("{user} poll {at}"));
            self.poll(
                setting,
                (name, user),
                (setting.rooms.to_vec(), true),
                (wait, limit, seeds.next()),
            )?;
        }
        Ok(())
    }

    fn poll(
        &mut self,
        setting: &Setting,
        (name, user): (Name, &Name),
        (rooms, whole): (Vec<Name>, bool),
        (wait, limit, rng): (u64, usize, StdRng),
    ) -> anyhow::Result<()> {
        let place = Arc::new(AtomicU64::new(0));
        if whole {
            self.places.push((name.clone(), Arc::clone(&place)));
        }
        let poll = Poll {
            name,
            user: user.clone(),
            rooms,
            whole,
            bridges: bridges(setting, user, Duration::from_secs(wait))?,
            rng,
            wait,
            limit,
            place,
        };
        self.polls.spawn(poll.run(setting.clone()));
        Ok(())
    }

    fn live(&mut self, setting: &Setting, user: &Name, whole: bool) {
        let place = Arc::new(AtomicU64::new(0));
        if whole {
            self.places.push((format!("{user} live").into(), Arc::clone(&place)));
        }
        let live = Live {
            name: format!("{user} live").into(),
            user: user.clone(),
            rooms: setting.rooms.to_vec(),
            whole,
            place,
        };
        self.lives.spawn(live.run(setting.clone()));
    }

    /// Who is added to the first room and removed from it: sends there over HTTP and NATS, and reads by cursor and live.
    fn flip(&mut self, setting: &Setting, seeds: &mut Seeds) -> anyhow::Result<()> {
        let user = Name::from(FLIP);
        let room: Vec<Name> = setting.rooms.iter().take(1).cloned().collect();
        let sender = Sender {
            name: FLIP.to_owned(),
            user: user.clone(),
            rooms: room.clone(),
            door: http_door(setting, &user, 0)?,
            rng: seeds.next(),
            pause: Duration::from_millis(20),
        };
        self.senders.spawn(sender.run(setting.clone()));
        self.poll(
            setting,
            ("flip poll".into(), &user),
            (room, false),
            (2, 1000, seeds.next()),
        )?;
        self.live(setting, &user, false);
        Ok(())
    }

    /// Lets senders finish, waits until every reader is at the end, and takes down what all of them know.
    pub(super) async fn disperse(
        mut self,
        setting: &Setting,
        history: &mut History,
        troubles: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        setting.stop_sending.cancel();
        while let Some(sends) = self.senders.join_next().await {
            history.sends.extend(sends?);
        }
        history.changes = self.flapper.await?;
        let last = if setting.abandoned.is_cancelled() {
            0
        } else {
            say_the_last(setting, history).await?
        };
        let behind = |place: &AtomicU64| place.load(Ordering::Relaxed) < last;
        let all = async {
            while self.places.iter().any(|(_, place)| behind(place)) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            tokio::time::sleep(LAST_LOOK).await;
        };
        if tokio::time::timeout(READ_WITHIN, all).await.is_err() {
            for (name, place) in self.places.iter().filter(|(_, place)| behind(place)) {
                let place = place.load(Ordering::Relaxed);
                troubles.push(format!("{name} is only at seq {place} of {last} after {READ_WITHIN:?}"));
            }
        }
        setting.stop_reading.cancel();
        while let Some(ended) = self.devices.join_next().await {
            let (sends, reader) = ended??;
            history.sends.extend(sends);
            history.readers.push(reader);
        }
        while let Some(reader) = self.polls.join_next().await {
            history.readers.push(reader?);
        }
        history.readers.extend(self.tap.await?);
        while let Some(readers) = self.lives.join_next().await {
            history.readers.extend(readers??);
        }
        Ok(())
    }
}

/// One more message in each room, by which readers see that they are at the end.
async fn say_the_last(setting: &Setting, history: &mut History) -> anyhow::Result<u64> {
    let user = Name::from(ADMIN);
    let mut door = http_door(setting, &user, 0)?;
    let mut last = 0;
    for room in setting.rooms.iter() {
        let (key, from) = (format!("last-{room}"), setting.clock.ms());
        let message = Message {
            room,
            key: &key,
            text: "the end",
        };
        let mut outcome = Outcome::Unknown;
        while setting.clock.ms() < from + LAST_WITHIN {
            if let Attempt::Receipt(receipt) = door.attempt(message).await {
                last = receipt.seq;
                outcome = Outcome::Ok(receipt);
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        history.sends.push(Send {
            user: user.clone(),
            room: room.clone(),
            key,
            from,
            to: setting.clock.ms(),
            outcome,
            again: Vec::new(),
        });
    }
    Ok(last)
}

fn bridges(setting: &Setting, user: &str, wait: Duration) -> anyhow::Result<Vec<Http>> {
    let token = setting.house.token(user)?;
    let all = setting.house.bridges.iter();
    Ok(all.map(|at| Http::new(*at, token.clone()).patient(wait)).collect())
}

fn http_door(setting: &Setting, user: &str, turn: usize) -> anyhow::Result<Door> {
    Ok(Door::Http(HttpDoor::new(bridges(setting, user, Duration::ZERO)?, turn)))
}

fn flapper(setting: &Setting, rng: StdRng) -> anyhow::Result<Flapper> {
    Ok(Flapper {
        bridges: bridges(setting, ADMIN, Duration::from_secs(10))?,
        user: FLIP.into(),
        room: setting.rooms.first().cloned().unwrap_or_else(|| FLIP.into()),
        rng,
    })
}
