use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::config::ServerConfig;
use super::{LocalServerError, command};

/// How long a server of an earlier run may take to end: as long as our own gets at a shutdown.
const GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may take to remove a process that was killed.
const KILLED: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);

/// Sends a signal by nats-server's own means: `term`, `stop` (kill) or `reload`.
pub(crate) async fn signal(binary: &Path, name: &str, pid: u32) -> Result<(), LocalServerError> {
    let args = ["--signal".to_owned(), format!("{name}={pid}")];
    let output = command::run(binary, args, SIGNAL_LIMIT).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(LocalServerError::Command {
        what: format!("{} --signal {name}={pid}", binary.display()),
        reason: command::last_words(&output),
    })
}

/// Ends a server that an earlier run left behind: the process which the folder's pid file names, if it runs with the
/// folder's configuration file. Any other process of that number is left alone.
pub(crate) async fn stop(binary: &Path, config: &ServerConfig) -> Result<(), LocalServerError> {
    let Some(pid) = fs::read_to_string(config.pid_file())
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
    else {
        return Ok(());
    };
    let file = config.file();
    if !runs(pid, &file).await {
        return Ok(());
    }
    tracing::warn!(pid, "stopping the nats-server that an earlier run left behind");
    for (name, limit) in [("term", GRACE), ("stop", KILLED)] {
        // An error may mean that it has just ended; looking tells.
        if let Err(error) = signal(binary, name, pid).await {
            tracing::debug!(pid, %error, "the signal was not delivered");
        }
        if gone(pid, &file, limit).await {
            return Ok(());
        }
    }
    Err(LocalServerError::Orphan { pid })
}

async fn gone(pid: u32, file: &Path, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    while runs(pid, file).await {
        if Instant::now() >= until {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}

/// Whether a live process of this number has the file on its command line. (A zombie's command line is empty.)
async fn runs(pid: u32, file: &Path) -> bool {
    let file = file.to_string_lossy();
    if cfg!(target_os = "linux") {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        return line.split(|byte| *byte == 0).any(|arg| arg == file.as_bytes());
    }
    let args = [
        "-ww".to_owned(),
        "-o".to_owned(),
        "args=".to_owned(),
        "-p".to_owned(),
        pid.to_string(),
    ];
    match command::run("ps", args, SIGNAL_LIMIT).await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).contains(file.as_ref()),
        Err(error) => {
            tracing::warn!(pid, %error, "cannot tell whether a server of an earlier run is alive");
            false
        }
    }
}
