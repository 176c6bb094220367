use std::time::Duration;

use anyhow::bail;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use natterjack_nats_config::contract::{EventLine, Kind as EventKind};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Nemesis, Scene};
use crate::client::{Attempt, Door, Http, HttpDoor, Message, connect_user, inbound, native};
use crate::history::{Change, Name, Outcome, Send};
use crate::house::{ADMIN, Mode, log};

/// How long a successor may take to lead.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(20);
/// How long the held-back frame and its answer may take once they are let go.
const LANDS_WITHIN: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A membership is on its way into the log when the writer's line stops taking things on. A successor takes over; then the
/// frame arrives after all. Either it is fenced off, and nobody is told of it; or it stands, and the successor knows it.
///
/// All other senders wait meanwhile: each frame of the successor's would be a fence too.
pub(super) struct LateFrame {
    rng: StdRng,
    writer: Option<String>,
}

impl LateFrame {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { rng, writer: None }
    }

    async fn stage(&mut self, scene: &Scene) -> anyhow::Result<String> {
        let house = &scene.setting.house;
        let Some(room) = scene.setting.rooms.first() else {
            bail!("there is no room")
        };
        let _alone = scene.setting.quiet.write().await;
        let (admin, _) = connect_user(house, ADMIN).await?;
        let guest = format!("late-{}", self.rng.random_range(0..1_000_000_000_u32));
        let writer = scene.writer().await?;
        self.writer = Some(writer.name.clone());
        writer.line(Mode::HoldUp);
        let before = log().end(&scene.look).await?;
        let mut change = Change {
            user: guest.as_str().into(),
            room: room.clone(),
            member: true,
            from: scene.setting.clock.ms(),
            to: 0,
            seq: None,
            done: false,
        };
        let asked = tokio::spawn(ask(admin, room.clone(), guest.clone()));
        house
            .writer_within(&scene.look, Some(&writer.name), SUCCESSOR_WITHIN)
            .await?;
        wait_until_it_writes(scene, &writer.name).await;
        writer.line(Mode::Pass);
        let told = async {
            match asked.await {
                Ok(Some(Attempt::Receipt(receipt))) => receipt.seq,
                _ => std::future::pending().await,
            }
        };
        // A writer that gave up tells nobody. What stands in the log is said all the same.
        let seq = tokio::time::timeout(LANDS_WITHIN, async {
            tokio::select! {
                seq = told => Ok(seq),
                seq = stands(&scene.look, before, &guest) => seq,
            }
        });
        if let Ok(seq) = seq.await {
            change.seq = Some(seq?);
            change.to = scene.setting.clock.ms();
            scene.changes.lock().push(change);
        }
        // The frame's own writer knows it; what does the successor know?
        writer.line(Mode::Hole);
        speak(scene, room, &guest).await?;
        Ok(writer.name.clone())
    }
}

impl Nemesis for LateFrame {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        self.stage(scene).boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let workers = scene.setting.house.workers.iter();
            for worker in workers.filter(|worker| Some(&worker.name) == self.writer.as_ref()) {
                worker.line(Mode::Pass);
            }
            Ok(())
        }
        .boxed()
    }
}

/// Asks for the membership once, with no repetition that the successor could hear.
async fn ask(admin: async_nats::Client, room: Name, guest: String) -> Option<Attempt> {
    let subject = inbound(ADMIN, &room, EventKind::Member)?;
    let body = serde_json::json!({"key": guest, "body": {"user": guest, "role": "member"}});
    let patient = async_nats::Request::new()
        .payload(body.to_string().into())
        .timeout(Some(SUCCESSOR_WITHIN + LANDS_WITHIN));
    Some(native(&admin, subject, patient).await)
}

/// Waits until the membership stands in the log.
async fn stands(look: &async_nats::Client, before: u64, guest: &str) -> anyhow::Result<u64> {
    let mut tail = log().tail(look, before);
    loop {
        let frame = tail.next().await?;
        let theirs = |line: &&EventLine| line.event.concerns().is_some_and(|user| user.as_str() == guest);
        if let Some(line) = frame.events.iter().find(theirs) {
            return Ok(line.event.seq.0);
        }
    }
}

/// The successor answers the requests of bridges as soon as it writes.
async fn wait_until_it_writes(scene: &Scene, before: &str) {
    let stores = scene.setting.house.workers.iter();
    let Some(successor) = stores
        .filter(|worker| worker.role == crate::house::Role::Store)
        .find(|worker| worker.name != before)
    else {
        return;
    };
    let written = || successor.lines_with("writing");
    let first = written();
    let changed = async {
        while written() == first {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    // It may have written before it was looked at.
    let _ = tokio::time::timeout(Duration::from_secs(2), changed).await;
}

/// The guest speaks: welcome, if the membership was acknowledged.
async fn speak(scene: &Scene, room: &Name, guest: &str) -> anyhow::Result<()> {
    let house = &scene.setting.house;
    let token = house.token(guest)?;
    let bridges = house.bridges.iter().map(|at| Http::new(*at, token.clone())).collect();
    let mut door = Door::Http(HttpDoor::new(bridges, 0));
    let (key, text) = (guest, guest);
    let from = scene.setting.clock.ms();
    let attempt = door.attempt(Message { room, key, text }).await;
    let outcome = match attempt {
        Attempt::Receipt(receipt) => Outcome::Ok(receipt),
        Attempt::Refused(code) => Outcome::Failed(code),
        Attempt::NotTaken | Attempt::Unknown => Outcome::Unknown,
    };
    scene.sends.lock().push(Send {
        user: guest.into(),
        room: room.clone(),
        key: guest.to_owned(),
        from,
        to: scene.setting.clock.ms(),
        outcome,
        again: Vec::new(),
    });
    Ok(())
}
