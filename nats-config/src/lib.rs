//! What Natterjack says to NATS, and how.
//!
//! [`contract`] is pure: ids, subjects, events, frames, requests, problems. The other modules do the talking:
//! [`client`] signs in, [`stream`] defines and reconciles the streams, [`tail`] turns frames into events,
//! [`checkpoint`] says where to begin reading, [`lease`] elects one worker, [`limits`] and [`rate`] (both pure) say how much who may
//! do, [`copies`] looks at replicas, [`epoch`] finds the log, [`local_server`] runs a `nats-server` of our own.

pub mod checkpoint;
pub mod client;
pub mod clock;
pub mod contract;
pub mod copies;
pub mod epoch;
pub mod lease;
pub mod limits;
pub mod local_server;
pub mod rate;
pub mod stream;
pub mod tail;
pub mod this_machine;

pub use contract::{
    Event, EventLine, Id, InvalidId, Kind, Problem, ProblemCode, Receipt, Request, SendPayload, Seq, Subjects,
};
