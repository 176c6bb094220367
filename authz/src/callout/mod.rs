//! The auth callout: the server asks who a connection is and what it may do (NATS ADR-26).
//!
//! [`claims`] and [`decide`] are pure; [`serve`] listens and answers.

mod claims;
mod decide;
mod gate;
mod issued;
mod nkey_jwt;
mod serve;

use decide::{Entry, Refusal, claimed, door, judge, token_of};
pub(crate) use gate::Gate;
pub(crate) use issued::{Connection, Issued};
pub(crate) use serve::{Callout, keys, serve};
