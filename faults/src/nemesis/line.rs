use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use super::kill::{Victim, names};
use super::{Nemesis, Scene};
use crate::house::Mode;

/// How long acknowledgements are held back before they are lost with their connection.
const HELD_BACK: Duration = Duration::from_millis(400);
/// How long the line stays cut then.
const CUT: Duration = Duration::from_millis(50);

/// Something about a worker's line to the server.
pub(super) struct Line {
    victim: Victim,
    mode: Mode,
    rng: StdRng,
    names: Vec<String>,
}

impl Line {
    pub(super) fn new(victim: Victim, mode: Mode, rng: StdRng) -> Self {
        Self {
            victim,
            mode,
            rng,
            names: Vec::new(),
        }
    }
}

impl Nemesis for Line {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            let workers = self.victim.workers(scene, &mut self.rng).await?;
            for worker in &workers {
                self.names.push(worker.name.clone());
                worker.line(self.mode);
            }
            if self.mode == Mode::HoldDown {
                tokio::time::sleep(HELD_BACK).await;
                for mode in [Mode::Cut, Mode::Pass] {
                    for worker in &workers {
                        worker.line(mode);
                    }
                    tokio::time::sleep(CUT).await;
                }
            }
            Ok(names(scene, &[], &workers))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let workers = scene.setting.house.workers.iter();
            for worker in workers.filter(|worker| self.names.contains(&worker.name)) {
                worker.line(Mode::Pass);
            }
            Ok(())
        }
        .boxed()
    }
}
