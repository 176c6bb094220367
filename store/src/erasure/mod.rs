//! What is erased: the events of messages, edits and reactions lose their bodies, in the index of words they are not found any
//! more, and what later events made of them follows. That something was there, from whom and when, stays, so that numbers have
//! no gaps and the archive can still be compared with the log (I4): what is left of an event is a function of the event and of
//! the erasure that took it ([`redacted`](natterjack_nats_config::contract::redacted)).
//!
//! One message is erased in the transaction that reads the event which says so. What a user wrote is erased in pieces
//! ([`keep_erased`]), each with the place up to which was looked; until that is done, whoever reads goes by `Known::unfinished`.

mod fold;
mod redact;
mod rooms;
mod show;
mod sweep;

#[cfg(test)]
mod tests;

pub(crate) use fold::{Erasing, Known, differing, of_users, rebuild, store};
pub(crate) use redact::{as_erased, is_erased, is_same};
pub(crate) use show::{erasable, erasures};
pub use sweep::keep_erased;
