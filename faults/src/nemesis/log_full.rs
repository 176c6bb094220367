use anyhow::bail;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::Method;
use rand::Rng;
use rand::rngs::StdRng;

use super::kill::restart;
use super::{Nemesis, Scene};
use crate::client::{Attempt, Door, Http, HttpDoor, Message};
use crate::history::{Outcome, Send};
use crate::house::{ADMIN, Role};

/// The limit at the start of a run with this fault, in bytes: the smallest that is allowed.
pub(crate) const SMALL: u64 = 16 << 20;
/// What it is raised to.
const RAISED: u64 = 256 << 20;
/// The text of a message that fills the log.
const TEXT: usize = 48 * 1024;
/// More messages than fit.
const MESSAGES: usize = 600;

/// The log is filled to its limit: messages are refused, memberships go on. Healed by a higher limit.
pub(super) struct LogFull {
    rng: StdRng,
}

impl LogFull {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { rng }
    }

    /// Fills the log until a message is refused for it.
    async fn fill(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let house = &scene.setting.house;
        let token = house.token(ADMIN)?;
        let bridges = house.bridges.iter().map(|at| Http::new(*at, token.clone())).collect();
        let mut door = Door::Http(HttpDoor::new(bridges, 0));
        let Some(room) = scene.setting.rooms.first() else {
            bail!("there is no room")
        };
        let text = "x".repeat(TEXT);
        let run: u32 = self.rng.random();
        for number in 0..MESSAGES {
            let key = format!("fill-{run}-{number}");
            let from = scene.setting.clock.ms();
            let message = Message {
                room,
                key: &key,
                text: &text,
            };
            let outcome = match door.attempt(message).await {
                Attempt::Receipt(receipt) => Outcome::Ok(receipt),
                Attempt::Refused(code) => Outcome::Failed(code),
                Attempt::NotTaken | Attempt::Unknown => Outcome::Unknown,
            };
            let full = outcome == Outcome::Failed("log-full".to_owned());
            scene.sends.lock().push(Send {
                user: ADMIN.into(),
                room: room.clone(),
                key,
                from,
                to: scene.setting.clock.ms(),
                outcome,
                again: Vec::new(),
            });
            if full {
                return Ok(());
            }
        }
        bail!("{MESSAGES} messages of {TEXT} bytes did not fill a log of {SMALL} bytes")
    }

    /// Rights can still be taken away.
    async fn take_away(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let house = &scene.setting.house;
        let (Some(room), Some(bridge)) = (scene.setting.rooms.last(), house.bridges.first()) else {
            bail!("there is no room")
        };
        let mut admin = Http::new(*bridge, house.token(ADMIN)?);
        let path = format!("/v1/rooms/{room}/members/guest-{}", self.rng.random::<u32>());
        for (method, body) in [(Method::PUT, r#"{"role":"reader"}"#), (Method::DELETE, "")] {
            match admin.call(method.clone(), &path, body).await {
                Ok(answer) if answer.status == 200 => {}
                other => bail!("the log is full, and {method} of a membership was answered {other:?}"),
            }
        }
        Ok(())
    }
}

impl Nemesis for LogFull {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.fill(scene).await?;
            self.take_away(scene).await?;
            Ok("the log".to_owned())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            for store in scene.setting.house.of_role(Role::Store) {
                store.set("NATTERJACK_STORE__LOG_MAX_BYTES", &RAISED.to_string());
                restart(store, scene).await?;
            }
            Ok(())
        }
        .boxed()
    }
}
