use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::cable::Cable;
use super::proxy::{Mode, Proxy};

/// What whoever supervises workers waits before a new start.
const RESTART_AFTER: Duration = Duration::from_millis(300);

/// What a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Store,
    Bridge,
    Authz,
}

/// A process of the program under test, which is started again when it ends, as a supervisor does.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `store-1`
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Its lines to the servers.
    proxies: Vec<Proxy>,
    /// Its cable to this machine, if it has a network of its own.
    pub(crate) cable: Option<Cable>,
    /// What it logged.
    pub(crate) log: PathBuf,
    pid: watch::Receiver<Option<u32>>,
    held: watch::Sender<bool>,
    launch: Arc<Mutex<Launch>>,
    ends: Arc<Mutex<Vec<String>>>,
    _supervisor: AbortOnDropHandle<()>,
}

/// How the process is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Variables of its environment.
    pub(crate) settings: Vec<(String, String)>,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Bridge => "bridge",
            Self::Authz => "authz",
        }
    }
}

impl Worker {
    pub(crate) fn start(
        name: String,
        role: Role,
        (proxies, cable): (Vec<Proxy>, Option<Cable>),
        dir: &Path,
        launch: Launch,
    ) -> Self {
        let log = dir.join(format!("{name}.log"));
        let launch = Arc::new(Mutex::new(launch));
        let ends = Arc::new(Mutex::new(Vec::new()));
        let (told, pid) = watch::channel(None);
        let (held, is_held) = watch::channel(false);
        let supervisor = Supervisor {
            name: name.clone(),
            log: log.clone(),
            launch: Arc::clone(&launch),
            pid: told,
            held: is_held,
            ends: Arc::clone(&ends),
        };
        Self {
            name,
            role,
            proxies,
            cable,
            log,
            pid,
            held,
            launch,
            ends,
            _supervisor: AbortOnDropHandle::new(tokio::spawn(supervisor.run())),
        }
    }

    /// Changes what its lines to all servers do.
    pub(crate) fn line(&self, mode: Mode) {
        self.proxies.iter().for_each(|proxy| proxy.set(mode));
    }

    /// Its process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Sends a signal to the process, if it runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            send_signal(pid, signal);
        }
    }

    /// From now on it is not started again when it ends.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// It may be started again.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until the process has ended.
    pub(crate) async fn gone(&self, within: Duration) -> anyhow::Result<()> {
        let mut pid = self.pid.clone();
        tokio::time::timeout(within, pid.wait_for(Option::is_none))
            .await
            .with_context(|| format!("{} did not end within {within:?}", self.name))??;
        Ok(())
    }

    /// Sets a variable of the environment from the next start on.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let mut launch = self.launch.lock();
        launch.settings.retain(|(known, _)| known != name);
        launch.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Each time that it ended without being asked to: how, and its last words.
    pub(crate) fn ends(&self) -> Vec<String> {
        self.ends.lock().clone()
    }

    /// How many lines of its log have this.
    pub(crate) fn lines_with(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Whether its log names this.
    pub(crate) fn logged(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    if let Err(error) = kill_process(pid, signal) {
        tracing::debug!(%error, ?pid, "the signal was not delivered");
    }
}

struct Supervisor {
    name: String,
    log: PathBuf,
    launch: Arc<Mutex<Launch>>,
    pid: watch::Sender<Option<u32>>,
    held: watch::Receiver<bool>,
    ends: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    async fn run(mut self) {
        loop {
            if self.held.wait_for(|held| !held).await.is_err() {
                return;
            }
            match self.spawn() {
                Ok(mut child) => {
                    self.pid.send_replace(child.id());
                    let status = child.wait().await;
                    let asked = *self.held.borrow();
                    self.pid.send_replace(None);
                    if !asked {
                        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                        self.ends
                            .lock()
                            .push(format!("{}: {how}: {}", self.name, last_line(&self.log)));
                    }
                }
                Err(error) => self.ends.lock().push(format!("{}: {error:#}", self.name)),
            }
            tokio::time::sleep(RESTART_AFTER).await;
        }
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let launch = self.launch.lock().clone();
        let (program, arguments) = launch.command.split_first().context("there is no program to start")?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NATTERJACK_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .envs(launch.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot run {program}"))
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().unwrap_or_default().to_owned()
}
