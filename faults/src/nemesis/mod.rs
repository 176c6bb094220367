//! The faults: what each does to the house, and how it is healed.

mod clock;
mod disk;
mod garbage;
mod kill;
mod late_frame;
mod line;
mod log_full;
mod partition;
mod schedule;
mod stall;
mod unplug;

use std::time::Duration;

use anyhow::Context;
use async_nats::Client;
use clap::ValueEnum;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::client::Setting;
use crate::history::{Fault, Ms, Send};
use crate::house::{Mode, Role, Worker};
use crate::mount::Mount;
pub(crate) use clock::clock_file;
pub(crate) use log_full::SMALL as SMALL_LOG;
pub(crate) use schedule::{Planned, schedule};
pub(crate) use stall::USER as STALLED;

/// How long a fail-over of the writer may take.
const FAIL_OVER: Ms = 5000;
/// How long the return of a server may take.
const SERVER_BACK: Ms = 10_000;
/// How long others may be delayed by who misbehaves.
const OTHERS: Ms = 1000;
/// How long a writer is looked for.
const WRITER_WITHIN: Duration = Duration::from_secs(30);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Kind {
    /// kill -9 of the nats-server (of one, where there are three); it is started again later
    KillServer,
    /// SIGSTOP of the nats-server (of one, where there are three)
    StopServer,
    /// kill -9 of the nats-server that leads the log's stream (needs --nodes 3)
    KillLeader,
    /// SIGSTOP of the nats-server that leads the log's stream (needs --nodes 3)
    StopLeader,
    /// The nats-server that leads the log's stream is cut off from the other servers, not from its clients (needs --nodes 3)
    PartitionLeader,
    /// A nats-server is cut off from the other servers, not from its clients (needs --nodes 3)
    PartitionServer,
    /// kill -9 of the store that writes
    KillWriter,
    /// SIGSTOP of the store that writes: it wakes up beside its successor
    StopWriter,
    /// SIGTERM of the store that writes: a clean hand-over
    TermWriter,
    /// kill -9 of the store that stands by
    KillStandby,
    /// kill -9 of a bridge
    KillBridge,
    /// SIGSTOP of a bridge
    StopBridge,
    /// kill -9 of both authz workers
    KillAuthz,
    /// SIGSTOP of an authz worker
    StopAuthz,
    /// kill -9 of every process at once
    KillAll,
    /// SIGTERM of each worker, one after the other
    Roll,
    /// The writer's line to the server is cut
    CutWriter,
    /// The writer's line swallows everything and says nothing
    HoleWriter,
    /// The writer's line loses the acknowledgements that are on their way, then is cut and comes back
    LoseAcks,
    /// The writer's line dribbles
    DribbleWriter,
    /// The writer's network cable is pulled (needs root: a network namespace)
    UnplugWriter,
    /// Both authz workers' network cables are pulled (needs root: a network namespace)
    UnplugAuthz,
    /// What the writer sends is held back until a successor writes, then arrives
    LateFrame,
    /// A bridge's line is cut
    CutBridge,
    /// An authz worker's line swallows everything
    HoleAuthz,
    /// Readers who ask for much and never read, over HTTP and NATS
    StallReaders,
    /// Senders of garbage, over HTTP, NATS and MQTT
    Garbage,
    /// The clocks of all workers jump by up to a day (needs libfaketime)
    ClockJump,
    /// The log reaches its limit; it is raised later
    LogFull,
    /// The server's disk is full (needs root: a file system of its own)
    DiskFull,
    /// The server's machine loses its power (needs root: a file system of its own)
    PowerCut,
    /// All servers' machines lose their power at once (needs root and --nodes 3)
    PowerCutAll,
}

/// What a fault needs of the machine or of the house.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// A cluster.
    Cluster,
    /// A cluster, with a file system of its own under each server.
    ClusterMount,
    /// A file system of its own under the server, which only root can mount.
    Mount,
    /// Networks of their own for the workers, which only root can make.
    Cables,
    /// The library that tells processes a wrong time.
    Faketime,
    /// A small log, which fills up within the run.
    SmallLog,
}

/// Where faults happen.
pub(crate) struct Scene {
    pub(crate) setting: Setting,
    /// Looks at the house from outside.
    pub(crate) look: Client,
    /// The servers' file systems, where each has one of its own.
    pub(crate) mounts: Vec<Mount>,
    /// Messages that faults send themselves.
    pub(crate) sends: Mutex<Vec<Send>>,
    /// Changes of memberships that faults make themselves.
    pub(crate) changes: Mutex<Vec<crate::history::Change>>,
}

/// One fault: how it begins and how it ends.
pub(crate) trait Nemesis: std::marker::Send {
    /// Does it, and says to what.
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>>;
    /// Undoes it.
    fn heal<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>>;
}

impl Kind {
    /// As it is written on the command line and in reports.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What it does, in a line.
    pub(crate) fn about(self) -> String {
        self.to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    pub(crate) fn needs(self) -> Needs {
        match self {
            Self::KillLeader | Self::StopLeader | Self::PartitionLeader | Self::PartitionServer => Needs::Cluster,
            Self::PowerCutAll => Needs::ClusterMount,
            Self::DiskFull | Self::PowerCut => Needs::Mount,
            Self::UnplugWriter | Self::UnplugAuthz => Needs::Cables,
            Self::ClockJump => Needs::Faketime,
            Self::LogFull => Needs::SmallLog,
            _ => Needs::Nothing,
        }
    }

    /// The longest time without acknowledgements that is allowed, for a fault that lasts this long. `None`: nothing is
    /// promised, or the fault itself stops the senders.
    fn bound(self, hold: Ms, cluster: bool) -> Option<Ms> {
        match self {
            Self::KillServer | Self::StopServer | Self::PowerCut if cluster => Some(SERVER_BACK),
            // Workers whose server was cut off are cut off with it.
            Self::PartitionLeader | Self::PartitionServer => Some(hold + SERVER_BACK),
            Self::KillServer | Self::StopServer | Self::KillAll | Self::PowerCut | Self::PowerCutAll => {
                Some(hold + SERVER_BACK)
            }
            Self::KillWriter
            | Self::StopWriter
            | Self::CutWriter
            | Self::HoleWriter
            | Self::UnplugWriter
            | Self::Roll => Some(FAIL_OVER),
            Self::LoseAcks | Self::KillLeader | Self::StopLeader => Some(SERVER_BACK),
            Self::TermWriter
            | Self::KillStandby
            | Self::KillBridge
            | Self::StopBridge
            | Self::KillAuthz
            | Self::StopAuthz
            | Self::CutBridge
            | Self::HoleAuthz
            | Self::UnplugAuthz
            | Self::StallReaders
            | Self::Garbage
            | Self::ClockJump => Some(OTHERS),
            Self::DribbleWriter | Self::LateFrame | Self::LogFull | Self::DiskFull => None,
        }
    }

    fn make(self, rng: StdRng) -> Box<dyn Nemesis> {
        use kill::{Kill, Victim};
        use line::Line;
        let kill = |victim| Box::new(Kill::new(victim, rng.clone())) as Box<dyn Nemesis>;
        let stop = |victim| Box::new(kill::Stop::new(victim, rng.clone())) as Box<dyn Nemesis>;
        let line = |victim, mode| Box::new(Line::new(victim, mode, rng.clone())) as Box<dyn Nemesis>;
        match self {
            Self::KillServer => kill(Victim::Server),
            Self::StopServer => stop(Victim::Server),
            Self::KillLeader => kill(Victim::Leader),
            Self::StopLeader => stop(Victim::Leader),
            Self::PartitionLeader => Box::new(partition::Partition::new(Victim::Leader, rng)),
            Self::PartitionServer => Box::new(partition::Partition::new(Victim::Server, rng)),
            Self::KillWriter => kill(Victim::Writer),
            Self::StopWriter => stop(Victim::Writer),
            Self::TermWriter => Box::new(kill::Term::writer()),
            Self::KillStandby => kill(Victim::Standby),
            Self::KillBridge => kill(Victim::One(Role::Bridge)),
            Self::StopBridge => stop(Victim::One(Role::Bridge)),
            Self::KillAuthz => kill(Victim::Both(Role::Authz)),
            Self::StopAuthz => stop(Victim::One(Role::Authz)),
            Self::KillAll => kill(Victim::All),
            Self::Roll => Box::new(kill::Term::each()),
            Self::CutWriter => line(Victim::Writer, Mode::Cut),
            Self::HoleWriter => line(Victim::Writer, Mode::Hole),
            Self::LoseAcks => line(Victim::Writer, Mode::HoldDown),
            Self::DribbleWriter => line(Victim::Writer, Mode::Dribble),
            Self::UnplugWriter => Box::new(unplug::Unplug::new(Victim::Writer, rng)),
            Self::UnplugAuthz => Box::new(unplug::Unplug::new(Victim::Both(Role::Authz), rng)),
            Self::LateFrame => Box::new(late_frame::LateFrame::new(rng)),
            Self::CutBridge => line(Victim::One(Role::Bridge), Mode::Cut),
            Self::HoleAuthz => line(Victim::One(Role::Authz), Mode::Hole),
            Self::StallReaders => Box::new(stall::Stall::default()),
            Self::Garbage => Box::new(garbage::Garbage::new(rng)),
            Self::ClockJump => Box::new(clock::ClockJump::new(rng)),
            Self::LogFull => Box::new(log_full::LogFull::new(rng)),
            Self::DiskFull => Box::new(disk::DiskFull::new(rng)),
            Self::PowerCut => Box::new(disk::PowerCut::new(Victim::Server, rng)),
            Self::PowerCutAll => Box::new(disk::PowerCut::new(Victim::Servers, rng)),
        }
    }
}

impl Scene {
    /// The place of the server that leads the log's stream.
    async fn leader(&self) -> anyhow::Result<usize> {
        let stream = async_nats::jetstream::new(self.look.clone())
            .get_stream(crate::house::log().stream())
            .await?;
        let cluster = stream.cached_info().cluster.as_ref();
        let name = cluster.and_then(|cluster| cluster.leader.clone()).unwrap_or_default();
        let place = self.setting.house.servers.place(&name);
        place.with_context(|| format!("{name:?} leads the log, and is no server of this house"))
    }

    /// The store that writes now.
    async fn writer(&self) -> anyhow::Result<&Worker> {
        self.setting.house.writer_within(&self.look, None, WRITER_WITHIN).await
    }
}

/// Injects a fault, lets it last, and heals it. What cannot be done is told; the fault is healed as far as it goes.
pub(crate) async fn happen(planned: &Planned, scene: &Scene, slack: u64) -> (Fault, anyhow::Result<()>) {
    let kind = planned.kind;
    let mut nemesis = kind.make(StdRng::seed_from_u64(planned.seed));
    let hold = Ms::try_from(planned.hold.as_millis()).unwrap_or_default();
    let mut fault = Fault {
        kind: kind.name(),
        target: String::new(),
        from: scene.setting.clock.ms(),
        to: 0,
        bound: kind
            .bound(hold, scene.setting.house.servers.count() > 1)
            .map(|bound| bound * slack),
    };
    let injected = nemesis.inject(scene).await;
    if let Ok(target) = &injected {
        fault.target.clone_from(target);
        tokio::time::sleep(planned.hold).await;
    }
    let healed = nemesis.heal(scene).await;
    fault.to = scene.setting.clock.ms();
    (fault, injected.map(drop).and(healed))
}
