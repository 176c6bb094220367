//! A `nats-server` of our own: find the program, write its configuration, run it as a child.
//!
//! Only `natterjack up` and the tests use this; every other role connects to a server that somebody else runs.
//!
//! ```text
//! find ─► ServerBinary ─┐
//! Keys ─► PublicKeys ───┼─► LocalServer: lock the folder, stop an orphan, write the file, check it,
//! ServerConfig + tools ─┘                spawn, wait until ready, restart when it dies
//! ```
//!
//! [`LocalCluster`] is several of them that know each other, or one.
//!
//! Unix only: it relies on signals and file modes.

mod child;
mod cluster;
mod command;
mod config;
mod error;
mod files;
mod find;
mod hosts;
mod journal;
mod keys;
mod member;
mod orphan;
mod ready;
mod tools;
mod watch;

pub use child::LocalServer;
pub use cluster::{ClusterConfig, LocalCluster};
pub use config::{MAX_TOOLS, MIN_STORE, ServerConfig, ServerTls, TOOL_STORE, render};
pub use error::LocalServerError;
pub use find::{FLOOR, Find, PINNED, ServerBinary, Version, find};
pub use hosts::{Host, members_on};
pub use keys::{KeyName, Keys, PublicKeys};
pub use member::{Member, RouteSecret};
pub use ready::Endpoints;
pub use tools::{Tool, add_tool, list_tools};
pub use watch::End;

#[cfg(test)]
mod tests;
