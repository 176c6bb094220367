//! Keeps what was said: the writer of the log, the archive, history, and what MQTT devices need.

/// The program's: what is measured in tests is what the program takes.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod archive;
pub mod audit;
pub mod bulk;
pub mod devices;
mod entity;
pub mod erasure;
pub mod history;
mod holds;
pub mod log;
mod members;
mod message;
mod migration;
mod past;
mod reactions;
pub mod rebuild;
pub mod retention;
mod rooms;
pub mod search;
mod trail;
pub mod transfer;
pub mod verify;
