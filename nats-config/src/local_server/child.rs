use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::{ServerConfig, render};
use super::journal::Mark;
use super::ready::{Endpoints, Ports};
use super::tools::list_tools;
use super::watch::{End, State, Wanted, Watcher};
use super::{Keys, LocalServerError, PublicKeys, ServerBinary, command, files, orphan};

/// How long a server may take until it serves. An empty one takes 0.1 s; one with a million subjects 2 s.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a server may take to end after TERM, before it is killed. What was acknowledged is on disk already.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const CHECK_LIMIT: Duration = Duration::from_secs(10);
const RELOAD_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often ports are chosen anew when others took them in between.
pub(crate) const PORT_TRIES: usize = 5;

/// A running `nats-server`, watched: when it dies, it is started again on the same ports.
///
/// Dropping it stops the server in the background; [`LocalServer::shutdown`] waits for that. Ctrl-C in a terminal does not
/// reach the server (it is in a process group of its own), so workers can drain first.
#[derive(Debug)]
pub struct LocalServer {
    launch: Launch,
    keys: PublicKeys,
    /// The configuration that the server has.
    text: Mutex<String>,
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<State>,
    stop: DropGuard,
    watcher: JoinHandle<()>,
}

/// All that is needed to start the server once more.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    binary: PathBuf,
    /// With the chosen ports.
    config: ServerConfig,
    endpoints: Endpoints,
}

impl LocalServer {
    /// Starts a server and waits until it serves NATS, WebSocket and MQTT clients.
    ///
    /// Takes the folder for itself ([`LocalServerError::InUse`] if somebody has it), stops a server that an earlier run
    /// left there, writes the configuration with the folder's tools ([`super::add_tool`]) and lets the server check it.
    /// A server that cannot start comes out as [`LocalServerError::PortInUse`] or [`LocalServerError::Exited`] with its
    /// own words, after at most a minute as [`LocalServerError::NotReady`].
    pub async fn start(binary: &ServerBinary, config: ServerConfig, keys: &Keys) -> Result<Self, LocalServerError> {
        let config = ServerConfig {
            dir: std::path::absolute(&config.dir).map_err(LocalServerError::file("find", &config.dir))?,
            ..config
        };
        files::private_dir(&config.ports_dir())?;
        let lock = lock(&config.dir)?;
        orphan::stop(binary.path(), &config).await?;
        let keys = keys.public();
        let (launch, text, child) = first_launch(binary.path(), &config, &keys).await?;
        tracing::info!(server = %config.server_name, pid = child.id(), endpoints = ?launch.endpoints, "nats-server is ready");
        let (state_sender, state) = watch::channel(State::Up(child.id()));
        let (wanted, is_wanted) = watch::channel(Wanted::Up);
        let stop = CancellationToken::new();
        let watcher = Watcher {
            launch: launch.clone(),
            wanted: is_wanted,
            state: state_sender,
            stop: stop.clone(),
            lock,
        };
        Ok(Self {
            launch,
            keys,
            text: Mutex::new(text),
            wanted,
            state,
            stop: stop.drop_guard(),
            watcher: tokio::spawn(watcher.run(child)),
        })
    }

    /// Its name, as it tells it to others.
    #[must_use]
    pub fn name(&self) -> &str {
        self.launch.config.server_name.as_str()
    }

    /// Its folder: configuration, log, JetStream's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.launch.config.dir
    }

    /// Where it listens, the same for as long as this value lives.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        self.launch.endpoints
    }

    /// The server's process id; `None` between its death and the moment when its successor is ready.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Up(pid) => pid,
            State::Starting | State::Down => None,
        }
    }

    /// Ends the server and keeps it down until [`LocalServer::bring_up`]; waits until it has ended.
    pub async fn take_down(&self, end: End) {
        self.wanted.send_replace(Wanted::Down(end));
        self.reach(|state| *state == State::Down).await;
    }

    /// Starts a server that was taken down, on the same ports and folder, and waits until it is ready, for as long as that
    /// takes. It does nothing but wait if the server is wanted anyway.
    pub async fn bring_up(&self) {
        self.wanted.send_replace(Wanted::Up);
        self.reach(|state| matches!(state, State::Up(_))).await;
    }

    async fn reach(&self, is_there: impl FnMut(&State) -> bool) {
        if self.state.clone().wait_for(is_there).await.is_err() {
            tracing::error!("nobody watches over nats-server any more");
        }
    }

    /// Gives the running server the tools that its folder holds now. Does nothing if they are the same.
    ///
    /// Workers stay connected; people and devices (whoever came in by the callout) are disconnected once and come back.
    /// When the server refuses, [`LocalServerError::Reload`], everything stays as it was.
    pub async fn reload(&self) -> Result<(), LocalServerError> {
        let mut text = self.text.lock().await;
        let wanted = self.launch.write_config(&self.keys).await?;
        if *text == wanted {
            return Ok(());
        }
        match self.launch.reload(self.pid()).await {
            Ok(()) => {
                *text = wanted;
                Ok(())
            }
            Err(error) => {
                files::replace(&self.launch.config.file(), text.as_bytes())?;
                Err(error)
            }
        }
    }

    /// Lets the running server read its certificate's files again, which must fit each other. Workers stay connected; people and
    /// devices (whoever came in by the callout) are disconnected once and come back.
    ///
    /// When the server refuses, [`LocalServerError::Reload`], it goes on showing the certificate of before.
    pub async fn renew_certificate(&self) -> Result<(), LocalServerError> {
        let _one_at_a_time = self.text.lock().await;
        self.launch.reload(self.pid()).await
    }

    /// Stops the server and waits until it has ended: TERM first, kill after 10 seconds.
    pub async fn shutdown(self) {
        drop(self.stop);
        if let Err(error) = self.watcher.await {
            tracing::error!(%error, "the task that watches nats-server failed");
        }
    }
}

impl Launch {
    /// Writes the configuration file, with the tools of this moment, once the server has found no fault in it.
    async fn write_config(&self, keys: &PublicKeys) -> Result<String, LocalServerError> {
        let tools = list_tools(self.config.tools_home())?;
        self.config.check(&tools)?;
        if let Some(member) = &self.config.cluster {
            files::replace(&self.config.routes_file(), member.routes_file().as_bytes())?;
        }
        let text = render(&self.config, keys, &tools);
        let file = self.config.file();
        let draft = file.with_extension("conf.draft");
        files::replace(&draft, text.as_bytes())?;
        let args = [Path::new("-t"), Path::new("-c"), &draft];
        let output = command::run(&self.binary, args, CHECK_LIMIT).await?;
        if !output.status.success() {
            return Err(LocalServerError::BadConfig {
                path: draft,
                line: command::last_words(&output),
            });
        }
        fs::rename(&draft, &file).map_err(LocalServerError::file("write", &file))?;
        Ok(text)
    }

    /// Starts the server and waits until it serves. It is killed if that takes too long or is no longer wanted.
    pub(crate) async fn spawn(&self) -> Result<Child, LocalServerError> {
        let log = self.config.log();
        let mark = Mark::now(&log);
        clear(&self.config.ports_dir());
        // Faults that come before the server opens its log go to its standard error.
        let errors = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(LocalServerError::file("write", &log))?;
        let mut child = Command::new(&self.binary)
            .arg("-c")
            .arg(self.config.file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(LocalServerError::file("run", &self.binary))?;
        self.wait_ready(&mut child, &mark).await?;
        Ok(child)
    }

    async fn wait_ready(&self, child: &mut Child, mark: &Mark) -> Result<(), LocalServerError> {
        let ports_file = self.ports_file(child.id().unwrap_or_default());
        let until = Instant::now() + START_LIMIT;
        loop {
            let ended = child
                .try_wait()
                .map_err(LocalServerError::file("wait for", &self.binary))?;
            if ended.is_some() {
                return Err(self.ended(mark));
            }
            // Only our own child writes this file, so the listeners that answer are its own.
            let missing = if ports_file.exists() {
                self.endpoints.missing(self.config.server_name.as_str()).await
            } else {
                Some("its ports file")
            };
            let Some(waiting_for) = missing else { break };
            if Instant::now() >= until {
                return Err(LocalServerError::NotReady {
                    after: START_LIMIT,
                    waiting_for,
                    log: self.config.log(),
                });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn ended(&self, mark: &Mark) -> LocalServerError {
        let line = mark.reason();
        if line.contains("address already in use") {
            return LocalServerError::PortInUse { line };
        }
        LocalServerError::Exited {
            line,
            log: self.config.log(),
        }
    }

    /// `{program}_{pid}.ports`, where the server says that it listens.
    fn ports_file(&self, pid: u32) -> PathBuf {
        let program = self.binary.file_name().unwrap_or_default().to_string_lossy();
        self.config.ports_dir().join(format!("{program}_{pid}.ports"))
    }

    /// Lets the running server read its file again. A server that is being started anyway has read it.
    async fn reload(&self, pid: Option<u32>) -> Result<(), LocalServerError> {
        const DONE: &str = "Reloaded server configuration";
        let Some(pid) = pid else { return Ok(()) };
        let mark = Mark::now(&self.config.log());
        orphan::signal(&self.binary, "reload", pid).await?;
        let until = Instant::now() + RELOAD_LIMIT;
        loop {
            match mark.line_with(&[DONE, "Failed to reload server configuration"]) {
                Some(line) if line.contains(DONE) => return Ok(()),
                Some(line) => return Err(LocalServerError::Reload { line }),
                None if Instant::now() >= until => {
                    let line = format!("it said nothing within {RELOAD_LIMIT:?}");
                    return Err(LocalServerError::Reload { line });
                }
                None => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Ends a child and waits until it has ended.
    pub(crate) async fn end(&self, child: &mut Child, end: End) {
        let Some(pid) = child.id() else { return };
        if end == End::Kill {
            return kill(child, pid).await;
        }
        if let Err(error) = orphan::signal(&self.binary, "term", pid).await {
            tracing::warn!(pid, %error, "nats-server was not asked to end");
        }
        match timeout(STOP_LIMIT, child.wait()).await {
            Ok(Ok(status)) => tracing::info!(pid, %status, "nats-server has ended"),
            Ok(Err(error)) => tracing::error!(pid, %error, "nats-server's end was not seen"),
            Err(_) => {
                tracing::warn!(pid, "nats-server did not end in time, killing it");
                kill(child, pid).await;
            }
        }
    }
}

async fn kill(child: &mut Child, pid: u32) {
    if let Err(error) = child.kill().await {
        tracing::error!(pid, %error, "nats-server could not be killed");
    }
}

/// The first start, which may choose ports again when somebody took one between its choice and its use.
async fn first_launch(
    binary: &Path,
    config: &ServerConfig,
    keys: &PublicKeys,
) -> Result<(Launch, String, Child), LocalServerError> {
    let mut tries = if config.leaves_ports_open() { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let config = Ports::default().fill(config)?;
        let launch = Launch {
            binary: binary.to_owned(),
            endpoints: Endpoints::of(&config),
            config,
        };
        let text = launch.write_config(keys).await?;
        match launch.spawn().await {
            Ok(child) => return Ok((launch, text, child)),
            Err(LocalServerError::PortInUse { line }) if tries > 0 => tracing::debug!(line, "choosing other ports"),
            Err(error) => return Err(error),
        }
    }
}

/// Takes a folder for this process. The lock ends with the process, however that ends.
fn lock(dir: &Path) -> Result<File, LocalServerError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(LocalServerError::file("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LocalServerError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(LocalServerError::file("lock", path)(error)),
    }
}

/// Empties the folder of ports files: a killed server leaves its own behind, and its process id may come again.
fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "an old ports file stays behind");
        }
    }
}
