//! The auditor: reads every copy of the log and compares it with the archive, which has seen the same frames before.
//!
//! nats-server passes over a message whose checksum is wrong, silently: a copy with one flipped bit lacks a frame as soon as
//! it leads, and whoever reads there misses events. So every copy is read, on the server that holds it (`read`), and each
//! frame is compared with the archive's hashes and with the other copies (`compare`, pure). What differs is told
//! (`chat.store.audit`, `/readyz`, `natterjack doctor`); one copy that differs from two good ones is made anew from them, where
//! somebody can do that ([`Mender`]).

mod compare;
mod read;
mod report;
mod round;
mod run;
mod witness;

pub use run::{AuditConfig, AuditError, MendRequest, Mender, run};
