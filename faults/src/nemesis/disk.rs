use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::time::Instant;

use super::kill::{Victim, names};
use super::{Nemesis, Scene};
use crate::house::send_signal;
use crate::mount::Mount;

/// How long a server may go on over a full disk: until its frames do not fit any more.
const FULL_FOR: Duration = Duration::from_secs(3);

const HALTS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A server's disk is full. Healed by room, and by a new start of the server: a stream stays wedged until then.
pub(super) struct DiskFull {
    rng: StdRng,
    servers: Vec<usize>,
}

/// The power of a server's machine fails, or of all of them at once: everything that was not flushed is gone.
pub(super) struct PowerCut {
    victim: Victim,
    rng: StdRng,
    servers: Vec<usize>,
}

impl DiskFull {
    pub(super) fn new(rng: StdRng) -> Self {
        Self {
            rng,
            servers: Vec::new(),
        }
    }
}

impl PowerCut {
    pub(super) fn new(victim: Victim, rng: StdRng) -> Self {
        Self {
            victim,
            rng,
            servers: Vec::new(),
        }
    }
}

/// Stops a process at once, as its machine's power would: from here on it tells nobody anything. What it has on its way to
/// the disk may still get there.
///
/// Without this a server may acknowledge what it lost: ext4 lets an fsync that is going on while it is shut down return
/// without an error though nothing of it is kept (7 of 150 cuts of a process that did nothing but append and fsync; none of
/// 150 where it was stopped first; Linux 6.18).
async fn halt(pid: u32) -> anyhow::Result<()> {
    send_signal(pid, Signal::STOP);
    let until = Instant::now() + HALTS_WITHIN;
    while !is_halted(pid)? {
        anyhow::ensure!(Instant::now() < until, "process {pid} does not stop");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Whether each thread is stopped, or in a system call that it does not leave before it is.
fn is_halted(pid: u32) -> anyhow::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has ended meanwhile says nothing either.
        let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if !state.is_empty() && !state.starts_with(['T', 't', 'D', 'Z', 'X']) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn disk(scene: &Scene, at: usize) -> anyhow::Result<&Mount> {
    scene.mounts.get(at).context("the server has no file system of its own")
}

impl Nemesis for DiskFull {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.servers = Victim::Server.servers(scene, &mut self.rng).await?;
            for at in &self.servers {
                disk(scene, *at)?.fill().await?;
            }
            tokio::time::sleep(FULL_FOR).await;
            Ok(names(scene, &self.servers, &[]))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let servers = &scene.setting.house.servers;
            for at in &self.servers {
                disk(scene, *at)?.make_room()?;
                servers.down(*at).await?;
                servers.up(*at).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

impl Nemesis for PowerCut {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.servers = self.victim.servers(scene, &mut self.rng).await?;
            let servers = &scene.setting.house.servers;
            let disks: Vec<&Mount> = self.servers.iter().filter_map(|at| scene.mounts.get(*at)).collect();
            anyhow::ensure!(
                disks.len() == self.servers.len(),
                "a server has no file system of its own"
            );
            for at in &self.servers {
                halt(servers.pid(*at, HALTS_WITHIN).await?).await?;
            }
            try_join_all(disks.iter().map(|disk| disk.cut_power())).await?;
            try_join_all(self.servers.iter().map(|at| servers.down(*at))).await?;
            for disk in disks {
                disk.remount().await?;
            }
            Ok(names(scene, &self.servers, &[]))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let servers = &scene.setting.house.servers;
            try_join_all(self.servers.iter().map(|at| servers.up(*at))).await?;
            Ok(())
        }
        .boxed()
    }
}
