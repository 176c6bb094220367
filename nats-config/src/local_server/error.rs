use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::find::{FLOOR, Version};

/// Why there is no server of our own, or why it did not do what was asked. No variant is worth an immediate retry but
/// [`LocalServerError::PortInUse`] and [`LocalServerError::NotReady`]; all others need a person.
#[derive(Debug, thiserror::Error)]
pub enum LocalServerError {
    /// A file or folder of ours cannot be read or written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder's path cannot be written into a configuration file.
    #[error("the folder {path:?} has a name that is not UTF-8 or holds a control character; choose another")]
    FolderName {
        /// The folder.
        path: PathBuf,
    },
    /// Another Natterjack runs its server in this folder; stop it, or use another folder.
    #[error("another natterjack is already running a server in {dir}", dir = dir.display())]
    InUse {
        /// The server's folder.
        dir: PathBuf,
    },
    /// A key file is damaged. Removing it makes a new key at the next start (for `issuer` and the workers that is harmless
    /// once all of them have been restarted).
    #[error("the key file {path} is unusable: {reason}", path = path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key file can be read by others than its owner.
    #[error("the key file {path} has mode {mode:03o}, others can read it; run: chmod 600 {path}", path = path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No server program was found, and none may or can be fetched. The text names every way to get one.
    #[error("{0}")]
    NoBinary(String),
    /// The program that was named does not run.
    #[error("{path} is not a usable nats-server: {reason}", path = path.display())]
    Unusable {
        /// The program.
        path: PathBuf,
        /// What happened when it was asked for its version.
        reason: String,
    },
    /// The program that was named is older than [`FLOOR`].
    #[error("{path} is nats-server {found}; natterjack needs {FLOOR} or newer", path = path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// A helper program (`nats-server --signal`, `python3`) did not run or did not end in time.
    #[error("{what}: {reason}")]
    Command {
        /// What was run.
        what: String,
        /// What came of it, in the program's own words where it had any.
        reason: String,
    },
    /// The server refuses its configuration file.
    #[error("nats-server refuses {path}: {line}", path = path.display())]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// The server's own words.
        line: String,
    },
    /// More storage is promised to accounts than the server may use.
    #[error("max_store is {have} bytes, but with {tools} tools at least {need} are needed")]
    StoreTooSmall {
        /// What was configured.
        have: u64,
        /// What the accounts reserve, and a minimum for the streams.
        need: u64,
        /// How many tools there are.
        tools: usize,
    },
    /// A server of an earlier run is still alive and does not end.
    #[error("nats-server {pid}, left over from an earlier run, does not end; stop it by hand")]
    Orphan {
        /// Its process id.
        pid: u32,
    },
    /// Somebody else listens on one of the addresses.
    #[error("an address is in use: {line}")]
    PortInUse {
        /// The server's own log line; it names the address.
        line: String,
    },
    /// The server ended instead of becoming ready.
    #[error("nats-server ended at its start: {line} (more in {log})", log = log.display())]
    Exited {
        /// The server's own log line.
        line: String,
        /// Its log.
        log: PathBuf,
    },
    /// The server runs, but did not become ready in time; it has been stopped.
    #[error("nats-server was not ready after {after:?}, still waiting for {waiting_for} (more in {log})", log = log.display())]
    NotReady {
        /// How long it was given.
        after: Duration,
        /// The condition that did not come.
        waiting_for: &'static str,
        /// Its log.
        log: PathBuf,
    },
    /// The running server did not take the new configuration; the old one stays in force, on disk too.
    #[error("nats-server did not reload its configuration: {line}")]
    Reload {
        /// The server's own log line.
        line: String,
    },
    /// A tool of this name exists.
    #[error("a tool named {name} exists already; choose another name, or remove {path} first", path = path.display())]
    ToolExists {
        /// The name.
        name: String,
        /// Where it is kept.
        path: PathBuf,
    },
    /// A tool's key is not the public key of a user (`U…`), or another tool has it.
    /// (The key is not repeated here: it may be a seed, given by mistake.)
    #[error("the tool {name} cannot have this key: {reason}")]
    ToolKey {
        /// The tool.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are as many tools as there may be.
    #[error("there are {0} tools already, the most that this server has room for")]
    TooManyTools(usize),
    /// A tool's file is damaged; repair or remove it.
    #[error("the tool file {path} is unusable: {reason}", path = path.display())]
    ToolFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl LocalServerError {
    /// For `map_err`: an I/O error with what was tried on which path.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
