use std::path::PathBuf;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::{Nemesis, Scene};
use crate::house::Worker;

/// By how much a clock is wrong, as libfaketime reads it.
const JUMPS: [&str; 6] = ["+5m", "-5m", "+1d", "-1d", "+2s", "-2s"];

/// The clocks of the workers jump, each by another amount, while they run.
pub(super) struct ClockJump {
    rng: StdRng,
}

impl ClockJump {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { rng }
    }
}

impl Nemesis for ClockJump {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            let mut told = Vec::new();
            for worker in &scene.setting.house.workers {
                let jump = JUMPS.choose(&mut self.rng).copied().unwrap_or_default();
                set(worker, jump)?;
                told.push(format!("{} {jump}", worker.name));
            }
            Ok(told.join(", "))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            scene
                .setting
                .house
                .workers
                .iter()
                .try_for_each(|worker| set(worker, "+0"))
        }
        .boxed()
    }
}

fn set(worker: &Worker, offset: &str) -> anyhow::Result<()> {
    let file = clock_file(&worker.log);
    std::fs::write(&file, offset).with_context(|| format!("cannot write {}", file.display()))
}

/// Where a worker's clock is told, beside its log.
pub(crate) fn clock_file(log: &std::path::Path) -> PathBuf {
    log.with_extension("clock")
}
